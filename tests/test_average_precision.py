"""Average precision compared with scikit-learn's precision-recall curve, and edge cases."""

import math

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from eigencam.evaluation.average_precision import average_precision


@pytest.mark.parametrize("seed", range(12))
def test_against_the_curve_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    labels = (rng.random(n) < 0.4).astype(np.int64)
    labels[0] = 1
    scores = np.round(rng.normal(size=n) + labels, 1)  # with ties
    precision, recall, _ = precision_recall_curve(labels, scores)
    area = sum(
        (recall[k] - recall[k + 1]) * max(p for p, r in zip(precision, recall, strict=True) if r >= recall[k])
        for k in range(len(recall) - 1)
    )
    precision, recall = precision[:-1], recall[:-1]  # the last point is scikit-learn's own: precision 1 at recall 0
    eleven = np.mean([max(p for p, r in zip(precision, recall, strict=True) if r >= t / 10 - 1e-12) for t in range(11)])
    assert average_precision(scores, labels) == pytest.approx((area, eleven))
    more = average_precision(np.append(scores, [9.0, -9.0]), np.append(labels, [-1, -1]))
    assert more == average_precision(scores, labels)


def test_edges() -> None:
    assert all(math.isnan(v) for v in average_precision(np.zeros(3), np.zeros(3, np.int64)))
    assert average_precision(np.zeros(4), np.array([1, 0, 0, 0])) == (0.25, 0.25)
    assert average_precision(np.ones(1), np.array([1])) == (1, 1)
