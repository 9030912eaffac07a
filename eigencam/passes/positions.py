"""Which axes of a value count rows and columns of the image.

Each axis of a tensor has up to three coordinates, vectors over its indices: the image in the batch, and the row and the
column of the input, in pixels, that an index stands for. The coordinates of an element are the sums over its axes:
after a Swin block partitions 56 rows into 8 windows of 7, one axis counts 0, 7, 14, ... and another 0, 1, ..., 6.
An operation that moves values thus moves the vectors, flattening adds them, and unflattening separates them again.
Elementwise operations need equal coordinates; a sum over an axis drops that axis's coordinates.

The output of an operation without a rule has lost its coordinates; this is recorded (`LOST`), not guessed. The rules
are in `eigencam.passes.position_rules`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Axis = tuple[Vector | None, Vector | None, Vector | None]
"""(image, row, column) of each index; None: the axis does not count it. NaN: an index without a position."""

Axes = tuple[Axis, ...]
NOTHING: Axis = (None, None, None)
LOST: Axis = (np.empty(0), np.empty(0), np.empty(0))
"""An axis that may count positions in any order."""

TOLERANCE = 0.75
"""Tolerance in cells: strides and paddings of added branches shift their cells by up to this much."""


def counts(axis: Axis) -> bool:
    """Whether an axis is known to count something."""
    return axis is not LOST and any(v is not None for v in axis)


def mapped(axis: Axis, change: Callable[[Vector], Vector]) -> Axis:
    """The axis with each vector changed."""
    if not counts(axis):
        return axis
    images, rows, columns = (None if v is None else change(v) for v in axis)
    return images, rows, columns


def joined(axes: Sequence[Axis], sizes: Sequence[int]) -> Axis:
    """The axis that results from flattening several, the last index fastest.

    >>> joined([(None, np.array([0.0, 7]), None), (None, np.array([0.0, 1, 2]), None)], [2, 3])[1]
    array([0., 1., 2., 7., 8., 9.])
    """
    if any(axis is LOST for axis in axes):
        return LOST

    def one(vectors: Sequence[Vector | None]) -> Vector | None:
        if all(v is None for v in vectors):
            return None
        total: NDArray[np.float64] = np.zeros(())
        for vector, size in zip(vectors, sizes, strict=True):
            total = np.add.outer(total, np.zeros(size) if vector is None else vector)
        return total.reshape(-1)

    # an axis of size one keeps its row or column if joined with rows or columns, not with images or channels
    spatial = any(n > 1 and (a[1] is not None or a[2] is not None) for a, n in zip(axes, sizes, strict=True))
    kept = [a if n > 1 or spatial else (a[0], None, None) for a, n in zip(axes, sizes, strict=True)]
    images, rows, columns = (one([axis[k] for axis in kept]) for k in range(3))
    return images, rows, columns


def parted(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The axes that result from unflattening one; all `LOST` if the coordinates are not sums over them.

    >>> [a[1] for a in parted((None, np.array([0.0, 1, 2, 7, 8, 9]), None), [2, 3])]
    [array([0., 7.]), array([0., 1., 2.])]
    """
    parts = [] if axis is LOST else [_parted(v, sizes) for v in axis]
    if not parts or any(p is None for p in parts):
        return [LOST] * len(sizes)
    return [(a, b, c) for a, b, c in zip(*(p or () for p in parts), strict=True)]


def _parted(vector: Vector | None, sizes: Sequence[int]) -> list[Vector | None] | None:
    if vector is None:
        return [vector for _ in sizes]
    wide = [k for k, size in enumerate(sizes) if size > 1] or [0]
    if len(wide) == 1:
        return [vector if k == wide[0] else None for k in range(len(sizes))]
    values, known = vector.reshape(sizes), np.isfinite(vector)
    at = np.unravel_index(known.argmax(), sizes)  # the first index with a position
    first = values[at]
    axes = range(len(sizes))
    lines = [values[tuple(slice(None) if j == k else at[j] for j in axes)] - first for k in axes]
    total: NDArray[np.float64] = np.array(first)
    for line in lines:
        total = np.add.outer(total, line)
    if not np.allclose(total, values, atol=1e-6, equal_nan=True):
        return None
    moving = [k for k in wide if np.any(lines[k] != 0)] or [wide[0]]
    return [None if k not in moving else line + first if k == moving[0] else line for k, line in enumerate(lines)]


def regrouped(axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """The axes after a view: the smallest groups of axes with equal products are flattened and unflattened."""
    made: list[Axis] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i, j
        left = right = 1
        while (i == a and i < len(old)) or (j == b and j < len(new)) or left != right:
            if i < len(old) and (left <= right or j == len(new)):
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        while j < len(new) and new[j] == 1 and (i == len(old) or old[i] != 1):
            j += 1  # inserted axes of size one
        while i < len(old) and old[i] == 1 and (j == len(new) or new[j] != 1):
            i += 1  # removed axes of size one
        if list(old[a:i]) == list(new[b:j]):
            made += axes[a:i]
        elif j > b:
            made += parted(joined(axes[a:i], old[a:i]), new[b:j]) if i > a else [NOTHING] * (j - b)
    return tuple(made)


def unified(first: Axis, second: Axis) -> Axis:
    """The axis of two values that are combined elementwise; `LOST` if they count differently."""
    if not counts(first):
        return second if counts(second) or first is not LOST else first
    if not counts(second):
        return first
    parts: list[Vector | None] = []
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            parts.append(b if a is None else a)
        elif len(a) != len(b) or not _agree(a, b):
            return LOST
        else:
            parts.append(a if np.isfinite(a).sum() >= np.isfinite(b).sum() else b)
    return parts[0], parts[1], parts[2]


def _agree(a: Vector, b: Vector) -> bool:
    both = np.isfinite(a) & np.isfinite(b)
    return not both.any() or bool(np.abs(a - b)[both].max() <= TOLERANCE * max(spacing(a), spacing(b)) + 1e-6)


def spacing(vector: Vector) -> float:
    """The typical distance of neighbouring values; 0 for a constant."""
    values = np.unique(vector[np.isfinite(vector)].round(6))
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def stretched(axis: Axis, size: int, at: Callable[[Vector], Vector] | None = None) -> Axis:
    """The axis after an operation over windows.

    Args:
        axis: before the operation.
        size: number of indices after it.
        at: the old index, possibly fractional, at which a new one lies; None: evenly over the whole axis.
    """

    def change(v: Vector) -> Vector:
        new = np.arange(size, dtype=float)
        where = (new + 0.5) * len(v) / size - 0.5 if at is None else at(new)
        if len(v) == 1 or not np.isfinite(v).all():
            return np.full(size, v.mean())
        low = np.clip(np.floor(where).astype(int), 0, len(v) - 2)  # linear extrapolation beyond the ends
        return v[low] + (where - low) * (v[low + 1] - v[low])

    return mapped(axis, change)
