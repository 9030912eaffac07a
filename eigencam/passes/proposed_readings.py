"""What an output's operations say about how to read it: a reading, the reason why it is no map, or nothing.

`eigencam.passes.positions` explains how the operations are followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eigencam.passes.positions import LOST, TOLERANCE, Axes, Vector, spacing
from eigencam.passes.readings import Reading

COVERED = 0.6
"""Smallest share of the image's height and width that a map's cells must span."""

POOLED = "it has no positions of the image left: they are pooled, mixed or left out"
WINDOWS = "windows or patches of the image are counted in its first axis, with the images"
PARAMETERS = "it is computed from parameters alone, not from the image"


@dataclass(frozen=True, slots=True)
class Layout:
    """The result: a reading, or the reason why there is none; neither if the operations do not decide."""

    reading: Reading | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Line:
    """One coordinate along one axis of an output."""

    axis: int
    values: Vector

    @property
    def span(self) -> float:
        """Pixels from the first to the last position; 0 for a single one."""
        known = self.values[np.isfinite(self.values)]
        return float(np.ptp(known)) if len(known) else 0.0


def layout(axes: Axes | None, shape: Sequence[int], size: tuple[int, int]) -> Layout:
    """The layout of one output.

    Args:
        axes: its axes; None if it does not depend on the images.
        shape: its shape.
        size: (height, width) of the network's input.
    """
    if axes is None:
        return Layout(reason=PARAMETERS)
    if not axes or any(axis is LOST for axis in axes):
        return Layout()
    images = axes[0][0]
    if images is None or not np.array_equal(images, np.arange(len(images))):
        return Layout(reason=_first_axis(axes))
    rows, columns = _lines(axes, 1), _lines(axes, 2)
    if not any(line.span for line in (*rows, *columns)):
        return Layout(reason=POOLED)
    if axes[0][1] is not None or axes[0][2] is not None:
        return Layout(reason=WINDOWS)
    within = {line.axis for line in (*rows, *columns)}
    rows, columns = _outer(rows), _outer(columns)
    if not rows or not columns:
        gone, left = ("columns", "rows") if rows else ("rows", "columns")
        return Layout(reason=f"its {gone} are pooled or mixed: only {left} are left")
    if len(rows) > 1 or len(columns) > 1:
        names = " and ".join(str(line.axis) for line in (rows if len(rows) > 1 else columns))
        return Layout(reason=f"axes {names} both count positions: attention of positions to positions")
    channels = [k for k in range(1, len(shape)) if k not in (rows[0].axis, columns[0].axis)]
    if len(channels) > 1:
        places = within.intersection(channels)
        what = "windows and places in a window" if places else "heads or groups and their channels"
        return Layout(reason=f"axes {' and '.join(map(str, channels))} are {what}, not one axis of channels")
    if rows[0].axis == columns[0].axis:
        return _tokens(rows[0], columns[0], size)
    if rows[0].axis > columns[0].axis:
        return Layout(reason="its columns come before its rows: the map would be transposed")
    reason = _fault(rows[0].values, columns[0].values, size)
    return Layout(reason=reason) if reason else Layout(Reading((rows[0].axis, columns[0].axis)))


def _first_axis(axes: Axes) -> str:
    counting = [k for k, axis in enumerate(axes) if axis[0] is not None]
    if not counting:
        return "it does not have one value per image: it is computed for all images at once"
    if not counting[0]:
        return WINDOWS
    first = ", which counts positions" if axes[0][1] is not None or axes[0][2] is not None else ""
    return f"axis {counting[0]} counts the images, not the first{first}"


def _lines(axes: Axes, coordinate: int) -> list[_Line]:
    """The axes that count rows (1) or columns (2), without constant ones."""
    given = [(k, axis[coordinate]) for k, axis in enumerate(axes) if k]
    lines = [_Line(k, v) for k, v in given if v is not None]
    return [line for line in lines if line.span or len(line.values) == 1]


def _outer(lines: Sequence[_Line]) -> list[_Line]:
    """Drop axes that count places inside a cell of another axis, as channels do behind a pixel unshuffle."""
    varying = [line for line in lines if line.span] or list(lines[:1])
    cell = max((spacing(line.values) for line in varying), default=0.0)
    return [line for line in varying if line.span >= cell or spacing(line.values) == cell]


def _tokens(line: _Line, other: _Line, size: tuple[int, int]) -> Layout:
    rows, columns = line.values, other.values
    known = np.isfinite(rows) & np.isfinite(columns)
    front = int(known.argmax())
    behind = int(known[::-1].argmax())
    rows, columns = rows[front : len(rows) - behind], columns[front : len(columns) - behind]
    if not known[front : len(known) - behind].all():
        return Layout(reason="tokens that stand for no position are between those that do")
    width = _width(rows)
    if width is None or len(rows) % width:
        return Layout(reason=_order(rows, columns))
    grid = len(rows) // width, width
    table_y, table_x = rows.reshape(grid), columns.reshape(grid)
    if not (_equal(table_y, table_y[:, :1]) and _equal(table_x, table_x[:1])):
        return Layout(reason=_order(rows, columns))
    if reason := _fault(table_y[:, 0], table_x[0], size):
        return Layout(reason=reason)
    return Layout(Reading((line.axis,), grid, front, behind))


def _width(rows: Vector) -> int | None:
    """Number of tokens until the row changes."""
    changes = np.flatnonzero(np.abs(np.diff(rows)) > TOLERANCE * spacing(rows))
    return int(changes[0]) + 1 if len(changes) else len(rows)


def _equal(a: Vector, b: Vector) -> bool:
    return bool(np.abs(a - b).max() <= TOLERANCE * spacing(a) + 1e-6)


def _order(rows: Vector, columns: Vector) -> str:
    """Why tokens are not in row-major order."""
    height = _width(columns)
    if height and len(rows) % height == 0 and height > 1:
        table_x, table_y = columns.reshape(-1, height), rows.reshape(-1, height)
        if _equal(table_x, table_x[:, :1]) and _equal(table_y, table_y[:1]):
            return "its tokens are column by column, not row by row"
    return "its tokens are in another order than row by row: window by window, rolled or mixed"


def _fault(rows: Vector, columns: Vector, size: tuple[int, int]) -> str:
    """Why a grid's rows and columns do not follow the image, top to bottom and left to right; "" if they do."""
    if len(rows) * len(columns) == 1:
        return POOLED
    for name, v, side in (("rows", rows, size[0]), ("columns", columns, size[1])):
        if not np.isfinite(v).all():
            return f"some of its {name} stand for no position of the image"
        steps = np.diff(v)
        if len(v) > 1 and (steps <= 0).all() and v[0] > v[-1]:
            return f"its {name} run backwards: the map would be mirrored"
        step = spacing(v) or side
        if (steps < 0).any():
            return f"its {name} are rolled or in another order than the image's"
        even = np.linspace(v[0], v[-1], len(v))
        if np.abs(v - even).max() > 2 * TOLERANCE * step:
            return f"its {name} are not evenly spread over the image"
        middle, span = (v[0] + v[-1]) / 2, v[-1] - v[0] + step
        if span < COVERED * side or abs(middle - (side - 1) / 2) > max(side * (1 - COVERED) / 4, step):
            return f"its {name} cover only {max(v[0], 0):.0f} to {min(v[-1], side):.0f} of {side} pixels"
    return ""
