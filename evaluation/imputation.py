"""ROAD's filling of removed pixels from their neighbours (Rong et al., ICML 2022).

The value of each is the weighted mean of its 8 neighbours, 1/6 for direct and 1/12 for diagonal ones, which are known
or filled themselves: a linear system. Let S be the sum over a pixel and its neighbours with weights 1 2 1 along both
axes, and 1 the constant image. The system is (S 1) x - S x = 0 at removed pixels: the pixel's own weight cancels.

It is solved by conjugate gradients for all images and channels at once, on their device, with one multigrid cycle
as preconditioner (O. Tatebe, "The multigrid preconditioned conjugate gradient method", 1993): the residual is first
reduced on small images, so a wide hole needs no more steps than a small one. Between two sizes, each pixel is doubled
and S interpolates, so the cycle is symmetric. The first guess consists of means of the known pixels, interpolated in
the same way.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CYCLES = 8
"""Number of conjugate-gradient steps: the error is then below 0.001 for normalised images, a tenth of ROAD's noise."""

_SMALLEST = 8
"""Height and width up to which the system is solved directly."""

_RELAXATION = 1.6
"""Relaxation of the smoothing steps; they converge below 2, since S has no negative eigenvalue."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The removed pixels at one size; H and W are even, and padding added for that is neither removed nor known.

    Attributes:
        size: height and width of the image, without padding.
        gone: (B, 1, H, W) float32, 1 where a pixel is removed.
        known: (B, 1, H, W) float32, 1 where it is not.
        weight: (1, 1, H, W), the sums of S's weights.
        spread: (B, 1, H, W), 1 / weight where a pixel is removed, else 0.
        step: (B, 1, H, W), `_RELAXATION` times `spread`.
    """

    size: tuple[int, int]
    gone: Tensor
    known: Tensor
    weight: Tensor
    spread: Tensor
    step: Tensor

    @classmethod
    def of(cls, gone: Tensor) -> "Grid":
        """Make it from (B, 1, height, width) float32, 1 where a pixel is removed."""
        inside, missing = _even(torch.ones_like(gone[:1])), _even(gone)
        weight = _summed(inside).clamp(min=4)
        spread = missing / weight
        return cls((gone.shape[2], gone.shape[3]), missing, inside - missing, weight, spread, _RELAXATION * spread)

    def smaller(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2): S, then the sums of four pixels of the image."""
        return _fours(_even(_summed(x)[..., : self.size[0], : self.size[1]]))

    def larger(self, x: Tensor) -> Tensor:
        """(B, C, H / 2 or more, W / 2 or more) -> (B, C, H, W): each pixel doubled along both axes, then S."""
        doubled = x.repeat_interleave(2, 3).repeat_interleave(2, 2)
        return _summed(_even(doubled[..., : self.size[0], : self.size[1]]))

    def negative(self, x: Tensor) -> Tensor:
        """S x - (S 1) x, (B, C, H, W): the negative of the system, at removed pixels."""
        return _summed(x).addcmul_(x, self.weight, value=-1)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The removed pixels at all sizes: made once, for all steps.

    Attributes:
        grids: from the images' size downwards; a pixel is removed if all four of the larger size are.
        solution: (B, N, N) the inverse of the system on the last grid of N pixels.
    """

    grids: tuple[Grid, ...]
    solution: Tensor

    @classmethod
    def of(cls, gone: Tensor) -> "Pyramid":
        """Make it from (B, 1, H, W) bool."""
        grids = [Grid.of(gone.float())]
        while max(grids[-1].size) > _SMALLEST:
            grids.append(Grid.of(1 - _fours(grids[-1].known).clamp(max=1)))
        return cls(tuple(grids), _inverse(grids[-1]))

    def guessed(self, known: Tensor) -> Tensor:
        """(B, C, H, W): known pixels (0 elsewhere), with interpolated means at removed pixels."""
        means = [known]
        for grid in self.grids[:-1]:
            means.append(_even(_fours(means[-1]) / _fours(grid.known).clamp(min=1)))
        last = self.grids[-1]
        x = means[-1] + last.gone * means[-1].sum((2, 3), keepdim=True) / last.known.sum((2, 3), keepdim=True).clamp(1)
        for mean, grid in zip(means[-2::-1], self.grids[-2::-1], strict=True):
            x = torch.addcmul(mean, grid.larger(x), grid.spread)
        return x

    def corrected(self, residual: Tensor, size: int = 0) -> Tensor:
        """An approximate solution for `residual`: one multigrid cycle, from this size to the last and back."""
        if size + 1 == len(self.grids):
            return (residual.flatten(2) @ self.solution).view_as(residual)
        grid = self.grids[size]
        x = residual * grid.step
        left = _summed(x).add_(residual).mul_(grid.spread).sub_(x)  # the remaining residual, times spread
        below = _even(grid.smaller(left)).mul_(self.grids[size + 1].gone)
        x.addcmul_(grid.larger(self.corrected(below, size + 1)), grid.spread)
        return x.addcmul_(grid.negative(x).add_(residual), grid.step)


def impute(images: Tensor, gone: Tensor, noise: Tensor, cycles: int = CYCLES) -> Tensor:
    """Fill removed pixels from their neighbours, and add noise to them.

    Args:
        images: (B, C, H, W) float32.
        gone: (B, 1, H, W) bool.
        noise: (C, H, W), added at removed pixels.
        cycles: steps of conjugate gradients.
    """
    pyramid = Pyramid.of(gone)
    grid, (height, width) = pyramid.grids[0], images.shape[2:]
    x = pyramid.guessed(_even(torch.where(gone, 0.0, images)))
    residual = grid.negative(x).mul_(grid.gone)
    direction, energy = torch.zeros_like(x), None
    for _ in range(cycles):
        conditioned = pyramid.corrected(residual)
        before, energy = energy, _dot(residual, conditioned)
        direction = conditioned if before is None else conditioned.addcmul_(direction, _ratio(energy, before))
        applied = grid.negative(direction).mul_(grid.gone)
        along = _ratio(energy, -_dot(direction, applied))
        x.addcmul_(direction, along)
        residual.addcmul_(applied, along)
    return torch.where(gone, x[..., :height, :width] + noise, images)


def _inverse(grid: Grid) -> Tensor:
    """(B, N, N): the inverse of the system on a small grid; 0 for pixels that are not removed."""
    height, width = grid.gone.shape[2:]
    pixels = height * width
    sums = _summed(torch.eye(pixels, device=grid.gone.device).view(pixels, 1, height, width)).view(pixels, pixels)
    gone = grid.gone.flatten(1)
    system = torch.diag_embed(gone * grid.weight.flatten(1) + 1 - gone) - gone[:, :, None] * sums * gone[:, None]
    # If everything is removed, nothing is known: the added term keeps the inverse finite.
    return torch.linalg.inv_ex(system + 1e-4 * torch.eye(pixels, device=gone.device))[0] * gone[:, :, None]


def _even(x: Tensor) -> Tensor:
    """Append a line of zeros to an axis of odd length."""
    return torch.nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def _summed(x: Tensor) -> Tensor:
    """S: weights 1 2 1 along both axes, with 0 beyond the border."""
    rows = 2 * x
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both


def _fours(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., H / 2, W / 2): sums of four pixels."""
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return rows[..., 0::2] + rows[..., 1::2]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(b > tiny, a / b.clamp(min=tiny), 0.0)
