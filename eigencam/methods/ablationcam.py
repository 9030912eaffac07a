r"""Ablation-CAM (Ramaswamy & Desai, WACV 2020): channels weighted by the drop of the logit without them.

$\alpha_k = (f - f_{\setminus k}) / f$ with f the class's logit and $f_{\setminus k}$ the logit with channel k of the
activations set to zero. Only the layers behind the tapped one run again. If linear layers follow, the channels share a
matrix product (`eigencam.passes.ablation`): on VGG-16 or ResNet-50 a map costs about two forward passes in all.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.refusal import uncut
from eigencam.passes.ablation import logits_without
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class AblationCAM:
    """Ablation-CAM."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Ramaswamy & Desai, WACV 2020"
    needs: ClassVar[str] = "1 forward; C times what lies behind the layer"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        left = logits_without(forward, self.layer or forward.layer)  # (N, C, K)
        left = left.gather(2, targets[:, None, None].expand(-1, left.shape[1], 1))[:, :, 0]
        full = forward.logits.gather(1, targets[:, None])
        weights = torch.where(full != 0, (full - left) / torch.where(full != 0, full, 1.0), 0.0)
        return weighted_sum(weights, activations).relu()

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)
