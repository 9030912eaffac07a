r"""LRP for transformers: AttnLRP, CP-LRP.

Layer-wise relevance (`eigencam.methods.relevance`) from the logit to the image, with rules for the nonlinear operations
of transformers. x is an operation's input, R the relevance of its output:

| operation | AttnLRP (Achtibat et al., ICML 2024) | CP-LRP (Ali et al., ICML 2022) |
|---|---|---|
| softmax s of attention | $R_x = x \odot (R - s \sum R)$ | none: the weights are constants |
| product of two matrices | in proportion to $a_i b_j$, half to each factor | all to the values |
| product of two values | half to each | refused: the operations do not show which one is the gate |
| LayerNorm, RMSNorm | the deviation is a constant, the rest linear | the same |
| activation (GELU, SiLU, ...) | all, element by element | the same |
| linear, convolution, sum, average | in proportion, $x_i w_{ij} / z_j$ (epsilon -> 0) | the same |

With R = x g, the map is the image times a modified gradient: the gradient of a softmax stays (it is the rule above),
that of a matrix product is halved, LayerNorm's deviation has none, and that of an activation f is $f(x) / x$. Both
methods share the one recorded pass of `eigencam.passes.recorded_graph`. As the authors state, $\epsilon$ is 0 in this
form, and biases keep their share.

The sum of a map. Every rule of CP-LRP passes on all relevance, so the map of a network without biases, class
token and position embedding sums to the logit; with these, it falls short by their shares. AttnLRP is *not*
conservative: over a row of the softmax $\sum R_x = \sum x \odot R - (\sum s \odot x) \sum R$, which is not $\sum R$ in
general (a Taylor expansion around x has a constant term, which no input gets). The sum of its map is not the logit.

`gamma_linear`, `gamma_conv`: the generalised gamma rule (Andéol et al. 2021) for linear layers and convolutions; 0 is
the rule above. LXT's example for torchvision's ViT is CP-LRP's attention with gamma, "to be tuned": it tries
0.1, 0.25 and 100 for convolutions and 0 to 1 for linear layers. `cp_lrp_gamma` uses 0.25 and 0.05 of these.

DeepLIFT and Excitation Backprop have no published rule for attention and LayerNorm, and refuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.refusal import attention
from eigencam.passes.backward import Rule, halved, like, passed
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import ARGUMENTS, LINEAR, MAXIMA, RECTIFIERS, SIGN_KEEPING
from eigencam.passes.operations import Call
from eigencam.passes.recorded_graph import RecordedGraph, recorded_graphs, wide

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Attention = Literal["attnlrp", "cp"]
ATTENTIONS: tuple[Attention, ...] = ("attnlrp", "cp")
ACTIVATIONS = RECTIFIERS | SIGN_KEEPING | frozenset(("gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid"))
NORMS = frozenset(("layer_norm", "rms_norm"))
FUSED = frozenset(
    ("multi_head_attention_forward", "scaled_dot_product_attention", "einsum of several values of the image")
)
"""Operations that are decomposed into products and a softmax before they are recorded."""

AFFINE = frozenset(("shift", "fill", "conv2d", "linear", "batch_norm"))
FOLLOWED = LINEAR | AFFINE | MAXIMA | ACTIVATIONS | NORMS | FUSED


@dataclass(frozen=True, slots=True)
class AttnLRP:
    """AttnLRP, or with `attention: cp` CP-LRP.

    Raises:
        ValueError: an unknown `attention`, or a gamma below 0.
    """

    attention: Attention = "attnlrp"
    gamma_linear: float = 0.0
    gamma_conv: float = 0.0

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Achtibat et al., ICML 2024; cp: Ali et al., ICML 2022"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "transformers whose self-attention is over all positions"
    differentiates: ClassVar[str] = "image"
    follows: ClassVar[frozenset[str]] = FOLLOWED | {"matrix_product", "softmax", "product"}

    def __post_init__(self) -> None:
        one_of(self, "attention", ATTENTIONS)
        at_least(self, 0, "gamma_linear", "gamma_conv")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed."""
        rules = self.rules()

        def made(graph: RecordedGraph, some: Tensor) -> Tensor:
            (gradient,) = graph.back(graph.scores(some), [graph.images], rules)
            return (wide(graph.images.detach()) * wide(gradient)).sum(1).float()

        with torch.inference_mode(False):
            return torch.cat([made(graph, some) for graph, some in recorded_graphs(forward, targets)])

    def rules(self) -> Mapping[str, Rule]:
        """The changes of the backward pass, by kind of operation."""
        rules: dict[str, Rule] = {
            **dict.fromkeys(ACTIVATIONS, passed),
            "layer_norm": _LayerNorm(),
            "rms_norm": _rms_norm,
            "product": halved,
            "matrix_product": halved if self.attention == "attnlrp" else _ToValues(),
        }
        for kind, gamma in (("linear", self.gamma_linear), ("conv2d", self.gamma_conv)):
            if gamma:
                rules[kind] = _Gamma(gamma)
        return rules

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on the network; "" if it can."""
        seen = attention(network)
        if seen.fault:
            return seen.fault
        if seen.apart:
            return "it has rules for products of matrices in attention, and the network has others"
        if self.attention == "cp" and "product" in seen.kinds:
            return "it has no rule for product: the operations do not show which factor is the gate, a constant"
        return ""


class _ToValues:
    """The weights are constants."""

    def __call__(self, original: Any, weights: Tensor, values: Tensor) -> Tensor:
        """The operation's output with the rule's gradient."""
        return original(weights.detach(), values)

    def direct(self, call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """None, and the gradient with respect to the values."""
        return None, call.moving[0].transpose(-2, -1) @ gradient


class _LayerNorm:
    """The deviation is a constant; the gradient is computed without a graph."""

    def __call__(
        self, original: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """The operation's output with the rule's gradient."""
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        through = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
        through = through if weight is None else through * weight
        return through + (original(x, shape, weight, bias, eps) - through).detach()

    def direct(self, call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor, ...] | None:
        """The gradient with respect to x."""
        named = {**ARGUMENTS["layer_norm"], **call.named(ARGUMENTS["layer_norm"])}
        shape, weight, eps = named["normalized_shape"], named["weight"], named["eps"]
        if len(call.moving) != 1:
            return None
        (x,), dims = call.moving, tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        scaled = gradient if weight is None else gradient * weight.detach()
        scaled = scaled * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
        return (scaled - scaled.mean(dims, keepdim=True),)


def _rms_norm(original: Any, x: Tensor) -> Tensor:
    return like(original(x), x)


@dataclass(frozen=True, slots=True)
class _Gamma:
    """Contributions with the output's sign count 1 + gamma times, including that of the bias, whose share is lost."""

    gamma: float

    def __call__(self, original: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        plain = original(x, weight, bias, *geometry)
        plus, minus, more, less = x.clamp(min=0), x.clamp(max=0), weight.clamp(min=0), weight.clamp(max=0)
        over, under = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
        up = original(plus, more, over, *geometry) + original(minus, less, None, *geometry)
        down = original(plus, less, under, *geometry) + original(minus, more, None, *geometry)
        return like(plain.detach(), plain + self.gamma * torch.where(plain > 0, up, down))
