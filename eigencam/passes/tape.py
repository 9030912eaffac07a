"""A record of one forward pass: which operation computed what from what.

Methods that track points back through a network read it. `eigencam.passes.operations` defines what an operation is and
its kind. Only values that a rule reads are kept: inputs of convolutions, linear layers and pools, and addends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.operation_kinds import ARGUMENTS, RECTIFIERS
from eigencam.passes.operations import Call, Watch

VERSIONS = {"tape": 1}
"""Raised when a change here or in `eigencam.passes.operations` alters a number; see `eigencam.store.versions`."""

OPERATIONS: Mapping[str, str] = {
    **{kind: kind for kind in ("conv2d", "linear", "batch_norm", "pad", "cat", "max_pool2d", "avg_pool2d")},
    **dict.fromkeys((*RECTIFIERS, "same", "shift", "reshape"), "same"),
    "mean": "mean",
    "sum": "add",
    "local_response_norm": "normalization",
}
"""The name that rules use for an operation, by its kind (`eigencam.passes.operations`)."""

SUMS = ("add", "__add__", "__iadd__", "__radd__")
NAMES: Mapping[str, tuple[str, ...]] = {
    "reshape": ("flatten", "view", "reshape", "squeeze"),
    "cat": ("cat", "concat", "concatenate"),
    "sum": SUMS,
    "shift": SUMS,
    "mean": ("mean",),
}
"""The names of the functions that have a rule, for each kind in which some functions have none."""

POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "ceil_mode")
UNKNOWN = "unknown"


@dataclass(slots=True)
class Step:
    """One operation.

    Attributes:
        operation: a value of `OPERATIONS`, `picture` for the pass's input, or `unknown`.
        name: name of the torch function.
        sources: the steps whose outputs it reads, in order.
        inputs: those of these outputs that are kept.
        shape: shape of its output.
        options: arguments, by name.
        shown: the value that later steps see instead of its output, if different.
    """

    operation: str
    name: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    inputs: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    shown: Tensor | None = None


class Tape(Watch):
    """The steps of a pass, recorded by `record`; step 0 is the image.

    Attributes:
        steps: the steps in order of execution.
        output: number of the step that computed the logits.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.steps = [Step("picture", "picture", (), tuple(images.shape))]
        self.output = 0

    def number_of(self, out: Tensor) -> int:
        """Return the step that computed a tensor. ValueError if none did."""
        if out not in self.number:
            raise ValueError("the network's output does not come from the image by functions of torch")
        return self.number[out]

    def ancestors(self) -> list[int]:
        """For each step, the set of steps that it depends on, including itself, as bits of an integer."""
        sets: list[int] = []
        for k, step in enumerate(self.steps):
            sets.append(1 << k)
            for source in step.sources:
                sets[k] |= sets[source]
        return sets

    def fault(self) -> str:
        """Return the operations without a rule on which the output depends; "" if there are none."""
        needed = self.ancestors()[self.output]
        names = {s.name for k, s in enumerate(self.steps) if needed >> k & 1 and s.operation == UNKNOWN}
        return f"it has no rule for {', '.join(sorted(names))}" if names else ""

    def note(self, call: Call, out: Tensor) -> int:
        """Add a step, except for operations that only change the image's colours."""
        sources = tuple(self.number[t] for t in call.moving)
        has_rule = call.name in NAMES.get(call.kind, (call.name,))
        operation = OPERATIONS.get(call.kind, UNKNOWN) if has_rule else UNKNOWN
        windowed = operation in ("conv2d", "linear", "max_pool2d", "avg_pool2d", "pad")
        if not windowed and not any(sources) and out.shape[-2:] == self.steps[0].shape[-2:]:
            return 0
        step = Step(operation, call.name, sources, tuple(out.shape))
        seen = tuple(_first(self.steps[k].shown, t) for t, k in zip(call.moving, sources, strict=True))
        DESCRIBE.get(operation, _nothing)(self, step, seen, call)
        self.steps.append(step)
        return len(self.steps) - 1


def record(module: nn.Module, images: Tensor) -> Tape:
    """Run a network once and record its operations.

    Raises:
        ValueError: its output depends on an operation without a rule, or does not come from the image.
    """
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        images = images.clone()
        tape = Tape(images)
        with tape:
            output = network_logits(module, images)
        tape.output = tape.number_of(output)
    if fault := tape.fault():
        raise ValueError(fault)
    return tape


def _first(shown: Tensor | None, out: Tensor) -> Tensor:
    return out if shown is None else shown


def _nothing(_tape: Tape, _step: Step, _seen: tuple[Any, ...], _call: Call) -> None:
    pass


def _conv2d(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    named = call.named(ARGUMENTS["conv2d"])
    weight = named["weight"]
    stride, dilation = (_pair(named.get(key, 1)) for key in ("stride", "dilation"))
    padding = named.get("padding", 0)
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    padding = _pair(0 if padding == "valid" else padding)
    step.inputs = seen[:1]
    step.options = {"weight": weight, "stride": stride, "padding": padding, "dilation": dilation}
    step.options |= {"groups": named.get("groups", 1), "negative": None}


def _linear(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    if len(step.shape) != 2:
        step.operation, step.name = UNKNOWN, "a linear layer of other than (N, C)"
        return
    step.inputs = seen[:1]
    step.options = {"weight": call.named(ARGUMENTS["linear"])["weight"]}


def _pool(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    step.inputs = seen[:1]
    if step.name == "adaptive_avg_pool2d":
        step.options = {"output_size": step.shape[2:]}
        return
    named = call.named(ARGUMENTS["max_pool2d"] if step.operation == "max_pool2d" else POOL_ARGUMENTS)
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    step.options = {key: named[key] for key in keys if named.get(key) is not None}


def _mean(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    dims = call.named(("input", "dim")).get("dim")
    if seen[0].ndim != 4 or not isinstance(dims, (list, tuple)) or sorted(d % 4 for d in dims) != [2, 3]:
        step.operation, step.name = UNKNOWN, "a mean of other than (N, C, h, w) over h and w"
        return
    step.operation, step.inputs, step.options = "avg_pool2d", seen[:1], {"output_size": (1, 1)}


def _batch_norm(tape: Tape, step: Step, _seen: tuple[Any, ...], call: Call) -> None:
    weight, before = call.named(ARGUMENTS["batch_norm"]).get("weight"), tape.steps[step.sources[0]]
    if weight is not None and before.operation == "conv2d":
        before.options["negative"] = weight < 0
    step.operation = "same"


def _reshaped(tape: Tape, step: Step, _seen: tuple[Any, ...], _call: Call) -> None:
    before = tape.steps[step.sources[0]].shape
    flat = len(before) == 4 and step.shape == (before[0], before[1] * before[2] * before[3])
    if step.shape != before and not flat:
        step.operation, step.name = UNKNOWN, f"{step.name} from {before} to {step.shape}"


def _normalization(_tape: Tape, step: Step, seen: tuple[Any, ...], _call: Call) -> None:
    step.operation, step.shown = "same", seen[0]


def _cat(tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    named = call.named(("tensors", "dim"))
    if named.get("dim", named.get("axis", 0)) % len(step.shape) != 1 or len(named["tensors"]) != len(seen):
        step.operation, step.name = UNKNOWN, "a concatenation of other than channels"
    step.options = {"channels": [tape.steps[k].shape[1] for k in step.sources]}


def _added(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    if any(tuple(t.shape) != step.shape for t in seen) or call.kwargs.get("alpha", 1) != 1:
        step.operation, step.name = UNKNOWN, "a sum of other than equal shapes"
    step.inputs = seen


def _padded(_tape: Tape, step: Step, seen: tuple[Any, ...], call: Call) -> None:
    named = call.named(("input", "pad", "mode"))
    sides = tuple(named["pad"])
    if named.get("mode", "constant") != "constant" or len(sides) > 4 or len(step.shape) != 4:
        step.operation, step.name = UNKNOWN, "a padding of other than constants around a map"
    left, _, top, _ = (*sides, 0, 0)[:4]
    step.options = {"before": (top, left), "size": tuple(seen[0].shape[2:])}


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values[0], values[-1]


DESCRIBE: Mapping[str, Callable[[Tape, Step, tuple[Any, ...], Call], None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "mean": _mean,
    "batch_norm": _batch_norm,
    "same": _reshaped,
    "normalization": _normalization,
    "cat": _cat,
    "add": _added,
    "pad": _padded,
}
"""By operation, the function that keeps a step's inputs and arguments, or makes it `unknown` if no rule fits."""
