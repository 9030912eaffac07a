r"""ShapleyCAM (Cai 2025, arXiv 2501.06261): Grad-CAM with a second-order term of the score.

$\alpha_k = \operatorname{mean}_{xy}(g - \tfrac12 H A)_k$ with g and H the first and second derivatives of the score
with respect to the activations A, $L = \operatorname{ReLU}(\sum_k \alpha_k A_k)$. Logits of a ReLU network are
piecewise linear: their H is 0, and the method is Grad-CAM (`score: logit`). The paper's score ReST, the logit plus the
logarithm of the softmax probability, has a nonzero H.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import one_of
from eigencam.passes.backward import chunked
from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import hook_output

Score = Literal["rest", "logit"]


SCORES: tuple[Score, ...] = ("rest", "logit")


@dataclass(frozen=True, slots=True)
class ShapleyCAM:
    """ShapleyCAM; its own pass keeps a graph of second derivatives."""

    score: Score = "rest"
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of the logit
    differentiates: ClassVar[str] = "layer"
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Cai, arXiv 2025"
    needs: ClassVar[str] = "2 forwards, 2 backwards"

    def __post_init__(self) -> None:
        one_of(self, "score", SCORES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""

        def make(x: Tensor, y: Tensor) -> Tensor:
            taylor = self._taylor(forward.module, x, y, self.layer or forward.layer)
            return forward.maps(taylor, self.layer).mean((2, 3))

        weights = chunked(make, forward.images, targets, forward.chunk, forward.progress)
        return weighted_sum(weights, forward.activations(self.layer)).relu()

    def _taylor(self, module: nn.Module, images: Tensor, targets: Tensor, layer: str) -> Tensor:
        """Return g - H A / 2 in the form of the layer's output."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
            kept.append(out if out.requires_grad else out.detach().requires_grad_())
            return kept[-1].clone()

        with ExitStack() as stack:
            stack.enter_context(evaluating(module))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the others have no second derivative
            handle = hook_output(module, layer, keep)
            stack.callback(handle.remove)
            logits = network_logits(module, images.clone()).float()
            score = logits.log_softmax(1) + logits if self.score == "rest" else logits
            (gradient,) = torch.autograd.grad(
                score.gather(1, targets[:, None].clone()).sum(), kept[-1], create_graph=True
            )
            if not gradient.requires_grad:  # linear behind the layer
                return gradient
            product = (gradient * kept[-1].detach()).sum()
            (curvature,) = torch.autograd.grad(product, kept[-1], allow_unused=True)
        return gradient.detach() if curvature is None else gradient.detach() - curvature / 2
