r"""Integrated Grad-CAM: Grad-CAM summed along the path from a black image.

Integrated Grad-CAM (Sattarzadeh et al., ICASSP 2021), as in the authors' notebook (smstrzd/IntegratedGradCAM@352ce07):
with $X_i = B + \frac{i}{n}(X - B)$, B the black image, and g the gradient of the class's logit with respect to the
activations A,

$$L = \frac{1}{n} \sum_{i=0}^{n-1} \operatorname{ReLU}\Big(\sum_k \operatorname{mean}_{xy} g_k(X_i)\, A_k(X_i)\Big)$$

These are left sums: the image itself is not among the points, and with one step the map is that of the black image. The
activations A are those of each point, not their difference from the black image's. The notebook does not divide by n.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.gradcam import GradCAM
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.smoothing import again
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class IntegratedGradCAM:
    """Integrated Grad-CAM with `steps` points."""

    steps: int = 50
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # its gradients are those of other images
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Sattarzadeh et al., ICASSP 2021"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"
    differentiates: ClassVar[str] = "layer"

    def __post_init__(self) -> None:
        at_least(self, 1, "steps")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        gradcam, total = GradCAM(layer=self.layer), torch.zeros((), device=forward.images.device)
        black = forward.black.to(forward.images.dtype)
        for step in range(self.steps):
            images = black + step / self.steps * (forward.images - black)
            total = total + gradcam(again(forward, images, gradcam), targets) / self.steps
        return total
