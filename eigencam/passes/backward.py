"""Backward passes to the image, with the backward rules of some operations replaced.

Under `relevance_rules` a network's forward pass records modified gradients: every operation of a kind that has a rule
(`conv2d`, `relu`, ...; see `eigencam.passes.operations`) is handled by it, whether a module, a function or an operator
calls it. No module is changed and no hook is set, so nothing has to be undone. Whether the rules suffice for a network
is not decided here but beforehand, from its trace (`eigencam.passes.trace`).

Rules are in gradient form: a rule returns the operation's output, with the same value but another dependence on the
input. With relevance R = x g for a value x with modified gradient g, sums (residual connections), concatenations and
average pooling need no rule: their own gradients distribute relevance proportionally.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.passes.calls import differentiate, evaluating, network_logits
from eigencam.passes.layer_items import hook_output
from eigencam.passes.operation_kinds import ARGUMENTS, ELEMENTWISE, LINEAR, SIGN_KEEPING
from eigencam.passes.operations import Call, Watch

VERSIONS = {"backward": 1}
"""Raised when a change here or in `eigencam.passes.operations` alters a number; see `eigencam.store.versions`."""

Rule = Callable[..., Tensor]
"""`(original, *args, **kwargs) -> Tensor`, called with the operation's arguments if `ARGUMENTS` has its kind; for other
kinds `(original, *values)` with the values of the image that it reads."""

ANY = "any"
"""Key for the rule of all nonlinear kinds that have no rule of their own."""


TIE = 2.0**-14
"""Values of a max-pool tie if they differ by less, relative to the input's largest."""

NO_GRADIENT = "no gradient of the logits reaches {}: the network's own forward pass cuts the graph, or does not use it"


class relevance_rules(Watch):  # noqa: N801 - a context manager, used as a function
    """Context in which operations on values from `images` use their rules, and nothing works in place."""

    def __init__(self, rules: Mapping[str, Rule], images: Tensor) -> None:
        super().__init__(images)
        self.rules = rules

    def perform(self, call: Call) -> Any:
        """Return the rule's output, or the operation's own."""
        rule = self.rules.get(call.kind)
        if rule is None and call.kind not in LINEAR and (rule := self.rules.get(ANY)) is not None:
            return rule(call.of, *call.moving)
        return call() if rule is None else ruled(rule, call)


def ruled(rule: Rule, call: Call) -> Any:
    """Return the output of the rule for the operation's kind."""
    if (defaults := ARGUMENTS.get(call.kind)) is not None:
        return rule(call.function, *({**defaults, **call.named(defaults)}.values()))
    return rule(call.of, *call.moving)


def gradients(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    rules: Mapping[str, Rule] | None = None,
    layer: str | None = None,
    by: Callable[[], Tensor] | None = None,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """The (modified) gradient of each image's class logit with respect to the image, or to a layer's output.

    Args:
        module: the network; its state is unchanged afterwards.
        images: (N, 3, H, W), normalised.
        targets: (N,) int64 classes.
        rules: replace the operations' own gradients.
        layer: the layer whose output to differentiate with respect to; None: the image.
        by: returns, after the forward pass, another tensor to differentiate with respect to.
        normalize: differentiate the logarithm of the logit's absolute value, so relevance sums to 1.

    Returns:
        The value and its gradient, each (N, C, h, w) float32.
    """
    kept: list[Tensor] = []
    x = images.detach().clone().requires_grad_()
    watch = relevance_rules(rules or {}, x)

    def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
        kept.append(watch.current(out))

    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if layer is not None:
            handle = hook_output(module, layer, keep)
            stack.callback(handle.remove)
        with watch if rules is not None else nullcontext():
            seen = x if rules is not None else x.clone()  # the network may work in place; a watch prevents that
            score = network_logits(module, seen).gather(1, targets[:, None].clone())
        variable = by() if by else kept[-1] if layer is not None else x
        seed = torch.where(score != 0, 1 / score, 0.0) if normalize else torch.ones_like(score)
        (gradient,) = differentiate(score, [variable], seed.detach())
    if gradient is None:
        raise ValueError(NO_GRADIENT.format(layer or "the image"))
    return variable.detach().float(), gradient.float()


def chunked(
    make: Callable[[Tensor, Tensor], Tensor], images: Tensor, targets: Tensor, chunk: int, tell: Callable[[int], None]
) -> Tensor:
    """`make(images, targets)` for at most `chunk` images at a time, concatenated."""
    parts = []
    for x, y in zip(images.split(chunk), targets.split(chunk), strict=True):
        parts.append(make(x, y))
        tell(len(x))
    return torch.cat(parts)


class _Entered(Exception):  # noqa: N818 - not an error, it ends a pass
    def __init__(self, entering: Tensor) -> None:
        self.entering = entering


def entering(module: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H', W') input of a network's first convolution for (N, 3, H, W) images, with its graph.

    For most networks it is the image itself; some pad it first, or normalise it again (GoogLeNet's `transform_input`).

    Raises:
        ValueError: the network has no convolution.
    """

    def stop(_original: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        raise _Entered(x)

    try:
        with ExitStack() as stack:
            stack.enter_context(evaluating(module))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(relevance_rules({"conv2d": stop}, images))
            module(images)
    except _Entered as found:
        return found.entering
    raise ValueError("the network has no convolution")


def like(value: Tensor, through: Tensor) -> Tensor:
    """A tensor with the value of `value` and the gradient of `through`, scaled to conserve relevance.

    The relevance R of `value` is distributed over the inputs of `through` in proportion to their contributions. The
    share of constants, such as a bias, is lost.
    """
    ratio = torch.where(through != 0, value / torch.where(through != 0, through, 1.0), 0.0).detach()
    scaled = through * ratio
    return scaled + (value - scaled).detach()


def guided_relu(original: Any, x: Tensor) -> Tensor:
    """Only positive gradients, and only where the input was positive (Springenberg et al., ICLR Workshops 2015).

    At an input of 0 the gradient is 0, as for `relu`, however the network writes its rectifier.
    """
    with torch.no_grad():
        value = original(x)
    through = torch.where((x > 0) & (x == value), x, 0.0)
    out = through + (value - through).detach()
    out.register_hook(lambda grad: grad.clamp(min=0))
    return out


def deconvnet_relu(original: Any, x: Tensor) -> Tensor:
    """Only positive gradients, whatever the input was (Zeiler & Fergus, ECCV 2014)."""
    out = x + (original(x) - x).detach()
    out.register_hook(lambda grad: grad.clamp(min=0))
    return out


def passed(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A sign-preserving function of one variable: relevance passes unchanged, even where its own gradient is 0.

    Also used for local response normalisation, whose divisor is treated as a constant.
    """
    return like(original(x, *args, **kwargs), x)


def halved(original: Any, a: Tensor, b: Tensor) -> Tensor:
    """A product of two values or matrices: each factor gets half of the relevance, in proportion to the products."""
    value = original(a, b)
    return value / 2 + (value / 2).detach()


class LinearRules:
    """Rules for convolutions and linear layers; a batch norm behind a convolution is merged into it.

    Args:
        rule_of: (kind, is_first) -> function that computes the output, `(op, x, weight, bias) -> Tensor`.
            `op(x, weight, bias)` applies the layer. `kind` is `conv2d`, `linear` or `batch_norm` (one without a
            convolution before it). `is_first` says whether the layer sees the image, or is the first convolution
            behind it.
    """

    def __init__(self, rule_of: Callable[[str, bool], Callable[..., Tensor]]) -> None:
        self.rule_of = rule_of
        self.first: tuple[Callable[..., Tensor], Tensor, Tensor, Tensor] | None = None
        """op, input, weight and output of the first convolution."""
        self._convolution: tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[Any, ...], bool] | None = None

    @property
    def rules(self) -> dict[str, Rule]:
        """Return the rules for `gradients`."""
        return {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "batch_norm": self._batch_norm,
            "local_response_norm": passed,
            **dict.fromkeys(SIGN_KEEPING, passed),
        }

    def _conv2d(self, _original: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
        first = self.first is None
        out = self._convolve(x, weight, bias, geometry, first)
        self._convolution = (out, x, weight, bias, geometry, first)
        return out

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...], first: bool
    ) -> Tensor:
        def op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv2d(x, weight, bias, *geometry)

        out = self.rule_of("conv2d", first)(op, x, weight, bias)
        if first:
            self.first = (op, x, weight, out)
        return out

    def _linear(self, _original: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.rule_of("linear", x.is_leaf)(F.linear, x, weight, bias)

    def _batch_norm(
        self,
        _original: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        _training: bool,
        _momentum: float,
        eps: float,
    ) -> Tensor:
        scale = (var + eps).rsqrt()
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale
        shift = shift if beta is None else shift + beta
        if self._convolution and self._convolution[0] is x:
            _, x, weight, bias, geometry, first = self._convolution
            merged = shift if bias is None else shift + bias * scale
            return self._convolve(x, weight * scale[:, None, None, None], merged, geometry, first)

        def op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out = x * weight[None, :, None, None]
            return out if bias is None else out + bias[None, :, None, None]

        return self.rule_of("batch_norm", x.is_leaf)(op, x, scale, shift)


def rescaled(original: Any, x: Tensor, *options: Any) -> Tensor:
    """A nonlinearity with the slope between the image (first half of the batch) and the reference (second half)."""
    out = original(x, *options)
    (x1, x0), (y1, y0) = x.detach().chunk(2), out.detach().chunk(2)
    difference = x1 - x0
    flat = difference.abs() < 1e-6
    slope = (y1 - y0) / torch.where(flat, 1.0, difference)
    slope = torch.cat([slope, slope])
    scaled = x * slope
    return torch.where(torch.cat([flat, flat]), out, scaled + (out - scaled).detach())


def rescaled_product(_original: Any, a: Tensor, b: Tensor) -> Tensor:
    """A product whose difference is shared by Shapley values: by the mean of the other factor's two values."""
    mean_a, mean_b = (torch.cat([(x1 + x0) / 2] * 2) for x1, x0 in (a.detach().chunk(2), b.detach().chunk(2)))
    through = a * mean_b + mean_a * b
    return through + (a * b - through).detach()


def rescaled_pool(original: Any, x: Tensor, *options: Any) -> Tensor:
    """A max-pool whose difference goes to the winners of the image and of the reference.

    Values that are equal up to rounding tie, and the first wins. The maps of a constant reference are constant except
    near the border, so their winners would otherwise depend on the CPU.
    """
    with torch.no_grad():
        out, step = original(x, *options), TIE * x.abs().amax((1, 2, 3), keepdim=True)
        _, winners = F.max_pool2d((x / step.where(step > 0, 1.0)).round(), *options[:-1], return_indices=True)
    (y1, y0), (w1, w0) = out.chunk(2), winners.chunk(2)
    x1, x0 = x.chunk(2)
    top = torch.maximum(y1, y0)
    parts = []
    for winner, gain in ((w1, top - y0), (w0, y1 - top)):
        mine, reference = (t.flatten(2).gather(2, winner.flatten(2)).view_as(winner) for t in (x1, x0))
        difference = (mine - reference).detach()
        flat = difference.abs() < 1e-6
        parts.append(mine * torch.where(flat, 0.0, gain / torch.where(flat, 1.0, difference)))
    through = parts[0] + parts[1]
    return torch.cat([y1 + (through - through.detach()), y0])


RESCALED: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, rescaled),
    "local_response_norm": rescaled,
    "max_pool2d": rescaled_pool,
    "product": rescaled_product,
}
"""DeepLIFT's rules by the kind of operation; see `eigencam.methods.relevance`."""
