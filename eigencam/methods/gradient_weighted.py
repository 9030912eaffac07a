r"""Methods that weight activations with gradients, after Grad-CAM.

With A the activations (channel k) and g the gradient of the class's logit by A:

* XGrad-CAM (Fu et al., BMVC 2020): $\alpha_k = \sum_{xy} \frac{A_k}{\sum_{ab} A_k}\, g_k$; channels without activation
  weigh 0.
* HiResCAM (Draelos & Carin 2020, arXiv 2011.08891): $\operatorname{ReLU}(\sum_k g_k \odot A_k)$.
* LayerCAM (Jiang et al., TIP 2021): $\operatorname{ReLU}(\sum_k \operatorname{ReLU}(g_k) \odot A_k)$. Several layers
  are fused by the maximum of their maps, each scaled by its own maximum and through $\tanh(\gamma M / \max M)$ as the
  paper does for shallow layers ($\gamma = 2$), enlarged to the finest.
* Smooth Grad-CAM++ (Omeiza et al. 2019, arXiv 1908.01224): Grad-CAM++ with powers of the gradient averaged over noisy
  copies of the picture, whose noise has `sigma` times the picture's range as its standard deviation. Activations are
  those of the picture itself.
* ShapleyCAM (Cai 2025, arXiv 2501.06261): $\alpha_k = \operatorname{mean}_{xy}(g - \tfrac12 H A)_k$ with H the second
  derivative of the score by A. Behind the last layer logits are piecewise linear, so their H is 0; the score is the
  logarithm of the softmax probability, whose H is not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.forward import Forward, evaluating, logits_of
from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.randomness import normal

if TYPE_CHECKING:
    from eigencam.network import Network


@dataclass(frozen=True, slots=True)
class XGradCAM:
    """XGrad-CAM."""

    layer: str | None = None

    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Fu et al., BMVC 2020"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations, gradients = forward.activations(self.layer), forward.gradients(targets, self.layer)
        total = activations.sum((2, 3))
        weighted = (activations * gradients).sum((2, 3))
        weights = torch.where(total != 0, weighted / torch.where(total != 0, total, 1.0), 0.0)
        return weighted_sum(weights, activations).relu()


@dataclass(frozen=True, slots=True)
class HiResCAM:
    """HiResCAM; `relu=False` keeps the negative evidence."""

    relu: bool = True
    layer: str | None = None

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
    """LayerCAM of the target layer, or of `layers` fused with `gamma`."""

    layers: tuple[str, ...] | list[str] = ()
    gamma: float = 2.0

    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Jiang et al., TIP 2021"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma}; allowed: more than 0")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative; in 0..1 where layers are fused."""
        maps = [
            (forward.gradients(targets, layer).relu() * forward.activations(layer)).sum(1).relu()
            for layer in self.layers or (None,)
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
    """Smooth Grad-CAM++ with `samples` noisy copies; `sigma` in parts of the picture's range."""

    samples: int = 25
    sigma: float = 0.1
    seed: int = 0
    layer: str | None = None

    needs_gradient: ClassVar[bool] = False  # its gradients are of other pictures
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Omeiza et al., arXiv 2019"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.sigma < 0:
            raise ValueError(f"samples={self.samples}, sigma={self.sigma}; allowed: 1 or more, 0 or more")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        sums = [torch.zeros_like(activations) for _ in range(3)]
        images = forward.images.float()
        spread = self.sigma * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
        index = forward.index.to(images.device)
        for sample in range(self.samples):
            noise = normal(index, tuple(images.shape[1:]), self.seed * self.samples + sample)
            noisy = forward.repeat(
                (images + spread * noise).to(forward.images.dtype), filter(None, [self.layer]), gradients=True
            )
            gradient = noisy.gradients(targets, self.layer)
            forward.progress(len(images))
            for power, total in enumerate(sums, 1):
                total += gradient**power
        first, second, third = (total / self.samples for total in sums)
        denominator = 2 * second + activations.sum((2, 3), keepdim=True) * third
        alpha = torch.where(denominator != 0, second / torch.where(denominator != 0, denominator, 1.0), 0.0)
        return weighted_sum((alpha * first.relu()).sum((2, 3)), activations).relu()


@dataclass(frozen=True, slots=True)
class ShapleyCAM:
    """ShapleyCAM; its pass of its own keeps a graph of second derivatives."""

    layer: str | None = None

    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Cai, arXiv 2025"
    needs: ClassVar[str] = "1 forward, 2 backwards"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        from eigencam.tail import tail

        activations = forward.activations(self.layer)
        behind = tail(forward.module, self.layer or forward.layer, tuple(forward.images.shape[2:]))
        with evaluating(forward.module), torch.enable_grad():
            a = activations.to(forward.images.dtype).requires_grad_()
            score = logits_of(behind(a)).float().log_softmax(1).gather(1, targets[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, a, create_graph=True)
            (curvature,) = torch.autograd.grad((gradient * a.detach()).sum(), a)
        weights = (gradient.detach() - curvature / 2).float().mean((2, 3))
        return weighted_sum(weights, activations).relu()

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        from eigencam.tail import fault

        return fault(network.module, self.layer or network.layer, network.preprocess.shape)
