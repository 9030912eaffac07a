r"""SESS: any method on windows of the image at several scales, combined.

SESS (Tursun et al., IJCAI 2022, arXiv 2207.01769): the image is enlarged to `sizes` sizes, each by a further 2/7 of the
original (224, 288, ..., 928 pixels). Windows of the network's input size cover each without overlap, except the last in
a row or column, which ends at the border: 122 windows for a square image. A window's map is rectified, enlarged to the
window and scaled to 0..1. It is multiplied by the class's probability in the window relative to the largest of all
windows, put in its place and resized to the image. Each pixel of the map is the mean over the windows whose maps are
above 0 there; the map is smoothed by a Gaussian of 11 pixels and standard deviation 5.

As in the authors' code (neouyghur/SESS@2f62f41) without its two options, a threshold and a share of windows to
skip, which are 0 there. A window with a constant map adds nothing; theirs divides 0 by 0. Signed maps
are rectified, as theirs already are.

`method=sess/layercam` runs LayerCAM in the windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.base import Method, maps_of
from eigencam.methods.group import truncated_blur
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.scorecam import unit
from eigencam.methods.smoothing import again
from eigencam.methods.wrapping import Wrapping
from eigencam.passes.forward import Forward
from eigencam.transfer import made

STEP = 2 / 7
"""Step between the sizes, as a share of the input's."""
SIGMA, REACH = 5.0, 5
"""Size of the final smoothing in pixels."""


@dataclass(frozen=True, slots=True)
class SESS(Wrapping):
    """SESS of `method` at `sizes` sizes."""

    method: Method
    sizes: int = 12

    version = 1
    paper: ClassVar[str] = "Tursun et al., IJCAI 2022"
    needs: ClassVar[str] = "122 times the method"

    def __post_init__(self) -> None:
        at_least(self, 1, "sizes")

    @property
    def class_specific(self) -> bool:
        """True: windows are weighted by the class's probability."""
        return True

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, non-negative."""
        size = (int(forward.images.shape[2]), int(forward.images.shape[3]))
        total = torch.zeros(len(forward), *size, device=forward.images.device)
        count, best = torch.zeros_like(total), total.new_zeros(len(forward), 1, 1)
        for scale in range(self.sizes):
            large = (round(size[0] * (1 + STEP * scale)), round(size[1] * (1 + STEP * scale)))
            images = F.interpolate(forward.images.float(), large, mode="bilinear", align_corners=False)
            down, right = (
                made(_shrinking, (small, long), total.device, total.dtype)
                for small, long in zip(size, large, strict=True)
            )
            for top, left in windows(large, size):
                rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
                scaled = forward if scale == 0 else again(forward, images[:, :, rows, columns], self.method)
                found = maps_of(self.method, scaled, targets).relu()[:, None]
                found = unit(F.interpolate(found, size, mode="bilinear", align_corners=False)[:, 0])
                share = scaled.logits.softmax(1).gather(1, targets[:, None])[:, :, None]
                placed = down[:, rows] @ (share * found) @ right[:, columns].mT
                total, count, best = total + placed, count + (placed > 0), torch.maximum(best, share)
        mean = total / count.clamp(min=1) / torch.where(best > 0, best, 1.0)
        return truncated_blur(mean, SIGMA, REACH)


def windows(large: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The upper left corners of the windows of `size` that cover `large`.

    >>> list(windows((5, 4), (2, 2)))
    [(0, 0), (0, 2), (2, 0), (2, 2), (3, 0), (3, 2)]
    """
    rows, columns = (
        [min(k * window, side - window) for k in range(ceil(side / window))]
        for side, window in zip(large, size, strict=True)
    )
    return ((top, left) for top in rows for left in columns)


def _shrinking(small: int, large: int) -> Tensor:
    """(small, large) float32: reduces a line of values bilinearly, without smoothing it first."""
    eye = torch.eye(large, dtype=torch.float64)[None]
    return F.interpolate(eye, small, mode="linear", align_corners=False)[0].mT.float()
