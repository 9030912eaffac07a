"""The layers at which a network's maps have their last value before they become smaller: found, not named.

For VGG-16 the last rectifier before each pool, for ResNet-50 the first rectifier and `layer1` to `layer4`: layers that
are maps and that everything of the image passes through (`eigencam.networks.layers`), none inside of a block that a
shortcut leads around.
"""

from collections.abc import Mapping
from functools import lru_cache

from torch import nn

from eigencam.networks.layers import Examined, Finding, examine
from eigencam.passes.forward import Forward
from eigencam.passes.readings import Reading


def stages(forward: Forward, layer: str | None = None) -> Mapping[str, Reading]:
    """Return the stages of a pass's network up to a layer, the target layer where none is named, deepest last.

    The network is examined once, by a pass of nine inputs.
    """
    channels, *size = forward.images.shape[1:]
    return stages_of(_examined(forward.module, (size[0], size[1]), channels), layer or forward.layer)


@lru_cache(maxsize=2)
def _examined(module: nn.Module, size: tuple[int, int], channels: int) -> Examined:
    return examine(module, size, channels)


def stages_of(examined: Examined, layer: str) -> dict[str, Reading]:
    """Return the last layer of each size of maps before the sizes fall, and `layer`, with how they are read."""
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
    """Return the modules of a kind whose outputs are maps, in the order in which they ran, with how they are read."""
    channels, *size = forward.images.shape[1:]
    findings = _examined(forward.module, (size[0], size[1]), channels).findings
    modules = dict(forward.module.named_modules())
    found = {name: f.reading for name, f in findings.items() if isinstance(modules.get(name), kind)}
    return {name: reading for name, reading in found.items() if reading is not None and min(_size(findings[name])) > 1}


def _size(found: Finding) -> tuple[int, int]:
    return (0, 0) if found.reading is None else found.reading.size((1, *found.shape))
