r"""How weakly supervised localization changes images and features while a classifier is trained.

Hide-and-Seek (Singh & Lee, ICCV 2017): an image is divided into squares, and each is set to 0, the mean colour, with
probability `rate`.

CutMix (Yun et al., ICCV 2019): $\lambda \sim \mathrm{Beta}(\beta, \beta)$; a box with sides $\sqrt{1 - \lambda}$ of the
image's, centred at random and clipped at the border, is pasted from another image of the batch. With $\lambda'$ the
fraction of the image that remains, the loss is $\lambda' \mathrm{CE}(y_a) + (1 - \lambda') \mathrm{CE}(y_b)$.

ADL (Choe & Shim, CVPR 2019), on features F (N, C, h, w), with the attention $m = \mathrm{mean}_k F_k$:
$F \odot [m < t \max m]$ with probability `rate`, else $F \odot \sigma(m)$; one random choice for the whole batch.

All are pure functions of the numbers drawn, in the form of clovaai/wsolevaluation@96f4b88.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


def hide(images: Tensor, drawn: Tensor, grid: int, rate: float) -> Tensor:
    """Return the images (N, C, H, W) with hidden squares.

    Args:
        images: normalised.
        drawn: (N, rows, columns) uniform numbers in [0, 1), at least one for each square.
        grid: side of a square, pixels; 0 hides nothing.
        rate: a square is hidden if its number is at most this.
    """
    if grid == 0:
        return images
    height, width = images.shape[2:]
    squares = (drawn <= rate).repeat_interleave(grid, 1).repeat_interleave(grid, 2)[:, None, :height, :width]
    return images.masked_fill(squares, 0.0)


def squares(side: int, grid: int) -> int:
    """Return the number of squares along a side of an image."""
    return -(-side // grid) if grid else 0


class Box(NamedTuple):
    """Half-open rows and columns of a box, and the share of the image outside it."""

    top: int
    bottom: int
    left: int
    right: int
    outside: float


def cut_box(size: Sequence[int], share: float, centre: Sequence[int]) -> Box:
    """Return the box that is pasted from another image.

    Args:
        size: (H, W).
        share: lambda, the fraction of the image that should remain.
        centre: (row, column).
    """
    sides = [int(side * (1 - share) ** 0.5) for side in size]
    starts = [min(max(c - side // 2, 0), whole) for c, side, whole in zip(centre, sides, size, strict=True)]
    stops = [min(max(c + side // 2, 0), whole) for c, side, whole in zip(centre, sides, size, strict=True)]
    area = (stops[0] - starts[0]) * (stops[1] - starts[1])
    return Box(starts[0], stops[0], starts[1], stops[1], 1 - area / (size[0] * size[1]))


def mixed(images: Tensor, order: Tensor, box: Box) -> Tensor:
    """Return images (N, C, H, W) with a box from the images in `order` (N,)."""
    made, rows, columns = images.clone(), slice(box.top, box.bottom), slice(box.left, box.right)
    made[:, :, rows, columns] = images[order][:, :, rows, columns]
    return made


def attention_dropout(features: Tensor, threshold: float, drop: bool) -> Tensor:
    """Return ADL's features (N, C, h, w): with `drop`, without the highest attention; else weighted by attention."""
    attention = features.mean(1, keepdim=True)
    if not drop:
        return features * attention.sigmoid()
    limit = threshold * attention.flatten(1).amax(1).view(-1, 1, 1, 1)
    return features * (attention < limit)
