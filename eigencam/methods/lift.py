r"""LIFT-CAM: channels weighted by their DeepLIFT contribution to the logit.

LIFT-CAM (Jung & Oh, ICCV 2021), with F the part behind the layer, A the layer's output and c the DeepLIFT contributions
of A to $F_c(A)$ with the reference 0 (Rescale rule, see `eigencam.methods.relevance`):

$$\alpha_k = \sum_{xy} c_k(x, y), \qquad L = \operatorname{ReLU}\Big(\sum_k \alpha_k A_k\Big), \qquad
  \sum_k \alpha_k = F_c(A) - F_c(0)$$

The $\alpha_k$ approximate the channels' Shapley values. In front of an average over the positions and a linear layer
they are exactly the classifier's weight times the channel's mean.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.refusal import uncut
from eigencam.passes.backward import RESCALED, chunked, gradients
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import AFFINE
from eigencam.passes.tail import tail

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class LIFTCAM:
    """LIFT-CAM."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # of its own
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Jung & Oh, ICCV 2021"
    needs: ClassVar[str] = "1 forward; 2 forwards and backwards of the part behind the layer"
    networks: ClassVar[str] = "that `torch.fx` can trace, whose nonlinearities DeepLIFT has a rule for"
    differentiates: ClassVar[str] = "layer"
    follows: ClassVar[frozenset[str]] = AFFINE | RESCALED.keys()

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        return weighted_sum(self.weights(forward, targets), activations).relu()

    def weights(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, C) float32, which sum to the logit minus that for zero activations."""
        layer = self.layer or forward.layer
        behind, reading = tail(forward.module, layer, tuple(forward.images.shape[2:])), forward.reading(layer)  # type: ignore[arg-type]

        def make(x: Tensor, y: Tensor) -> Tensor:
            both = reading.output(torch.cat([x, torch.zeros_like(x)])).to(forward.images.dtype)
            _, found = gradients(behind, both, y.repeat(2), rules=RESCALED)
            return (reading.maps(found[: len(x)]) * x).sum((2, 3))

        step = max(1, forward.chunk // 2)
        return chunked(make, forward.activations(layer), targets, step, forward.progress)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)
