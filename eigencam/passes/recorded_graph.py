"""One forward pass and several backward passes: backward rules are chosen when the graph is traversed.

The graph of a network is recorded once. An operation that may have a rule records itself instead of its gradient, and
the rule is looked up during the backward pass: another set of rules is another backward pass through the same graph.
Gradients with respect to the attention weights, and the relevance of several rules, thus share one forward pass.

Rules are those of `eigencam.passes.backward`: they return an operation's output with another dependence on its inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.passes.attention import WEIGHTS, Attentive, of_images
from eigencam.passes.backward import Rule, halved, passed, ruled
from eigencam.passes.calls import differentiate, evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import ARGUMENTS, ELEMENTWISE, NORMALIZATIONS
from eigencam.passes.operations import Call, tensors
from eigencam.passes.precision import network_precision

VERSIONS = {"ways": 1}
"""Raised when a change here, in `eigencam.passes.attention` or in `eigencam.passes.operations` alters a number."""

SWITCHED = ELEMENTWISE | NORMALIZATIONS | {"conv2d", "linear", "matrix_product", "product", "softmax", "sum"}
"""Kinds of operations that may have a rule; all others use their own gradient."""


class RecordedGraph(Attentive):
    """A recorded pass; made by `record_graph`.

    Attributes:
        images: (N, C, H, W), where the graph begins.
        logits: (N, K), with the graph.
        attentions: (N, heads, T, T) weights of each block, as multiplied by the values, in the graph.
        streams: the tokens behind each block, in the graph: the last sum of two values before the next attention.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.images, self.logits = images, images
        self.attentions: list[Tensor] = []
        self.streams: list[Tensor] = []
        self._rules = _Rules()
        self._since: list[tuple[Call, Any]] = []
        self._gradients: tuple[Tensor, list[Tensor]] | None = None

    def attend(self, weights: Tensor, values: Tensor) -> None:
        """Keep the weights, and the stream that they were computed from."""
        if self.attentions:
            self._end_block()
        self.attentions.append(weights)
        self._since = []

    def compute(self, call: Call) -> Any:
        """Return the output, with the rule left open where there may be one."""
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in call.moving)
        out = _Open.apply(call, self._rules, *call.moving) if graph and call.kind in SWITCHED else call()
        if any(True for _ in tensors((out, {}))):
            self._since.append((call, out))
        return out

    def _end_block(self) -> None:
        count = self.attentions[-1].shape[-1] if self.attentions else 0
        sums = [k for k, (call, _) in enumerate(self._since) if call.kind == "sum" and _are_tokens(call.moving, count)]
        if sums:
            self.streams.append(self._since[sums[-1]][1])
            self._since = self._since[sums[-1] + 1 :]

    def weights(self) -> list[Tensor]:
        """Return the attentions as (N, heads, T, T). ValueError for another shape."""
        return [of_images(weights, len(self.images)) for weights in self.attentions]

    def gradients(self, targets: Tensor) -> list[Tensor]:
        """(N, heads, T, T) gradients of the targets' logits with respect to the attentions, cached per `targets`."""
        if self._gradients is None or self._gradients[0] is not targets:
            self._gradients = (targets, self.back(self.scores(targets), self.attentions))
        return [of_images(gradient, len(self.images)) for gradient in self._gradients[1]]

    def scores(self, targets: Tensor) -> Tensor:
        """(N,) logits of the targets, with the graph."""
        with torch.enable_grad():
            return self.logits.gather(1, targets[:, None].clone())[:, 0]

    def back(
        self,
        score: Tensor,
        inputs: Sequence[Tensor],
        rules: Mapping[str, Rule] | None = None,
        seed: Tensor | None = None,
    ) -> list[Tensor]:
        """Gradients with respect to tensors of the pass, by rules; zeros if none arrives.

        Args:
            score: any shape; without `seed`, its sum is differentiated.
            inputs: the tensors.
            rules: replace the operations' own gradients.
            seed: gradient of the result with respect to `score`, of its shape.
        """
        self._rules.current = rules or {}
        try:
            found = differentiate(score, inputs, seed, keep=True)
        finally:
            self._rules.current = {}
        return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]

    def logits_of(self, tokens: Tensor) -> Tensor:
        """(N, K) logits for other tokens in place of the last stream's, through the layers behind it.

        Raises:
            ValueError: the logits depend on more than the last stream's tokens.
        """
        made = {id(self.streams[-1]): tokens} if self.streams else {}
        for call, out in self._since:
            if not all(id(t) in made for t in call.moving):
                continue  # it does not depend on the stream, or not only on it
            with network_precision(tokens.device):
                again = call.of(*(made[id(t)] for t in call.moving))
            made |= {id(a): b for a, b in zip(tensors((out, {})), tensors((again, {})), strict=True)}
        if id(self.logits) not in made:
            raise ValueError(NO_STREAM)
        return made[id(self.logits)]


NO_STREAM = (
    "each block needs a score of its own, and the logits of this network depend on more than the last sum of two "
    "values (shortcut and block)"
)


@dataclass(slots=True)
class _Rules:
    """The rules of the current backward pass, in an object shared by graph and pass."""

    current: Mapping[str, Rule] = field(default_factory=dict)


class _Open(torch.autograd.Function):
    """An operation whose backward rule is looked up during the backward pass."""

    @staticmethod
    def forward(ctx: Any, call: Call, rules: _Rules, *_values: Tensor) -> Any:
        out = call()
        ctx.call, ctx.rules = call, rules
        ctx.out = out.detach()  # not the output itself, which would hold its own graph
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        call: Call = ctx.call
        (gradient,) = grads
        rule = ctx.rules.current.get(call.kind)
        direct = OWN.get(call.kind) if rule is None else DIRECT.get(rule) or getattr(rule, "direct", None)
        if direct is not None and _plain(call, gradient) and (found := direct(call, ctx.out, gradient)) is not None:
            return None, None, *found
        with torch.enable_grad(), network_precision(gradient.device):
            leaves = [t.detach().requires_grad_() for t in call.moving]
            again = call.on(*leaves)
            out = again() if rule is None else ruled(rule, again)
            found = torch.autograd.grad(out, leaves, gradient.to(out.dtype), allow_unused=True)
        return None, None, *(None if g is None else g.to(t.dtype) for g, t in zip(found, call.moving, strict=True))


def _plain(call: Call, gradient: Tensor) -> bool:
    """Whether an operation's factors are used without conversion or broadcasting."""
    same = len({gradient.dtype, *(t.dtype for t in tensors((call.args, call.kwargs)))}) == 1
    return same and (call.kind != "matrix_product" or len({t.shape[:-2] for t in call.moving}) == 1)


def _linear(call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    return (gradient @ call.named(("input", "weight"))["weight"],)


def _product(call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    a, b = call.moving
    return gradient @ b.transpose(-2, -1), a.transpose(-2, -1) @ gradient


def _softmax(call: Call, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...] | None:
    dim = call.named(("input", "dim")).get("dim")
    return None if dim is None else (torch.ops.aten._softmax_backward_data(gradient, out, dim, out.dtype),)


def _gelu(call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    (x,) = call.moving
    return (torch.ops.aten.gelu_backward(gradient, x, approximate=call.kwargs.get("approximate", "none")),)


def _convolution(call: Call, _out: Tensor, gradient: Tensor) -> tuple[Tensor, ...] | None:
    named = {**ARGUMENTS["conv2d"], **call.named(ARGUMENTS["conv2d"])}
    stride, padding, dilation = (named[key] for key in ("stride", "padding", "dilation"))
    if isinstance(padding, str) or len(call.moving) != 1:
        return None
    geometry = [[size] * 2 if isinstance(size, int) else list(size) for size in (stride, padding, dilation)]
    given = (gradient, call.moving[0], named["weight"].detach())
    mask = [True, False, False]
    found = torch.ops.aten.convolution_backward(*given, None, *geometry, False, [0, 0], named["groups"], mask)
    return (found[0],)


def _half(call: Call, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    a, b = call.moving
    if call.kind == "product":
        return tuple((gradient * other / 2).sum_to_size(x.shape) for x, other in ((a, b), (b, a)))
    return _product(call, out, gradient / 2)


def _passed(call: Call, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    (x,) = call.moving
    return (torch.where(x != 0, gradient * out / x, 0.0),)


Direct = Callable[[Call, Tensor, Tensor], tuple[Tensor | None, ...] | None]
"""Gradients of an operation's inputs, from the operation, its output and the output's gradient; None if the operation
was not called in this form.

A rule with an attribute `direct` of this form is computed by that function."""
OWN: Mapping[str, Direct] = {
    "conv2d": _convolution,
    "linear": _linear,
    "matrix_product": _product,
    "softmax": _softmax,
    "gelu": _gelu,
}
"""Gradients of operations that are too expensive to run again."""

DIRECT: Mapping[Rule, Direct] = {passed: _passed, halved: _half}
"""Gradients by rules, without a graph of their own."""


def _are_tokens(values: Sequence[Tensor], count: int) -> bool:
    """Whether all values are `count` tokens, as (N, T, C) or (T, N, C)."""
    return len({tuple(t.shape) for t in values}) == 1 and values[0].ndim == 3 and count in values[0].shape[:2]


def wide(x: Tensor) -> Tensor:
    """Convert to at least float32, for computations on values of a pass."""
    return x if x.dtype == torch.float64 else x.float()


def record_graph(module: nn.Module, images: Tensor) -> RecordedGraph:
    """Run a network once and record its graph with frozen parameters.

    Args:
        module: the network; its state is unchanged afterwards.
        images: (N, C, H, W), normalised.

    Raises:
        NetworkError: its forward pass fails.
        OutputError: it returns no logits.
    """
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        graph = RecordedGraph(x)
        with graph:
            graph.logits = network_logits(module, x)
        graph._end_block()
    return graph


def recorded_graphs(forward: Forward, targets: Tensor) -> Iterator[tuple[RecordedGraph, Tensor]]:
    """Yield the recorded pass of each part of a batch with its targets; at most `forward.chunk` images per part.

    A batch of one part is recorded once for all methods; a larger one part by part, so memory stays bounded.
    """

    def make(images: Tensor) -> RecordedGraph:
        made = record_graph(forward.module, images)
        forward.progress(len(images))
        return made

    if len(forward) <= forward.chunk:
        graph = forward.shared("recorded graph", lambda: make(forward.images))
        forward.shared(WEIGHTS, graph.weights)
        yield graph, targets
        return
    for images, some in zip(forward.images.split(forward.chunk), targets.split(forward.chunk), strict=True):
        yield make(images), some
