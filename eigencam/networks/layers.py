"""Which layers of a network are maps, how they are read, and which layer a map is made from by default.

One pass of nine inputs determines this. The operations that produced a module's output propose a reading
(`eigencam.passes.proposed_readings`), and a stimulus that moves over the input tests it
(`eigencam.passes.moving_stimulus`). If the operations are inconclusive, the stimulus alone decides. If the stimulus is
inconclusive, the operations decide, and the reading is marked `undecided`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eigencam.passes import moving_stimulus as moving
from eigencam.passes.calls import evaluating, named_logits, run_network
from eigencam.passes.following import Positions
from eigencam.passes.layer_items import items, module_path
from eigencam.passes.moving_stimulus import Stimulus, Verdict
from eigencam.passes.position_rules import tensors
from eigencam.passes.proposed_readings import PARAMETERS, WINDOWS, layout
from eigencam.passes.readings import CHANNELS_FIRST, CHANNELS_LAST, Layout, Reading

LIST = "`eigencam layers MODEL` lists a network's layers"
SCRIPTED = "it is scripted or traced by torch.jit, and what it returns cannot be observed"
MOST_NAMED = 6
"""Maximum number of an output's items that a message names."""
State = Literal["follows", "undecided", "unknown", "none", "several"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer's output.

    Attributes:
        layer: `named_modules()` path, and the position in the module's output (`eigencam.passes.layer_items`).
        shape: shape of the output for one image, without the batch axis.
        reading: how it becomes a map; None: it is not a map.
        state: `follows`: a moved stimulus moves in the reading; `undecided`: only the operations support it; `unknown`:
            the reading is not known; `none`: it is not a map; `several`: its items, `layer:0`, are findings themselves.
        score: score of the reading, at most 1; NaN if the stimulus is inconclusive.
        reason: why it is not a map, or undecided.
        values: ids of the output's tensors in the pass; equal for modules that return the same tensor.
        reads: ids of the module's input tensors.
    """

    layer: str
    shape: tuple[int, ...]
    reading: Reading | None = None
    state: State = "none"
    score: float = float("nan")
    reason: str = ""
    values: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """All layers of a network.

    Attributes:
        findings: the findings by layer, in the order of the layers' last execution.
        through: ids of the tensors that all paths from the image to the output pass through.
        size: (height, width) of the input.
        channels: number of channels of the input.
    """

    findings: Mapping[str, Finding]
    through: frozenset[int] = field(repr=False)
    size: tuple[int, int]
    channels: int = 3

    def feeds(self, found: Finding) -> list[str]:
        """The modules that take a layer's output as input, without those inside another of them."""
        given = [f.layer for f in self.findings.values() if not set(found.values).isdisjoint(f.reads)]
        apart = [name for name in given if not _within(found.layer, name) and not _within(name, found.layer)]
        return [name for name in apart if not any(_within(name, other) for other in apart if other != name)]


def _within(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def examine(module: nn.Module, size: tuple[int, int], channels: int = 3) -> Examined:
    """Read every layer of a network in one pass of nine inputs.

    Args:
        module: the network.
        size: (height, width) of its input.
        channels: number of channels of its input.
    """
    stimulus = Stimulus.make(channels, size)
    like = next(module.parameters(), stimulus.batch)
    with evaluating(module), torch.inference_mode(False), torch.no_grad():  # leaving inference mode enables gradients
        batch = stimulus.batch.to(like.device, like.dtype)
        positions = Positions(batch)
        scripted = (name for name, m in module.named_modules() if name and isinstance(m, torch.jit.ScriptModule))
        findings = {name: Finding(name, (), reason=SCRIPTED) for name in scripted}
        reads: dict[str, tuple[int, ...]] = {}

        def enter(layer: str, given: Any) -> None:
            reads[layer] = tuple(n for t in tensors(given) if (n := positions.number(t)) is not None)

        def see(layer: str, out: Any) -> None:
            parts = dict(items(out, layer))
            given = reads.pop(layer, ())
            for name in [n for n in findings if module_path(n) == layer]:
                del findings[name]
            if layer not in parts:
                findings[layer] = replace(_several(layer, out, parts, positions), reads=given)
            for name, one in parts.items():
                if one.is_floating_point() or name == layer:
                    findings[name] = replace(_finding(name, one, positions, stimulus, size), reads=given)

        with watched(module, see, enter), _slow_attention(), positions:
            output = run_network(module, batch)
    logits = named_logits(output)
    ends = tensors(output if logits is None else logits)
    numbers = [n for t in ends if (n := positions.number(t)) is not None]
    return Examined(findings, frozenset(passed_through(positions.sources, numbers)), size, channels)


def _several(layer: str, out: Any, parts: Mapping[str, Tensor], positions: Positions) -> Finding:
    """The finding for an output that is not one tensor: what it contains."""
    named = ", ".join(list(parts)[:MOST_NAMED]) + (", ..." if len(parts) > MOST_NAMED else "")
    reason = f"it returns {type(out).__name__}, not one tensor" + (f"; name one of {named}" if parts else "")
    numbers = (positions.number(t) for t in parts.values() if t.is_floating_point())
    return Finding(layer, (), state="several", reason=reason, values=tuple(n for n in numbers if n is not None))


def _finding(layer: str, out: Tensor, positions: Positions, stimulus: Stimulus, size: tuple[int, int]) -> Finding:
    number = positions.number(out) if out.is_floating_point() else None
    values = () if number is None else (number,)
    inputs, shape = len(stimulus.batch), tuple(out.shape)
    if shape[:1] != (inputs,):
        reason = (layout(positions.axes(out), shape, size).reason or WINDOWS) if values else PARAMETERS
        return Finding(layer, shape[1:], reason=reason, values=values)
    proposed = layout(positions.axes(out), shape, size)
    if proposed.reason:
        return Finding(layer, shape[1:], reason=proposed.reason, values=values)
    if proposed.reading is None:
        verdict = moving.search(stimulus, out, size[0] / size[1])
        state: State = "follows" if verdict.reading else "unknown"
        return Finding(layer, shape[1:], verdict.reading, state, verdict.score, verdict.reason, values)
    return _checked(
        Finding(layer, shape[1:], values=values), proposed.reading, moving.check(stimulus, out, proposed.reading)
    )


def _checked(finding: Finding, reading: Reading, verdict: Verdict) -> Finding:
    if verdict.reason:
        return replace(finding, score=verdict.score, reason=verdict.reason)
    if verdict.reading:
        return replace(finding, reading=reading, state="follows", score=verdict.score)
    return replace(finding, reading=reading, state="undecided", score=verdict.score, reason="no response that moves")


def passed_through(sources: Sequence[Sequence[int]], ends: Sequence[int]) -> Iterator[int]:
    """The values that all paths from value 0 to the ends pass through; `sources` in the order of execution."""
    needed = set(ends)
    for value in range(len(sources) - 1, -1, -1):
        if value in needed:
            needed.update(sources[value])
    last_use = dict.fromkeys(needed, -1)
    for value in sorted(needed):
        for source in sources[value]:
            last_use[source] = value
    for end in ends:
        last_use[end] = len(sources)
    furthest = -1
    for value in sorted(needed):
        if furthest <= value and (not ends or value <= min(ends)):
            yield value
        furthest = max(furthest, last_use[value])


@contextmanager
def watched(
    module: nn.Module, see: Callable[[str, Any], Any], enter: Callable[[str, Any], None] = lambda _layer, _given: None
) -> Iterator[None]:
    """Watch every module by name, except the network itself and scripted ones, which take no hooks.

    Args:
        module: the network.
        see: called with each output; its result, unless None, replaces the output.
        enter: called with each input, before the module.
    """
    hooks = []
    for name, inner in module.named_modules():
        if name and not isinstance(inner, torch.jit.ScriptModule):
            hooks.append(inner.register_forward_pre_hook(lambda _m, given, name=name: enter(name, given)))
            hooks.append(inner.register_forward_hook(lambda _m, _given, out, name=name: see(name, out)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Run attention as separate operations: inside the fused one of `nn.MultiheadAttention` nothing can be observed."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def reading_of(
    examined: Examined, layer: str, name: str, reshape: Layout | None = None, prefix_tokens: int | None = None
) -> Reading:
    """How a layer's output becomes a map.

    Args:
        examined: the network's layers.
        layer: `named_modules()` path.
        name: name of the network.
        reshape: the requested layout.
        prefix_tokens: the requested number of tokens before the grid's.

    Raises:
        ValueError: the layer is not a map, or has another layout.
    """
    found = examined.findings.get(layer)
    if found is None:
        raise ValueError(f"{name}: the network's forward pass does not call {layer!r}; {LIST}")
    where = f"{name}: layer {layer!r} {found.shape}"
    if reshape is None and prefix_tokens is None:
        if found.reading is None:
            raise ValueError(f"{where} is no map: {found.reason}; {LIST}")
        return found.reading
    asked = f"model.reshape={reshape}" + ("" if prefix_tokens is None else f", model.prefix_tokens={prefix_tokens}")
    if found.reading is not None:
        if reshape in (None, found.reading.layout) and prefix_tokens in (None, found.reading.front):
            return found.reading
        raise ValueError(f"{where} is read as {found.reading}, not with {asked}; leave both out, or give what fits")
    said = _as_said(found, examined.size, reshape or "tokens", prefix_tokens or 0)
    if found.state != "unknown" or said is None:
        raise ValueError(f"{where} is no map with {asked}: {found.reason}; {LIST}")
    return said


def _as_said(finding: Finding, size: tuple[int, int], reshape: Layout, prefix_tokens: int) -> Reading | None:
    """The requested reading if nothing is known: tokens in a grid of the input's aspect ratio."""
    if reshape != "tokens":
        reading = CHANNELS_LAST if reshape == "channels_last" else CHANNELS_FIRST
        return reading if len(finding.shape) == 3 else None
    cells = finding.shape[0] - prefix_tokens
    rows = round((max(cells, 0) * size[0] / size[1]) ** 0.5)
    if len(finding.shape) != 2 or rows < 1 or cells % rows or (cells // rows) * size[0] != rows * size[1]:
        return None
    return Reading((1,), (rows, cells // rows), prefix_tokens)
