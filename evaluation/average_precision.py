"""Average precision of a classifier or detector, by both of VOC's rules.

Images (or detections) are ranked by descending score; those of equal score enter together, so their order does not
matter. `all points` (VOC from 2010 on) is the area under the precision-recall curve made monotonic, `11 points` (VOC
2007) the mean of the largest precision at recalls of at least 0, 0.1, ..., 1. Images flagged -1 for a class (all its
objects are difficult) count neither as positives nor as negatives.

Reference: M. Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010, section 4.2.
"""

import numpy as np
from numpy.typing import NDArray

RECALLS = np.arange(11) / 10


def average_precision(
    scores: NDArray[np.float64], labels: NDArray[np.int64], positives: int | None = None
) -> tuple[float, float]:
    """(all points, 11 points) of one class, in 0..1; NaN without a positive.

    Args:
        scores: (N,) finite.
        labels: (N,) 1 positive, 0 negative, -1 ignored.
        positives: their number if some have no score, such as objects that no detection hits; by default, those of
            `labels`.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]))[0]
    0.8333333333333333
    """
    counted = labels >= 0
    scores, positive = scores[counted], labels[counted] > 0
    total = int(positive.sum()) if positives is None else positives
    if total == 0:
        return float("nan"), float("nan")
    if len(scores) == 0:
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    right = np.cumsum(positive[order])[last]
    recall, precision = right / total, right / (last + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((np.diff(recall, prepend=0.0) * best).sum())
    at = np.searchsorted(right, np.ceil(RECALLS * total - 1e-9))
    return area, float(np.append(best, 0.0)[at].mean())  # 0 at a recall that is not reached
