"""Initial segments for proposals: Felzenszwalb and Huttenlocher's in several colour spaces.

Reference: P. Felzenszwalb, D. Huttenlocher, "Efficient graph-based image segmentation", IJCV 2004, in scikit-image's
version, with its scale of 0..255.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from skimage import color, segmentation

VERSIONS = {"regions": 1}
"""Raised when a change here alters results; see `eigencam.store.versions`."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def _lab(rgb: Floats) -> Floats:
    return (color.rgb2lab(rgb) + np.array([0.0, 128, 128])) / np.array([100.0, 255, 255])


def _rgi(rgb: Floats) -> Floats:
    total = rgb.sum(axis=2, keepdims=True)
    return np.concatenate([rgb[..., :2] / np.maximum(total, 1e-6), total / 3], axis=2)


SPACES: dict[str, Callable[[Floats], Floats]] = {
    "hsv": color.rgb2hsv,
    "lab": _lab,
    "rgi": _rgi,
    "h": lambda rgb: color.rgb2hsv(rgb)[..., :1],
    "intensity": lambda rgb: color.rgb2gray(rgb)[..., None],
}
"""The colour spaces of selective search: functions from RGB (H, W, 3) in 0..1 to (H, W, C) in 0..1."""


def check_segments(spaces: Sequence[str], scales: Sequence[float]) -> None:
    """Raise a ValueError that names the allowed values."""
    if not spaces or not set(spaces) <= set(SPACES):
        raise ValueError(f"spaces={list(spaces)}; allowed: at least one of {', '.join(SPACES)}")
    if not scales or min(scales) < 1:
        raise ValueError(f"scales={list(scales)}; allowed: at least one, each 1 or more")


def segments(image: Floats, scale: float, sigma: float = 0.8) -> Labels:
    """(H, W) labels 0 .. n-1 of an image (H, W, C) in 0..1; no segment has fewer than `scale` pixels."""
    found = segmentation.felzenszwalb(np.clip(image, 0, 1), scale, sigma, int(scale), channel_axis=-1)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int64)


def boxes_of(labels: Labels) -> NDArray[np.int64]:
    """(n, 4) inclusive boxes of the labels 0 .. n-1 of (H, W)."""
    y, x = np.indices(labels.shape)
    order = np.argsort(labels, axis=None, kind="stable")
    first = np.searchsorted(labels.ravel()[order], np.arange(labels.max() + 1))
    ends = [f.reduceat(v.ravel()[order], first) for f in (np.minimum, np.maximum) for v in (x, y)]
    return np.stack(ends, axis=1)
