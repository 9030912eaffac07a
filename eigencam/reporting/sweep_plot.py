"""A plot of a sweep: a metric along a parameter, one line per method, one panel for each of the other values."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eigencam.evaluation.escaping import figure as figure_text
from eigencam.evaluation.table_cells import Style
from eigencam.evaluation.table_layout import natural
from eigencam.reporting.curves import KINDS, styles, write_figure

MOST_PANELS = 24


def save(long: pd.DataFrame, style: Style, pivot: Sequence[str], metrics: Sequence[str], path: Path) -> Path:
    """Write the plot as SVG, PDF or PNG, by the suffix.

    Args:
        long: the frame that tables are made from, with the parameters of `pivot` as columns.
        style: how names are printed and values ordered.
        pivot: parameters; the first one is the axis.
        metrics: names; empty: the headlines.
        path: the file.

    Raises:
        ValueError: no parameter is named, the suffix is not allowed, or there is nothing to draw.
    """
    if not pivot or path.suffix.removeprefix(".") not in KINDS:
        wanted = "--pivot KEY names the axis" if not pivot else f"allowed: {', '.join(f'.{kind}' for kind in KINDS)}"
        raise ValueError(f"--figure {path}: {wanted}")
    headline = [name for names in long["headline"] for name in names]
    lines = long[long["metric"].isin(list(metrics) or headline) & long["value"].notna()]
    panels = list(_panels(lines, style, pivot))
    if not panels:
        raise ValueError(f"--figure {path}: no number to draw")
    if len(panels) > MOST_PANELS:
        raise ValueError(f"--figure {path}: {len(panels)} panels; --metrics and --only choose up to {MOST_PANELS}")
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)

    def draw(figure: Any) -> None:
        axes = figure.subplots(rows, columns, squeeze=False).flat
        look, labels = styles(long), dict[str, Any]()
        for axis, (title, y, part) in zip(axes, panels, strict=False):
            values = _values(part, pivot[0], style)
            for method, lines in part.groupby("method", sort=False):
                labels[style.names("method", str(method))] = _line(
                    axis, lines.set_index(pivot[0]), values, look[str(method)]
                )
            axis.set(xlabel=figure_text(style.key(pivot[0])), ylabel=figure_text(y))
            axis.set_title(figure_text(title), fontsize=7)
            _ticks(axis, values)
            axis.grid(alpha=0.3, lw=0.5)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in list(axes):
            axis.set_visible(False)
        shown = [figure_text(label) for label in labels]
        figure.legend(list(labels.values()), shown, loc="outside lower center", ncols=4, frameon=False, fontsize=6)

    return write_figure(path, (2.6 * columns, 2.2 * rows + 0.4), draw)


def _panels(lines: pd.DataFrame, style: Style, pivot: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Title, axis and lines of each panel; a title states what is not common to all panels."""
    keys = ["dataset", "group", "network", "evaluator", *pivot[1:], "metric"]
    differing = [key for key in keys if key not in ("metric", "group") and len(lines[key].unique()) > 1]
    order = lines.assign(**{key: lines[key].map(lambda text: str(natural(str(text)))) for key in pivot[1:]})
    lines = lines.loc[order.sort_values(keys, kind="stable").index]
    for names, part in lines.groupby(keys, sort=False):
        values = dict(zip(keys, map(str, names), strict=True))
        y = f"{style.names('metric', values['metric'])} {part['unit'].iloc[0]}".strip()
        yield ", ".join(style.heading(key, values[key]) for key in differing), y, part


def _values(part: pd.DataFrame, key: str, style: Style) -> list[str]:
    given = {value: k for k, value in enumerate(style.orders.get(key, ()))}
    return sorted(part[key].unique(), key=lambda value: (given.get(value, 0), natural(value)))


def _numeric(values: Sequence[str]) -> bool:
    return all(natural(value)[0][0] == 0 and len(natural(value)) == 1 for value in values)


def _ticks(axis: Any, values: Sequence[str]) -> None:
    places = [float(value) for value in values] if _numeric(values) else list(range(len(values)))
    axis.set_xticks(
        places, [figure_text(value) for value in values], fontsize=6, rotation=0 if _numeric(values) else 20
    )


def _line(axis: Any, lines: pd.DataFrame, values: Sequence[str], look: Any) -> Any:
    """One method's line with its 95 % intervals; a value without a result is a gap."""
    places = np.array([float(value) for value in values]) if _numeric(values) else np.arange(len(values), dtype=float)
    found = lines[["value", "low", "high"]].reindex(list(values)).to_numpy(np.float64)
    ends = np.nan_to_num(np.abs(found[:, 1:] - found[:, :1])).T
    dash = [float(n) / 1.2 for n in look.dash.split()]
    form: Any = (0, dash) if dash else "-"
    return axis.errorbar(
        places,
        found[:, 0],
        ends,
        color=look.colour,
        linestyle=form,
        marker="o",
        ms=2.5,
        lw=1.2,
        elinewidth=0.6,
        capsize=1.5,
    )
