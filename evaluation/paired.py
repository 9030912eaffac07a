r"""Two methods on the same images: the difference, its interval, and a test of whether it is more than chance.

The difference of a metric is that of two samples over the same images (`eigencam.evaluation.base.Sample`).

interval        of the paired difference, in which everything common to both cancels (`intervals`): Tango's for hit
                or miss, the jackknife for everything else; none below 30 images
McNemar, exact  for hit or miss. Of the b + c images where one hits and the other misses, equally many should go either
                way: twice the tail of Binomial(b + c, 1/2) at min(b, c). Q. McNemar, "Note on the sampling error of the
                difference between correlated proportions or percentages", Psychometrika 12 (1947)
sign flips      for everything else. If the methods were exchangeable, each difference d_i could as well have the other
                sign: p is the share of sign vectors s with |sum s_i d_i| >= |sum d_i|. R. A. Fisher, "The design of
                experiments" (1935), section 21. All vectors up to 13 images, else (1 + count) / (1 + resamples). For
                a metric of sums over the dataset the methods are swapped in an image, which is the same test
Holm            p times the number of tests still open, in ascending order. S. Holm, "A simple sequentially rejective
                multiple test procedure", Scand. J. Statist. 6 (1979)
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from eigencam.evaluation import intervals
from eigencam.evaluation.base import Sample
from eigencam.evaluation.statistics import counted, grouped

Floats = NDArray[np.float64]
Test = Literal["mcnemar", "sign flips", ""]

RESAMPLES = 9999
POWER = 1.959964 + 0.841621
"""The detectable difference, in standard errors, for a two-sided test at 5 % with a power of 80 %."""
EXACT = 13
"""Number of images up to which all 2^n sign vectors are enumerated."""
_DISTINCT = 64
"""Number of distinct values, or absolute values, up to which each is drawn separately."""
_PRODUCT = 4_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Method b minus method a, as fractions.

    Attributes:
        a: the metric of a over the common images.
        b: the metric of b.
        value: b - a.
        low: lower end of the 95 % interval of `value`.
        high: upper end.
        n: number of images for which both have a value.
        larger: number of images where b's value is larger; -1 for a metric of sums.
        smaller: number of images where a's value is larger.
        p: two-sided p-value; NaN if there is nothing to test.
        test: name of the test.
        shown: the smallest difference that a test at 5 % on so many images detects with a power of 80 %.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    larger: int
    smaller: int
    p: float
    test: Test
    shown: float = float("nan")


def difference(a: Sample, b: Sample, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Compare two samples of the same images in the same order.

    Args:
        a: sample of the reference.
        b: sample of the other method.
        resamples: number of sign vectors drawn.
        seed: seed of the sign vectors.

    Raises:
        ValueError: the samples have different forms.
    """
    if a.parts.shape != b.parts.shape or (a.statistic is None) != (b.statistic is None):
        raise ValueError(f"samples of {a.parts.shape} and {b.parts.shape} cannot be paired: not the same images")
    if a.statistic is not None:
        return _of_sums(a, b, resamples, seed)
    first, second = np.asarray(a.parts), np.asarray(b.parts)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    if not len(first):
        nan = float("nan")
        return Difference(nan, nan, nan, nan, nan, 0, 0, 0, nan, "")
    change = second - first
    larger, smaller = int((change > 0).sum()), int((change < 0).sum())
    binary = np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()
    p = mcnemar(larger, smaller) if binary else sign_flips(change, resamples, seed)
    ends = interval(change, bool(binary))
    means = float(first.mean()), float(second.mean())
    n, spread = len(first), float(change.var())
    if binary:  # as if two more images differed: an observed zero does not mean that none ever will
        spread = (larger + smaller + 2) / (n + 2)
    shown = POWER * np.sqrt(spread / (n - 1)) if n > 1 else float("nan")
    test = "mcnemar" if binary else "sign flips"
    return Difference(*means, float(change.mean()), *ends, n, larger, smaller, p, test, float(shown))


def interval(change: Floats, hits: bool = False) -> intervals.Interval:
    """The 95 % interval of the mean of (N,) paired differences; for hit or miss, from the exact counts."""
    if hits:
        return intervals.of_paired_hits(int((change > 0).sum()), int((change < 0).sum()), len(change))
    if len(change) < intervals.LEAST_IMAGES:
        return intervals.NONE
    mean = float(change.mean())
    return intervals.of_influence(mean, (change - mean) / (len(change) - 1))


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p-value for `b` images that changed one way and `c` the other; 1 if none changed.

    >>> mcnemar(9, 1)
    0.021484375
    """
    return min(1.0, 2 * float(special.bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def sign_flips(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value for the hypothesis that the mean of (N,) paired differences is zero.

    Equal absolute values are drawn together: of m differences of one size, Binomial(m, 1/2) keep their sign. Beyond 64
    sizes they are cut into groups of neighbours: the largest sizes each in a group of its own, the smallest in the
    largest groups. The number of kept signs in a group is drawn exactly; the sum given that number is drawn from the
    normal distribution with its variance.
    """
    array = np.asarray(values, np.float64)
    observed, sizes = abs(float(array.sum())), np.abs(array[array != 0])
    if not len(sizes):
        return 1.0
    bar = observed - 1e-12 * float(sizes.sum())  # sums that are equal up to rounding count
    if len(sizes) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
        return float((np.abs(signs @ sizes) >= bar).mean())
    means, counts = np.unique(sizes, return_counts=True)
    variances = np.zeros_like(means)
    if len(means) > _DISTINCT:
        starts = np.unique(np.append(0, len(sizes) - _from_the_end(len(sizes))[1:]))
        means, counts, variances = grouped(np.sort(sizes), starts)
    rng = np.random.default_rng(seed)
    kept = np.stack([rng.binomial(int(m), 0.5, resamples) for m in counts], axis=1).astype(np.float64)
    sums = (2 * kept - counts) @ means
    if variances.any():
        # k of m signs are +: the sum of s_i (a_i - mean) has the variance 4 k (m - k) / (m (m - 1)) sum (a_i - mean)^2.
        share = variances / np.maximum(counts * (counts - 1.0), 1)
        sums += np.sqrt(4 * (kept * (counts - kept)) @ share) * rng.standard_normal(resamples)
    return float((1 + (np.abs(sums) >= bar).sum()) / (1 + resamples))


def holm(p: ArrayLike) -> Floats:
    """(M,) p-values adjusted for M tests, in the given order; NaNs are not tests.

    >>> holm([0.01, 0.04, 0.03, 0.005]).tolist()
    [0.03, 0.06, 0.06, 0.02]
    """
    array = np.asarray(p, np.float64)
    adjusted = np.full_like(array, np.nan)
    order = np.argsort(array)[: int((~np.isnan(array)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * array[order]), 1)
    return adjusted


def _from_the_end(n: int, groups: int = 24) -> NDArray[np.int64]:
    """Distances from the end of n sorted values at which to cut: a quarter of the groups single, the others growing."""
    alone = groups // 4
    growing = np.geomspace(alone, n, groups - alone, endpoint=False).astype(np.int64)
    return np.unique(np.concatenate([np.arange(alone), growing]))


def _of_sums(a: Sample, b: Sample, resamples: int, seed: int) -> Difference:
    """The comparison for metrics of sums over the dataset."""
    first, second = a.statistic, b.statistic
    assert first is not None  # the caller's check
    assert second is not None
    (one, of_one), (other, of_other) = intervals.influences(a.parts, first), intervals.influences(b.parts, second)
    few = max(intervals.few_in_class(s.parts, s.statistic) for s in (a, b) if s.statistic)
    ends = intervals.NONE if few else intervals.of_influence(other - one, of_other - of_one)
    both: list[Any] = [a.parts, b.parts]
    sums = np.concatenate([np.asarray(parts.sum(axis=0), np.float64).ravel() for parts in both])[None]
    p = _exchanged(a, b, sums, other - one, resamples, seed)
    n, moved = max(counted(a), counted(b)), of_other - of_one
    shown = POWER * float(np.sqrt(((moved - moved.mean()) ** 2).sum()))
    return Difference(one, other, other - one, *ends, n, -1, -1, p, "sign flips", shown)


def _exchanged(a: Sample, b: Sample, sums: Floats, observed: float, resamples: int, seed: int) -> float:
    """p-value of a difference of statistics of sums, when the methods may be swapped in each image."""
    assert a.statistic is not None  # the caller's check
    assert b.statistic is not None
    gain: Any = b.parts - a.parts
    k, n = gain.shape[1], gain.shape[0]
    moved = np.flatnonzero(np.asarray(abs(gain).sum(axis=1)).ravel())
    if np.isnan(observed) or not len(moved):
        return float("nan") if np.isnan(observed) else 1.0
    gain = gain[moved]
    n = len(moved)
    rng = np.random.default_rng(seed)
    exact = n <= EXACT
    total, extreme = (2**n if exact else resamples), 0
    step = max(1, _PRODUCT // n)
    for start in range(0, total, step):
        stop = min(start + step, total)
        if exact:
            swap = np.arange(start, stop)[:, None] >> np.arange(n) & 1
        else:
            bits = np.frombuffer(rng.bytes((stop - start) * -(-n // 8)), np.uint8)
            swap = np.unpackbits(bits.reshape(stop - start, -1), axis=1, count=n)
        moves = np.asarray((gain.T @ swap.T.astype(np.float64)).T)
        changes = b.statistic(sums[:, k:] - moves) - a.statistic(sums[:, :k] + moves)
        extreme += int((np.abs(changes) >= abs(observed) * (1 - 1e-9) - 1e-15).sum())
    return extreme / total if exact else (1 + extreme) / (1 + total)
