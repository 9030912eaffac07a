r"""Selective search (Uijlings et al., Selective Search for Object Recognition, IJCV 2013).

Regions are grouped from small segments upwards: the two most similar neighbours are merged, until one region is left,
and the box of every region on the way is a proposal. With $c_i$, $t_i$ a region's normalised histograms of colour (25
bins per channel) and of texture (8 directions, 10 bins each per channel), |r| its pixels and BB the box around both:

$$s = \sum_k \min(c_i^k, c_j^k) + \sum_k \min(t_i^k, t_j^k) + \Big(1 - \frac{|r_i| + |r_j|}{|I|}\Big)
    + \Big(1 - \frac{|BB_{ij}| - |r_i| - |r_j|}{|I|}\Big)$$

A merged region's histograms are the means of the two, weighted by their pixels. There is one hierarchy for each colour
space, scale of the segments and sum of terms (`colour`: all four; otherwise without the first). The default is the
authors' "fast" version: HSV and Lab, scales 50 and 100, with and without colour; "quality" has five colour spaces and
four scales.

A region's priority is its rank from the top of its hierarchy (1 is the whole image) times a random number in 0..1,
smallest first; boxes less than 20 pixels wide or high, and duplicates, are dropped. No network is used.

Differences. The random numbers are a function of the image's position in the dataset. The derivatives for the
texture are of an isotropic Gaussian (sigma 1), steered to 8 directions and rectified; the authors' are anisotropic. The
segments are scikit-image's. The authors' "quality" has two more sums of terms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from eigencam.methods.felzenszwalb import SPACES, Labels, boxes_of, check_segments, segments
from eigencam.methods.randomness import uniform
from eigencam.methods.windows import originals
from eigencam.passes.forward import Forward

Floats = NDArray[np.float64]
Bins = NDArray[np.uint8]
COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8
MOST_PIXELS = 20_000_000
"""Maximum number of pixels of an image that is not reduced; ILSVRC's largest validation image has 18.2 million."""
_END = np.array([0, 0, 1, 1])  # from inclusive corners to half-open ones


@dataclass(frozen=True, slots=True)
class SelectiveSearch:
    """Grouping in each of `spaces` from segments of each of `scales`; boxes of at least `min_side` pixels per side.

    Attributes:
        side: a larger image is reduced to this longest side, which bounds the memory; None: each image as it is, up to
            `MOST_PIXELS`.
    """

    spaces: Sequence[str] = ("hsv", "lab")
    scales: Sequence[float] = (50, 100)
    min_side: int = 20
    seed: int = 0
    side: int | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = "Uijlings et al., IJCV 2013"
    needs: ClassVar[str] = "the image; no network"

    def __post_init__(self) -> None:
        check_segments(self.spaces, self.scales)
        if self.side is not None and self.side < 1:
            raise ValueError(f"side={self.side}; allowed: 1 or more, and null for images of any size")

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        return [self.proposals(image, forward.index[n : n + 1].cpu()) for n, image in enumerate(originals(forward))]

    def proposals(self, image: NDArray[np.uint8], index: Tensor) -> Floats:
        """(K, 5) `x1 y1 x2 y2 score`, best first, of (H, W, 3) uint8 RGB; `index` (1,) int64 is the seed.

        Raises:
            ValueError: without `side`, for an image of more than `MOST_PIXELS`.
        """
        height, width = image.shape[:2]
        if self.side is None and height * width > MOST_PIXELS:
            raise ValueError(
                f"selective search of {width} x {height} pixels; allowed: up to {MOST_PIXELS:,} pixels, and any number "
                "with side=1000 or the like, to which larger images are reduced"
            )
        image, ratio = reduced(image, self.side or max(height, width))
        boxes, places = [], []
        for space in self.spaces:
            converted = SPACES[space](image / 255.0)
            directions = binned_texture(converted)
            for scale in self.scales:
                labels = segments(converted, scale)
                regions = describe(converted, directions, labels)
                for colour in (True, False):
                    boxes.append(group(*regions, colour, labels.size))
                    places.append(np.arange(len(boxes[-1]), 0, -1))
        numbers = uniform(index, (sum(map(len, places)),), self.seed)[0].double().numpy()
        priority = np.concatenate(places) * numbers
        order = np.argsort(priority, kind="stable")
        found, priority = enlarged(np.concatenate(boxes)[order], ratio), priority[order]
        large = (found[:, 2:] - found[:, :2] + 1 >= self.min_side).all(axis=1)
        found, priority = found[large], priority[large]
        once = np.sort(np.unique(found, axis=0, return_index=True)[1])
        return np.column_stack([found[once], -priority[once]]).astype(np.float64)


def reduced(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], Floats]:
    """An image of at most `side` pixels per side, and (4,): what `enlarged` multiplies by."""
    h, w = image.shape[:2]
    share = min(side / max(h, w), 1.0)
    size = max(round(w * share), 1), max(round(h * share), 1)
    made = image if share == 1 else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return made, np.array([w / size[0], h / size[1]] * 2)


def enlarged(boxes: NDArray[Any], scale: Floats) -> Floats:
    """Inclusive boxes (K, 4) of a reduced image as boxes of the image itself, in whole pixels."""
    return np.rint((boxes + _END) * scale) - _END


def binned_texture(image: Floats) -> Bins:
    """(H, W, C, 8): the bins of the derivatives of (H, W, C) in 8 directions, computed one direction at a time."""
    found = np.empty((*image.shape, DIRECTIONS), np.uint8)
    for k, values in enumerate(_directions(image)):
        found[..., k] = _bins(values, TEXTURE_BINS)
    return found


def _directions(image: Floats) -> Iterator[Floats]:
    """For each direction the rectified derivatives (H, W, C) >= 0, each channel divided by its maximum."""
    x, y = (ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(image, 1.0, 1 - a), 1.0, a, 1) for a in (1, 0))
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS

    def at(angle: float) -> Floats:
        return np.maximum(x * np.cos(angle) + y * np.sin(angle), 0)

    top = np.maximum(np.max([at(angle).max(axis=(0, 1)) for angle in angles], axis=0), 1e-9)
    return (at(angle) / top for angle in angles)


def _bins(values: Floats, count: int) -> Bins:
    """The bins of values in 0..1."""
    return np.minimum((values * count).astype(np.int32), count - 1).astype(np.uint8)


def describe(image: Floats, directions: Bins, labels: Labels) -> tuple[Floats, int, Labels, Labels, NDArray[np.bool_]]:
    """Return the features by which regions are compared.

    Args:
        image: (H, W, C) in 0..1.
        directions: (H, W, C, 8), from `binned_texture`.
        labels: (H, W), 0 .. n-1.

    Returns:
        (n, D) histograms, first the columns of colour and then of texture, each with sum 1; the number of
        colour columns; (n,) pixels; (n, 4) boxes; (n, n) whether two regions touch along an edge.
    """
    n = int(labels.max()) + 1
    pixels = np.bincount(labels.ravel(), minlength=n)
    colour = _histograms(_bins(image, COLOUR_BINS), labels, n, COLOUR_BINS)
    textures = _histograms(directions, labels, n, TEXTURE_BINS)
    touching = np.zeros((n, n), bool)
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        touching[a, b] = touching[b, a] = True
    np.fill_diagonal(touching, False)
    return np.concatenate([colour, textures], axis=1), colour.shape[1], pixels, boxes_of(labels), touching


def _histograms(values: Bins, labels: Labels, n: int, bins: int) -> Floats:
    """(n, F bins) with row sums 1, from the bins of F values of each pixel, (H, W, ...)."""
    place = labels.ravel() * bins
    each = [np.bincount(place + of, minlength=n * bins) for of in values.reshape(labels.size, -1).T]
    counts = np.stack(each).reshape(-1, n, bins).transpose(1, 0, 2).reshape(n, -1)
    return counts / counts.sum(axis=1, keepdims=True)


@njit(cache=True, nogil=True)
def group(
    histograms: Floats,
    colours: int,
    pixels: Labels,
    boxes: Labels,
    touching: NDArray[np.bool_],
    colour: bool,
    area: int,
) -> Labels:
    """Greedy grouping: (2 n - 1, 4) boxes, those of the n regions first, then in the order of merging.

    Fewer if regions are not connected. Among equal similarities the first in the order of the regions is merged.
    """
    n = len(pixels)
    most = 2 * n - 1
    features = np.zeros((most, histograms.shape[1]))
    features[:n] = histograms
    size, box = np.zeros(most, np.int64), np.zeros((most, 4), np.int64)
    size[:n], box[:n] = pixels, boxes
    similar = np.full((most, most), -1.0)  # -1: they do not touch, or are merged
    best = np.full(most, -1)  # the most similar neighbour of each region
    _start(similar, best, touching, features, size, box, colours, colour, area)
    for new in range(n, most):
        i = _top(similar, best, new)
        if i < 0:
            return box[:new]
        j = best[i]
        size[new] = size[i] + size[j]
        features[new] = (size[i] * features[i] + size[j] * features[j]) / size[new]
        box[new, 0], box[new, 1] = min(box[i, 0], box[j, 0]), min(box[i, 1], box[j, 1])
        box[new, 2], box[new, 3] = max(box[i, 2], box[j, 2]), max(box[i, 3], box[j, 3])
        for k in range(new):
            if k not in (i, j) and (similar[i, k] >= 0 or similar[j, k] >= 0):
                similar[new, k] = similar[k, new] = _similarity(features, size, box, new, k, colours, colour, area)
        similar[i], similar[j], similar[:, i], similar[:, j] = -1.0, -1.0, -1.0, -1.0
        for k in range(new):
            if best[k] in (i, j) or similar[k, new] >= 0:
                best[k] = _best(similar, k, new + 1)
        best[i] = best[j] = -1
        best[new] = _best(similar, new, new)
    return box


@njit(cache=True, nogil=True)
def _similarity(
    features: Floats, size: Labels, box: Labels, i: int, j: int, colours: int, colour: bool, area: int
) -> float:
    total = 0.0
    for k in range(0 if colour else colours, features.shape[1]):
        total += min(features[i, k], features[j, k])
    width = max(box[i, 2], box[j, 2]) - min(box[i, 0], box[j, 0]) + 1
    height = max(box[i, 3], box[j, 3]) - min(box[i, 1], box[j, 1]) + 1
    both = size[i] + size[j]
    return total + (1 - both / area) + (1 - (width * height - both) / area)


@njit(cache=True, nogil=True)
def _start(
    similar: Floats, best: Labels, touching: NDArray[np.bool_], features: Floats, size: Labels, box: Labels,
    colours: int, colour: bool, area: int,
) -> None:  # fmt: skip
    n = len(touching)
    for i in range(n):
        for j in range(n):
            if touching[i, j]:
                similar[i, j] = _similarity(features, size, box, i, j, colours, colour, area)
        best[i] = _best(similar, i, n)


@njit(cache=True, nogil=True)
def _top(similar: Floats, best: Labels, count: int) -> int:
    chosen = -1
    for k in range(count):
        if best[k] >= 0 and (chosen < 0 or similar[k, best[k]] > similar[chosen, best[chosen]]):
            chosen = k
    return chosen


@njit(cache=True, nogil=True)
def _best(similar: Floats, i: int, count: int) -> int:
    chosen = -1
    for k in range(count):
        if similar[i, k] >= 0 and (chosen < 0 or similar[i, k] > similar[i, chosen]):
            chosen = k
    return chosen
