"""ROAD's filling: pixels that were taken away, from their neighbours (Rong et al., ICML 2022).

The value of each is the weighted mean of its 8 neighbours, 1/6 beside and 1/12 across, which are known or filled
themselves: a linear system. It is solved by multigrid on the device that the images are on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.transfer import constant


def impute(images: Tensor, gone: Tensor, noise: Tensor, cycles: int = 6) -> Tensor:
    """Pixels that are gone filled from their neighbours: the solution of sum_j w_ij (x_i - x_j) = 0, plus noise.

    Solved for all pictures and channels at once: what is left of the right side is solved for on small pictures first
    (multigrid), so that a wide hole needs no more cycles than a small one. The error is below the noise.

    Args:
        images: (B, C, H, W) float32.
        gone: (B, 1, H, W) bool.
        noise: (C, H, W), added where pixels are gone.
        cycles: times that all sizes are gone through.
    """
    known = torch.where(gone, 0.0, images)
    mean = known.sum((2, 3), keepdim=True) / (~gone).sum((2, 3), keepdim=True).clamp(min=1)
    x = torch.where(gone, mean, known)
    residual = torch.where(gone, _around(x) - _around(torch.ones_like(x)) * x, 0.0)
    for _ in range(cycles):
        correction, residual = _corrected(residual, gone)
        x = x + correction
    return torch.where(gone, x + noise, images)


def _corrected(residual: Tensor, gone: Tensor, steps: int = 5) -> tuple[Tensor, Tensor]:
    """What to add where pixels are gone, from small pictures to large ones, and the residual that it leaves.

    Args:
        residual: (B, C, H, W), 0 where pixels are known.
        gone: (B, 1, H, W); of a small picture, where all of a pixel is.
        steps: of preconditioned conjugate gradients at each size.
    """
    x = torch.zeros_like(residual)
    if max(residual.shape[2:]) > 2:
        below = F.avg_pool2d(gone.float(), 2, ceil_mode=True) == 1
        right = torch.where(below, 4 * F.avg_pool2d(residual, 2, ceil_mode=True), 0.0)
        x = F.interpolate(_corrected(right, below, steps)[0], residual.shape[2:], mode="bilinear", align_corners=False)
        x = torch.where(gone, x, 0.0)
    degree = _around(torch.ones_like(residual[:1]))

    def system(x: Tensor) -> Tensor:
        return torch.where(gone, degree * x - _around(x), 0.0)

    residual = residual - system(x)
    direction = preconditioned = residual / degree
    energy = _dot(residual, preconditioned)
    for _ in range(steps):
        applied = system(direction)
        step = _ratio(energy, _dot(direction, applied))
        x, residual = x + step * direction, residual - step * applied
        preconditioned = residual / degree
        before, energy = energy, _dot(residual, preconditioned)
        direction = preconditioned + _ratio(energy, before) * direction
    return x, residual


def _around(x: Tensor) -> Tensor:
    """(B, C, H, W): the weighted sum of each pixel's 8 neighbours, those beyond the border 0."""
    weights = constant(((1.0, 2.0, 1.0), (2.0, 0.0, 2.0), (1.0, 2.0, 1.0)), x.device) / 12
    return F.conv2d(x, weights.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(b > tiny, a / b.clamp(min=tiny), 0.0)
