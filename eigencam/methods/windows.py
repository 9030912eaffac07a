"""Windows that do not depend on the image's content: the baselines of object proposals.

* `sliding_windows`: all positions, sizes and shapes of a sliding window whose neighbours overlap by `alpha`; large ones
  first, among equal sizes those nearest to the centre of the image.
* `random_windows`: Hosang et al.'s `Uniform`: centre, square root of the relative area and logarithm of the aspect
  ratio are uniform between the extremes of VOC 2007's training set.
* `center_windows`: windows with the image's shape and centre, the whole image first, each further one smaller by a
  factor of `shrink` per side.

Boxes are inclusive pixels of the original image; the score decreases with the rank. The steps of a sliding window
follow from the overlap alpha of neighbours, as in C. Zitnick, P. Dollar, "Edge boxes: locating object proposals from
edges", ECCV 2014: sizes by sqrt(1/alpha), shapes by (1 + alpha) / (2 alpha), positions by (1 - alpha) / (1 + alpha) of
a side.

References: J. Hosang et al., "What makes for effective detection proposals?", PAMI 2016.
"""

from dataclasses import dataclass
from math import ceil, floor, log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SlidingWindows:
    """Windows of at least `min_area` pixels and of aspect ratios up to `max_aspect`; at most `limit`."""

    alpha: float = 0.65
    min_area: float = 1000.0
    max_aspect: float = 3.0
    limit: int = 10000

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = "after Zitnick & Dollar, ECCV 2014"
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        check_windows(self.alpha, self.min_area, self.max_aspect, self.limit)

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        return [self._windows(size) for size in sizes(forward)]

    def _windows(self, size: tuple[int, int]) -> Floats:
        boxes = sliding(size, self.alpha, self.min_area, self.max_aspect)
        corner, side = boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1
        away = (corner + side / 2 - np.array(size[::-1]) / 2) / np.array(size[::-1])
        order = np.lexsort((np.square(away).sum(axis=1).round(9), -side.prod(axis=1)))
        return ranked(boxes[order][: self.limit])


@dataclass(frozen=True, slots=True)
class RandomWindows:
    """`count` windows per image, a function of (seed, position of the image in the dataset)."""

    count: int = 1000
    seed: int = 0

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = "Hosang et al., PAMI 2016"
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}; allowed: at least 1")

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        numbers = uniform(forward.index, (4, self.count), self.seed).double().numpy()
        return [self._windows(n, size) for n, size in zip(numbers, sizes(forward), strict=True)]

    def _windows(self, numbers: Floats, size: tuple[int, int]) -> Floats:
        height, width = size
        # Extremes of the objects of VOC 2007 trainval: pascal_voc07_random_sampling_params.mat of detection-proposals.
        x, y = _between(numbers[0], 0.031, 0.974) * width, _between(numbers[1], 0.065, 0.9346666667) * height
        area = _between(numbers[2], 0.00096**0.5, 0.9823333333**0.5) ** 2 * width * height
        aspect = 2 ** _between(numbers[3], log(0.1904761905, 2), log(4.6666666667, 2))
        h = np.sqrt(area / aspect)
        w = area / h
        x1, y1 = np.round(x - w / 2), np.round(y - h / 2)
        ends = np.round(x1 + w - 1), np.round(y1 + h - 1)
        boxes = np.stack([np.maximum(x1, 0), np.maximum(y1, 0), *ends], axis=1)
        return ranked(np.minimum(boxes, [width - 1, height - 1, width - 1, height - 1]))


@dataclass(frozen=True, slots=True)
class CenterWindows:
    """`count` windows around the centre, each smaller than the one before by `shrink`, in (0, 1)."""

    count: int = 10
    shrink: float = 0.84

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.shrink < 1:
            raise ValueError(f"count={self.count}, shrink={self.shrink}; allowed: at least 1, and 0 < shrink < 1")

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        side = self.shrink ** np.arange(self.count)
        shares = np.stack([0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2], axis=1)
        return [ranked(shares * np.array(size[::-1] * 2) - np.array([0, 0, 1, 1])) for size in sizes(forward)]


def sizes(forward: Forward) -> list[tuple[int, int]]:
    """(height, width) of each original image."""
    return [(image.shape[0], image.shape[1]) for image in originals(forward)]


def originals(forward: Forward) -> list[NDArray[np.uint8]]:
    """The images as stored in the dataset, (H, W, 3) uint8. ValueError if the pass has no dataset."""
    if forward.original is None:
        raise ValueError("boxes need the original images, and the pass has none; compute_maps(original=...) gives them")
    return [forward.original(n) for n in range(len(forward))]


def ranked(boxes: Floats) -> Floats:
    """(K, 4) boxes, best first, with scores 1, (K - 1) / K, ..., 1 / K."""
    return np.column_stack([boxes, np.arange(len(boxes), 0, -1) / max(len(boxes), 1)])


def check_windows(alpha: float, min_area: float, max_aspect: float, limit: int) -> None:
    """Raise a ValueError that names the allowed values, unless the parameters of a sliding window are valid."""
    if not (0 < alpha < 1 and min_area >= 1 and max_aspect >= 1 and limit >= 1):
        raise ValueError(
            f"alpha={alpha}, min_area={min_area}, max_aspect={max_aspect}, limit={limit}; "
            "allowed: 0 < alpha < 1, the others at least 1"
        )


def sliding(size: tuple[int, int], alpha: float, min_area: float, max_aspect: float) -> Floats:
    """(K, 4) inclusive windows inside an image of (height, width); the last of a row or column is moved inwards.

    An image smaller than every window is one window.
    """
    height, width = size
    smallest, scale, shape = min_area**0.5, alpha**-0.5, (1 + alpha) / (2 * alpha)
    step, found = (1 - alpha) / (1 + alpha), []
    radius = floor(log(max_aspect) / log(shape**2))
    for s in range(max(ceil(log(max(height, width) / smallest, scale)), 0)):
        for a in range(-radius, radius + 1):
            h, w = int(smallest * scale**s / shape**a), int(smallest * scale**s * shape**a)
            if 1 <= h <= height and 1 <= w <= width:
                y, x = (_positions(*ends, step) for ends in ((height, h), (width, w)))
                corner = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
                found.append(np.concatenate([corner, corner + np.array([w - 1, h - 1])], axis=1))
    return np.concatenate(found or [[[0, 0, width - 1, height - 1]]]).astype(np.float64)


def _positions(length: int, side: int, step: float) -> NDArray[np.int64]:
    every = max(2, int(side * step))
    return np.unique(np.append(np.arange(0, length - side + 1, every), length - side))


def _between(numbers: Floats, low: float, high: float) -> Floats:
    return low + (high - low) * numbers
