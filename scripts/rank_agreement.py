"""Statistics of `judge_metrics.py`: metrics of resampled images, and how two rankings of methods agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.evaluation.base import Sample

Floats = NDArray[np.float64]
RESAMPLES, SPLITS = 1000, 200
TIE = 1e-3
"""Fraction of the range over methods: values that differ by at most this much are ties."""


def values_of(sample: Sample, weights: Floats) -> Floats:
    """(R,): the metric for each row of `weights` (R, N), which weights the images; a mean is NaN without any value."""
    parts: Any = sample.parts if isinstance(sample.parts, np.ndarray) else sample.parts.toarray()
    if sample.statistic is None:
        there = ~np.isnan(parts)
        count = weights @ there
        total = weights @ np.where(there, parts, 0.0)
        return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    full = np.zeros((weights.shape[1], parts.shape[1]))
    full[slice(None) if sample.rows is None else sample.rows] = parts
    return np.asarray(sample.statistic(weights @ full), np.float64)


def tau(x: Floats, y: Floats) -> Floats:
    """(R,): Kendall's tau-b of values (R, M) of M methods; NaN if all pairs tie in `x` or in `y`.

    Pairs of methods with a NaN in `x` or `y` are ignored.
    """
    a, b = np.triu_indices(x.shape[1], 1)

    def signs(v: Floats) -> Floats:
        span = np.nanmax(v, axis=1, keepdims=True) - np.nanmin(v, axis=1, keepdims=True)
        steps = v[:, a] - v[:, b]
        return np.where(np.abs(steps) > TIE * span, np.sign(steps), 0.0)

    defined = ~np.isnan(x[:, a] - x[:, b] + y[:, a] - y[:, b])
    p, q = (np.where(defined, signs(v), 0.0) for v in (x, y))
    below = np.sqrt((p**2).sum(axis=1) * (q**2).sum(axis=1))
    return np.divide((p * q).sum(axis=1), below, out=np.full(len(x), np.nan), where=below > 0)


def resampled(n: int, seed: int) -> Floats:
    """(1 + RESAMPLES, n): how often each image counts; the first row has every image once."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return np.concatenate([np.ones((1, n)), draws]).astype(np.float64)


def halves(n: int, seed: int) -> tuple[Floats, Floats]:
    """(SPLITS, n) each: one half of the images, and the other."""
    rng = np.random.default_rng(seed)
    one = np.stack([rng.permutation(n) < n // 2 for _ in range(SPLITS)]).astype(np.float64)
    return one, 1 - one


def mean_defined(values: Sequence[Floats | float]) -> Floats:
    """The mean over the first axis, ignoring NaN; NaN if all are."""
    stack = np.asarray(values, np.float64)
    there = ~np.isnan(stack)
    count, total = there.sum(axis=0), np.where(there, stack, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
