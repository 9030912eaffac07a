"""The default layer of a map.

It is the last layer, in the order of execution, that is a map (`layers`), whose cells the output depends on, and that
no information from the image bypasses. Both are tested by replacement: a layer's cells, or all of its output, are
replaced by the values for another image, and the output is compared. A gradient would not do: it may be zero although
the output depends on the layer, as before the last layer of a new ViT, which is all zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.networks.layers import LIST, SCRIPTED, Examined, Finding, watched
from eigencam.passes.calls import evaluating, logits_of, run_network
from eigencam.passes.layer_items import MARK, module_path, replaced
from eigencam.passes.position_rules import tensors
from eigencam.passes.proposed_readings import PARAMETERS, POOLED

AT_ONCE = 4
"""Layers whose outputs are replaced in one pass."""
UNCHANGED = 1e-3
"""Smallest fraction of the output's change that counts."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How much of the output's change, between one image and another, is due to a layer.

    Attributes:
        by_cells: fraction of the change that disappears if the map's cells are those of the other image.
        by_all: 1 minus the fraction that remains if all of the layer's output is the other image's.
        answers: whether the output is itself the mean of the map's cells, or of the positive ones.
    """

    by_cells: float
    by_all: float
    answers: bool

    def fault(self, classifier: bool = True) -> str:
        """Why a map of this layer does not show what the output depends on; "" if it does."""
        if self.by_cells <= UNCHANGED:
            return "the output does not depend on its cells"
        if self.by_all <= 1 - UNCHANGED:
            return f"{1 - self.by_all:.0%} of what the output depends on passes by it"
        return "its mean is the output: a map of the classes" if self.answers and classifier else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Result for the candidates, from the last to the chosen one.

    Attributes:
        chosen: the layer; None if there is none.
        doubtful: the last layer after it that may be a map but has no certain reading.
        carried: how much the output depends on each candidate that was tried.
    """

    chosen: Finding | None
    doubtful: Finding | None
    carried: Mapping[Finding, Carried]


class NoAnswerError(ValueError):
    """The network's output, such as a detector's, cannot be compared between images."""


def default_layer(module: nn.Module, examined: Examined, name: str, *, classifier: bool = True) -> str:
    """The last map that the output depends on and that no information from the image bypasses.

    Raises:
        ValueError: there is none, or a later layer may be one but has no certain reading.
    """
    try:
        choice = choose(module, examined, classifier=classifier)
    except NoAnswerError as error:
        raise ValueError(f"{name}: {error}{_several_maps(examined)}; {LIST}") from None
    doubtful = choice.doubtful
    if choice.chosen is not None and doubtful is None:
        return choice.chosen.layer
    if doubtful is None:
        raise ValueError(f"{name}: no layer is a map that all paths pass through{_why(choice, examined)}; {LIST}")
    before = f"the last one before it is {choice.chosen.layer!r}" if choice.chosen else "no layer before it is one"
    raise ValueError(
        f"{name}: which layer? Everything passes through {doubtful.layer!r} {doubtful.shape}, which may be a map but "
        f"is not read for certain ({doubtful.reason}); {before}. Set model.layer; {LIST}"
    )


def _why(choice: Choice, examined: Examined) -> str:
    """What is wrong with the last layer that all paths pass through, and what can be done."""
    scripted = [f.layer for f in examined.findings.values() if f.reason == SCRIPTED]
    if scripted:
        return f": {', '.join(scripted[:3])}{', ...' if len(scripted) > 3 else ''}: {SCRIPTED}; give it unscripted"
    faults = (f": {found.layer!r} is one, and {carried.fault()}" for found, carried in choice.carried.items())
    return f"{next(faults, '')}; set model.layer"


def _several_maps(examined: Examined) -> str:
    """The maps of the outermost module that returns several, such as a detector's backbone; "" if there is none."""
    groups: dict[str, list[str]] = {}
    for found in examined.findings.values():
        if found.reading and MARK in found.layer and len(found.shape) == 3:
            groups.setdefault(module_path(found.layer), []).append(found.layer)
    outermost = min(reversed(groups), key=lambda name: name.count("."), default="")
    return f", such as one of {', '.join(groups[outermost])}" if groups else ""


def choose(module: nn.Module, examined: Examined, *, classifier: bool = True) -> Choice:
    """Try the candidates, the last first, until one is suitable.

    With a classifier, a layer whose mean is the output itself is not: its maps are those of the classes.
    """
    doubtful: Finding | None = None
    tried: dict[Finding, Carried] = {}
    groups = candidates(examined)
    if not groups:
        _replaced(module, examined, [], {})  # raises if the reason is an output that cannot be compared
    for start in range(0, len(groups), AT_ONCE):
        part = groups[start : start + AT_ONCE]
        maps = [f for f in part if f.reading]
        tried |= dict(zip(maps, carried(module, examined, maps), strict=True))
        for found in part:
            if found.reading is None:
                doubtful = doubtful or found
            elif not tried[found].fault(classifier):
                return Choice(found, doubtful, tried)
    return Choice(None, doubtful, tried)


def candidates(examined: Examined) -> list[Finding]:
    """The layers that all paths pass through and that are or may be maps, the last executed first.

    If several modules return the same value, only the outermost is listed.
    """
    by_value: dict[tuple[int, ...], Finding] = {}
    for found in examined.findings.values():
        if not examined.through.isdisjoint(found.values) and (found.reading or _may_be_map(found)):
            known = by_value.pop(found.values, found)
            by_value[found.values] = min(known, found, key=_preference)
    single = {f.values[0] for f in by_value.values() if f.reading}
    kept = [f for f in by_value.values() if f.reading or single.isdisjoint(f.values)]
    return sorted(kept, key=lambda f: -max(f.values))


def _preference(finding: Finding) -> tuple[bool, bool, int]:
    """Sort key: of several names for one value, the outermost module's comes first."""
    return finding.reading is None, MARK in finding.layer, finding.layer.count(".")


def _may_be_map(finding: Finding) -> bool:
    return (
        finding.state != "several"
        and finding.reason not in (POOLED, PARAMETERS)
        and (not finding.shape or len(finding.shape) > 1)
    )


@torch.no_grad()
def carried(module: nn.Module, examined: Examined, findings: Sequence[Finding]) -> list[Carried]:
    """How much of the output is due to each layer that is a map: one pass with two inputs per layer and three more.

    If the output is the same for all inputs, as with a classifier of zeros, its zero parameters are replaced by noise.
    """
    if not findings:
        return []
    answers, means = _replaced(module, examined, findings, {})
    if bool((answers[1] == answers[0]).all()):
        answers, means = _replaced(module, examined, findings, _awake(module))
    change = (answers[1] - answers[0]).norm()
    if change == 0:
        raise ValueError(
            f"{type(module).__name__}: its output is the same for any input, so no layer can be chosen; set layer"
        )
    if not (answers[2] - answers[1]).norm() <= UNCHANGED * change:
        raise ValueError(
            f"{type(module).__name__}: its output is not finite, or differs between two passes of the same image "
            "(something random), so no layer can be chosen; set layer"
        )
    made: list[Carried] = []
    for k, found in enumerate(findings):
        cells, whole = answers[3 + 2 * k], answers[4 + 2 * k]
        same = any(m.shape == answers[1].shape and torch.allclose(m, answers[1], rtol=1e-3) for m in means[found.layer])
        lost, left = (cells - answers[1]).norm() / change, (whole - answers[0]).norm() / change
        made.append(Carried(float(lost), float(1 - left), same))
    return made


def _replaced(
    module: nn.Module, examined: Examined, findings: Sequence[Finding], parameters: dict[str, Tensor]
) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
    """(3 + 2 K, ...) outputs for image A, twice for B, and for B with each layer's cells, or output, taken from A."""
    noise = torch.randn(2, examined.channels, *examined.size, generator=torch.Generator().manual_seed(1))
    like = next(module.parameters(), noise)
    batch = torch.cat([noise, noise[1:].expand(1 + 2 * len(findings), -1, -1, -1)]).to(like.device, like.dtype)
    wanted = {f.layer: (3 + 2 * k, f.reading) for k, f in enumerate(findings)}
    means: dict[str, tuple[Tensor, ...]] = {f.layer: () for f in findings}

    def put(layer: str, out: Tensor) -> Tensor | None:
        if layer not in wanted or len(out) != len(batch):
            return None
        at, reading = wanted[layer]
        if reading is None or not reading.fits(tuple(out.shape)):
            return None  # another call of a module that is called several times
        changed = out.clone()
        maps = reading.maps(changed)
        means[layer] = tuple(m.mean((1, 2)).double() for m in (maps[1], maps[1].relu()))
        maps[at] = maps[0]
        changed[at + 1] = changed[0]
        return changed

    with evaluating(module), torch.inference_mode(False), watched(module, lambda layer, out: replaced(out, layer, put)):
        awake = bool(parameters) and not isinstance(module, nn.DataParallel)  # whose parameters torch cannot replace
        output = torch.func.functional_call(module, parameters, (batch,)) if awake else run_network(module, batch)
    return _answer(output, len(batch)), means


def _answer(output: Any, count: int) -> Tensor:
    """(count, K) from any output of a network for `count` inputs."""
    try:
        return logits_of(output).double()
    except ValueError:
        floats = (t for t in tensors(output) if t.is_floating_point())
        parts = [t.reshape(count, -1).double() for t in floats if t.shape[:1] == (count,)]
    if not parts:
        raise NoAnswerError(
            "the network returns no tensor with one row per image, so no layer can be chosen; set layer"
        )
    return torch.cat(parts, 1)


def _awake(module: nn.Module) -> dict[str, Tensor]:
    """Noise for parameters that are all zero, as those of a new ViT's last layer."""
    zeros = {name: p for name, p in module.named_parameters() if p.numel() and not bool(p.any())}
    random = torch.Generator().manual_seed(2)
    return {name: torch.randn(p.shape, generator=random).to(p.device, p.dtype) * 0.02 for name, p in zeros.items()}
