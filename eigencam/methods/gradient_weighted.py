r"""XGrad-CAM, HiResCAM, LayerCAM and Smooth Grad-CAM++: other ways to weight activations with gradients.

With A the activations (channel k) and g the gradient of the class's logit with respect to A:

* XGrad-CAM (Fu et al., BMVC 2020): $\alpha_k = \sum_{xy} \frac{A_k}{\sum_{ab} A_k}\, g_k$; channels without activation
  have weight 0.
* HiResCAM (Draelos & Carin 2020, arXiv 2011.08891): $\operatorname{ReLU}(\sum_k g_k \odot A_k)$.
* LayerCAM (Jiang et al., TIP 2021): $\operatorname{ReLU}(\sum_k \operatorname{ReLU}(g_k) \odot A_k)$. Several layers
  are fused by the maximum of their maps, each divided by its own maximum, passed through $\tanh(\gamma M / \max M)$ as
  in the paper for shallow layers ($\gamma = 2$), and enlarged to the finest.
* Smooth Grad-CAM++ (Omeiza et al. 2019, arXiv 1908.01224): with D1, D2, D3 the means of the gradient and of its second
  and third power over noisy copies of the image,

  $$\alpha_k = \frac{D^2_k}{2 D^2_k + \sum_{ab} A_k(a,b)\, D^3_k}, \qquad
    L = \operatorname{ReLU}\Big(\sum_k A_k \sum_{xy} \alpha_k \operatorname{ReLU}(D^1_k)\Big)$$

  A is that of the image itself. The paper prints D1 in the numerator; D2 is Grad-CAM++'s, and what torchcam
  computes. The standard deviation of the noise is `sigma` times the image's range (our choice).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam import moved
from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import normal
from eigencam.passes.backward import chunked
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class XGradCAM:
    """XGrad-CAM."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Fu et al., BMVC 2020"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations, gradients = forward.activations(self.layer), forward.gradients(targets, self.layer)
        return weighted_sum(xgrad_weights(activations, gradients), activations).relu()


@dataclass(frozen=True, slots=True)
class HiResCAM:
    """HiResCAM; `relu=False` keeps the negative evidence."""

    relu: bool = True
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Draelos & Carin, arXiv 2020"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative unless `relu` is off."""
        cam = (forward.activations(self.layer) * forward.gradients(targets, self.layer)).sum(1)
        return cam.relu() if self.relu else cam


@dataclass(frozen=True, slots=True)
class LayerCAM:
    """LayerCAM of the target layer (or `layer`), or of `layers` fused with `gamma`."""

    layers: tuple[str, ...] | list[str] = ()
    gamma: float = 2.0
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Jiang et al., TIP 2021"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma}; allowed: more than 0")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative; in 0..1 if layers are fused."""
        maps = [
            (forward.gradients(targets, layer).relu() * forward.activations(layer)).sum(1).relu()
            for layer in self.layers or (self.layer,)
        ]
        if not self.layers:
            return maps[0]
        size = max((tuple(m.shape[1:]) for m in maps), key=lambda hw: hw[0] * hw[1])
        peaks = [m.amax((1, 2), keepdim=True) for m in maps]
        squeezed = [
            torch.tanh(self.gamma * m / p.where(p > 0, torch.ones_like(p))) for m, p in zip(maps, peaks, strict=True)
        ]
        enlarged = [F.interpolate(m[:, None], size, mode="bilinear", align_corners=False) for m in squeezed]
        return torch.cat(enlarged, 1).amax(1)


@dataclass(frozen=True, slots=True)
class SmoothGradCAMPlusPlus:
    """Smooth Grad-CAM++ with `samples` noisy copies; `sigma` as a share of the image's range."""

    samples: int = 25
    sigma: float = 0.1
    seed: int = 0
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # its gradients are those of other images
    differentiates: ClassVar[str] = "layer"
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Omeiza et al., arXiv 2019"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"

    def __post_init__(self) -> None:
        at_least(self, 1, "samples")
        at_least(self, 0, "sigma")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        n, images = len(forward), forward.images.float()
        spread = self.sigma * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
        index = forward.seeds
        sums = [torch.zeros_like(activations) for _ in range(3)]
        together = max(1, forward.chunk // n)
        for start in range(0, self.samples, together):
            samples = range(start, min(start + together, self.samples))
            noise = [normal(index, tuple(images.shape[1:]), self.seed * self.samples + sample) for sample in samples]
            noisy = torch.cat([images + spread * one for one in noise])
            gradient = self._gradients(forward, noisy, targets.repeat(len(samples))).unflatten(0, (len(samples), n))
            for power, total in enumerate(sums, 1):
                total += (gradient**power).sum(0)
        first, second, third = (total / self.samples for total in sums)
        denominator = 2 * second + activations.sum((2, 3), keepdim=True) * third
        alpha = torch.where(denominator != 0, second / torch.where(denominator != 0, denominator, 1.0), 0.0)
        return weighted_sum((alpha * first.relu()).sum((2, 3)), activations).relu()

    def _gradients(self, forward: Forward, images: Tensor, targets: Tensor) -> Tensor:
        """(B, C, h, w) float32."""
        layers = [self.layer] if self.layer else []

        def make(x: Tensor, y: Tensor) -> Tensor:
            return forward.repeat(x, layers, gradients=True).gradients(y, self.layer)

        return chunked(make, images.to(forward.images.dtype), targets, forward.chunk, forward.progress)


def xgrad_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """(N, C) weights of XGrad-CAM from (N, C, h, w) activations and gradients."""
    total, weighted = activations.sum((2, 3)), (activations * gradients).sum((2, 3))
    return torch.where(total != 0, weighted / torch.where(total != 0, total, 1.0), 0.0)


def __getattr__(name: str) -> Any:
    """Names that have moved from here; see `eigencam.moved`."""
    return moved.attribute(__name__, name)
