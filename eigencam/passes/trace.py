"""The path from the image to the logits of a network, read from one pass: its operations, and where the graph ends.

Whether a method can follow a network is decided here from the operations that the network ran, not from the classes of
its modules. Two watches see every operation of a pass: one sees torch functions, the other what reaches the kernels.
An operation that only the second one sees (a scripted module) is unknown.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from eigencam.passes.attention import Attended, attended
from eigencam.passes.calls import (
    NetworkError,
    OutputError,
    differentiate,
    evaluating,
    fingerprint,
    logits_of,
    run_network,
)
from eigencam.passes.dispatch_mode import DispatchMode
from eigencam.passes.forward import forward_pass
from eigencam.passes.operation_kinds import CONSTANT, ELEMENTWISE, JUMPS, READINGS
from eigencam.passes.operations import Call, Watch, tensors
from eigencam.passes.precision import is_coarse
from eigencam.passes.readings import Reading

UNSEEN = "an operation that torch does not show (a scripted module?)"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the path from the image to the logits.

    Attributes:
        kind: see `eigencam.passes.operations`.
        name: name of the torch function.
        module: class name of the leaf module that ran it; "" for a function or an operator.
        cut: how the gradient ends here: `under torch.no_grad()`, `by detach`; "" if it passes.
    """

    kind: str
    name: str
    module: str = ""
    cut: str = ""

    @property
    def smooth(self) -> bool:
        """Whether the gradient describes how the output follows the input."""
        return not self.cut and self.kind not in JUMPS


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known about the path from the image to the logits.

    Attributes:
        operations: those that the logits or values taken out of torch depend on, each once, in order.
        unread: why the network's output has no logits; "" if it has some. Without logits, nothing else is known.
        unfollowed: why the operations are not everything that the network did; "" if they are.
        cut: where the network cuts the graph, so no gradient of the logits reaches the image; "" if one does.
    """

    operations: tuple[Operation, ...] = ()
    unread: str = ""
    unfollowed: str = ""
    cut: str = ""

    def without_rule(self, kinds: frozenset[str]) -> str:
        """Why a method with rules for these kinds cannot follow the network; "" if it can."""
        return _lacking(op.kind for op in self.operations if op.kind not in kinds or op.cut) or self.unfollowed

    def not_smooth(self) -> str:
        """Why a gradient does not describe how the logits follow the image; "" if it does."""
        return _lacking(op.kind for op in self.operations if not op.smooth) or self.unfollowed


def trace(module: nn.Module, images: Tensor) -> Trace:
    """Run a network and report its operations; cached while the network, its modules and the images' form are the same.

    The network runs twice: without the watches, for the gradient and the logits to compare with, and with them.

    Args:
        module: the network; its state is unchanged afterwards.
        images: (1, 3, H, W), normalised.

    Raises:
        NetworkError: its forward pass fails.
    """
    kept = _kept(module, images)
    if kept.trace is None:
        kept.trace = _traced(module, images)
    return kept.trace


def attention_of(module: nn.Module, images: Tensor) -> Attended:
    """Return the description of a network's attention (`eigencam.passes.attention`); cached like `trace`.

    Args:
        module: the network.
        images: (1, C, H, W), normalised.
    """
    kept = _kept(module, images)
    if kept.attention is None:
        kept.attention = attended(module, images)
    return kept.attention


@dataclass(slots=True)
class _Kept:
    """What is known about a network in one state."""

    state: tuple[object, ...]
    trace: Trace | None = None
    reached: dict[str, bool] = field(default_factory=dict)
    attention: Attended | None = None


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _kept(module: nn.Module, images: Tensor) -> _Kept:
    state = (tuple(images.shape), images.dtype, images.device, *fingerprint(module))
    if module not in _KEPT or _KEPT[module].state != state:
        _KEPT[module] = _Kept(state)
    return _KEPT[module]


def _traced(module: nn.Module, images: Tensor) -> Trace:
    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        output = run_network(module, x.clone())  # a clone: the network may work in place
        try:
            plain = logits_of(output, len(x))
        except OutputError as error:
            return Trace(unread=str(error))
        try:
            passes = differentiate(plain.sum(), [x])[0] is not None
        except NetworkError as error:
            return Trace((), "", f"its operations cannot be followed: {error}", str(error))
        reached, follower = _Reached(x), _Follower(x)
        follower.reached = reached.values
        try:
            with _callers(module, follower), reached, follower:
                logits = logits_of(run_network(module, x), len(x))
        except ValueError as error:
            return Trace((), "", f"its operations cannot be followed: {error}", "" if passes else _where_cut(()))
        operations = tuple(dict.fromkeys(step.operation for step in follower.path(logits)))
        unfollowed = _unfollowed(follower, logits, plain.detach())
    return Trace(operations, "", unfollowed, "" if passes else _where_cut(operations))


def _unfollowed(follower: "_Follower", logits: Tensor, plain: Tensor) -> str:
    if logits not in follower.number:
        return f"its logits come from {UNSEEN}" if logits in follower.reached else "its logits do not follow the image"
    if read := [follower.steps[k].operation.name for k in follower.always]:
        return f"it takes values out of torch ({', '.join(dict.fromkeys(read))})"
    if not bool(plain.isfinite().all()):
        return "its logits are not finite for an image of noise"
    tolerance = (5e-2 if is_coarse(logits.dtype) else 1e-3) * plain.abs().max()
    if not bool((logits.detach() - plain).abs().max() <= tolerance):
        return "a second pass of the same image gives other logits (something random, or a change of a view in place)"
    return ""


def _where_cut(operations: tuple[Operation, ...]) -> str:
    first = next((op for op in operations if op.cut), None)
    if first is None:
        return "its own forward pass cuts the graph"
    by = first.cut if first.cut == f"by {first.name}" else f"where {first.name} runs {first.cut}"
    module = f" (in {first.module})" if first.module else ""
    return f"its own forward pass cuts the graph {by}{module}"


def _lacking(kinds: Iterator[str]) -> str:
    names = sorted(dict.fromkeys(kinds))
    return f"it has no rule for {', '.join(names)}" if names else ""


def gradient_reaches(module: nn.Module, images: Tensor, layer: str, reading: Reading) -> bool:
    """Whether a gradient of the logits reaches a layer's output; cached like `trace`.

    Args:
        module: the network.
        images: (1, 3, H, W), normalised.
        layer: `named_modules()` path.
        reading: how the layer's output becomes a map.

    Raises:
        ValueError: the layer's output is no map, or a forward or backward pass fails.
    """
    reached = _kept(module, images).reached
    if layer not in reached:
        forward = forward_pass(module, images, layer, gradients=True, readings={layer: reading})
        reached[layer] = forward.reaches(torch.zeros(1, dtype=torch.long, device=images.device))
    return reached[layer]


@dataclass(frozen=True, slots=True)
class _Step:
    operation: Operation
    sources: tuple[int, ...]


class _Reached(DispatchMode):
    """Tracks which tensors depend on the image, below torch functions."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.values = WeakTensorKeyDictionary({images: True})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # the other watch has seen the call if it was a torch function
            out = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        if name not in CONSTANT and any(t in self.values for t in tensors((args, kwargs or {}))):
            for one in tensors((out, {})):
                self.values[one] = True
                if one._base is not None and func._schema.is_mutable:  # a write into a part changes the whole
                    self.values[one._base] = True
        return out


class _Follower(Watch):
    """Records the steps of a pass; step 0 is the image."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.steps = [_Step(Operation("image", "image"), ())]
        self.reached = WeakTensorKeyDictionary()
        self.module = ""
        self.always: list[int] = []
        self.without_graph: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the operation as `Watch` does; a value of unknown origin is a step of its own."""
        for one in tensors((args, kwargs or {})):
            if one not in self.number and one in self.reached:
                self.number[one] = self._add(Operation(UNSEEN, UNSEEN, self.module), (0,))
        return super().__torch_function__(func, types, args, kwargs)

    def perform(self, call: Call) -> Any:
        if call.name in READINGS and any(t.is_floating_point() for t in call.moving):
            cut = f"by {call.name}"
            self.always.append(self._add(Operation(call.name, call.name, self.module, cut), self._sources(call)))
        return call()

    def note(self, call: Call, out: Tensor) -> int:
        kind, cut = call.kind, ""
        if kind in ELEMENTWISE and out.shape != call.moving[0].shape:
            kind = f"{kind} of another shape"
        if not out.is_floating_point():
            kind = call.name
            cut = f"by {call.name}"
        elif any(t.requires_grad for t in call.moving) and not out.requires_grad:
            cut = f"by {call.name}" if torch.is_grad_enabled() else "under torch.no_grad()"
            kind = call.name if torch.is_grad_enabled() else f"{call.name} {cut}"
        k = self._add(Operation(kind, call.name, self.module, cut), self._sources(call))
        if not out.requires_grad:
            self.without_graph.add(k)
        return k

    def path(self, logits: Tensor) -> list[_Step]:
        """The steps that the logits depend on, and those that take values out of torch."""
        waiting, found = [*self.always, *([self._with_graph(logits)] if logits in self.number else [])], set[int]()
        while waiting:
            k = waiting.pop()
            if k and k not in found:
                found.add(k)
                waiting += self.steps[k].sources
        return [self.steps[k] for k in sorted(found)]

    def _sources(self, call: Call) -> tuple[int, ...]:
        return tuple(self._with_graph(t) for t in call.moving)

    def _with_graph(self, value: Tensor) -> int:
        """The step of a value. A value with a graph, but from a step without one, comes from an `autograd.Function`."""
        k = self.number[value]
        if k not in self.without_graph or value.grad_fn is None:
            return k
        inside, waiting, outside = set[int](), [k], set[int]()
        while waiting:
            one = waiting.pop()
            if one in self.without_graph:
                inside.add(one)
                waiting += [s for s in self.steps[one].sources if s not in inside]
            else:
                outside.add(one)
        name = f"the function {value.grad_fn.name().removesuffix('Backward')} of the network's own"
        self.number[value] = self._add(Operation(name, name, self.module), tuple(outside))
        return self.number[value]

    def _add(self, operation: Operation, sources: tuple[int, ...]) -> int:
        self.steps.append(_Step(operation, sources))
        return len(self.steps) - 1


@contextmanager
def _callers(module: nn.Module, follower: _Follower) -> Iterator[None]:
    """Tell the follower which leaf module is running."""

    def enter(inner: nn.Module, _args: object) -> None:
        follower.module = type(inner).__name__

    def leave(_inner: nn.Module, _args: object, _out: object) -> None:
        follower.module = ""

    with ExitStack() as stack:
        for inner in module.modules():
            if not any(inner.children()) and inner is not module and not isinstance(inner, torch.jit.ScriptModule):
                for handle in (inner.register_forward_pre_hook(enter), inner.register_forward_hook(leave)):
                    stack.callback(handle.remove)
        yield
