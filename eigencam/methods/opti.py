r"""Opti-CAM: channel weights optimised by gradient steps for each image.

Opti-CAM (Zhang et al., CVIU 2024, arXiv 2301.07002) maximises the class's logit of the masked image, $f_c(X \odot M)$,
over u, where $\alpha = \operatorname{softmax}(u)$ and $M = s(U(\sum_k \alpha_k \operatorname{ReLU}(A_k)))$; U enlarges
to the image's size and s scales to 0..1. It takes `steps` steps of Adam with learning rate `rate` from u = 1/2. The map
is the sum of the channels weighted by alpha.

X is in 0..1 when it is masked, so hidden pixels are black, as in the authors' code (hanwei0912/OptiCAM@78339fa), which
normalises inside the network. That code checks after each 10 % of the steps whether the loss of the whole batch has
risen, and stops if it has; this check is omitted, so that a map depends only on its image. 50 steps at 0.1 are the
authors' settings for ImageNet. Each image is optimised alone, also on a GPU, since steps of Adam amplify the rounding
of a batch. A constant sum gives the mask 0; theirs divides 0 by 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.scorecam import unit
from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class OptiCAM:
    """Opti-CAM with `steps` of Adam."""

    steps: int = 50
    rate: float = 0.1
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # its gradients are with respect to u, not to the layer's output
    differentiates: ClassVar[str] = "image"
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhang et al., CVIU 2024"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"

    def __post_init__(self) -> None:
        at_least(self, 1, "steps")
        at_least(self, 0, "rate")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer).relu()
        with torch.inference_mode(False), torch.no_grad():
            parts = (part.clone().split(1) for part in (forward.images, activations, targets))
            weights = [self._ascend(forward, *alone) for alone in zip(*parts, strict=True)]
        return weighted_sum(torch.cat(weights), activations)

    def _ascend(self, forward: Forward, images: Tensor, maps: Tensor, targets: Tensor) -> Tensor:
        """(1, C) float32 softmax of the weights after the last step."""
        black, size = forward.black.to(images.dtype), tuple(images.shape[2:])
        with evaluating(forward.module), torch.enable_grad():
            u = torch.full(maps.shape[:2], 0.5, device=maps.device).requires_grad_()
            adam = torch.optim.Adam([u], lr=self.rate)
            for _ in range(self.steps):
                saliency = weighted_sum(u.softmax(1), maps)[:, None]
                masks = unit(F.interpolate(saliency, size, mode="bilinear", align_corners=False)[:, 0])[:, None]
                shown = black + masks.to(images.dtype) * (images - black)
                score = network_logits(forward.module, shown).float().gather(1, targets[:, None]).sum()
                adam.zero_grad()
                (-score).backward()
                adam.step()
                forward.progress(len(images))
        return u.detach().softmax(1)
