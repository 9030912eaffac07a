"""The loops of `eigencam.evaluation.proposal_matching`. Importing this module imports numba."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def best_pairs(overlap: Floats) -> Floats:
    """(P, G) -> (G,): `proposal_matching.match_best_pairs`."""
    p, g = overlap.shape
    matched = np.zeros(g)
    rest = overlap.copy()
    for _ in range(min(p, g)):
        best, row, column = 0.0, -1, -1
        if g <= p:
            for j in range(g):
                for i in range(p):
                    if rest[i, j] > best:
                        best, row, column = rest[i, j], i, j
        else:
            for i in range(p):
                for j in range(g):
                    if rest[i, j] > best:
                        best, row, column = rest[i, j], i, j
        if row < 0:
            break
        matched[column] = best
        rest[row], rest[:, column] = 0.0, 0.0
    return matched


@njit(cache=True, nogil=True)
def found_in_order(overlap: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """(P, G), (T,) -> (T, P): 1 if a proposal finds an object at a threshold; see `proposal_matching.match_coco`."""
    p, g = overlap.shape
    found, free = np.zeros((len(thresholds), p), np.int64), np.ones((len(thresholds), g), np.bool_)
    for i in range(p):
        for t in range(len(thresholds)):
            best, at = thresholds[t], -1
            for j in range(g):
                if free[t, j] and overlap[i, j] >= best:
                    best, at = overlap[i, j], j
            if at >= 0:
                free[t, at], found[t, i] = False, 1
    return found
