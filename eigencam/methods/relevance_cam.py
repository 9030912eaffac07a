r"""Relevance-CAM: channels weighted by the relevance that reaches them.

Relevance-CAM (Lee et al., CVPR 2021): with R the relevance of the layer's output A, propagated by LRP from 1 at the
class and $-1 / K$ at each of the other K - 1 outputs (so evidence shared by all classes counts little),

$$\alpha_k = \operatorname{mean}_{xy} R_k, \qquad L = \sum_k \alpha_k A_k$$

without a ReLU: the map is signed. It is meant for intermediate layers, too, where gradients are scattered.

The rule is LRP's z+ as in the authors' code (mongeoroo/Relevance-CAM@49b03bd): input i of a unit gets $(x_i w_{ij})^+
/ \sum (x w)^+$ of its relevance in a linear layer; in a convolution the bias is in the denominator, in both of the
code's terms, so twice; a batch norm passes its relevance on; pools, sums and concatenations share in proportion.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.relevance import FOLLOWED
from eigencam.passes.backward import NO_GRADIENT, Rule, chunked, like, passed, relevance_rules
from eigencam.passes.calls import differentiate, evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import hook_output
from eigencam.passes.operation_kinds import SIGN_KEEPING


@dataclass(frozen=True, slots=True)
class RelevanceCAM:
    """Relevance-CAM."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # it needs relevance, not the logit's gradient
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Lee et al., CVPR 2021"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "convolutional, with ReLUs or other activations that keep the sign"
    differentiates: ClassVar[str] = "layer"
    follows: ClassVar[frozenset[str]] = FOLLOWED | SIGN_KEEPING

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, signed."""
        layer = self.layer or forward.layer

        def make(x: Tensor, y: Tensor) -> Tensor:
            return forward.maps(contrastive_relevance(forward.module, x, y, layer), layer).mean((2, 3))

        weights = chunked(make, forward.images, targets, forward.chunk, forward.progress)
        return weighted_sum(weights, forward.activations(self.layer))


def contrastive_relevance(module: nn.Module, images: Tensor, targets: Tensor, layer: str) -> Tensor:
    """The relevance of a layer's output, in its form: from 1 at the class and -1 / K at each other of K outputs."""
    kept: list[Tensor] = []
    x = images.detach().clone().requires_grad_()
    watch = relevance_rules(RULES, x)
    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(hook_output(module, layer, lambda _m, _a, out: kept.append(watch.current(out))).remove)
        with watch:
            logits = network_logits(module, x)
        start = torch.full_like(logits, -1 / logits.shape[1]).scatter(1, targets[:, None].clone(), 1.0)
        seed = torch.where(logits != 0, start / torch.where(logits != 0, logits, 1.0), 0.0).detach()
        (gradient,) = differentiate((logits * seed).sum(), [kept[-1]])
    if gradient is None:
        raise ValueError(NO_GRADIENT.format(layer))
    return kept[-1].detach() * gradient


def _parts(op: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The sum of the positive products."""
    return op(x.clamp(min=0), weight.clamp(min=0)) + op(x.clamp(max=0), weight.clamp(max=0))


def _linear(original: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return like(original(x, weight, bias).detach(), _parts(F.linear, x, weight))


def _conv2d(original: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    through = _parts(lambda a, b: F.conv2d(a, b, None, *geometry), x, weight)
    if bias is not None:
        through = through + 2 * bias[:, None, None]
    return like(original(x, weight, bias, *geometry).detach(), through)


RULES: dict[str, Rule] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": passed,
    "local_response_norm": passed,
    **dict.fromkeys(SIGN_KEEPING, passed),
}
