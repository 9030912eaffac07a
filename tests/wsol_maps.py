"""Maps, truths and the protocol's enlargement, for the tests of wsolevaluation's metrics."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Row
from eigencam.evaluation.maps import ScoreMap

Floats = NDArray[np.float64]


def oracle_map(values: NDArray[np.float32], size: int = 224) -> Floats:
    """(size, size) in [0, 1]: float64, bicubic, minimum and maximum; zeros for a map that is constant or has a NaN."""
    if np.isnan(values).any() or values.min() == values.max():
        return np.zeros((size, size))
    full = cv2.resize(values.astype(np.float64), (size, size), interpolation=cv2.INTER_CUBIC)
    full = full - full.min()
    return full / full.max()


def truth_of(rng: np.random.Generator, size: tuple[int, int] | None = None, count: int | None = None) -> Truth:
    """The truth of an image with some boxes of its class and one of another class."""
    height, width = size or tuple(rng.integers(100, 500, 2).tolist())
    n = (count if count is not None else int(rng.integers(1, 4))) + 1
    x, y = np.sort(rng.integers(0, width, (n, 2)), axis=1), np.sort(rng.integers(0, height, (n, 2)), axis=1)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)
    return Truth("a", (height, width), 3, boxes, np.array([3] * (n - 1) + [4]))


def cam(rng: np.random.Generator, n: int, noise: float = 0.05) -> NDArray[np.float32]:
    """(n, n): one to three blobs and some noise."""
    y, x = np.mgrid[:n, :n] / n
    blobs = [
        rng.uniform(0.3, 1)
        * np.exp(-((x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2) / (2 * rng.uniform(0.08, 0.25) ** 2))
        for _ in range(rng.integers(1, 4))
    ]
    return (sum(blobs) + noise * rng.normal(size=(n, n))).astype(np.float32)


def one_pixel(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    values = np.zeros((n, n), np.float32)
    values[tuple(rng.integers(0, n, 2))] = 1
    return values


def rings(rng: np.random.Generator) -> NDArray[np.float32]:
    """224 x 224 of few levels: frames of rectangles, nested and side by side, some at the border."""
    values = np.zeros((224, 224), np.float32)
    for _ in range(rng.integers(2, 12)):
        (x, y), (w, h) = rng.integers(0, 200, 2), rng.integers(1, 90, 2)
        values[y : y + h, x : x + w] = rng.integers(1, 5)
        values[y + 1 : y + h - 1, x + 1 : x + w - 1] = rng.integers(0, 5)
    return values


def blocks(rng: np.random.Generator) -> NDArray[np.float32]:
    """224 x 224: components of equal areas, on one or two levels."""
    values = np.zeros((224, 224), np.float32)
    side = int(rng.integers(1, 7))
    for y in range(0, 224 - side, 2 * side + 3):
        for x in rng.choice(np.arange(0, 224 - side, 2 * side + 1), 2, replace=False):
            values[y : y + side, x : x + side] = rng.integers(1, 3)
    return values


KINDS: dict[str, tuple[int, Callable[[np.random.Generator], NDArray[np.float32]]]] = {
    "cam 14": (50, lambda rng: cam(rng, 14)),
    "cam 7": (50, lambda rng: cam(rng, 7)),
    "relu": (30, lambda rng: np.maximum(cam(rng, 14, 0.2) - 0.3, 0)),
    "random 14": (30, lambda rng: rng.random((14, 14), np.float32)),
    "random 28": (10, lambda rng: rng.random((28, 28), np.float32)),
    "random 5 x 9": (20, lambda rng: rng.normal(size=(5, 9)).astype(np.float32)),
    "smooth 224": (10, lambda rng: ndimage.gaussian_filter(rng.normal(size=(224, 224)), 5).astype(np.float32)),
    "border": (20, lambda rng: np.pad(rng.random((2, 14), np.float32), ((0, 12), (0, 0)))[:: rng.choice([-1, 1])]),
    "one cell": (20, lambda rng: one_pixel(rng, 14)),
    "one pixel": (20, lambda rng: one_pixel(rng, 224)),
    "one cell in all": (5, lambda rng: rng.random((1, 1), np.float32)),
    "rings": (20, rings),
    "ties": (20, blocks),
    "constant": (10, lambda rng: np.full((14, 14), rng.normal(), np.float32)),
    "nan": (10, lambda rng: np.where(rng.random((14, 14)) < 0.1, np.nan, cam(rng, 14)).astype(np.float32)),
    "two values": (20, lambda rng: rng.integers(0, 2, (14, 14)).astype(np.float32)),
}


def frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame([{"image": f"i{i}", "label": 3, **row} for i, row in enumerate(rows)])


def examples(n: int = 25) -> list[tuple[ScoreMap, Truth]]:
    rng = np.random.default_rng(7)
    truths = [truth_of(rng) for _ in range(n)]
    makers = [make for _, make in KINDS.values()]
    return [(ScoreMap(makers[i % 5](rng), truth.size), truth) for i, truth in enumerate(truths)]


def square(x1: int, y1: int, x2: int, y2: int) -> ScoreMap:
    values = np.zeros((224, 224), np.float32)
    values[y1 : y2 + 1, x1 : x2 + 1] = 1
    return ScoreMap(values, (224, 224))


def truth_224(
    *boxes: Sequence[float], size: tuple[int, int] = (224, 224), mask: NDArray[np.uint8] | None = None
) -> Truth:
    array = np.array(boxes, float).reshape(-1, 4)
    return Truth("a", size, 3, array, np.full(len(array), 3), mask=mask)
