r"""95 % intervals with the stated coverage, from counts and from each image's contribution to a value.

The method for each kind of number was chosen by simulation (`scripts/interval_coverage.py`,
`results/coverage.csv`):

rate            Wilson's score interval; below 20 images the exact one (Clopper and Pearson), which covers more
pooled rate     hits among the objects, or rows, of images: the same with Korn's and Graubard's effective number of
                objects. It is p (1 - p) divided by the variance between images, at most the actual number, and is
                reduced for few images by (z / t)^2. With no or all hits, there is no variance, and it is
                (sum n)^2 / sum n^2
paired change   of hit or miss: Tango's score interval, which needs only the images that changed either way
everything else means, ratios of sums, means over a fixed set of classes, areas under curves: the jackknife. Its
                u_i = theta - theta(without image i) give two intervals, Student's t and Hall's, which removes the
                skewness of the estimate by a cubic transformation. Each end is the wider of the two, since t is too
                narrow for skewed values, and Hall's for symmetric ones with heavy tails

The last needs at least 30 images, values that differ and, for a mean over classes, each class in 3 images or more;
otherwise there is no interval. A class whose only image is left out has no value.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Clopper,
Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934). Korn,
Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from survey
data", Survey Methodology 24 (1998). Tango, "Equivalence test and confidence interval for the difference in proportions
for the paired-sample design", Statistics in Medicine 17 (1998). Hall, "On the removal of skewness by transformation",
J. R. Statist. Soc. B 54 (1992). Efron, Stein, "The jackknife estimate of variance", Annals of Statistics 9 (1981).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Parts = Floats | sparse.csr_array

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
EXACT_BELOW = 20
"""Number of images, or of effective objects, below which a rate has the exact interval."""
LEAST_IMAGES = 30
"""Smallest number of images for an interval of anything but a rate."""
LEAST_IN_CLASS = 3
"""Smallest number of images for each class of a mean over classes."""
NONE: Interval = (float("nan"), float("nan"))

_CELLS = 2_000_000
"""Number of leave-one-out sums in memory at a time."""


@dataclass(frozen=True, slots=True)
class MeanRatio:
    """A statistic of sums: the mean over a fixed set of classes of one sum divided by another; a ratio for one class.

    The columns (2 C,) are C numerators, then C denominators. NaN if a denominator is 0.
    """

    classes: int = 1

    def __call__(self, sums: Floats) -> Floats:
        """(R, 2 C) sums -> (R,)."""
        if not self.classes:
            return np.full(len(sums), np.nan)
        a, b = sums[:, : self.classes], sums[:, self.classes :]
        return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0).mean(axis=1)

    def influence(self, parts: Parts, sums: Floats) -> Floats:
        """(N,): the value minus that without each of N images; NaNs if a class then has no image."""
        a, b = parts[:, : self.classes], parts[:, self.classes :]
        total_a, total_b = sums[: self.classes], sums[self.classes :]
        if not (total_b > 0).all():
            return np.full(cast(tuple[int, ...], parts.shape)[0], np.nan)
        rates = total_a / total_b
        if sparse.issparse(parts):
            rest: Any = sparse.csr_array(b)
            a_of: Any = sparse.csr_array(a)
            left = total_b[rest.indices] - rest.data
            rest.data = np.divide(rest.data, left, out=np.full(len(left), np.nan), where=left > 0)
            # (a - r b) / (B - b) = a / B + (a / B) w - r w with w = b / (B - b): sparse in all terms.
            share: Any = a_of @ sparse.diags_array(1 / total_b)
            return np.asarray(share.sum(axis=1) + (share * rest).sum(axis=1) - rest @ rates).ravel() / self.classes
        left = total_b - b
        each = np.divide(a - rates * b, left, out=np.full(np.shape(a), np.nan), where=left > 0)
        return each.mean(axis=1)


def wilson(k: float, n: float) -> Interval:
    """Wilson's score interval of a rate of `k` in `n`, as fractions; NaNs for n = 0.

    >>> [round(end, 4) for end in wilson(5, 10)]
    [0.2366, 0.7634]
    """
    if n == 0:
        return NONE
    rate, z2 = k / n, Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The ends are exact at k = 0 and k = n, where rounding would shift them slightly.
    return 0.0 if k == 0 else float(centre - half), 1.0 if k == n else float(centre + half)


def exact(k: float, n: float, tail: float = 0.025) -> Interval:
    """Clopper's and Pearson's interval of a rate of `k` in `n`, which need not be integers; NaNs for n = 0.

    >>> [round(end, 4) for end in exact(5, 10)]
    [0.1871, 0.8129]
    """
    if n == 0:
        return NONE
    low = 0.0 if k <= 0 else float(special.betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, 1 - tail))


def of_rate(k: float, n: float) -> Interval:
    """The interval of a rate of `k` in `n` independent trials: exact for few, else Wilson's."""
    return exact(k, n) if n < EXACT_BELOW else wilson(k, n)


def of_pooled_rate(hits: Floats, counts: Floats) -> Interval:
    """The interval of the rate of hits (M,) among counts (M,) of M images, whose objects are correlated."""
    hits, counts = hits[counts > 0], counts[counts > 0]
    m, n, k = len(hits), float(counts.sum()), float(hits.sum())
    if m < 2:
        return NONE
    p = k / n
    influence = (hits - p * counts) / (n - counts)
    variance = (m - 1) / m * float(((influence - influence.mean()) ** 2).sum())
    effective = min(p * (1 - p) / variance, n) if variance > 0 else n**2 / float((counts**2).sum())
    effective *= (Z95 / float(special.stdtrit(m - 1, 0.975))) ** 2
    return of_rate(p * effective, effective)


def of_paired_hits(gained: int, lost: int, n: int) -> Interval:
    """Tango's score interval of (gained - lost) / n, where `gained` of n images became a hit and `lost` a miss.

    >>> [round(end, 4) for end in of_paired_hits(0, 12, 44)]
    [-0.4185, -0.1635]
    """
    if n < 2:
        return NONE

    def score(change: float) -> float:
        b = (2 * n - gained + lost) * change - gained - lost
        rest = np.sqrt(max(b * b + 8 * n * lost * change * (1 - change), 0.0)) - b
        variance = n * (rest / (2 * n) + change * (1 - change))
        distance = gained - lost - n * change
        return float(distance / np.sqrt(variance)) if variance > 0 else float(np.copysign(np.inf, distance))

    return _crossing(score, -1.0, (gained - lost) / n, Z95), _crossing(score, (gained - lost) / n, 1.0, -Z95)


def _crossing(score: Callable[[float], float], low: float, high: float, at: float) -> float:
    """The point between two values where a decreasing function crosses `at`; an end if it does not."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > at else (low, middle)
    return (low + high) / 2


def of_influence(value: float, influence: Floats, within: Interval = (-np.inf, np.inf)) -> Interval:
    """The interval of a value from its jackknife influences (N,); NaNs for fewer than 30, or if they are all equal.

    Args:
        value: the estimate.
        influence: the estimate minus that without each image.
        within: limits to which the ends are clipped.
    """
    n = len(influence)
    if n < LEAST_IMAGES or not np.isfinite(value):
        return NONE
    centred = influence - influence.mean()
    squares = float(centred @ centred)
    error = np.sqrt((n - 1) / n * squares)
    if not error > 1e-12 * max(abs(value), 1e-300):  # NaN, too
        return NONE
    a, t = float((centred**3).sum()) / squares**1.5, float(special.stdtrit(n - 1, 0.975))

    def hall(q: float) -> float:
        return 3 * (np.cbrt(1 + a * (q - a / 6)) - 1) / a if abs(a) > 1e-6 else q

    low, high = value - max(hall(t), t) * error, value + max(-hall(-t), t) * error
    return max(float(low), within[0]), min(float(high), within[1])


def influences(parts: Parts, statistic: Callable[[Floats], Floats]) -> tuple[float, Floats]:
    """A statistic of the sums of (N, K) parts and its jackknife influences (N,): NaN if undefined without the image."""
    n, k = cast(tuple[int, int], parts.shape)
    sums = np.asarray(parts.sum(axis=0), np.float64).ravel()
    value = float(statistic(sums[None])[0])
    if isinstance(statistic, MeanRatio):
        return value, statistic.influence(parts, sums)
    found, step = np.empty(n), max(1, _CELLS // max(k, 1))
    for start in range(0, n, step):
        part: Any = parts[start : start + step]
        dense = part.toarray() if sparse.issparse(part) else part
        found[start : start + step] = value - statistic(sums - dense)
    return value, found


def of_statistic(parts: Parts, statistic: Callable[[Floats], Floats], within: Interval = (0.0, 1.0)) -> Interval:
    """The interval of a statistic of the sums of (N, K) parts; NaNs if too few images contribute to it."""
    counted: Any = abs(parts) if not isinstance(statistic, MeanRatio) else parts[:, statistic.classes :]
    having = np.asarray(counted.sum(axis=1)).ravel() > 0
    if having.sum() < LEAST_IMAGES or few_in_class(parts, statistic):
        return NONE
    value, influence = influences(parts[having], statistic)
    return of_influence(value, influence, within) if np.isfinite(influence).all() else NONE


def few_in_class(parts: Parts, statistic: Callable[[Floats], Floats]) -> int:
    """Number of classes, in a mean over classes, that occur in fewer than 3 images."""
    if not isinstance(statistic, MeanRatio) or statistic.classes == 1:
        return 0
    images = np.asarray((parts[:, statistic.classes :] > 0).sum(axis=0)).ravel()
    return int((images < LEAST_IN_CLASS).sum())


def of_mean(values: ArrayLike) -> Interval:
    """The interval of the mean of (N,) values, one per image.

    Values of 0 and 1 are misses and hits; values of -1, 0 and 1 are changes between hit and miss. If all values are
    equal, their kind is unknown, and there is no interval.
    """
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    n = len(array)
    up, down = int((array > 0).sum()), int((array < 0).sum())
    if up + down and max(up, down) < n and np.isin(array, (-1, 0, 1)).all():
        return of_paired_hits(up, down, n) if down else of_rate(up, n)
    if n < LEAST_IMAGES:
        return NONE
    mean = float(array.mean())
    return of_influence(mean, (array - mean) / (n - 1), bounds_of(array))


def bounds_of(values: Floats) -> Interval:
    """Limits for the ends of an interval of such values: 0 and 1 if all values are between them."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    return (0.0, 1.0) if low >= 0 and high <= 1 else (-np.inf, np.inf)
