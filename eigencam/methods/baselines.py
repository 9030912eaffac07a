"""The baselines that every table needs: maps that do not depend on the image.

On ImageNet a centred box of half the area overlaps the object by IoU 0.5 in more than half of the images, so a
method's number means little without these beside it. The whole image, the box and the Gaussian are drawn at
the network's input resolution. `RandomMap` is uniform noise at the target layer's resolution, a function of only (seed,
position of the image in the dataset), so batches and resumed runs do not change it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class WholePicture:
    """1 everywhere that the network sees: with `resize: crop`, the crop.

    `constant_by_design`: the map is constant on purpose, and compared with the truth like any other.
    """

    version = 1
    baseline = True
    constant_by_design: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    needs: ClassVar[str] = "nothing"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, 1, 1) float32."""
        return torch.ones(len(forward), 1, 1, device=forward.images.device)


@dataclass(frozen=True, slots=True)
class CenterBox:
    """1 inside a centred box with the aspect ratio of the image and the share `area`, 0..1, of its area; 0 outside."""

    area: float = 0.5

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1:
            raise ValueError(f"area={self.area}; allowed: more than 0, at most 1")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 of 0 and 1."""
        y, x = _centred(forward.images)
        inside = (y.abs() <= self.area**0.5) & (x.abs() <= self.area**0.5)
        return inside.float().expand(len(forward), -1, -1)


@dataclass(frozen=True, slots=True)
class CenterGaussian:
    """exp(-r^2 / 2 sigma^2), r measured in half sides from the centre; `sigma` in the same unit."""

    sigma: float = 0.5

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma={self.sigma}; allowed: more than 0")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 in (0, 1]."""
        y, x = _centred(forward.images)
        return torch.exp(-(y.square() + x.square()) / (2 * self.sigma**2)).expand(len(forward), -1, -1)


@dataclass(frozen=True, slots=True)
class RandomMap:
    """Uniform noise in [0, 1) at the layer's resolution."""

    seed: int = 0
    layer: str | None = None

    version = 1
    baseline = True
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    needs: ClassVar[str] = "nothing"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32."""
        h, w = forward.activations(self.layer).shape[2:]
        return uniform(forward.seeds, (h, w), self.seed)


def _centred(images: Tensor) -> tuple[Tensor, Tensor]:
    """(H, 1) and (1, W): the pixel centres' offsets from the image's centre, in half sides, -1..1."""
    h, w = images.shape[2:]
    y = (torch.arange(h, device=images.device) + 0.5) * 2 / h - 1
    x = (torch.arange(w, device=images.device) + 0.5) * 2 / w - 1
    return y[:, None], x[None, :]
