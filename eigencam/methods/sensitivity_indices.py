r"""How much of the score's variance a cell of the image explains: Sobol and HSIC attribution.

Both hide cells of a `cells` x `cells` grid by masks, $X \odot M$ with each cell's value enlarged to its pixels
(nearest) and X the normalised image, so a hidden cell has the mean colour; f is the class's logit. The map has one
non-negative value per cell: it says how much, not in which direction.

* Sobol attribution (Fel et al., NeurIPS 2021): with A and B two halves of a Sobol sequence in $2 d$ dimensions, d the
  number of cells, and $C_i$ as A with column i of B, the total index of cell i by Jansen's estimator,

  $$S_i = \frac{\frac{1}{2n} \sum_j \big(f(A_j) - f(C_{ij})\big)^2}{\operatorname{var} f(A)}$$

  n is `designs`, a power of 2; the sequence is not scrambled, as in the authors' code
  (fel-thomas/Sobol-Attribution-Method@f4103ed), which uses 64, while Xplique uses 32. If f is a sum over the cells, the
  indices tend to a sum of 1 with n.
* HSIC attribution (Novello et al., NeurIPS 2022): the dependence of f on each cell's visibility, $\sum K \odot L / n$,
  for the centred kernels $k = 1 + \frac12 - (z - z')^2$ of binary masks z and $l = \exp(-(f - f')^2 / 2 m^2)$ with m
  the median of f. The designs are independent draws, visible or not with equal probability; the authors use a Latin
  hypercube, Xplique a Sobol sequence, so numbers differ by the design. A median of 0 gives no kernel; the map is then
  NaN, and is counted.

The inputs, d + 2 times `designs` for Sobol and `designs` for HSIC, go through the network in chunks to limit memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward
from eigencam.transfer import made


@dataclass(frozen=True, slots=True)
class SobolAttribution:
    """Sobol attribution of `cells` x `cells` cells with `designs` designs."""

    designs: int = 32
    cells: int = 8

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Fel et al., NeurIPS 2021"
    needs: ClassVar[str] = "N (d + 2) forwards for d cells"

    def __post_init__(self) -> None:
        if self.designs < 2 or self.designs & (self.designs - 1) or not 1 <= self.cells**2 <= 10600:
            raise ValueError(f"designs={self.designs}, cells={self.cells}; allowed: a power of 2, 1 to 102")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, cells, cells) float32, non-negative; 0 where the score does not vary."""
        count, n = self.cells**2, self.designs
        halves = made(_sobol_sequence, (2 * count, n), forward.images.device, torch.float32)
        a, b = halves[:, :count], halves[:, count:]

        def designs(place: Tensor) -> Tensor:
            row, part = place % n, place // n  # A, B, then C of each cell
            swapped = F.one_hot((part - 2).clamp(min=0), count).bool() & (part >= 2)[:, None]
            return torch.where(swapped | (part == 1)[:, None], b[row], a[row])

        scores = masked_scores(forward, targets, designs, n * (count + 2), self.cells).unflatten(0, (-1, n))
        return jansen(scores[0], scores[2:]).mT.unflatten(1, (self.cells, self.cells))


@dataclass(frozen=True, slots=True)
class HSICAttribution:
    """HSIC attribution of `cells` x `cells` cells with `designs` designs."""

    designs: int = 500
    cells: int = 8
    seed: int = 0

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Novello et al., NeurIPS 2022"
    needs: ClassVar[str] = "N forwards"

    def __post_init__(self) -> None:
        at_least(self, 2, "designs")
        at_least(self, 1, "cells")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, cells, cells) float32."""
        index = torch.arange(self.designs, device=forward.images.device)
        visible = (uniform(index, (self.cells**2,), self.seed) < 0.5).float()
        scores = masked_scores(forward, targets, lambda place: visible[place], self.designs, self.cells)
        return hsic(visible, scores).unflatten(1, (self.cells, self.cells))


def masked_scores(
    forward: Forward, targets: Tensor, designs: Callable[[Tensor], Tensor], count: int, cells: int
) -> Tensor:
    """(count, N) logits of the images under masks, each image under all masks.

    Args:
        forward: the pass of N images.
        targets: (N,).
        designs: returns the masks (B, cells x cells) for (B,) numbers below `count`.
        count: number of masks.
        cells: number per side.
    """
    images = forward.images
    n, together = len(images), max(1, forward.chunk // len(images))
    scores = []
    for start in range(0, count, together):
        part = torch.arange(start, min(start + together, count), device=images.device)
        masks = F.interpolate(designs(part).view(-1, 1, cells, cells), images.shape[2:]).to(images.dtype)

        def shown(chosen: slice, masks: Tensor = masks) -> Tensor:
            place = torch.arange(chosen.start, chosen.stop, device=images.device)
            return images[place % n] * masks[place // n]

        logits = forward.predict(len(masks) * n, shown)
        scores.append(logits.gather(1, targets.repeat(len(masks))[:, None]).view(-1, n))
    return torch.cat(scores)


def jansen(a: Tensor, c: Tensor) -> Tensor:
    """(d, N) total indices from scores (n, N) under A and (d, n, N) under each C; 0 if those under A do not vary."""
    variance = a.var(0)
    indices = (a - c).square().sum(1) / (2 * len(a) * torch.where(variance > 0, variance, 1.0))
    return torch.where(variance > 0, indices, 0.0)


def hsic(visible: Tensor, scores: Tensor) -> Tensor:
    r"""(N, d) HSIC of (n, d) masks of 0 and 1 with (n, N) scores.

    With L centred, the constant of the input's kernel cancels, and $-\sum_{ij} (z_i - z_j)^2 L_{ij}$ is $2 z^T L z$.
    """
    n = len(scores)
    per_image = scores.mT  # (N, n)
    ordered = per_image.sort(1).values
    width = (ordered[:, (n - 1) // 2] + ordered[:, n // 2])[:, None, None] / 2
    kernel = torch.exp(-(per_image[:, :, None] - per_image[:, None]).square() / (2 * width.square()))
    rows = kernel.mean(2, keepdim=True)
    centred = kernel - rows - rows.mT + rows.mean(1, keepdim=True)
    return 2 * torch.einsum("ic,nij,jc->nc", visible, centred, visible) / n


def _sobol_sequence(dimensions: int, count: int) -> Tensor:
    """(count, dimensions) float32 in [0, 1)."""
    return torch.quasirandom.SobolEngine(dimensions).draw(count)
