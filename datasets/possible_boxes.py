"""Which boxes are possible for objects in an image: 0-based inclusive `x1 y1 x2 y2`, as everywhere."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LONGEST_SIDE = 2**20
"""Pixels; no image is wider or higher."""


def possible(boxes: NDArray[np.float64], height: ArrayLike, width: ArrayLike, beyond: float = 0.0) -> NDArray[np.bool_]:
    """Whether boxes are possible for objects in an image.

    A box is possible if it is finite, has positive width and height, and its rounded corners are pixels of the image:
    they lie at most half a pixel beyond the centres of the outermost pixels.

    Args:
        boxes: (B, 4).
        height: height of each box's image, or of all images; 0 if not known: `LONGEST_SIDE` then bounds the box.
        width: width of each box's image, or of all images; 0 if not known.
        beyond: pixels that a box may end past the right and the lower border.

    Returns:
        (B,) bool.

    >>> possible(np.array([[0.0, 0, 9, 4], [0, 0, 10, 4], [5, 0, 4, 4], [0, 0, np.nan, 4]]), 5, 10)
    array([ True, False, False, False])
    """
    x1, y1, x2, y2 = boxes.T
    fits = (x1 >= -0.5) & (y1 >= -0.5) & (x2 > x1 - 1) & (y2 > y1 - 1)
    for end, side in ((x2, np.asarray(width)), (y2, np.asarray(height))):
        fits &= end <= np.where(side > 0, side, LONGEST_SIDE) - 0.5 + beyond
    return fits
