"""Comparisons as tables and JSON; see `eigencam.reporting.comparison`."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from eigencam.evaluation import ranks
from eigencam.evaluation.rank_intervals import Placing
from eigencam.evaluation.tables import Table
from eigencam.reporting.comparison import PLACES, Compared, Setting
from eigencam.store.seal import strict

MINOR = ("can show", "p", "better/worse in", "reference", "of reference", "value", "n")
"""Columns of a comparison that a narrow terminal leaves out, in this order."""


def table(lines: Sequence[Compared], notes: Sequence[str], digits: int = 1) -> Table:
    """The comparisons as one table; bold: better than the reference after Holm's correction, at 5 %."""
    cells, best = [], []
    shown = [name for name in PLACES if name in ("evaluator", "metric") or len({_of(line, name) for line in lines}) > 1]
    for line in lines:
        found, percent = line.difference, 100 if line.unit == "%" else 1
        a, b, d, low, high = (percent * v for v in (found.a, found.b, found.value, found.low, found.high))
        ends = "" if np.isnan(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
        sense = {"lower": -1, "higher": 1}.get(line.better, 0)
        up, down = (found.larger, found.smaller) if sense >= 0 else (found.smaller, found.larger)
        cells.append(
            {
                **{name: _of(line, name) for name in shown},
                "method": line.method,
                "reference": line.reference,
                "value": f"{b:.{digits}f}",
                "of reference": f"{a:.{digits}f}",
                "difference": f"{d:+.{digits}f}{ends}",
                "better/worse in": "-" if up < 0 else f"{up}/{down}",
                "n": str(found.n),
                "can show": "-" if np.isnan(found.shown) else f"{percent * found.shown:.{digits}f}",
                "p": _p(found.p),
                "p (Holm)": _p(line.holm),
            }
        )
        best.append(line.holm < 0.05 and sense * found.value > 0)
    frame = pd.DataFrame(cells)
    bold = pd.DataFrame(False, index=frame.index, columns=["method", "difference"])
    bold["method"] = bold["difference"] = best
    hits = "McNemar's exact test for hit or miss, sign flips for all other metrics"
    tests = hits if any(line.difference.test == "mcnemar" for line in lines) else "sign flips"
    words = [
        "difference: method less reference, over the images that both have; in brackets: 95 % intervals",
        "can show: the smallest difference that n images show, at 5 % and with a probability of 80 %",
        f"p: {tests}; Holm's correction over the table",
        "bold: better than the reference, corrected p below 0.05",
    ]
    senses = sorted({(line.better, line.metric) for line in lines if line.better})
    words += [
        f"{better} is better: {', '.join(m for s, m in senses if s == better)}"
        for better in dict.fromkeys(sense for sense, _ in senses)
    ]
    place = lines[0].setting
    same = [getattr(place, name) for name in ("dataset", "network") if name not in shown]
    title = ", ".join(["comparison", *same, f"maps for the class: {place.target}"])
    across = tuple(name for name in ("dataset", "network", "evaluator") if name in shown)
    return Table(title, frame, bold, [*words, *notes], across=across, minor=MINOR)


def rank_table(rankings: Sequence[ranks.Ranking]) -> Table:
    """Average ranks, one column per method."""
    frame = pd.DataFrame(
        [
            {
                "metric": r.metric,
                "pairs": str(r.blocks),
                **{name: f"{rank:.2f}" for name, rank in zip(r.methods, r.ranks, strict=True)},
                "p (Friedman)": _p(r.p),
                "critical difference": f"{r.critical:.2f}",
            }
            for r in rankings
        ]
    ).fillna("-")
    last = ["p (Friedman)", "critical difference"]
    frame = frame[[c for c in frame if c not in last] + last]
    methods = [c for c in frame if c not in ("metric", "pairs", *last)]
    ordered = pd.DataFrame([dict(zip(r.methods, r.ranks, strict=True)) for r in rankings])[methods]
    best = ordered.eq(ordered.min(axis=1), axis=0)
    pairs = "(dataset, network) pairs in which all methods have equally many images"
    notes = [f"average rank over {pairs}, 1 the best; Nemenyi's critical difference at 5 %"]
    return Table("ranks", frame, best, notes)


def placing_tables(values: pd.DataFrame, order: Sequence[str]) -> list[Table]:
    """One table for each (dataset, network): the rank of each method, and how often it is first."""
    made = []
    placed = values[values["placing"].notna()]
    pairs = [(place.dataset, place.network) for place in placed["setting"]]
    for (dataset, network), part in placed.groupby(pd.MultiIndex.from_tuples(pairs), sort=False) if pairs else ():
        lines, best = [], []
        for (_, metric), own in part.groupby(["setting", "metric"], sort=False):
            place: Setting = own["setting"].iloc[0]
            found: dict[str, Placing] = dict(zip(own["method"], own["placing"], strict=True))
            lines.append(
                {"evaluator": place.evaluator, "metric": metric}
                | {m: _placed(found[m]) if m in found else "-" for m in order if m in set(part["method"])}
            )
            best.append({m: m in found and found[m].first >= 0.95 for m in lines[-1] if m in order})
        notes = [
            "rank [95 % interval], and the share of resamples of the images in which the method is first",
            "bold: first in 95 % or more",
        ]
        title, frame = f"which is first: {dataset}, {network}", pd.DataFrame(lines)
        made.append(Table(title, frame, pd.DataFrame(best), notes, across=("evaluator",)))
    return made


def _placed(placing: Placing) -> str:
    return f"{placing.rank:g} [{placing.low:g}, {placing.high:g}], {100 * placing.first:.0f} %"


def as_json(
    lines: Sequence[Compared], rankings: Sequence[ranks.Ranking], notes: Sequence[str], values: pd.DataFrame
) -> str:
    """Return everything as numbers; fractions if the unit is %."""
    content = {
        "comparisons": [
            {k: v for k, v in asdict(line).items() if k not in ("difference", "setting")}
            | {k: v for k, v in asdict(line.setting).items() if k != "identity"}
            | asdict(line.difference)
            for line in lines
        ],
        "placings": [
            {k: v for k, v in asdict(row["setting"]).items() if k != "identity"}
            | {"metric": row["metric"], "method": row["method"]}
            | asdict(row["placing"])
            for row in values.to_dict("records")
            if row["placing"] is not None
        ],
        "ranks": [asdict(ranking) for ranking in rankings],
        "notes": list(notes),
    }
    return json.dumps(strict(content), indent=1)


def _of(line: Compared, name: str) -> str:
    return line.metric if name == "metric" else getattr(line.setting, name)


def _p(value: float) -> str:
    return "-" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
