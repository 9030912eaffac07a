"""Smooth masks with few parameters: Gaussian smoothing as matrices, and the smooth maximum around each pixel."""

from math import ceil, floor, sqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.transfer import made

VERSIONS = {"smooth_masks": 2}
"""Raised when a change here alters results; see `eigencam.store.versions`."""

Edge = Literal["zero", "reflect"]

ONE = 1 << 24
"""Integer that represents a weight of 1 in Pillow's boxes."""

COLDNESS = 20.0
"""Sharpness of the smooth maximum; infinity gives the maximum itself."""


def gaussian(side: int, sigma: float, edge: Edge) -> Tensor:
    """(side, side): the matrix that smooths a line of pixels, continued beyond its ends by 0 or by its mirror image."""
    reach = ceil(4 * sigma)
    away = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (away / max(sigma, 1e-6)) ** 2)
    matrix = torch.zeros(side, side + 2 * reach, dtype=torch.float64)
    matrix.as_strided((side, len(kernel)), (side + 2 * reach + 1, 1)).copy_(kernel / kernel.sum())
    if edge == "zero":
        return matrix[:, reach : reach + side].float()
    place = (torch.arange(side + 2 * reach) - reach) % (2 * side)
    inside = torch.minimum(place, 2 * side - 1 - place)
    return torch.zeros(side, side, dtype=torch.float64).index_add_(1, inside, matrix).float()


def gaussian_blur(x: Tensor, sigma: float, edge: Edge) -> Tensor:
    """(..., H, W) smoothed, as products with two matrices, since the kernels here are about as long as the image."""
    down, right = (made(gaussian, (side, sigma, edge), x.device, x.dtype) for side in x.shape[-2:])
    return down @ x @ right.mT


def pillow_blur(x: Tensor, radius: float) -> Tensor:
    """(N, H, W) in 0..1 quantised to 8 bits and smoothed like Pillow's `GaussianBlur`, in 0..1.

    This is not a Gaussian: it averages over boxes three times along the rows and three times along the columns, each
    time rounded to whole levels, and repeats the last pixel beyond the ends.
    """
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # holds integers up to 2^32
    down, right = (made(_box, (side, radius), x.device, wide) for side in x.shape[-2:])
    levels = (255 * x).floor().to(wide)
    for _ in range(3):
        levels = ((levels @ right.mT + ONE // 2) / ONE).floor()
    for _ in range(3):
        levels = ((down @ levels + ONE // 2) / ONE).floor()
    return (levels / 255).to(x.dtype)


def _box(side: int, radius: float) -> Tensor:
    """(side, side): the box averages that Pillow computes three times for a Gaussian, weights of sum `ONE`."""
    variance = radius**2 / 3
    whole = floor((sqrt(12 * variance + 1) - 1) / 2)
    half = whole + (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    inner = int(ONE / torch.tensor(2 * half + 1, dtype=torch.float32))  # in single precision, like Pillow
    outer = (ONE - (2 * int(half) + 1) * inner) // 2  # of the two pixels that lie partly in the box
    offsets = torch.arange(-int(half) - 1, int(half) + 2)
    weights = torch.where(offsets.abs() <= int(half), inner, outer).expand(side, -1)
    places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    return torch.zeros(side, side, dtype=torch.long).scatter_add_(1, places, weights)


class SmoothMax:
    """Smooth maximum of parameters around a pixel, weighted by distance: (N, h, w) in 0..1 to (N, H', W').

    The parameters are `cell` pixels apart. The masks extend beyond the image (H, W) by a margin of about `sigma`, as
    far as parameters at its border have an influence; the image starts at pixel `margin` along each side.

    The weights depend only on the pixel's place within a cell: all cells are pooled alike, and `pixel_shuffle` arranges
    the places.
    """

    def __init__(self, image: tuple[int, int], cell: int, sigma: float, like: Tensor) -> None:
        reach = 1 + ceil(sigma / cell)
        self.cell, self.window, self.margin = cell, 2 * reach + 1, round(sigma)
        self.padding = 1 + ceil(2 * sigma / cell)
        self.cells = tuple(ceil(side / cell) + 2 * self.padding - self.window + 1 for side in image)
        self.size = tuple(cell * cells - cell + 1 for cells in self.cells)
        self.weight = made(_weights, (cell, self.window, self.padding, sigma), like.device, like.dtype)

    def __call__(self, parameters: Tensor) -> Tensor:
        """Return the masks, without the overhang on the far sides."""
        around = F.unfold(parameters[:, None], self.window, padding=self.padding)  # N, window^2, cells
        pooled: Tensor = _Pooled.apply(around, self.weight)  # type: ignore[assignment]
        pooled = F.pixel_shuffle(pooled.unflatten(2, self.cells), self.cell)
        return pooled[:, 0, : self.size[0], : self.size[1]]


def _weights(cell: int, window: int, padding: int, sigma: float) -> Tensor:
    """(window^2, cell^2, 1): weights by the distance between a parameter of the window and a place within the cell."""
    place, parameter = torch.arange(cell), torch.arange(window) - padding
    away = place - (sigma + cell * parameter[:, None])  # along a side: (window, cell)
    distance = (away.square()[:, None, :, None] + away.square()[None, :, None]).sqrt().flatten(2).flatten(0, 1)
    return torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)[:, :, None]


class _Pooled(torch.autograd.Function):
    """Smooth maximum of parameters (N, window^2, cells) times weights: (N, cell^2, cells).

    Computed for a few parameters of the window at a time, and again in the backward pass: all 81 products would take
    many times the memory of the masks.
    """

    @staticmethod
    def forward(ctx: Any, around: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        above = below = around.new_zeros(())
        for a, w in zip(around.split(9, 1), weight.split(9), strict=True):
            values = a[:, :, None] * w
            heat = (COLDNESS * values).exp_()
            below = below + heat.sum(1)
            above = above + heat.mul_(values).sum(1)
        pooled = above / below
        ctx.save_for_backward(around, weight, pooled, below)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        around, weight, pooled, below = ctx.saved_tensors
        slopes = []
        for a, w in zip(around.split(9, 1), weight.split(9), strict=True):
            values = a[:, :, None] * w
            slope = (values - pooled[:, None]).mul_(COLDNESS).add_(1).mul_((grad / below)[:, None])
            slope.mul_(values.mul_(COLDNESS).exp_()).mul_(w)  # dp / dv = heat / sum of heat (1 + 20 (v - p))
            slopes.append(slope.sum(2))
        return torch.cat(slopes, 1), None
