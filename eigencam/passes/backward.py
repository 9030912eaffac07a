"""Passes back to the picture, with the backward rules of some operations replaced.

Under `relevance_rules` a network's forward pass records other gradients: every call of an operation that has a rule
(`conv2d`, `relu`, ...) goes to it, whether a module or the network's own forward function makes it. No module is
changed and no hook is set, so nothing has to be undone.

Rules come in gradient form: a rule makes the operation's output, of the same value, but with another dependence on the
input. With relevance R = x g of a value x whose modified gradient is g, sums (residual connections), concatenations and
average pooling need no rule: their own gradients share relevance in proportion.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eigencam.passes.hooks import evaluating, logits_of

VERSIONS = {"backward": 1}
"""Raised when a change here moves a number; see `eigencam.versions`."""

Rule = Callable[..., Tensor]
"""`(original, *args, **kwargs) -> Tensor`, called as the operation is."""

OPERATIONS: Mapping[str, str] = {
    **{name: name for name in ("conv2d", "linear", "batch_norm", "local_response_norm", "max_pool2d")},
    **dict.fromkeys(("relu", "relu_", "relu6", "hardtanh", "hardtanh_"), "relu"),
    "boolean_dispatch.<locals>.fn": "max_pool2d",
}
"""Functions of torch by name, and the operation that each is."""


class relevance_rules(TorchFunctionMode):  # noqa: N801 - a context manager, used as a function
    """Context in which operations go to their rules, and nothing works in place."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function of its own."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        if name in ("add_", "__iadd__", "mul_", "__imul__"):
            func = torch.add if "add" in name else torch.mul
        elif name == "relu_":
            func = torch.relu
        if rule := self.rules.get(OPERATIONS.get(name, "")):
            return rule(func, *args, **kwargs)
        return func(*args, **kwargs)


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
    """The (modified) gradient of each picture's class logit by the picture, or by a layer's output.

    Args:
        module: the network; its state is as before when this returns.
        images: (N, 3, H, W), normalised.
        targets: (N,) int64 classes.
        rules: in place of operations' own gradients.
        layer: by whose output; None: by the picture.
        by: tells, after the forward pass, another tensor to differentiate by.
        normalize: of the logarithm of the logit's absolute value, so that relevance sums up to 1.

    Returns:
        The value and its gradient, each (N, C, h, w) float32.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
        kept.append(out)

    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        x = images.detach().clone().requires_grad_()
        if layer is not None:
            handle = module.get_submodule(layer).register_forward_hook(keep)
            stack.callback(handle.remove)
        if rules is not None:
            stack.enter_context(relevance_rules(rules))
        score = logits_of(module(x)).gather(1, targets[:, None].clone())
        of = by() if by else kept[-1] if layer is not None else x
        seed = torch.where(score != 0, 1 / score, 0.0) if normalize else torch.ones_like(score)
        (gradient,) = torch.autograd.grad(score, of, seed.detach())
    return of.detach().float(), gradient.float()


def chunked(
    make: Callable[[Tensor, Tensor], Tensor], images: Tensor, targets: Tensor, chunk: int, tell: Callable[[int], None]
) -> Tensor:
    """`make(images, targets)` of at most `chunk` pictures at a time, joined."""
    parts = []
    for x, y in zip(images.split(chunk), targets.split(chunk), strict=True):
        parts.append(make(x, y))
        tell(len(x))
    return torch.cat(parts)


class _Entered(Exception):  # noqa: N818 - no error, it ends a pass
    def __init__(self, entering: Tensor) -> None:
        self.entering = entering


def entering(module: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H', W') what a network's first convolution sees of (N, 3, H, W) pictures, with its graph.

    Most see the picture itself; some pad it first, or normalise it in another way (GoogLeNet's `transform_input`).

    Raises:
        ValueError: the network has no convolution.
    """

    def stop(_original: Any, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        raise _Entered(x)

    try:
        with evaluating(module), torch.inference_mode(False), torch.enable_grad(), relevance_rules({"conv2d": stop}):
            module(images)
    except _Entered as found:
        return found.entering
    raise ValueError("the network has no convolution")


def like(value: Tensor, through: Tensor) -> Tensor:
    """A tensor with the value of `value` and the gradient of `through`, scaled so that relevance is conserved.

    For relevance R of `value`, the inputs of `through` get it in proportion to what they add to `through`.
    """
    ratio = torch.where(through != 0, value / torch.where(through != 0, through, 1.0), 0.0).detach()
    scaled = through * ratio
    return scaled + (value - scaled).detach()


def guided_relu(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Only positive gradients, and only where the input was positive (Springenberg et al., ICLR Workshops 2015)."""
    out = original(x, *args, **kwargs)
    out.register_hook(lambda grad: grad.clamp(min=0))
    return out


def deconvnet_relu(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Only positive gradients, whatever the input was (Zeiler & Fergus, ECCV 2014)."""
    out = x + (original(x, *args, **kwargs) - x).detach()
    out.register_hook(lambda grad: grad.clamp(min=0))
    return out


def fixed_normalization(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Local response normalisation with its divisor taken as a constant."""
    return like(original(x, *args, **kwargs), x)


class LinearRules:
    """Rules for convolutions and linear layers, with a batch norm behind a convolution merged into it.

    Args:
        rule_of: (kind, is_first) -> what makes the output: `(op, x, weight, bias) -> Tensor`, where `op(x, weight,
            bias)` applies the layer, `kind` is `conv2d`, `linear` or `batch_norm` (one without a convolution before
            it) and `is_first` tells whether the layer sees the picture, or is the first convolution behind it.
    """

    def __init__(self, rule_of: Callable[[str, bool], Callable[..., Tensor]]) -> None:
        self.rule_of = rule_of
        self.first: tuple[Callable[..., Tensor], Tensor, Tensor, Tensor] | None = None
        """op, input, weight and output of the first convolution."""
        self._convolution: tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[Any, ...], bool] | None = None

    @property
    def rules(self) -> dict[str, Rule]:
        """For `gradients`."""
        return {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "batch_norm": self._batch_norm,
            "local_response_norm": fixed_normalization,
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

    def _batch_norm(self, _original: Any, x: Tensor, mean: Tensor, var: Tensor, **options: Any) -> Tensor:
        scale = (var + options["eps"]).rsqrt()
        scale = scale if options.get("weight") is None else scale * options["weight"]
        shift = -mean * scale
        shift = shift if options.get("bias") is None else shift + options["bias"]
        if self._convolution and self._convolution[0] is x:
            _, x, weight, bias, geometry, first = self._convolution
            merged = shift if bias is None else shift + bias * scale
            return self._convolve(x, weight * scale[:, None, None, None], merged, geometry, first)

        def op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out = x * weight[None, :, None, None]
            return out if bias is None else out + bias[None, :, None, None]

        return self.rule_of("batch_norm", x.is_leaf)(op, x, scale, shift)
