"""Which of several methods is first on the same images, and with which certainty.

The images are resampled (bootstrap: each counts as often as it is drawn) for all methods at once, and the methods are
ranked in every resample. A method that is first in only half of them is not known to be the best. What is resampled is
each image's first-order contribution to the value: exact for a mean, the jackknife's for other statistics. More than
10,000 images are resampled in 1,000 groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.evaluation import intervals, statistics
from eigencam.evaluation.base import Sample

Floats = NDArray[np.float64]
RESAMPLES = 1000
_DRAWS = 4_000_000
"""Number of image weights in memory at a time."""


@dataclass(frozen=True, slots=True)
class Placing:
    """The placing of a method among others.

    Attributes:
        rank: 1 the best; ties share the mean.
        low: lower end of the 95 % interval of the rank.
        high: upper end.
        first: share of the resamples in which it is first; ties share.
    """

    rank: float
    low: float
    high: float
    first: float


def placings(samples: Mapping[str, Sample], better: str, seed: int = 0) -> dict[str, Placing]:
    """Place methods by their samples of one metric, over the same images in the same order.

    Args:
        samples: sample of each method.
        better: `lower` or `higher`.
        seed: seed of the resamples.

    Returns:
        The placing of each method; empty for fewer than two methods, or if a value is not defined.
    """
    values, influence = _linear(list(samples.values()))
    if len(samples) < 2 or not (np.isfinite(values).all() and np.isfinite(influence).all() and influence.shape[1]):
        return {}
    sign = 1 if better == "lower" else -1
    resampled = values + _resampled(influence, seed)
    tolerance = 1e-12 * max(1.0, float(np.abs(values).max()))  # sums that are equal up to rounding are ties
    resampled, values = (np.round(sign * v / tolerance) * tolerance for v in (resampled, values))
    from scipy.stats import rankdata  # importing it takes time

    ranks = rankdata(resampled, axis=1)
    least = resampled == resampled.min(axis=1, keepdims=True)
    first = (least / least.sum(axis=1, keepdims=True)).mean(axis=0)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    columns = zip(rankdata(values), low, high, first, strict=True)
    return {name: Placing(*map(float, numbers)) for name, numbers in zip(samples, columns, strict=True)}


def _linear(samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """(M,) values, and (M, N) contributions of each image; for means, over the images in which all have a value."""
    if any(sample.statistic for sample in samples):
        found = [intervals.influences(sample.parts, sample.statistic) for sample in samples if sample.statistic]
        return np.array([value for value, _ in found]), np.stack([influence for _, influence in found])
    parts: Any = np.stack([np.asarray(sample.parts, np.float64) for sample in samples])
    parts = parts[:, ~np.isnan(parts).any(axis=0)]
    n = parts.shape[1]
    mean = parts.mean(axis=1) if n else np.full(len(parts), np.nan)
    return mean, (parts - mean[:, None]) / max(n, 1)


def _resampled(influence: Floats, seed: int) -> Floats:
    """(R, M): changes of M values in R resamples of N images."""
    rng, changes = np.random.default_rng(seed), np.empty((RESAMPLES, len(influence)))
    if influence.shape[1] > statistics.MOST_IMAGES:
        group = rng.permutation(influence.shape[1]) % statistics.GROUPS
        influence = np.array([np.bincount(group, own, statistics.GROUPS) for own in influence], np.float64)
    n = influence.shape[1]
    step = max(1, _DRAWS // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        changes[start : start + size] = (weights - 1.0) @ influence.T
    return changes
