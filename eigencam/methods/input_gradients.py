r"""Gradients with respect to the image: saliency, SmoothGrad, integrated gradients, guided backpropagation, deconvnet.

With f the class's logit and x the normalised image:

* Gradient (Simonyan et al., ICLR Workshops 2014): $\max_c |\partial f / \partial x_c|$.
* SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825): the mean gradient over noisy images; the standard deviation of the
  noise is `sigma` times the image's range.
* Integrated gradients (Sundararajan et al., ICML 2017): $(x - x_0) \int_0^1 \nabla f(x_0 + t (x - x_0))\, dt$ with
  x_0 = 0, the mean colour, by Gauss-Legendre quadrature; the sum is f(x) - f(x_0). A ReLU network has kinks along
  the path, so no number of nodes is enough for every image: an image's nodes are doubled until its sum is within
  `tolerance` (5 %, the paper's advice) of that difference. A difference below the standard deviation of the image's
  logits is replaced by that deviation, since the network then hardly responds to the class. If `max_steps` nodes are
  not enough, the map is NaN, and counted and scored as such.
* Guided backpropagation (Springenberg et al., ICLR Workshops 2015) and the deconvnet (Zeiler & Fergus, ECCV 2014):
  other rules for ReLU, see `eigencam.passes.backward`.
* Guided Grad-CAM (Selvaraju et al., ICCV 2017): guided backpropagation times Grad-CAM, enlarged bilinearly.

`reduce` combines the three channels: `max` of the absolute values (Simonyan), `sum` (signed) or `l2`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import GradCAM
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.randomness import normal
from eigencam.passes.backward import Rule, chunked, deconvnet_relu, gradients, guided_relu
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import AFFINE, MAXIMA, NORMALIZATIONS, RECTIFIERS
from eigencam.transfer import to_device, to_host

GUIDED = AFFINE | RECTIFIERS | MAXIMA | NORMALIZATIONS | frozenset(("softmax", "log_softmax"))
"""Operations that guided backpropagation and the deconvnet follow: rectifiers by their rule, the others, which are not
activations, by their own gradient."""

Reduce = Literal["max", "sum", "l2"]
REDUCES: tuple[Reduce, ...] = ("max", "sum", "l2")


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient; `times_input`: times the image."""

    reduce: Reduce = "max"
    times_input: bool = False

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Simonyan et al., ICLR Workshops 2014"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    differentiates: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        one_of(self, "reduce", REDUCES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        gradient = image_gradients(forward, targets)
        return reduced(gradient * forward.images.float() if self.times_input else gradient, self.reduce)


@dataclass(frozen=True, slots=True)
class SmoothGrad:
    """SmoothGrad with `samples` noisy images; `sigma` as a share of the image's range."""

    samples: int = 25
    sigma: float = 0.15
    reduce: Reduce = "max"
    seed: int = 0

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Smilkov et al., arXiv 2017"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"
    differentiates: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        one_of(self, "reduce", REDUCES)
        at_least(self, 1, "samples")
        at_least(self, 0, "sigma")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        images, index = forward.images.float(), forward.seeds
        spread = self.sigma * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
        total = torch.zeros_like(images)
        for sample in range(self.samples):
            noise = normal(index, tuple(images.shape[1:]), self.seed * self.samples + sample)
            total += image_gradients(forward, targets, images + spread * noise)
        return reduced(total / self.samples, self.reduce)


@dataclass(frozen=True, slots=True)
class IntegratedGradients:
    """Integrated gradients with `steps` nodes, and more if the sum requires them.

    Attributes:
        steps: initial number of nodes.
        tolerance: allowed error of the map's sum, relative to the difference of the logits; None: not checked.
        max_steps: maximum number of nodes per image; the earlier rounds together cost as many gradients again.
        reduce: see the module.
    """

    steps: int = 32
    tolerance: float | None = 0.05
    max_steps: int = 512
    reduce: Reduce = "sum"

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Sundararajan et al., ICML 2017"
    needs: ClassVar[str] = "S + 2 forwards, S backwards"
    networks: ClassVar[str] = "differentiable, without jumps"
    differentiates: ClassVar[str] = "image"
    needs_smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of(self, "reduce", REDUCES)
        if self.steps < 1 or self.max_steps < self.steps:
            raise ValueError(f"steps={self.steps}, max_steps={self.max_steps}; allowed: 1 or more, steps or more")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance}; allowed: more than 0, or null")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32; with `sum`, the total is the logit's difference from that of the mean colour."""
        start = forward.predict(1, lambda _: torch.zeros_like(forward.images[:1])).float()[0, targets]
        difference = forward.logits.gather(1, targets[:, None])[:, 0] - start
        allowed = torch.maximum(difference.abs(), forward.logits.std(1, correction=0)) * (self.tolerance or torch.inf)
        total = torch.full_like(forward.images, torch.nan, dtype=torch.float32)
        (finite,) = to_host(difference.isfinite())()
        waiting, steps = finite.nonzero()[:, 0], self.steps  # on the host
        while len(waiting) and steps <= self.max_steps:
            (left,) = to_device(difference.device, waiting)
            integral = _integral(forward, left, targets, steps)
            missed = ~((integral.sum((1, 2, 3)) - difference[left]).abs() <= allowed[left])
            total[left] = torch.where(missed[:, None, None, None], total[left], integral)
            (again,) = to_host(missed)()  # the only wait per round
            waiting, steps = waiting[again], 2 * steps
        return reduced(total, self.reduce)


def _integral(forward: Forward, rows: Tensor, targets: Tensor, steps: int) -> Tensor:
    """(R, 3, H, W) float32 integrated gradients for some images of the pass."""
    images = forward.images[rows].float()
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(images)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * image_gradients(forward, targets[rows], float(node) * images)
    return total * images


@dataclass(frozen=True, slots=True)
class GuidedBackprop:
    """Guided backpropagation, or with `deconvnet` the deconvnet."""

    deconvnet: bool = False
    reduce: Reduce = "max"

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Springenberg et al., ICLR Workshops 2015; deconvnet: Zeiler & Fergus, ECCV 2014"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "whose only activations are ReLUs"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = GUIDED

    def __post_init__(self) -> None:
        one_of(self, "reduce", REDUCES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        rule = deconvnet_relu if self.deconvnet else guided_relu
        return reduced(image_gradients(forward, targets, rules=dict.fromkeys(RECTIFIERS, rule)), self.reduce)


@dataclass(frozen=True, slots=True)
class GuidedGradCAM:
    """Guided Grad-CAM."""

    reduce: Reduce = "max"
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Selvaraju et al., ICCV 2017"
    needs: ClassVar[str] = "2 forwards, 2 backwards"
    networks: ClassVar[str] = "whose only activations are ReLUs"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = GUIDED

    def __post_init__(self) -> None:
        one_of(self, "reduce", REDUCES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        cam = GradCAM(layer=self.layer)(forward, targets)[:, None]
        cam = F.interpolate(cam, forward.images.shape[2:], mode="bilinear", align_corners=False)
        guided = image_gradients(forward, targets, rules=dict.fromkeys(RECTIFIERS, guided_relu))
        return reduced(guided * cam, self.reduce)


def image_gradients(
    forward: Forward, targets: Tensor, images: Tensor | None = None, rules: Mapping[str, Rule] | None = None
) -> Tensor:
    """(N, 3, H, W) float32 gradients of the class's logit with respect to the pass's images, or to other images."""
    inputs = forward.images if images is None else images.to(forward.images.dtype)

    def make(x: Tensor, y: Tensor) -> Tensor:
        return gradients(forward.module, x, y, rules=rules)[1]

    return chunked(make, inputs, targets, forward.chunk, forward.progress)


def reduced(x: Tensor, how: Reduce) -> Tensor:
    """(N, H, W) of (N, 3, H, W)."""
    return x.abs().amax(1) if how == "max" else x.sum(1) if how == "sum" else x.norm(dim=1)
