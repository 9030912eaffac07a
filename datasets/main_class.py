"""The main class of an image with objects of several classes."""

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets import boxes as box
from eigencam.datasets.base import VOID


def main_class(
    n: int,
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    difficult: NDArray[np.bool_],
    mask: NDArray[np.uint8] | None,
) -> int:
    """Return the class with the largest area (the first of equal ones), or -1 without an object.

    The area is that of the mask if it has an object. Otherwise it is the sum over the boxes that are not difficult, or
    over all if all are difficult.

    Args:
        n: number of classes.
        boxes: (B, 4) inclusive pixels.
        labels: (B,) their classes.
        difficult: (B,) bool, which boxes are difficult.
        mask: (H, W) in the form of `Truth.mask`, or None.
    """
    areas = np.zeros(n)
    if mask is not None:
        areas[:] = np.bincount(mask.ravel(), minlength=VOID + 1)[1 : n + 1]
    if not areas.any() and len(boxes):
        counted = ~difficult if not difficult.all() else difficult
        np.add.at(areas, labels[counted], box.area(boxes[counted]))
    return int(areas.argmax()) if areas.any() else -1
