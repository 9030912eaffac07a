"""Metrics from rows: a value with its interval, and the sample from which two methods are compared.

All intervals are 95 %, two-sided and over images; `eigencam.evaluation.intervals` has one for each kind of number. A
metric without an interval states the reason.

With `target=each` an image has several rows, which share its object sizes, lighting and clutter: they count
as one (`by_image`). Beyond 10,000 images, sums are not kept per image but for 1,000 groups of images, by
a hash of their ids: the interval is then over the groups, whether the rows are in memory or read in blocks. A rate of
hits with one row per image needs only their number, so its interval stays over images.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from eigencam.evaluation import intervals
from eigencam.evaluation.base import About, Metric, Sample
from eigencam.evaluation.intervals import Floats, Interval, MeanRatio, Parts, bounds_of

SUMMARY_VERSIONS = {"statistics": 3}
"""The version is raised when a change here or in `intervals` moves a number; see `eigencam.store.versions`."""

MOST_IMAGES = 10_000
"""Number of images up to which intervals are over images; above it they are over groups of images."""
GROUPS = 1000
RARE = 10
"""Number of images below which a class is called rare: a mean over classes is biased by values over few images."""


def rate(
    name: str,
    hits: ArrayLike,
    *,
    note: str = "",
    threshold: str = "",
    better: str = "higher",
    about: About = "method",
) -> Metric:
    """The metric `name`: percentage of true values among `hits` (N,) bool, one per image."""
    array = np.asarray(hits, bool)
    k, n = int(array.sum()), len(array)
    ends = scaled(intervals.of_rate(k, n))
    value = 100 * k / n if n else float("nan")
    sample = Sample(array.astype(np.float64))
    return Metric(name, value, *ends, n, "%", threshold, better, note, sample, about=about, hit=True)


def mean(name: str, values: ArrayLike, *, note: str = "", threshold: str = "", better: str = "higher") -> Metric:
    """The metric `name`: 100 times the mean of `values` (N,), one per image; NaNs are left out."""
    sample = np.asarray(values, np.float64)
    array = sample[~np.isnan(sample)]
    ends = scaled(intervals.of_mean(array))
    value = 100 * float(array.mean()) if len(array) else float("nan")
    metric = Metric(name, value, *ends, len(array), "%", threshold, better, note)
    return noted(metric, Sample(sample))


def change(name: str, values: ArrayLike, *, threshold: str = "", better: str = "higher") -> Metric:
    """The metric `name`: as `mean`, for changes (N,) between hit and miss: -1, 0 or 1."""
    array = np.asarray(values, np.float64)
    up, down, n = int((array > 0).sum()), int((array < 0).sum()), len(array)
    value = 100 * float(array.mean()) if n else float("nan")
    ends = scaled(intervals.of_paired_hits(up, down, n))
    return noted(Metric(name, value, *ends, n, "%", threshold, better), Sample(array))


def plain_mean(name: str, values: ArrayLike, *, unit: str = "", better: str = "higher") -> Metric:
    """The metric `name`: the mean of `values` (N,), as `mean`, in their own unit."""
    metric = mean(name, values, better=better)
    low, high = scaled((metric.low, metric.high), 1 / 100)
    return replace(metric, value=metric.value / 100, low=low, high=high, unit=unit)


def pooled(
    name: str,
    parts: Parts,
    statistic: Callable[[Floats], Floats],
    *,
    n: int | None = None,
    hits: bool = False,
    note: str = "",
    threshold: str = "",
    better: str = "higher",
) -> Metric:
    """The metric `name`: 100 times a statistic in [0, 1] of the sums of `parts` (N, K), one line per image.

    Args:
        name: name of the metric.
        parts: contribution of each image.
        statistic: (R, K) sums -> (R,).
        n: the denominator; by default the number of images.
        hits: for a ratio (`MeanRatio(1)`): whether it is the share of objects that are hit.
        note: as in `Metric`.
        threshold: as in `Metric`.
        better: as in `Metric`.
    """
    sample = Sample(parts, statistic, hits=hits)
    value = float(statistic(np.asarray(parts.sum(axis=0), np.float64).reshape(1, -1))[0])
    ends = scaled(_interval(sample))
    images = cast(tuple[int, ...], parts.shape)[0]
    metric = Metric(name, 100 * value, *ends, images if n is None else n, "%", threshold, better, note)
    return noted(metric, sample)


def scaled(ends: Interval, scale: float = 100) -> Interval:
    """Return an interval times `scale`; a missing one is always the same NaNs, so that equal metrics are equal."""
    return intervals.NONE if np.isnan(ends[0]) else (scale * ends[0], scale * ends[1])


def _interval(sample: Sample, within: Interval = (0.0, 1.0)) -> Interval:
    """The interval of a sample, in the unit of its values; `within`: limits of its ends, not used for hits."""
    if sample.hits:
        parts: Any = sample.parts
        return intervals.of_pooled_rate(parts[:, 0], parts[:, 1])
    assert sample.statistic is not None  # only means have none
    return intervals.of_statistic(sample.parts, sample.statistic, within)


def noted(metric: Metric, sample: Sample) -> Metric:
    """The metric with its sample, the reason if it has no interval, and whether classes are rare."""
    said = list[str]()
    if np.isnan(metric.value):
        return replace(metric, sample=sample)
    if isinstance(sample.statistic, MeanRatio) and (classes := sample.statistic.classes) > 2:
        parts: Any = sample.parts
        rare = int((np.asarray((parts[:, classes:] > 0).sum(axis=0)) < RARE).sum())
        said += [f"biased by rare classes: {rare} of {classes} in fewer than {RARE} images"] * (rare > 0)
    if np.isnan(metric.low):
        said.append(_why_none(sample))
    return replace(metric, sample=sample, caution="; ".join(said))


def _why_none(sample: Sample) -> str:
    if sample.hits:
        return "no interval of one image"
    if counted(sample) < intervals.LEAST_IMAGES:
        return f"no interval below {intervals.LEAST_IMAGES} images"
    if sample.statistic is not None and intervals.few_in_class(sample.parts, sample.statistic):
        return f"no interval unless each class is in {intervals.LEAST_IN_CLASS} images"
    return "no interval of values that do not differ"


def undefined(
    name: str, n: int, note: str, *, threshold: str = "", better: str = "higher", about: About = "method"
) -> Metric:
    """The metric `name` when it is not defined: NaN, with the reason in `note`."""
    nan = float("nan")
    return Metric(name, nan, nan, nan, n, "%", threshold, better, note, about=about, undefined=True)


def of_rows(metrics: Sequence[Metric], chosen: ArrayLike) -> list[Metric]:
    """The metrics; each sample then states its rows: those of the M rows for which `chosen` (M,) is true.

    A sample with more or fewer parts than chosen rows is unchanged.
    """
    mask = np.asarray(chosen, bool)
    if mask.all():
        return list(metrics)
    return [
        replace(m, sample=replace(m.sample, rows=mask)) if m.sample and _length(m.sample.parts) == mask.sum() else m
        for m in metrics
    ]


def by_image(metrics: Sequence[Metric], rows: pd.DataFrame) -> list[Metric]:
    """The metrics with intervals and samples over images, or over groups of images if these are too many to keep.

    They are unchanged if each image has one row and the images can be kept; hit rates, whenever each image has one row.
    In the sample of a mean, each image or group then contributes the sum and the number of its values. A sample without
    a part for each of its rows is unchanged.

    Args:
        metrics: result of `Evaluator.summary`.
        rows: the summarised rows, with `image`.
    """
    image, ids = pd.factorize(rows["image"])
    several = len(ids) < len(rows)
    if len(ids) <= MOST_IMAGES and not several:
        return list(metrics)
    if len(ids) > MOST_IMAGES:
        image = groups_of(ids)[image]
    return [_summed(metric, image, several) for metric in metrics]


def groups_of(ids: Sequence[object] | pd.Index) -> NDArray[np.int64]:
    """(N,): the group, out of 1,000, of each image id."""
    return np.array([crc32(str(name).encode()) % GROUPS for name in ids], np.int64)


def _summed(metric: Metric, unit: NDArray[np.int64], several: bool) -> Metric:
    """The metric with its sample summed over images or groups.

    Args:
        metric: a metric of M rows.
        unit: (M,) the image or group of each row.
        several: whether images have several rows.
    """
    sample = metric.sample
    if sample is None or (metric.hit and not several):
        return metric
    drawn = unit if sample.rows is None else unit[sample.rows]
    if len(drawn) != _length(sample.parts):
        return metric
    parts: Any = sample.parts
    statistic, within = sample.statistic, (0.0, 1.0)
    if statistic is None:
        has = ~np.isnan(parts)
        drawn, values = drawn[has], np.asarray(parts[has], np.float64)
        parts, statistic, within = np.stack([values, np.ones_like(values)], axis=1), MeanRatio(), bounds_of(values)
    _, drawn = np.unique(drawn, return_inverse=True)
    shape = int(drawn.max(initial=-1)) + 1, len(drawn)
    member = sparse.csr_array((np.ones(len(drawn)), (drawn, np.arange(len(drawn)))), shape)
    made = Sample(member @ parts, statistic, hits=sample.hits or metric.hit)
    low, high = scaled(_interval(made, within), 100 if metric.unit == "%" else 1)
    return noted(replace(metric, low=low, high=high), made)


def counted(sample: Sample) -> int:
    """Number of rows, images or groups that count in a sample."""
    parts: Any = sample.parts
    return int(np.count_nonzero(abs(parts).sum(axis=1) if sample.statistic else ~np.isnan(parts)))


def _length(parts: Parts) -> int:
    return cast(tuple[int, ...], parts.shape)[0]


def grouped(
    values: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Means, sizes and sums of squared deviations of the groups of (N,) sorted values that begin at `starts`."""
    counts = np.diff(starts, append=len(values))
    means = np.add.reduceat(values, starts) / counts
    return means, counts, np.add.reduceat((values - np.repeat(means, counts)) ** 2, starts)
