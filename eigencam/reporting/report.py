"""`eigencam report`: results as one self-contained HTML page, and their curves as figures for papers."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eigencam.evaluation import escaping
from eigencam.evaluation.tables import Table
from eigencam.reporting import curves, gallery
from eigencam.reporting.collect import Evaluators, alone, by_folder, provenance
from eigencam.store.reader import Stored

PLOT = (300.0, 170.0)
"""Width and height of a plot's inner area in CSS pixels."""

HEAT = 32
"""Number of colours in the heat scale."""

Loaded = tuple[dict[str, Any], Stored]
"""A result's line of the long frame, and the result."""


@dataclass(frozen=True, slots=True)
class ReportCell:
    """One cell of a table: its text, the number to sort by, its interval, and their positions in the column's range.

    Attributes:
        text: `57.5`, a name, or a dash.
        interval: `[50.6, 64.1]`, or "".
        order: the number; None for a name or an empty cell.
        best: whether it is the best for its network.
        span: low, value, high as percentages of the column's range; None without an interval.
    """

    text: str
    interval: str = ""
    order: float | None = None
    best: bool = False
    span: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A table's column: name, unit, and the better direction."""

    name: str
    unit: str
    better: str
    number: bool


def loaded(root: Path, long: pd.DataFrame) -> list[Loaded]:
    """Return every result that was run, baselines last."""
    stored = by_folder(root, long)
    results = long.drop_duplicates("folder").sort_values("baseline", kind="stable").to_dict("records")
    lines = [{str(key): value for key, value in result.items()} for result in results if not result["unsupported"]]
    return [(line, stored[line["folder"]]) for line in lines]


def galleries(
    args: argparse.Namespace,
    results: Sequence[Loaded],
    long: pd.DataFrame,
    evaluators: Evaluators,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the gallery's content for each dataset."""
    scores: dict[tuple[str, str], gallery.Scores] = {}
    names = long.drop_duplicates("group").groupby(["dataset", "part"]).size()
    for result, stored in results:
        several = names[result["dataset"], result["part"]] > 1
        name = f"{_dataset(result)}, class: {result['target']}" if several else _dataset(result)
        with alone(result["folder"], "no images of"):
            evaluator, rows = evaluators.of(stored), stored.row_file()
            if rows.images:
                scores.setdefault((name, result["group"]), gallery.Scores()).add(result, evaluator, rows.frame())
    baselines = set(long.loc[long["baseline"].astype(bool), "method"])
    sets: dict[str, Any] = {}
    for (name, _), chosen in scores.items():
        items = gallery.choose(chosen, args.images, baselines)
        found = gallery.entries(args.results, chosen, items, args.settings, evaluators.trust, say)
        if found["images"]:
            sets[name if name not in sets else f"{name} ({len(sets) + 1})"] = found
    return sets


def render(
    args: argparse.Namespace,
    long: pd.DataFrame,
    made: Sequence[Table],
    plots: Sequence[curves.Plot],
    look: Mapping[str, curves.Style],
    sets: Mapping[str, Any],
    said: Sequence[str],
) -> str:
    """Return the page, with as many images as fit."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("eigencam.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: escaping.one_line(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    better = dict(zip(long["metric"], long["better"], strict=True))
    names = list(dict.fromkeys(long["dataset"]))
    fixed = {
        "title": args.title or f"Class-activation maps on {', '.join(names)}",
        "facts": facts(args.results, long),
        "version": version("eigencam-bench"),
        "tables": [shown(table, better) for table in made],
        "groups": _by_place(plots, look),
        "look": {name: look[name] for name in sorted(look, key=lambda n: (look[n].colour == curves.GREY, n))},
        "said": said,
        "baselines": set(long.loc[long["baseline"].astype(bool), "method"]),
    }
    template = environment.get_template("report.html.j2")

    def filled(dropped: int) -> str:
        data = {"sets": sets, "heat": _heat() if sets else [], "dropped": dropped}
        count = {name: len(content["images"]) for name, content in sets.items()}
        return template.render(**fixed, data=Markup(escaping.script(data)), count=count)

    limit, page = int(args.max_mb * 1e6), filled(0)
    if (over := len(page.encode()) - limit) > 0 and sets:
        size = sum(len(json.dumps(image)) for content in sets.values() for image in content["images"])
        dropped = gallery.fitting(list(sets.values()), max(size - over, 0))
        kept = sum(len(content["images"]) for content in sets.values())
        print(f"{dropped} of {dropped + kept} images left out: --max-mb")
        page = filled(dropped)
    if len(page.encode()) > limit:
        raise ValueError(f"--max-mb {args.max_mb}: the page without images has {len(page.encode()) / 1e6:.2f} MB")
    return page


def facts(root: Path, long: pd.DataFrame) -> dict[str, list[str]]:
    """The head of the page: data, networks, and the code and commands behind the numbers."""
    origins = provenance(root, long["folder"].unique())
    results = long[long["unsupported"] == ""].drop_duplicates(["dataset", "group"])
    places = zip(results["dataset"], results["part"], results["pictures"], results["target"], strict=True)
    data = [f"{f'{name} {part}'.strip()}: n = {n}, maps for the class: {target}" for name, part, n, target in places]
    found = {"Data": data}
    found |= {f"{name.title()}s": sorted(set(long[name])) for name in ("network", "method", "evaluator")}
    return found | {key.title(): origins[key] for key in ("code", "machine", "command")}


def shown(table: Table, better: Mapping[str, str]) -> tuple[str, list[ReportColumn], list[list[ReportCell]], list[str]]:
    """Title, columns, lines of cells, notes."""
    columns, cells = [], []
    for name in table.frame.columns:
        metric, _, unit = str(name).rpartition(" ")
        metric, unit = (metric, unit) if metric else (unit, "")
        number = name not in ("network", "method")
        columns.append(ReportColumn(metric, unit, str(better.get(metric) or ""), number))
        made = [_cell(str(text)) if number else ReportCell(str(text)) for text in table.frame[name]]
        best = table.best[name] if name in table.best else [False] * len(made)
        cells.append(_spans([_with_best(cell, bool(b)) for cell, b in zip(made, best, strict=True)]))
    return table.title, columns, [list(line) for line in zip(*cells, strict=True)], table.notes


def _cell(text: str) -> ReportCell:
    value, _, interval = text.partition(" ")
    try:
        return ReportCell(value, interval, float(value))
    except ValueError:
        return ReportCell(text)


def _with_best(cell: ReportCell, best: bool) -> ReportCell:
    return ReportCell(cell.text, cell.interval, cell.order, best)


def _spans(cells: list[ReportCell]) -> list[ReportCell]:
    """The cells of a column with the positions of value and interval in the column's range."""
    ends = [[float(x) for x in c.interval.strip("[]").split(",")] if c.interval else None for c in cells]
    numbers = [x for pair in ends if pair for x in pair]
    if not numbers or max(numbers) == min(numbers):
        return cells
    low, size = min(numbers), max(numbers) - min(numbers)

    def at(x: float) -> float:
        return round(100 * (x - low) / size, 1)

    return [
        ReportCell(c.text, c.interval, c.order, c.best, (at(pair[0]), at(c.order), at(pair[1])))
        if pair and c.order is not None
        else c
        for c, pair in zip(cells, ends, strict=True)
    ]


def _by_place(plots: Sequence[curves.Plot], look: Mapping[str, curves.Style]) -> dict[str, list[dict[str, Any]]]:
    """Plots as numbers for the template, by dataset and network."""
    made: dict[str, list[dict[str, Any]]] = {}
    for plot in plots:
        made.setdefault(f"{plot.dataset}, {plot.network}", []).append(_drawn(plot, look))
    return made


def _drawn(plot: curves.Plot, look: Mapping[str, curves.Style]) -> dict[str, Any]:
    """One plot as numbers: paths, marks, ticks."""
    first, high = plot.first, curves.top(plot)
    lines = []
    for method, curve in plot.lines.items():
        points = curves.thinned(curves.place(curve, curve.xs, curve.ys, PLOT, high))
        mark = curves.place(curve, *curve.mark, PLOT, high).round(1).tolist() if curve.mark else None
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        lines.append({"method": method, "path": path, "mark": mark, "style": look[method]})
    ticks = _ticks(first)
    across = curves.place(first, ticks, np.zeros(len(ticks)), PLOT, high)[:, 0]
    ups = np.linspace(0, high, 5 if high % 40 == 0 or high == 20 else int(min(high // 20, 10)) + 1)
    return {
        "evaluator": plot.evaluator,
        "name": plot.name,
        "x": first.x,
        "y": first.y,
        "width": PLOT[0],
        "height": PLOT[1],
        "xticks": [(round(float(x), 1), f"{t:g}") for x, t in zip(across, ticks, strict=True)],
        "yticks": [(round(float((1 - t / high) * PLOT[1]), 1), f"{t:g}") for t in ups],
        "lines": lines,
    }


def _ticks(curve: Any) -> list[float]:
    """Round numbers within the range of x, at most seven if it is linear."""
    low, high = float(curve.xs.min()), float(curve.xs.max())
    if curve.log:
        decades = 10.0 ** np.arange(np.ceil(np.log10(low) - 1e-9), np.log10(high) + 1e-9)
        return decades.tolist()
    if (least := (high - low) / 6) <= 0:
        return [round(low, 10)]
    scale = 10.0 ** np.floor(np.log10(least))
    step = next(step for step in (scale, 2 * scale, 5 * scale, 10 * scale) if step >= least * (1 - 1e-9))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [round(float(k * step), 10) for k in range(first, last + 1)]


def _heat() -> list[str]:
    """The colours of the maps from low to high, as six hexadecimal digits each."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    from eigencam.reporting.draw import COLORMAP

    return [to_hex(colormaps[COLORMAP](x))[1:] for x in np.linspace(0, 1, HEAT)]


def _dataset(result: Mapping[str, Any]) -> str:
    return f"{result['dataset']} {result['part']}".strip()
