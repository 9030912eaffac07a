r"""Blur IG: gradients integrated along a path of images with decreasing blur.

Blur IG (Xu et al., CVPR 2020): with f the class's logit, x the normalised image and G the Gaussian,

$$\phi = -\sum_{i=0}^{n-1} \Delta\sigma\;
  \frac{G_{\sigma_i + \delta}\, x - G_{\sigma_i}\, x}{\delta} \odot \nabla f(G_{\sigma_i}\, x), \qquad
  \sigma_i = i\, \Delta\sigma, \quad \delta = 0.01$$

as in the authors' code (PAIR-code/saliency@7b72b67): from no blur to `sigma` pixels in `steps` equal steps. Beyond
the border is 0, which is the mean colour here. The sum tends to $f(x) - f(G_\sigma x)$ with more steps.

`reduce` combines the three channels: `sum` (signed), `max` of the absolute values or `l2`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.input_gradients import REDUCES, Reduce, image_gradients, reduced
from eigencam.methods.parameter_checks import above_zero, at_least, one_of
from eigencam.passes.forward import Forward
from eigencam.transfer import to_device

DELTA = 0.01
"""Difference of blur, in pixels, for the difference quotient."""


@dataclass(frozen=True, slots=True)
class BlurIG:
    """Blur IG up to a blur of `sigma` pixels in `steps` steps."""

    steps: int = 100
    sigma: float = 50.0
    reduce: Reduce = "sum"

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Xu et al., CVPR 2020"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"
    networks: ClassVar[str] = "differentiable, without jumps"
    differentiates: ClassVar[str] = "image"
    needs_smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, 1, "steps")
        above_zero(self, "sigma")
        one_of(self, "reduce", REDUCES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        images, total = forward.images.float(), torch.zeros_like(forward.images, dtype=torch.float32)
        for step in range(self.steps):
            sigma = step * self.sigma / self.steps
            down, right, more_right, down_slope, right_slope = _matrices(images, sigma)
            blurred = down @ images @ right.mT
            slope = down_slope @ images @ more_right.mT + down @ images @ right_slope.mT
            total -= self.sigma / self.steps * slope * image_gradients(forward, targets, blurred)
        return reduced(total, self.reduce)


def _matrices(images: Tensor, sigma: float) -> tuple[Tensor, ...]:
    """Matrices that blur (N, C, H, W) images along H, along W, and along W slightly more.

    Then the derivatives of the first two with respect to the blur.
    """
    h, w = images.shape[2:]
    ends = [(_gaussian(side, sigma), _gaussian(side, sigma + DELTA)) for side in (h, w)]
    down, right, more_right = ends[0][0], ends[1][0], ends[1][1]
    slopes = ((more - less) / DELTA for less, more in ends)  # before rounding to float32
    return to_device(images.device, *(m.float() for m in (down, right, more_right, *slopes)))


def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side) float64: smooths a line of pixels as SciPy's `gaussian_filter` does, 0 beyond its ends."""
    reach = int(4 * sigma + 0.5)
    away = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (away / max(sigma, 1e-12)) ** 2)
    matrix = torch.zeros(side, side + 2 * reach, dtype=torch.float64)
    matrix.as_strided((side, len(kernel)), (side + 2 * reach + 1, 1)).copy_(kernel / kernel.sum())
    return matrix[:, reach : reach + side]
