"""The curves of results: collected into plots with one line per method, and written as figures for papers."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation.base import Curve, draws
from eigencam.evaluation.escaping import figure as figure_text
from eigencam.evaluation.escaping import file_name, one_line
from eigencam.files import replacing
from eigencam.reporting.collect import Evaluators, alone
from eigencam.store.reader import Stored
from eigencam.store.seal import DamagedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("pdf", "svg", "png")
COLOURS = ("#4a86c5", "#ee7733", "#2a9d47", "#cc4c93", "#66ccee", "#ccaa33", "#ee6677", "#009988", "#8a6fd1", "#a8683c")
"""Colours that most colour-blind people can distinguish, on white and on black. They repeat with other dashes."""

GREY = "#8a8a8a"
DASHES = ("", "6 2", "2 2", "7 2 2 2")


@dataclass(frozen=True, slots=True)
class Style:
    """How a method's line is drawn in every plot: a CSS colour and a dash pattern, "" for none."""

    colour: str
    dash: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves of one name: of all methods for a network on a dataset.

    Attributes:
        dataset: with its split.
        network: name.
        evaluator: name.
        lines: by method, baselines last.
    """

    dataset: str
    network: str
    evaluator: str
    name: str
    lines: dict[str, Curve] = field(default_factory=dict)

    @property
    def first(self) -> Curve:
        """Any of the curves: they have the same axes."""
        return next(iter(self.lines.values()))


def styles(long: pd.DataFrame) -> dict[str, Style]:
    """Return a style for each method; baselines are grey."""
    methods = long.drop_duplicates("method").sort_values(["baseline", "method"])
    chosen: dict[str, Style] = {}
    places = {False: 0, True: 0}
    for method, baseline in zip(methods["method"], methods["baseline"].astype(bool), strict=True):
        k = places[baseline]
        places[baseline] += 1
        if baseline:
            chosen[method] = Style(GREY, DASHES[1:][k % 3])
        else:
            chosen[method] = Style(COLOURS[k % len(COLOURS)], DASHES[k // len(COLOURS) % len(DASHES)])
    return chosen


def plots(results: Iterable[tuple[Mapping[str, Any], Stored]], evaluators: Evaluators) -> list[Plot]:
    """Collect the curves of results, each given with its line of the long frame, in their order."""
    made: dict[tuple[str, ...], Plot] = {}
    for result, stored in results:
        dataset = f"{result['dataset']} {result['part']}".strip()
        found: list[Curve] = []
        with alone(result["folder"], "no curves of"):
            found = curves_of(stored, evaluators)
        for curve in found:
            names = (dataset, result["network"], result["evaluator"], curve.name)
            key = (*names[:3], result["group"], curve.name)
            made.setdefault(key, Plot(*names)).lines[result["method"]] = curve
    return list(made.values())


def curves_of(stored: Stored, evaluators: Evaluators) -> list[Curve]:
    """Return the curves of a complete result: those stored beside its rows or, if missing, computed from the rows."""
    try:
        kept = stored.curves()
    except DamagedError as error:
        kept = None
        print(one_line(f"{error}; drawn from its rows"), file=sys.stderr)
    if kept is not None:
        return kept
    evaluator, rows = evaluators.of(stored), stored.row_file()
    if not rows.images or not draws(evaluator):
        return []
    from eigencam.evaluation.curves import drawn  # importing SciPy takes time

    return drawn(evaluator, rows)


def top(plot: Plot) -> float:
    """Upper end of a plot's y axis in percent: the next multiple of 20 above all lines."""
    return max(20.0, 20.0 * np.ceil(max(float(curve.ys.max()) for curve in plot.lines.values()) / 20 - 1e-9))


def place(curve: Curve, xs: Any, ys: Any, size: tuple[float, float], high: float) -> NDArray[np.float64]:
    """(K, 2) points in a box of (width, height), y downwards: x over the curve's range, y from 0 to `high`."""
    scale: Any = np.log if curve.log else np.asarray
    low, up = float(scale(curve.xs.min())), float(scale(curve.xs.max()))
    x = (scale(np.asarray(xs, np.float64)) - low) / (up - low or 1.0)
    return np.stack([x * size[0], (1 - np.asarray(ys, np.float64) / high) * size[1]], axis=-1)


def thinned(points: NDArray[np.float64], tolerance: float = 0.25) -> NDArray[np.float64]:
    """(K, 2) points of a line, without those within `tolerance` of the line between the remaining ones.

    Douglas & Peucker, "Algorithms for the reduction of the number of points", Cartographica 10 (1973).

    >>> thinned(np.array([[0, 0], [1, 0.1], [2, 0], [2, 5]])).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 5.0]]
    """
    xs, ys = np.ascontiguousarray(points.T)
    kept, stack = np.zeros(len(points), bool), [(0, len(points) - 1)]
    kept[[0, -1]] = True
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        dx, dy = float(xs[b] - xs[a]), float(ys[b] - ys[a])
        x, y, length = xs[a + 1 : b] - xs[a], ys[a + 1 : b] - ys[a], math.hypot(dx, dy)
        off = np.abs(dx * y - dy * x) / length if length else np.hypot(x, y)
        farthest = int(off.argmax())
        k = a + 1 + farthest
        if off[farthest] > tolerance:
            kept[k] = True
            stack += [(a, k), (k, b)]
    return np.asarray(points[kept], np.float64)


def write_figure(path: Path, size: tuple[float, float], draw: "Callable[[Figure], None]") -> Path:
    """Write a figure of a given size in inches, as SVG, PDF or PNG by its suffix. Equal drawings give equal bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "eigencam", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 8}
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        with replacing(path) as beside:
            figure.savefig(beside, dpi=300, metadata=dates[path.suffix.removeprefix(".")])
    return path


def save(plot: Plot, look: dict[str, Style], path: Path) -> Path:
    """Write a plot as SVG, PDF or PNG by its suffix. Equal curves give equal bytes."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for method, curve in plot.lines.items():
            dash = [float(n) / 1.2 for n in look[method].dash.split()]
            style: Any = (0, dash) if dash else "-"
            axes.plot(curve.xs, curve.ys, color=look[method].colour, linestyle=style, lw=1.2, label="method")
            if curve.mark:
                axes.plot(*curve.mark, "o", color=look[method].colour, ms=3)
        axes.set(xlabel=figure_text(plot.first.x), ylabel=figure_text(plot.first.y), ylim=(0, top(plot)))
        if plot.first.log:
            axes.set_xscale("log")
        axes.grid(alpha=0.3, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        legend = axes.legend(frameon=False, fontsize=6, ncols=2 if len(plot.lines) > 6 else 1)
        for text, method in zip(legend.get_texts(), plot.lines, strict=True):  # labels like `_a` would be hidden
            text.set_text(figure_text(method))

    return write_figure(path, (3.4, 2.6), draw)


def save_all(made: Sequence[Plot], look: dict[str, Style], folder: Path, kind: str) -> list[Path]:
    """Write every plot as `<dataset>-<network>-<evaluator>-<name>.<kind>`."""
    if kind not in KINDS:
        raise ValueError(f"--figure-format {kind}; allowed: {', '.join(KINDS)}")
    paths = [folder / f"{file_name(p.dataset, p.network, p.evaluator, p.name)}.{kind}" for p in made]
    if len(set(paths)) < len(paths):  # the same dataset with several targets or checksums
        paths = [path.with_stem(f"{path.stem}-{k}") for k, path in enumerate(paths, 1)]
    return [save(plot, look, path) for plot, path in zip(made, paths, strict=True)]
