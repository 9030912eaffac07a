"""Box arithmetic and conventions.

Everywhere else in the project a box is `x1 y1 x2 y2`, float64, in pixels of the original image, 0-based and
*inclusive*: the box of the single pixel in the upper left corner is `0 0 0 0`, and its area is 1. The evaluation codes
of ILSVRC and VOC count in this way (`w = x2 - x1 + 1`); VOC's files are 1-based and are shifted when they are read.
A box with `x2 < x1` or `y2 < y1` or a NaN is empty: its area is 0, and so is its IoU with any box.

>>> iou(np.array([[0.0, 0, 9, 9]]), np.array([[0.0, 0, 9, 4], [10, 10, 19, 19]]))
array([[0.5, 0. ]])
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

VERSIONS = {"boxes": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

Boxes = NDArray[np.float64]

NO_BOX: Boxes = np.full(4, np.nan)
"""The box of a map without foreground."""
NO_BOX.flags.writeable = False


def as_boxes(boxes: ArrayLike) -> Boxes:
    """`boxes` as (B, 4) float64; a single box becomes (1, 4), an empty list (0, 4).

    Raises:
        ValueError: if the last axis does not hold four numbers.
    """
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim not in (1, 2) or array.shape[-1] != 4:
        raise ValueError(f"boxes of shape {array.shape}: allowed are (B, 4) and (4,), as x1 y1 x2 y2")
    return array.reshape(-1, 4)


def area(boxes: Boxes) -> NDArray[np.float64]:
    """Inclusive area in pixels: (..., 4) -> (...), 0 for empty boxes."""
    width = boxes[..., 2] - boxes[..., 0] + 1
    height = boxes[..., 3] - boxes[..., 1] + 1
    return np.where((width > 0) & (height > 0), width * height, 0.0)


def iou_paired(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of box `a[i]` with box `b[i]`, in [0, 1]; the shapes (..., 4) broadcast.

    Source: `ov` in `eval_localization_flat.m` of the ILSVRC2014 devkit and in VOC's `VOCevaldet.m`.
    """
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1
    overlap = np.where((width > 0) & (height > 0), width * height, 0.0)
    union = area(a) + area(b) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every box of `a` with every box of `b`: (A, 4), (B, 4) -> (A, B) in [0, 1]."""
    from eigencam.datasets.iou_loops import overlaps  # importing numba takes time

    return overlaps(np.array(a, np.float64, order="C"), np.array(b, np.float64, order="C"))


def best_iou(predictions: Boxes, boxes: Boxes, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Best IoU of each image's prediction with any box of the same image, for many images at once.

    Args:
        predictions: (N, 4), one box per image.
        boxes: (B, 4), the boxes of all images, grouped by image in the order of the images.
        offsets: (N + 1,), image `i` has `boxes[offsets[i]:offsets[i + 1]]`.

    Returns:
        (N,) in [0, 1]; 0 for an image without boxes.
    """
    counts = np.diff(offsets)
    best = np.zeros(len(predictions))
    owned = counts > 0
    if owned.any():
        paired = iou_paired(np.repeat(predictions, counts, axis=0), boxes)
        # Images without boxes are excluded: for an empty slice, reduceat returns the next image's value.
        best[owned] = np.maximum.reduceat(paired, offsets[:-1][owned])
    return best


def from_half_open(boxes: Boxes) -> Boxes:
    """Convert boxes with exclusive right and lower ends (`x2 = x1 + width`) to inclusive ones."""
    return boxes - np.array([0.0, 0, 1, 1])


def to_half_open(boxes: Boxes) -> Boxes:
    """Convert inclusive boxes to boxes with exclusive right and lower ends."""
    return boxes + np.array([0.0, 0, 1, 1])


def from_xywh(boxes: Boxes) -> Boxes:
    """Convert COCO's `x y width height`, with a continuous extent, to inclusive pixels: `x2 = x + width - 1`."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:] - 1], axis=-1)


def to_xywh(boxes: Boxes) -> Boxes:
    """Convert inclusive boxes to COCO's `x y width height`; COCO's IoU of the results equals `iou` of the arguments."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2] + 1], axis=-1)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes clipped to an image of `size` (height, width); a box entirely outside becomes empty."""
    height, width = size
    upper: NDArray[Any] = np.array([np.inf, np.inf, width - 1, height - 1])
    return np.minimum(np.maximum(boxes, [0, 0, -np.inf, -np.inf]), upper)
