"""How similar two maps of one image are: rank correlation, cosine, structural similarity, oriented gradients.

* Spearman's rank correlation of the maps' values, ties at their mean rank; with `absolute`, of their absolute
  values: both are reported by J. Adebayo et al. ("Sanity Checks for Saliency Maps", NeurIPS 2018, section 3).
* Cosine of the angle between the maps as vectors.
* SSIM (Z. Wang et al., IEEE TIP 2004) of maps scaled to 0..1, windows of 7 x 7 of equal weight.
* Pearson's correlation of the histograms of oriented gradients of maps scaled to 0..1.

A pair in which one map is not finite, or is constant (for the cosine: zero), has no similarity: NaN.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

VERSIONS = {"similarity": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

Floats = NDArray[np.float64]
WINDOW = 7


def rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating], *, absolute: bool = False) -> Floats:
    """Spearman's rank correlation of maps (N, h, w): (N,) in [-1, 1].

    >>> a = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> rank_correlation(a, -a), rank_correlation(a, a**3)
    (array([-1.]), array([1.]))
    """
    from scipy.stats import rankdata  # importing it takes time

    a, b, finite = _flat(a, b)
    if absolute:
        a, b = np.abs(a), np.abs(b)
    return np.where(finite, _pearson(rankdata(a, axis=1), rankdata(b, axis=1)), np.nan)


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Cosine of the angle between maps (N, h, w): (N,) in [-1, 1]."""
    a, b, finite = _flat(a, b)
    return np.where(finite, _cosine(a, b), np.nan)


def ssim(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """SSIM of maps (N, h, w): (N,) in [-1, 1]; NaN if a side is shorter than the window."""
    n, h, w = a.shape
    if min(h, w) < WINDOW:
        return np.full(n, np.nan)
    x, y, usable = _unit(a, b)

    def mean(v: Floats) -> Floats:
        return uniform_filter(v, WINDOW, axes=(1, 2))

    mean_x, mean_y = mean(x), mean(y)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance = unbiased * (mean(x * x) + mean(y * y) - mean_x**2 - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))
    edge = WINDOW // 2
    return np.where(usable, index[:, edge : h - edge, edge : w - edge].mean(axis=(1, 2)), np.nan)


def hog(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Correlation of HOG features of maps (N, h, w): (N,) in [-1, 1]; NaN if a side is shorter than 8 pixels.

    There are 9 orientations and 8 x 8 cells, in blocks of one cell.
    """
    from skimage.feature import hog as hog_of

    x, y, usable = _unit(a, b)
    cell = (x.shape[1] // 8, x.shape[2] // 8)
    if not min(cell):
        return np.full(len(x), np.nan)
    features = [
        np.stack([hog_of(one, pixels_per_cell=cell, cells_per_block=(1, 1)) for one in maps]) for maps in (x, y)
    ]
    return np.where(usable, _pearson(*features), np.nan)


def _flat(a: NDArray[np.floating], b: NDArray[np.floating]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Both as (N, h * w) float64, with zeros for pairs that are not finite; and which pairs are finite."""
    if a.shape != b.shape:
        raise ValueError(f"maps of shapes {a.shape} and {b.shape}: allowed are equal shapes (N, h, w)")
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (a, b))
    finite = np.asarray((np.isfinite(x) & np.isfinite(y)).all(axis=1))
    return np.where(finite[:, None], x, 0.0), np.where(finite[:, None], y, 0.0), finite


def _unit(a: NDArray[np.floating], b: NDArray[np.floating]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Both scaled to 0..1, (N, h, w); and which pairs are finite and not constant."""
    x, y, finite = _flat(a, b)
    made: list[Floats] = []
    for v in (x, y):
        low, span = v.min(axis=1)[:, None], np.ptp(v, axis=1)[:, None]
        finite &= np.greater(span[:, 0], 0)
        made.append(((v - low) / np.where(span > 0, span, 1.0)).reshape(a.shape))
    return made[0], made[1], finite


def _pearson(x: Floats, y: Floats) -> Floats:
    return _cosine(x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True))


def _cosine(x: Floats, y: Floats) -> Floats:
    """(N,), NaN if a vector is zero; scaled first, so that squares neither overflow nor underflow."""
    x, y = (v / np.where((top := np.abs(v).max(axis=1, keepdims=True)) > 0, top, 1.0) for v in (x, y))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.divide((x * y).sum(axis=1), norms, out=np.full(len(x), np.nan), where=norms > 0).clip(-1, 1)
