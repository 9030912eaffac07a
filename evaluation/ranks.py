r"""Ranks of several methods over several (dataset, network) pairs, and a figure of which differ.

In each pair, a block, the methods are ranked, 1 the best, ties sharing the mean. Friedman's test asks whether the
average ranks differ at all. Two methods then differ if their average ranks are further apart than Nemenyi's critical
difference, with k methods in N blocks and q the 95 % quantile of the studentized range with infinite degrees of
freedom:

$$\mathrm{CD} = \frac{q_{0.05,k}}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 N}}$$

Reference: J. Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.evaluation.escaping import figure as figure_text
from eigencam.files import replacing

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Average ranks, best first.

    Attributes:
        metric: the metric that ranks.
        methods: names.
        ranks: average rank of each, 1 the best.
        blocks: number of (dataset, network) pairs.
        p: p-value of Friedman's test; NaN for fewer than three methods or two blocks.
        critical: Nemenyi's critical difference at 5 %; NaN for fewer than two blocks.
    """

    metric: str
    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    p: float
    critical: float


def ranking(metric: str, methods: Sequence[str], values: Floats, better: str) -> Ranking:
    """Rank (blocks, methods) values without missing ones.

    >>> found = ranking("error", ["a", "b"], np.array([[3.0, 1.0], [2.0, 1.0]]), "lower")
    >>> found.methods, found.ranks
    (('b', 'a'), (1.0, 2.0))
    """
    from scipy import stats  # importing it takes time

    ranks = stats.rankdata(values if better == "lower" else -values, axis=1)
    average = ranks.mean(axis=0)
    order = np.argsort(average, kind="stable")
    blocks, count = values.shape
    tested = count > 2 and blocks > 1 and np.ptp(ranks, axis=1).any()
    p = float(stats.friedmanchisquare(*ranks.T).pvalue) if tested else float("nan")
    critical = critical_difference(count, blocks) if blocks > 1 else float("nan")
    return Ranking(metric, tuple(str(methods[i]) for i in order), tuple(average[order].tolist()), blocks, p, critical)


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's critical difference at 5 %."""
    from scipy import stats

    q = float(stats.studentized_range.ppf(0.95, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last position of each widest run of methods, best first, that do not differ.

    >>> cliques([1.0, 1.5, 3.0, 3.2], 1.6)
    [(0, 1), (1, 2), (2, 3)]
    >>> cliques([1.0, 1.5, 3.0, 3.2], 2.0)
    [(0, 2), (1, 3)]
    """
    ends = [max(j for j in range(len(ranks)) if ranks[j] - ranks[i] <= critical) for i in range(len(ranks))]
    return [(i, end) for i, end in enumerate(ends) if end > i and (i == 0 or ends[i - 1] < end)]


def draw(ranking: Ranking, path: Path) -> Path:
    """Write the critical-difference diagram; SVG, PDF or PNG, by the suffix."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    count, half = len(ranking.methods), -(-len(ranking.methods) // 2)
    groups = cliques(ranking.ranks, ranking.critical) if not np.isnan(ranking.critical) else []
    deep = 0.35 + 0.32 * len(groups)
    low, high = deep + half, -1.7
    with rc_context({"svg.hashsalt": "eigencam", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.5, 0.3 + 0.26 * (low - high)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0.2 - 0.25 * count, 0.8 + 1.25 * count)
        axes.set_ylim(low, high)
        axes.plot([1, max(count, 2)], [0, 0], "k", lw=1)
        for tick in range(1, max(count, 2) + 1):
            axes.plot([tick, tick], [0, -0.15], "k", lw=1)
            axes.text(tick, -0.25, str(tick), ha="center", va="bottom")
        for i, (name, rank) in enumerate(zip(ranking.methods, ranking.ranks, strict=True)):
            left = i < half
            y = deep + 0.4 + (i if left else count - 1 - i)
            edge = 0.8 if left else count + 0.2
            axes.plot([rank, rank, edge], [0, y, y], "0.45", lw=0.8)
            shown = figure_text(name)
            text = f"{shown}  {rank:.2f}" if left else f"{rank:.2f}  {shown}"
            axes.text(edge, y, f" {text} ", ha="right" if left else "left", va="center")
        for level, (i, j) in enumerate(groups):
            y = 0.35 + 0.32 * level
            over = 0.006 * count
            axes.plot([ranking.ranks[i] - over, ranking.ranks[j] + over], [y, y], "k", lw=3, solid_capstyle="butt")
        if not np.isnan(ranking.critical):
            axes.plot([1, 1 + ranking.critical], [-1.25, -1.25], "k", lw=1, marker="|", ms=5)
            axes.text(1 + ranking.critical, -1.25, f"  CD {ranking.critical:.2f}", va="center")
        title = figure_text(ranking.metric)
        figure.suptitle(f"{title}, average rank in {ranking.blocks} pairs of dataset and network", fontsize=9)
        # Without a date, the same ranks give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix.removeprefix("."))
        with replacing(path) as beside:
            figure.savefig(beside, dpi=200, metadata=metadata)
    return path
