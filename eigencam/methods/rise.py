r"""RISE (Petsiuk et al., BMVC 2018): random masks, weighted by the class's probability under each.

$S = \frac{1}{N p} \sum_i f(X \odot M_i)\, M_i$ with f the probability, X the normalised image, in which 0 is the mean
colour, and random masks: an s x s grid of Bernoulli(p) values, enlarged bilinearly to (s + 1) cells and cropped at a
random offset. Beyond the grid's outermost values it is mirrored about them, as in the authors' code
(eclique/RISE@d91ea00).
"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward
from eigencam.transfer import constant, made


@dataclass(frozen=True, slots=True)
class RISE:
    """RISE; the same masks serve all images."""

    masks: int = 4000
    cells: int = 7
    p: float = 0.5
    seed: int = 0

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Petsiuk et al., BMVC 2018"
    needs: ClassVar[str] = "M forwards"

    def __post_init__(self) -> None:
        if self.masks < 1 or self.cells < 1 or not 0 < self.p < 1:
            raise ValueError(
                f"masks={self.masks}, cells={self.cells}, p={self.p}; allowed: 1 or more, 1 or more, 0 < p < 1"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, non-negative."""
        images = forward.images
        n, size = len(images), tuple(images.shape[2:])
        total = torch.zeros(n, *size, device=images.device)
        step = max(1, forward.chunk // n)
        for start in range(0, self.masks, step):
            masks = self.make(start, min(start + step, self.masks), size, images.device)

            def masked(part: slice, masks: Tensor = masks) -> Tensor:
                place = torch.arange(part.start, part.stop, device=images.device)
                return images[place % n] * masks[place // n, None].to(images.dtype)

            logits = forward.predict(len(masks) * n, masked)
            scores = logits.softmax(1).gather(1, targets.repeat(len(masks))[:, None]).view(len(masks), n)
            total += torch.einsum("mn,mhw->nhw", scores, masks)
        return total / (self.masks * self.p)

    def make(self, start: int, stop: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        """(stop - start, H, W) float32 masks in 0..1; mask i depends only on (seed, i)."""
        index = torch.arange(start, stop, device=device)
        grid = (uniform(index, (self.cells, self.cells), 2 * self.seed) < self.p).float()
        cell = [ceil(side / self.cells) for side in size]
        down, right = (made(_mirrored, (self.cells, (self.cells + 1) * side), device, torch.float32) for side in cell)
        fine = down @ grid @ right.mT
        offset = (uniform(index, (2,), 2 * self.seed + 1) * constant(tuple(cell), device)).long()
        rows = offset[:, :1] + torch.arange(size[0], device=device)
        columns = offset[:, 1:] + torch.arange(size[1], device=device)
        return fine[torch.arange(len(index), device=device)[:, None, None], rows[:, :, None], columns[:, None]]


def _mirrored(cells: int, side: int) -> Tensor:
    """(side, cells) float32: enlarges a line of values bilinearly, mirrored about its first and last value."""
    if cells == 1:
        return torch.ones(side, 1)
    place = (((torch.arange(side, dtype=torch.float64) + 0.5) * cells / side) - 0.5).abs()
    place = (cells - 1) - (cells - 1 - place).abs()
    below = place.floor().clamp(max=cells - 2).long()
    share = (place - below)[:, None]
    return ((1 - share) * F.one_hot(below, cells) + share * F.one_hot(below + 1, cells)).float()
