"""Which proposal matches which object: the rules by which recall is counted.

Overlaps are given as (P, G): of P proposals, best first, with G objects.
"""

import numpy as np
from numpy.typing import NDArray

VERSIONS = {"matching": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

Floats = NDArray[np.float64]

IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds."""

_GRID = np.arange(500, 1001) / 1000
"""Thresholds at which the recall is integrated."""


def match_best_pairs(overlap: Floats) -> Floats:
    """One-to-one matching, largest overlap first: (P, G) -> (G,), 0 for objects without a proposal.

    Source: `closest_candidates.m` of detection-proposals. Ties are resolved by object, then by proposal; by proposal
    first if there are more objects than proposals.
    """
    from eigencam.evaluation.proposal_matching_loops import best_pairs  # importing numba takes time

    return best_pairs(np.ascontiguousarray(overlap))


def match_coco(overlap: Floats, budgets: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """COCO's matching: (P, G), proposals by descending score -> per budget, (10,) numbers of objects found at `IOUS`.

    Source: `evaluateImg` in pycocotools/cocoeval.py, without crowds; among equal overlaps the last object is taken.
    """
    from eigencam.evaluation.proposal_matching_loops import found_in_order  # importing numba takes time

    found = found_in_order(np.ascontiguousarray(overlap), IOUS)
    return [found[:, :k].sum(axis=1) for k in budgets]


def recall_integral(matched: Floats) -> Floats:
    """The contribution of each object to the average recall: twice the integral over o in 0.5..1 of its 0/1 recall.

    By trapezoids of 0.001, as in `compute_average_recall.m` of detection-proposals. The exact value is 2 max(o - 0.5,
    0).

    >>> recall_integral(np.array([0.4999, 0.5, 0.75, 1.0])).round(3)
    array([0.   , 0.001, 0.501, 1.   ])
    """
    steps = np.searchsorted(_GRID, matched, side="right")  # thresholds that are reached
    whole = steps - 0.5 * (steps > 0) - 0.5 * (steps == len(_GRID))
    return 0.002 * whole


def first_of_equal(boxes: Floats) -> NDArray[np.int64]:
    """Indices, in order, of the (P, 4) boxes that differ from all earlier ones after rounding to pixels.

    Source: `deduplicate_proposals.m` of detection-proposals: left and upper ends are rounded, the others rounded up.
    """
    whole = np.concatenate([np.floor(boxes[:, :2] + 0.5), np.ceil(boxes[:, 2:])], axis=1)
    order = np.lexsort(whole.T)  # stable: the first of equal boxes stays first
    new = np.append(True, (whole[order][1:] != whole[order][:-1]).any(axis=1))[: len(order)]
    return np.sort(order[new])
