"""The stages of a network: the last layer before each reduction of the maps' size, determined from a pass.

For VGG-16 these are the last rectifiers before each pool, for ResNet-50 the first rectifier and `layer1` to `layer4`:
layers that are maps and that no path bypasses (`eigencam.networks.layers`), so none inside a residual block.
"""

from collections.abc import Mapping
from functools import lru_cache

from torch import nn

from eigencam.networks.layers import Examined, Finding, examine
from eigencam.passes.forward import Forward
from eigencam.passes.readings import Reading


def stages(forward: Forward, layer: str | None = None) -> Mapping[str, Reading]:
    """Return the stages of a pass's network up to a layer (by default the target layer), deepest last.

    The network is examined once, by a pass of nine inputs.
    """
    channels, *size = forward.images.shape[1:]
    return stages_of(_examined(forward.module, (size[0], size[1]), channels), layer or forward.layer)


@lru_cache(maxsize=2)
def _examined(module: nn.Module, size: tuple[int, int], channels: int) -> Examined:
    return examine(module, size, channels)


def stages_of(examined: Examined, layer: str) -> dict[str, Reading]:
    """Return the last layer before each reduction of the maps' size, and `layer`, with their readings."""
    last: dict[tuple[int, int], str] = {}
    for name, found in examined.findings.items():
        if found.reading is not None and not examined.through.isdisjoint(found.values):
            size = found.reading.size((1, *found.shape))
            if min(size) > 1:
                last[size] = name
        if name == layer:
            break
    if (own := examined.findings[layer].reading) is not None:
        last[own.size((1, *examined.findings[layer].shape))] = layer
    readings = {name: examined.findings[name].reading for name in last.values()}
    return {name: reading for name, reading in readings.items() if reading is not None}


def layers_of(forward: Forward, kind: type[nn.Module]) -> dict[str, Reading]:
    """Return the modules of a kind whose outputs are maps, in the order of execution, with their readings."""
    channels, *size = forward.images.shape[1:]
    findings = _examined(forward.module, (size[0], size[1]), channels).findings
    modules = dict(forward.module.named_modules())
    found = {name: f.reading for name, f in findings.items() if isinstance(modules.get(name), kind)}
    return {name: reading for name, reading in found.items() if reading is not None and min(_size(findings[name])) > 1}


def _size(finding: Finding) -> tuple[int, int]:
    return (0, 0) if finding.reading is None else finding.reading.size((1, *finding.shape))
