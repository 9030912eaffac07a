"""Enlarging a map like OpenCV's `resize(..., interpolation=INTER_CUBIC)` for float64, without OpenCV.

Cubic convolution (R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981) with a = -0.75,
from four cells along each axis, with border cells repeated, and without smoothing when a map is reduced. The weights
are float32, the sums float64, in OpenCV's order: along x, then along y, from left to right.

Importing this module imports numba.
"""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

VERSIONS = {"bicubic": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

_A = np.float32(-0.75)


def resize(values: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """(h, w) -> (size, size) float64; a map that already has this size is copied."""
    exact = values.astype(np.float64)
    if values.shape == (size, size):
        return exact
    return _resize(exact, *_taps(values.shape[0], size), *_taps(values.shape[1], size))


@lru_cache(maxsize=256)
def _taps(n_in: int, n_out: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(n_out, 4): the cells that contribute to each pixel, and their weights."""
    one = np.float32(1)
    place = ((np.arange(n_out) + 0.5) * (1 / (n_out / n_in)) - 0.5).astype(np.float32)
    before = np.floor(place)
    x = place - before
    weights = np.empty((n_out, 4), np.float32)
    weights[:, 0] = ((_A * (x + one) - 5 * _A) * (x + one) + 8 * _A) * (x + one) - 4 * _A
    weights[:, 1] = ((_A + 2) * x - (_A + 3)) * x * x + one
    weights[:, 2] = ((_A + 2) * (one - x) - (_A + 3)) * (one - x) * (one - x) + one
    weights[:, 3] = one - weights[:, 0] - weights[:, 1] - weights[:, 2]
    cells = np.clip(before.astype(np.int64)[:, None] + np.arange(-1, 3), 0, n_in - 1)
    return cells, weights


@njit(cache=True, nogil=True)
def _resize(
    values: NDArray[np.float64],
    rows: NDArray[np.int64],
    row_weights: NDArray[np.float32],
    columns: NDArray[np.int64],
    column_weights: NDArray[np.float32],
) -> NDArray[np.float64]:
    wide = np.empty((len(values), len(columns)))
    for y in range(len(values)):
        for x in range(len(columns)):
            c, w = columns[x], column_weights[x]
            total = values[y, c[0]] * w[0] + values[y, c[1]] * w[1]
            wide[y, x] = total + values[y, c[2]] * w[2] + values[y, c[3]] * w[3]
    full = np.empty((len(rows), len(columns)))
    for y in range(len(rows)):
        a, b, c, d = wide[rows[y, 0]], wide[rows[y, 1]], wide[rows[y, 2]], wide[rows[y, 3]]
        w = row_weights[y]
        for x in range(len(columns)):
            full[y, x] = a[x] * w[0] + b[x] * w[1] + c[x] * w[2] + d[x] * w[3]
    return full
