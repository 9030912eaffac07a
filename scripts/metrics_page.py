"""The page that shows `results/metrics_judged.csv`, which `scripts/judge_metrics.py` makes.

python scripts/metrics_page.py results/metrics_judged.csv > docs/metrics.md
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

BLIND = 65
"""Percent: a metric that prefers correct maps to their mirror images at most this often is blind to location."""

KNOWN = {
    "planted": "by construction, the class depends only on the pixels of one mark.",
    "wired": "each output sees one cell of a mosaic (DiFull); the mean over two networks.",
    "heads": "each output reads the last features of one cell (DiPart); the mean over two networks, for the methods "
    "whose maps are of these features.",
    "mosaic": "the class is in one cell of a mosaic (GridPG).",
    "objects": "the object's visible pixels in scenes, which a network should use; the mean over two networks.",
}
HEAD = """# Which metric to believe

Made by `{command}` and `python scripts/metrics_page.py {file}`.

A metric should say which of two methods better shows what the network uses. Where this is known, the metric itself can
be tested. The table has Kendall's τ between the ranking of {count} methods by the metric and their ranking by the
truth: 1 for the same order, 0 for chance, -1 for the reverse, with a 95 % interval over images. The set of methods is
fixed. Some methods occur a second time with their maps mirrored left to right: as sparse and as stable, but in the
wrong place. A metric that does not use the location cannot rank them correctly.

{known}

`mirror` is how often the metric prefers a map to its mirror image. A metric that does so in at most {blind} % of the
cases is blind to location, whatever its ranking of methods. Otherwise it follows the truth where an interval is above
0, and contradicts it where one is below.

{advice}

Metrics that use boxes are given the location that is the truth here; on other images they measure where the object is,
not what the network uses. `passes` are images through the network for each map, + those made once for all methods.
{parts}
"""
PARTS = """
FunnyBirds' part scores (`single_deletion`, `completeness`, `distractibility`, `target_sensitivity`) are given the
parts, and the network decides which of them matter. A part's sum grows with its area: in planted images the label's
mark is the largest, so that a random map's sums point to it as well.
"""
MIDDLE = """

A stable metric need not be right: one that ranks by something other than the truth does so with any seed. The columns
on stability have τ between a metric's own rankings: with another draw of its noise, with another filling of removed
pixels, and between halves of the images.

## The truth itself

The fraction of the map's positive mass in the correct region, in percent, for the ranked methods
([protocols.md](protocols.md), Known evidence). On 2 x 2 cells a uniform map has 25 %.

"""


def page(file: Path) -> str:
    """docs/metrics.md from the table in a file."""
    text = file.read_text().splitlines()
    rows = list(csv.DictReader(line for line in text if not line.startswith("#")))
    judged = sorted((r for r in rows if r["evaluator"] != "truth"), key=lambda r: -float(r["tau"] or -2))
    methods = [r for r in rows if r["evaluator"] == "truth"]
    settings = list(rows[0])[list(rows[0]).index("verdict") + 1 :]
    truths = [name for name in KNOWN if any(row.get(f"tau_{name}") for row in judged)]
    shown = [
        ["metric", "asks", *truths, "mean", "mirror %", "other seed", "other filling", "half the images", "passes", ""]
    ]
    for row in judged:
        taus = [_interval(row, f"tau_{name}") for name in truths]
        cost = row["passes_each"] + (f" + {row['passes_once']}" if float(row["passes_once"]) else "")
        stable = [row[f"stable_{name}"] for name in ("seed", "filling", "halves")]
        shown.append(
            [f"`{row['metric']}`", row["needs"], *taus, row["tau"], row["mirror"], *stable, cost, row["verdict"]]
        )
    inside = [["method", *settings], *([f"`{row['metric']}`", *(row[s] for s in settings)] for row in methods)]
    known = "\n".join(f"* **{name}**: {KNOWN[name]}" for name in truths)
    command = text[0].removeprefix("# command: ")
    head = HEAD.format(
        advice=_advice(judged),
        blind=BLIND,
        command=command,
        file=f"results/{file.name}",
        count=len(methods),
        parts=PARTS if any(row["evaluator"] == "part_scores" for row in judged) else "",
        known=known,
    )
    return f"{head}{_table(shown)}{MIDDLE}{_table(inside)}\n"


def _advice(judged: Sequence[Mapping[str, str]]) -> str:
    """Which of the metrics without boxes to trust."""
    kinds = {
        "Following the truth": lambda said: said == "follows the truth",
        "Following it in part": lambda said: "follows" in said and " of " in said,
        "Contradicting it somewhere": lambda said: "against" in said,
        "Blind to location": lambda said: "blind" in said,
    }
    words = []
    for kind, fits in kinds.items():
        names = [f"`{r['metric']}` {r['tau']}" for r in judged if "boxes" not in r["needs"] and fits(r["verdict"])]
        words.append(f"{kind}: {', '.join(names) or 'none'}.")
    return "Metrics that use no boxes, with the mean τ. " + " ".join(words)


def verdict(taus: Mapping[str, tuple[float, float, float]], mirror: float) -> str:
    """In words: for how many truths the interval over images is above 0, and for how many below.

    Args:
        taus: tau with its interval by truth, NaN if there is none.
        mirror: how often a map is preferred to its mirror image, %; NaN if there is none.
    """
    if mirror <= BLIND:
        return "blind to the place"
    known = [ends for ends in taus.values() if not np.isnan(ends[0])]
    above, below = sum(low > 0 for _, low, _ in known), sum(high < 0 for _, _, high in known)
    if above == len(known):
        return "follows the truth"
    words = [f"follows {above} of {len(known)}"] * (above > 0) + [f"against {below} of {len(known)}"] * (below > 0)
    return ", ".join(words) or "undecided"


def _interval(row: dict[str, str], name: str) -> str:
    return f"{row[name]} [{row[f'{name}_low']}, {row[f'{name}_high']}]" if row[name] else ""


def _table(cells: Sequence[Sequence[str]]) -> str:
    body = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
