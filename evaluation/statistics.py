"""Confidence intervals over pictures: Wilson's for rates, the bootstrap for everything else.

All intervals are 95 % and two-sided. The bootstrap is the percentile one (Efron, 1979) over pictures. A resample
of n pictures is a multinomial vector of weights, which is what makes it fast: a mean needs weights for the *distinct*
values only, and a statistic of sums over the set (pooled IoU, recall) is a product of weights and per-picture counts.
Everything is deterministic in its seed.

With `target=each` a picture has several rows, which have its object sizes, its light, its clutter in common: they are
resampled together (the cluster bootstrap), see `by_picture`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from eigencam.evaluation.base import About, Metric, Sample

SUMMARY_VERSIONS = {"statistics": 1}
"""Raised when a change here moves a number; see `eigencam.versions`."""

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""

RESAMPLES = 1000
_DISTINCT = 256
_WEIGHTS = 4_000_000

Interval = tuple[float, float]


def wilson(k: int, n: int) -> Interval:
    """Wilson's score interval of a rate of `k` in `n`, as fractions; NaNs for n = 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    >>> [round(end, 4) for end in wilson(5, 10)]
    [0.2366, 0.7634]
    """
    if n == 0:
        return float("nan"), float("nan")
    rate, z2 = k / n, Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The ends are exact at k = 0 and k = n; rounding would put them a hair beside.
    return 0.0 if k == 0 else float(centre - half), 1.0 if k == n else float(centre + half)


def bootstrap_mean(
    values: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    distinct: int = _DISTINCT,
    cut: Callable[[int], NDArray[np.int64]] | None = None,
) -> Interval:
    """Percentile bootstrap interval of a mean over pictures; NaN values are left out, NaNs come back for none.

    Up to `distinct` values the resampling is exact. Beyond, the sorted values are cut into groups of neighbours. The
    groups' counts are resampled exactly; the sum of a group given its count is drawn from the normal distribution with
    the group's mean and variance, which is small, since neighbours in rank are together.

    Args:
        values: (N,) one value a picture.
        resamples: number of resamples.
        seed: of the random numbers.
        distinct: number of values up to which none are grouped; the time grows with the number of groups.
        cut: from N to where the sorted values are cut, the first at 0. By default into 256 groups: an eighth are the
            lowest and an eighth the highest alone, so that outliers are exact, the others are of equal size.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means, in the unit of `values`.
    """
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    n = len(array)
    if n == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means, counts = np.unique(array, return_counts=True)
    variances = np.zeros_like(means)
    if len(means) > distinct:
        means, counts, squares = grouped(np.sort(array), (cut or _evenly)(n))
        variances = squares / counts
    weights = rng.multinomial(n, counts / n, resamples)
    spread = np.sqrt(weights @ variances) * rng.standard_normal(resamples) if variances.any() else 0.0
    low, high = np.quantile((weights @ means + spread) / n, [0.025, 0.975])
    return float(low), float(high)


def grouped(
    values: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Means, sizes and sums of squared deviations of neighbours in (N,) sorted values, cut at `starts`."""
    counts = np.diff(starts, append=len(values))
    means = np.add.reduceat(values, starts) / counts
    return means, counts, np.add.reduceat((values - np.repeat(means, counts)) ** 2, starts)


def _evenly(n: int) -> NDArray[np.int64]:
    alone = _DISTINCT // 8
    inner = np.linspace(alone, n - alone, _DISTINCT - 2 * alone, endpoint=False).astype(np.int64)
    return np.concatenate([np.arange(alone), inner, np.arange(n - alone, n)])


def bootstrap_pooled(
    counts: NDArray[np.float64] | sparse.csr_array,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap intervals of statistics of sums over pictures.

    Args:
        counts: (N, K) what each picture adds to the K sums; sparse where K is large.
        statistic: (R, K) sums of R resamples -> (R,) or (R, S) values; NaN where not defined.
        resamples: number of resamples.
        seed: of the random numbers.

    Returns:
        Lower and upper ends, each () or (S,); NaN where a statistic is never defined.
    """
    n, k = cast(tuple[int, int], counts.shape)
    if n == 0:
        empty = np.full(np.shape(statistic(np.zeros((1, k))))[1:], np.nan)
        return empty, empty.copy()
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, k))
    # The weights are made in pieces: 1,000 resamples of 50,000 pictures would be 400 MB.
    step = max(1, _WEIGHTS // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(start, stop)])
        sums[start:stop] = (counts.T @ weights.astype(np.float64).T).T
    values = statistic(sums)
    defined = ~np.isnan(values).all(axis=0)
    low, high = np.nanquantile(np.where(defined, values, 0.0), [0.025, 0.975], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def rate(
    name: str,
    hits: ArrayLike,
    *,
    note: str = "",
    threshold: str = "",
    better: str = "higher",
    about: About = "method",
) -> Metric:
    """The metric `name`: percentage of true values among `hits` (N,) bool, with Wilson's interval."""
    array = np.asarray(hits, bool)
    k, n = int(array.sum()), len(array)
    low, high = wilson(k, n)
    value = 100 * k / n if n else float("nan")
    sample = Sample(array.astype(np.float64))
    ends = 100 * low, 100 * high
    return Metric(name, value, *ends, n, "%", threshold, better, note, sample, about=about, hit=True)


def mean(name: str, values: ArrayLike, *, note: str = "", threshold: str = "", better: str = "higher") -> Metric:
    """The metric `name`: 100 times the mean of `values` (N,), NaNs left out, with the bootstrap's interval."""
    sample = np.asarray(values, np.float64)
    array = sample[~np.isnan(sample)]
    low, high = bootstrap_mean(array)
    value = 100 * float(array.mean()) if len(array) else float("nan")
    return Metric(name, value, 100 * low, 100 * high, len(array), "%", threshold, better, note, Sample(sample))


def undefined(
    name: str, n: int, note: str, *, threshold: str = "", better: str = "higher", about: About = "method"
) -> Metric:
    """The metric `name` where it is not defined: NaN, with the reason in `note`."""
    nan = float("nan")
    return Metric(name, nan, nan, nan, n, "%", threshold, better, note, about=about, undefined=True)


def of_rows(metrics: Sequence[Metric], chosen: ArrayLike) -> list[Metric]:
    """The metrics, whose samples say which rows they are of: where `chosen` (M,) of the M rows is true.

    A sample with another number of parts than rows are chosen is of all rows, and stays.
    """
    mask = np.asarray(chosen, bool)
    if mask.all():
        return list(metrics)
    return [
        replace(m, sample=replace(m.sample, rows=mask)) if m.sample and _parts(m.sample) == mask.sum() else m
        for m in metrics
    ]


def by_picture(metrics: Sequence[Metric], rows: pd.DataFrame) -> list[Metric]:
    """The metrics with intervals and samples over pictures, where pictures have several rows; otherwise as they are.

    In the sample of a mean each picture then adds the sum and the number of its values. Intervals are the bootstrap's;
    of a rate of 0 or 1, which tells it nothing, Wilson's with the number of pictures. A sample that has not a part for
    each of its rows stays.

    Args:
        metrics: of `Evaluator.summary`.
        rows: what they sum up, with `image`.
    """
    picture, ids = pd.factorize(rows["image"])
    return list(metrics) if len(ids) == len(rows) else [_clustered(metric, picture) for metric in metrics]


def _clustered(metric: Metric, picture: NDArray[np.int64]) -> Metric:
    """The metric of rows whose pictures are `picture` (M,)."""
    sample = metric.sample
    if sample is None:
        return metric
    of = picture if sample.rows is None else picture[sample.rows]
    if len(of) != _parts(sample):
        return metric
    parts: Any = sample.parts
    statistic = sample.statistic
    if statistic is None:
        has = ~np.isnan(parts)
        of, values = of[has], np.asarray(parts[has], np.float64)
        parts, statistic = np.stack([values, np.ones_like(values)], axis=1), _mean_of_sums
    there, of = np.unique(of, return_inverse=True)
    member = sparse.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(len(there), len(of)))
    summed = Sample(member @ parts, statistic)
    low, high = bootstrap_pooled(summed.parts, statistic)
    if sample.statistic is None and metric.unit == "%" and metric.value in (0, 100):
        low, high = wilson(len(there) * (metric.value == 100), len(there))
    scale = 100 if metric.unit == "%" else 1
    return replace(metric, low=scale * float(low), high=scale * float(high), sample=summed)


def _parts(sample: Sample) -> int:
    return cast(tuple[int, ...], sample.parts.shape)[0]


def _mean_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, 2) sums of values and their numbers -> (R,)."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
