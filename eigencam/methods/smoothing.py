r"""Any method averaged over copies of the image; and the first component of what a method sums over channels.

    method=aug_smooth/layercam    method=smooth/gradcam    method=eigen_smooth/gradcampp

* `aug_smooth` (pytorch-grad-cam): the mean over the image and its mirror image, each with all input values multiplied
  by 0.9, 1 and 1.1; a map is rectified, scaled to 0..1 and mirrored back before averaging. The input is multiplied
  after normalisation, which changes the contrast about the mean colour.
* `smooth` (after SmoothGrad, Smilkov et al. 2017, arXiv 1706.03825): the mean of the method's raw maps over `samples`
  noisy images; the standard deviation of the noise is `sigma` times the image's range. The mean is over what the
  method returns: after its own ReLU, before any scaling. For `method=smooth/gradient` that is the mean of
  absolute gradients, whereas `smoothgrad` averages the gradients first.
* `eigen_smooth` (pytorch-grad-cam): the first component of a method's weighted activations, channels centred, in
  place of their sum over the channels; for methods that weight the channels of one layer. For HiResCAM it is
  Eigen-Grad-CAM. The sign, which the library leaves to LAPACK, is that of the energy (`eigencam.methods.eigencam`), and
  negative values are then clipped, as there.

A method that starts from files (`mask`) gets the copies instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from eigencam.methods.base import Method, maps_of, needs_gradient, tapped
from eigencam.methods.eigencam import first_component
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus, plus_plus_weights
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, XGradCAM, xgrad_weights
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import normal
from eigencam.methods.scorecam import unit
from eigencam.methods.wrapping import Wrapping
from eigencam.passes.forward import Forward

FACTORS = (0.9, 1.0, 1.1)


@runtime_checkable
class Weighted(Protocol):
    """A user's method whose map is the sum over channels of weighted activations."""

    def weighted(self, forward: Forward, targets: Tensor) -> Tensor:
        """Return the weighted activations (N, C, h, w)."""
        ...


WEIGHTING = (GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM)
"""Our methods whose weighted activations `weighted` can compute."""


def weighted(method: Method, forward: Forward, targets: Tensor) -> Tensor:
    """(N, C, h, w): what a method in `WEIGHTING`, or one that is `Weighted`, sums over channels."""
    if not isinstance(method, WEIGHTING):
        assert isinstance(method, Weighted)  # `EigenSmooth` accepts no other
        return method.weighted(forward, targets)
    activations, gradients = forward.activations(method.layer), forward.gradients(targets, method.layer)
    if isinstance(method, GradCAM):
        return gradients.mean((2, 3), keepdim=True) * activations
    if isinstance(method, GradCAMPlusPlus):
        return plus_plus_weights(activations, gradients)[:, :, None, None] * activations
    if isinstance(method, XGradCAM):
        return xgrad_weights(activations, gradients)[:, :, None, None] * activations
    return (gradients.relu() if isinstance(method, LayerCAM) else gradients) * activations


@dataclass(frozen=True, slots=True)
class AugSmooth(Wrapping):
    """The mean map of `method` over mirrored and scaled inputs, as pytorch-grad-cam's `aug_smooth`."""

    method: Method

    version = 1
    paper: ClassVar[str] = "pytorch-grad-cam"
    needs: ClassVar[str] = "6 times the method"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 in 0..1."""
        total = torch.zeros((), device=forward.images.device)
        for flipped, factor in ((f, x) for f in (False, True) for x in FACTORS):
            images = factor * (forward.images.flip(3) if flipped else forward.images)
            same = not flipped and factor == 1
            made = maps_of(self.method, forward if same else again(forward, images, self.method), targets)
            total = total + unit((made.flip(2) if flipped else made).relu()) / (2 * len(FACTORS))
        return total


@dataclass(frozen=True, slots=True)
class Smooth(Wrapping):
    """The mean map of `method` over `samples` noisy images; `sigma` as a share of the image's range."""

    method: Method
    samples: int = 25
    sigma: float = 0.15
    seed: int = 0

    version = 1
    paper: ClassVar[str] = "after Smilkov et al., arXiv 2017"
    needs: ClassVar[str] = "S times the method"

    def __post_init__(self) -> None:
        at_least(self, 1, "samples")
        at_least(self, 0, "sigma")

    @property
    def needs_gradient(self) -> bool:
        """False: gradients of the image itself are not needed."""
        return False

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32."""
        total = torch.zeros((), device=forward.images.device)
        for images in noisy(forward, self.samples, self.sigma, self.seed):
            total = total + maps_of(self.method, again(forward, images, self.method), targets) / self.samples
        return total


@dataclass(frozen=True, slots=True)
class EigenSmooth(Wrapping):
    """The first component of what `method` sums over channels, as pytorch-grad-cam's `eigen_smooth`."""

    method: Method

    version = 1
    paper: ClassVar[str] = "pytorch-grad-cam"
    needs: ClassVar[str] = "the method"

    def __post_init__(self) -> None:
        several = isinstance(self.method, LayerCAM) and self.method.layers
        if several or not isinstance(self.method, (*WEIGHTING, Weighted)):
            raise ValueError(
                f"method={type(self.method).__name__}; allowed for eigen_smooth, which decomposes what a map sums over "
                "the channels of one layer: GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM of one layer, and "
                "methods with `weighted(forward, targets)`"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        found = weighted(self.method, forward, targets)
        return first_component(found, center=True, sign="energy").clamp(min=0)


def again(forward: Forward, images: Tensor, method: Method) -> Forward:
    """Return a pass of other images that a method can read; progress counts their number."""
    made = forward.repeat(images.to(forward.images.dtype), tapped(method), gradients=needs_gradient(method))
    made.seeds = forward.seeds
    forward.progress(len(images))
    return made


def noisy(forward: Forward, samples: int, sigma: float, seed: int) -> Iterator[Tensor]:
    """The images of a pass under `samples` noises, (N, 3, H, W) float32; see `Smooth`."""
    images = forward.images.float()
    spread = sigma * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    for sample in range(samples):
        yield images + spread * normal(forward.seeds, tuple(images.shape[1:]), seed * samples + sample)
