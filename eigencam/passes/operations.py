"""A network's computation, operation by operation, whether a module, a function or an operator calls it.

A `Watch` sees every torch function that reads a value computed from the image, and determines its *kind* from name and
arguments: `nn.ReLU`, `x.clamp(min=0)`, `F.threshold(x, 0, 0)` and `torch.maximum(x, zeros)` are all `relu`. Rules and
refusals depend on the kind. A kind outside the sets of `eigencam.passes.operation_kinds` is unknown, and only a name or
phrase for messages.

Nothing works in place under a watch, so kept values do not change: an in-place operation works on a copy, which
replaces the tensor from then on. No module is changed and no hook is set.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from eigencam.passes.operation_kinds import ALIASES, ARGUMENTS, CONSTANT, IN_PLACE, KNOWN


@dataclass(slots=True)
class Call:
    """One operation that reads values of the image.

    Attributes:
        function: computes the output, out of place.
        name: name of the torch function, without a trailing underscore.
        args: as the network passed them.
        kwargs: as the network passed them.
        moving: the tensors among them that depend on the image, in order.
        kind: see the module.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    moving: tuple[Tensor, ...]
    kind: str = ""

    def __call__(self) -> Any:
        """Execute the operation with the network's arguments."""
        return self.function(*self.args, **self.kwargs)

    def named(self, names: Iterable[str]) -> dict[str, Any]:
        """The arguments by name."""
        return dict(zip(names, self.args)) | self.kwargs  # noqa: B905 - trailing arguments have defaults

    def on(self, *values: Tensor) -> "Call":
        """Return the same operation on other values instead of those that depend on the image."""
        new = iter(values)
        places = {id(t) for t in self.moving}
        args, kwargs = _mapped((self.args, self.kwargs), lambda t: next(new) if id(t) in places else t)
        return Call(self.function, self.name, args, kwargs, values, self.kind)

    def of(self, *values: Tensor) -> Any:
        """Return the output of the same operation on other values."""
        return self.on(*values)()


class Watch(TorchFunctionMode):
    """Context in which every operation on values of the image is seen; see the module.

    Args:
        images: (N, 3, H, W), the network's input.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.number = WeakTensorKeyDictionary({images: 0})
        self._now = WeakTensorKeyDictionary()

    def perform(self, call: Call) -> Any:
        """Return the output of an operation; subclasses may replace it."""
        return call()

    def note(self, call: Call, out: Tensor) -> int:
        """Called for each output of an operation; returns the number under which it is kept."""
        return 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function of its own."""
        name, kwargs = name_of(func), dict(kwargs or {})
        if len(self._now):
            args, kwargs = _mapped((args, kwargs), self.current)
        moving = tuple(t for t in tensors((args, kwargs)) if t in self.number)
        if not moving or name in CONSTANT:
            return func(*args, **kwargs)
        function, args, kwargs, target = _out_of_place(func, name, args, kwargs)
        call = Call(function, name if name.startswith("__") else name.rstrip("_"), tuple(args), kwargs, moving)
        call.kind = kind_of(call)
        out = self.perform(call)
        for one in tensors((out, {})):
            if one not in self.number:
                self.number[one] = self.note(call, one)
        if target is not None and out is not target:
            self._now[target] = out
        return None if name == "__setitem__" else out

    def current(self, value: Tensor) -> Tensor:
        """Return what a tensor has become through in-place operations."""
        while value in self._now:
            value = self._now[value]
        return value


def name_of(func: Any) -> str:
    """Return the name of a torch function; for an attribute, such as `x.mT`, the attribute's."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(func.__self__, "__name__", name)
    return f"torch.ops.{func}" if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket) else name


def tensors(arguments: tuple[Any, Mapping[str, Any]]) -> Iterator[Tensor]:
    """The tensors among arguments, in order, including those in lists and tuples."""
    positional, named = arguments
    waiting = [*(positional if isinstance(positional, list | tuple) else [positional]), *named.values()]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            waiting[:0] = one


CONVOLUTIONS = [f"{kind}{d}d" for kind in ("conv", "conv_transpose") for d in (1, 2, 3)]
NORMS = ["batch_norm", "layer_norm", "group_norm", "instance_norm"]
WITH_WEIGHTS = frozenset([*CONVOLUTIONS, *NORMS, "linear", "prelu", "bilinear", "grid_sample"])
"""Operations whose kind refers to their first argument; with the image in another argument their kind is different."""


def kind_of(call: Call) -> str:
    """Return the kind of an operation; see the module."""
    if "out" in call.kwargs and call.kwargs["out"] is not None:
        return f"{call.name} with out="
    if any(not t.is_floating_point() for t in call.moving):
        return f"{call.name} of truth values or whole numbers"
    if call.name in WITH_WEIGHTS and not any(call.named(("input",)).get("input") is one for one in call.moving):
        return f"{call.name} by the image's values"
    if classify := CLASSIFY.get(call.name):
        return classify(call)
    kind = ALIASES.get(call.name, call.name)
    several = len(call.moving) > 1 and kind in KNOWN
    return f"{call.name} of several values of the image" if several else kind


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(one, change) for one in value))
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, change) for one in value)
    return {key: _mapped(one, change) for key, one in value.items()} if type(value) is dict else value


def _out_of_place(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any], Any]:
    """A function that does not modify its arguments, its arguments, and the tensor that `func` would have modified."""
    if (form := _inplace_form(func)) is not None:
        bound = form.bind(*args, **kwargs)
        if not bound.arguments.get("inplace"):
            return func, args, kwargs, None
        bound.arguments["inplace"] = False
        return func, bound.args, bound.kwargs, bound.args[0]
    if name not in IN_PLACE and (name.startswith("__") or not name.endswith("_")):
        return func, args, kwargs, None

    def copied(value: Tensor, *rest: Any, **named: Any) -> Tensor:
        value = value.clone()
        func(value, *rest, **named)
        return value

    return copied, args, kwargs, args[0] if args else None


@lru_cache(maxsize=512)
def _inplace_form(func: Any) -> inspect.Signature | None:
    """The signature of a function with an argument `inplace`."""
    try:
        form = inspect.signature(func)
    except (ValueError, TypeError):  # written in C++
        return None
    return form if "inplace" in form.parameters else None


def _added(call: Call) -> str:
    return "shift" if len(call.moving) == 1 else "sum"


def _multiplied(call: Call) -> str:
    return "scale" if len(call.moving) == 1 else "product"


def _divided(call: Call) -> str:
    if len(call.moving) > 1:
        return "quotient"
    if call.kwargs.get("rounding_mode"):
        return "div with rounding"
    divided = call.named(("input", "other"))["input"]
    return "scale" if any(divided is one for one in call.moving) else "reciprocal"


def _bounded(call: Call) -> str:
    names = {"hardtanh": ("input", "min_val", "max_val"), "clamp_min": ("input", "min"), "clamp_max": ("input", "max")}
    named = call.named(names.get(call.name, ("input", "min", "max")))
    if call.name == "hardtanh":
        named = {"min": named.get("min_val", -1.0), "max": named.get("max_val", 1.0)}
    if len(call.moving) > 1:
        return "clamp between values of the image"
    low, high = _number(named.get("min")), _number(named.get("max"))
    low, high = -torch.inf if low is None else low, torch.inf if high is None else high
    if low == 0 < high:
        return "relu" if high == torch.inf else "relu6"
    return "hardtanh" if low < 0 <= high else "clamp"


def _threshold(call: Call) -> str:
    named = call.named(("input", "threshold", "value"))
    if named["threshold"] != named["value"]:
        return "threshold"
    return "relu" if named["value"] == 0 else "clamp"


def _leaky(call: Call) -> str:
    return "relu" if call.named(("input", "negative_slope")).get("negative_slope", 0.01) == 0 else "leaky_relu"


def _larger(call: Call) -> str:
    """`maximum` and `minimum` of two tensors, or `max` and `min` of one."""
    named = call.named(("input", "other"))
    pair = [one for one in (named.get("input"), named.get("other")) if isinstance(one, Tensor)]
    low = call.name in ("minimum", "min", "fmin", "amin")
    if len(pair) < 2:
        return "amin" if low else "amax"
    if len(call.moving) > 1:
        return f"{call.name} of several values of the image"
    (constant,) = (one for one in pair if all(one is not other for other in call.moving))
    return "minimum" if low else "relu" if _number(constant) == 0 else "maximum"


def _matrices(call: Call) -> str:
    """Distinguish products of two factors from the image from products with a constant."""
    return "matrix_product" if len(call.moving) == 2 else "matmul"


def _chosen(call: Call) -> str:
    condition = call.named(("condition",)).get("condition")
    return "where by the image's values" if any(condition is one for one in call.moving) else "fill"


def _dropped(call: Call) -> str:
    named = call.named(("input", "p", "training"))
    on = named.get("training", named.get("train", True)) and named.get("p", 0.5) > 0
    return f"{call.name} that is on in evaluation" if on else "same"


def _batch_norm(call: Call) -> str:
    if getattr(call.function, "__module__", "") != "torch.nn.functional":
        return "torch.batch_norm"
    named = call.named(ARGUMENTS["batch_norm"])
    of_batch = named.get("training") or named.get("running_mean") is None or named.get("running_var") is None
    return "batch_norm by the batch's statistics" if of_batch or len(call.moving) > 1 else "batch_norm"


def _padded(call: Call) -> str:
    named = call.named(("input", "pad", "mode", "value"))
    return "fill" if named.get("mode", "constant") == "constant" and named.get("value") else "pad"


def _joined(call: Call) -> str:
    named = call.named(("tensors",))
    return "cat" if len(named["tensors"]) == len(call.moving) else "fill"


def _rrelu(call: Call) -> str:
    return "rrelu that is random" if call.named(("input", "lower", "upper", "training")).get("training") else "rrelu"


def _number(value: Any) -> Any:
    """A bound as a number; NaN for a tensor with different values."""
    if not isinstance(value, Tensor):
        return value
    low, high = (float(v) for v in value.detach().aminmax()) if value.numel() else (torch.nan, torch.nan)
    return low if low == high else torch.nan


CLASSIFY: Mapping[str, Callable[[Call], str]] = {
    **dict.fromkeys(("add", "__add__", "__iadd__", "__radd__", "sub", "subtract", "rsub"), _added),
    **dict.fromkeys(("__sub__", "__isub__", "__rsub__"), _added),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__imul__", "__rmul__"), _multiplied),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__itruediv__", "__div__", "__idiv__"), _divided),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"), _bounded),
    **dict.fromkeys(("threshold", "_threshold"), _threshold),
    **dict.fromkeys(("maximum", "minimum", "max", "min", "fmax", "fmin", "amax", "amin"), _larger),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), _dropped),
    **dict.fromkeys(("feature_dropout", "feature_alpha_dropout"), _dropped),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "bmm", "mm"), _matrices),
    "leaky_relu": _leaky,
    **dict.fromkeys(("cat", "concat", "concatenate", "stack", "hstack", "vstack"), _joined),
    "where": _chosen,
    "batch_norm": _batch_norm,
    "pad": _padded,
    "rrelu": _rrelu,
}
"""Torch functions whose kind depends on the arguments."""
