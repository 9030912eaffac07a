r"""Relevance of attention: GAE, transformer attribution, LeGrad.

For block l, A_l (heads, T, T) are the attention weights by which the values are multiplied; y is the class's logit.

* GAE (Chefer et al., Generic Attention-model Explainability, ICCV 2021), for self-attention:
  $R_0 = I, \quad R_l = R_{l-1} + E_l R_{l-1}, \quad E_l = \operatorname{mean}_h \max(0, \nabla A_l \odot A_l)$.
* Transformer attribution (Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021): the
  same product $(I + E_L) \cdots (I + E_1)$ with $E_l = \operatorname{mean}_h \max(0, \nabla A_l \odot R^{A_l})$, where
  R^A is the relevance that arrives at the weights, from 1 at the class's logit, by these rules:

| operation | share of R for its inputs |
|---|---|
| linear | $(x_i w_{ij})^+ / \sum (x w)^+$ of it, without the bias |
| product of two matrices | each factor half of the share in proportion to $a_i b_j$ |
| sum of two values | in proportion; then both totals of an image are scaled to the ratio of their absolute values |
| softmax, normalisation, activation | all of it, element by element |

* LeGrad (Bousselham et al., 2024, arXiv 2404.03214): for each key, summed over the last `blocks` blocks,
  $\operatorname{mean}_{h,q} \max(0, \partial s_l / \partial A_l)$. s_l is the class's logit, computed not from the last
  block's tokens but from the mean token of block l, by the layers behind the last block (normalisation and head). The
  weights are not multiplied in.

The map of GAE and transformer attribution is a row of R - I, at the image's positions: that of the tokens that the head
reads. For a network with a class token this is the class token's row, as in the authors' codes; for one that pools its
tokens (not in these codes) it is the mean over the rows. The last block's gradient shows which applies: it is 0 in rows
that are not read. Rows are not divided by their sums (the authors' codes do this only in their plain rollout).

Relevance is in gradient form, R = x g (`eigencam.passes.backward`), on one recorded pass shared by all of these methods
(`eigencam.passes.recorded_graph`). The rule for sums needs the totals of each image; the authors' code takes them over
the batch and is correct only for one image at a time.

LeGrad's authors use CLIP's similarity for s_l and the last two blocks; `blocks: null` takes all. The tokens behind a
block are the last sum of two values (shortcut and block) before the next attention. torchcam's LeGrad is the same with
the mean over blocks in place of the sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.parameter_checks import at_least
from eigencam.methods.refusal import attention, probe
from eigencam.methods.relevance import z_plus
from eigencam.methods.rollout import tokens_of
from eigencam.passes.attention import NO_ATTENTION
from eigencam.passes.backward import Rule, halved, passed
from eigencam.passes.forward import Forward
from eigencam.passes.operations import Call
from eigencam.passes.recorded_graph import NO_STREAM, RecordedGraph, record_graph, recorded_graphs, wide

if TYPE_CHECKING:
    from eigencam.networks.network import Network

OF_TRANSFORMERS = "transformers whose self-attention is over all positions"
ACTIVATIONS = frozenset(("gelu", "relu", "silu", "tanh", "elu", "leaky_relu", "sigmoid", "hardswish", "relu6"))


@dataclass(frozen=True, slots=True)
class GAE:
    """Generic attention explainability, its rule for self-attention."""

    version = 1
    needs_gradient: ClassVar[bool] = False  # its gradients are not with respect to a layer's output
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Chefer et al., ICCV 2021"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = OF_TRANSFORMERS
    differentiates: ClassVar[str] = "image"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""

        def blocks(graph: RecordedGraph, some: Tensor) -> list[Tensor]:
            return [a.detach() for a in graph.weights()]

        return _rolled(forward, targets, blocks)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on the network; "" if it can."""
        return attention(network).fault


@dataclass(frozen=True, slots=True)
class TransformerAttribution:
    """Transformer attribution: gradients times relevance of the attention weights, multiplied over the blocks."""

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Chefer et al., CVPR 2021"
    needs: ClassVar[str] = "2 forwards, 2 backwards, the second with 3 times the products"
    networks: ClassVar[str] = OF_TRANSFORMERS
    differentiates: ClassVar[str] = "image"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""

        def blocks(graph: RecordedGraph, some: Tensor) -> list[Tensor]:
            score = graph.scores(some)
            seed = torch.where(score != 0, 1 / score, 0.0).detach()
            found = graph.back(score, graph.attentions, rules(len(some)), seed)
            return [a.detach() * g.view_as(a) for a, g in zip(graph.weights(), found, strict=True)]

        return _rolled(forward, targets, blocks)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on the network; "" if it can."""
        seen = attention(network)
        lacking = sorted(seen.kinds - rules(1).keys() - PROPORTIONAL)
        return seen.fault or (f"it has no rule for {', '.join(lacking)} behind the first attention" if lacking else "")


@dataclass(frozen=True, slots=True)
class LeGrad:
    """LeGrad over the last `blocks` blocks; None: all blocks.

    Raises:
        ValueError: `blocks` is below 1.
    """

    blocks: int | None = 2

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Bousselham et al., arXiv 2024"
    needs: ClassVar[str] = "2 forwards, a backward through one block for each of the blocks"
    networks: ClassVar[str] = f"{OF_TRANSFORMERS}, with a shortcut around each block"
    differentiates: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        at_least(self, 1, "blocks", null=True)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        parts = []
        with torch.inference_mode(False):
            for graph, some in recorded_graphs(forward, targets):
                parts.append(self._keys(graph, some))
        return _cells(forward, torch.cat(parts))

    def _keys(self, graph: RecordedGraph, targets: Tensor) -> Tensor:
        if not graph.attentions:
            raise ValueError(NO_ATTENTION)
        if len(graph.streams) != len(graph.attentions):
            raise ValueError(NO_STREAM)
        total = torch.zeros((), device=targets.device)
        for stream, weights in list(zip(graph.streams, graph.attentions, strict=True))[-(self.blocks or 0) :]:
            axis = 1 if stream.shape[0] == len(targets) else 0
            with torch.enable_grad():
                logits = graph.logits_of(stream.mean(axis, keepdim=True).expand_as(stream))
                score = logits.gather(1, targets[:, None].clone())
            (gradient,) = graph.back(score, [weights])
            total = total + wide(gradient).relu().reshape(len(targets), -1, *weights.shape[-2:]).mean((1, 2))
        return total

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on the network; "" if it can."""
        if fault := attention(network).fault:
            return fault
        try:
            self._keys(
                record_graph(network.module, probe(network)), torch.zeros(1, dtype=torch.long, device=network.device)
            )
        except ValueError as error:
            return str(error)
        return ""


def _rolled(forward: Forward, targets: Tensor, blocks: Callable[[RecordedGraph, Tensor], Sequence[Tensor]]) -> Tensor:
    """(N, h, w) float32: the row of R - I that the head reads, with R the product of all I + E_l; see the module.

    Args:
        forward: the batch.
        targets: (N,) classes.
        blocks: returns for each block what the gradient is multiplied by in E_l, (N, heads, T, T), for a recorded pass
            and its targets.
    """
    rows = []
    with torch.inference_mode(False):
        for graph, some in recorded_graphs(forward, targets):
            if not graph.attentions:
                raise ValueError(NO_ATTENTION)
            gradients = [wide(gradient) for gradient in graph.gradients(some)]
            read = _rows_read(gradients[-1])
            added = torch.zeros_like(read)  # the row of R - I, since adding I would cost small numbers their digits
            for relevance, gradient in reversed(list(zip(blocks(graph, some), gradients, strict=True))):
                added = added + ((read + added)[:, None] @ (gradient * wide(relevance)).relu().mean(1))[:, 0]
            rows.append(added)
    return _cells(forward, torch.cat(rows))


def _rows_read(gradient: Tensor) -> Tensor:
    """(N, T): equal weights, of sum 1, of the rows in which the last block's gradient (N, heads, T, T) is not 0."""
    read = (gradient != 0).any(3).any(1).to(gradient.dtype)
    return read / read.sum(1, keepdim=True).clamp(min=1)


def _cells(forward: Forward, tokens: Tensor) -> Tensor:
    """(N, h, w) float32 from (N, T), without tokens that have no position."""
    reading = tokens_of(forward.reading(), tokens.shape[1])
    return tokens.detach().float()[:, reading.front : reading.front + reading.cells].unflatten(1, reading.grid)


def rules(count: int) -> Mapping[str, Rule]:
    """Transformer attribution's rules for a pass of `count` images."""
    return {
        **dict.fromkeys((*ACTIVATIONS, "softmax", "layer_norm"), passed),
        "linear": _ZPlus(),
        "matrix_product": halved,
        "sum": lambda _original, a, b: _Shares.apply(a, b, 0 if a.shape[0] == count else 1),
    }


class _ZPlus:
    """`z_plus`; `direct` computes its gradient without a graph or the output: four matrix products instead of five."""

    def __call__(self, original: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The operation's output with the rule's gradient."""
        return z_plus(original, x, weight, bias)

    def direct(self, call: Call, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...] | None:
        """The gradient with respect to x, that of `z_plus` to the last bit; None if the weight depends on the image."""
        if len(call.moving) != 1:
            return None
        (x,), weight = call.moving, call.named(("input", "weight"))["weight"].detach()
        more, less = weight.clamp(min=0), weight.clamp(max=0)
        through = F.linear(x.clamp(min=0), more) + F.linear(x.clamp(max=0), less)
        shared = gradient * torch.where(through != 0, out / torch.where(through != 0, through, 1.0), 0.0)
        return (torch.where(x >= 0, shared @ more, 0.0) + torch.where(x <= 0, shared @ less, 0.0),)


PROPORTIONAL = frozenset(("same", "reshape", "scale", "mean", "cat"))
"""Operations whose own gradient distributes relevance proportionally."""


class _Shares(torch.autograd.Function):
    """A sum of two values; each gets, per image, relevance in proportion to the absolute value of its total."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.axis = axis
        return a + b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b = ctx.saved_tensors
        (gradient,) = grads
        others = [k for k in range(a.ndim) if k != ctx.axis]
        first, second = ((x * gradient).sum(others, keepdim=True) for x in (a, b))
        size = first.abs() + second.abs()
        scale = torch.where(size != 0, (first + second) / torch.where(size != 0, size, 1.0), 0.0)
        return gradient * scale * first.sign(), gradient * scale * second.sign(), None
