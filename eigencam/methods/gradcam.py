r"""Grad-CAM and Grad-CAM++.

Grad-CAM (Selvaraju et al., ICCV 2017), with g the gradient of the class's logit with respect to the activations A:

$$\alpha_k = \operatorname{mean}_{x,y} g_k, \qquad L = \operatorname{ReLU}\Big(\sum_k \alpha_k A_k\Big)$$

Grad-CAM++ (Chattopadhay et al., WACV 2018), for the score exp(logit), eq. 19:

$$\alpha_k(x,y) = \frac{g_k^2}{2 g_k^2 + \sum_{ab} A_k(a,b)\, g_k^3} = \frac{1}{2 + g_k \sum_{ab} A_k(a,b)}, \qquad
  L = \operatorname{ReLU}\Big(\sum_k A_k \sum_{x,y} \alpha_k \operatorname{ReLU}(g_k)\Big)$$

With g^2 cancelled no epsilon is needed, and small gradients (a median g^2 of 5e-8 on ResNet-50) are not lost in
one. A denominator of zero is replaced by 1, as in the paper. The factor exp(logit) of dY/dA is omitted, since it scales
an image's whole map, and overflows.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class GradCAM:
    """Grad-CAM; `relu=False` keeps the negative evidence."""

    relu: bool = True
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Selvaraju et al., ICCV 2017"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative unless `relu` is off."""
        activations = forward.activations(self.layer)
        cam = weighted_sum(forward.gradients(targets, self.layer).mean((2, 3)), activations)
        return cam.relu() if self.relu else cam


@dataclass(frozen=True, slots=True)
class GradCAMPlusPlus:
    """Grad-CAM++."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Chattopadhay et al., WACV 2018"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations, gradients = forward.activations(self.layer), forward.gradients(targets, self.layer)
        return weighted_sum(plus_plus_weights(activations, gradients), activations).relu()


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """(N, h, w): sum over channels of (N, C) weights times (N, C, h, w) activations."""
    return torch.einsum("nc,nchw->nhw", weights, activations)


def plus_plus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """(N, C) weights of Grad-CAM++ from (N, C, h, w) activations and gradients."""
    denominator = 2 + gradients * activations.sum((2, 3), keepdim=True)
    denominator = torch.where(denominator == 0, 1.0, denominator)
    return (gradients.relu() / denominator).sum((2, 3))
