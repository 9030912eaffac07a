"""Every method of the catalogue on a small network that it accepts, with few repetitions, on images from formulas."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from golden_methods import ELSEWHERE, FEW, FITTED, LABELS, SIZE, inputs, nodes, originals
from torch import Tensor

from eigencam.methods.base import Method
from eigencam.networks.network import Network, load_network
from eigencam.running.batch_maps import Maps, compute_maps
from eigencam.store.build import find, instantiate

TYPES = ("scenes_resnet", "scenes_vgg", "scenes_vit", "scenes_vig")
METHODS = [name for name in nodes("method") if name not in ("files", "drise")]  # drise: of detectors
CONSTANT = 2
"""Position of a uniformly grey image, after the two from formulas."""


@lru_cache(maxsize=8)
def network(name: str, device: str) -> Network:
    """A packaged network, float32; for `cuda` within `pretend_gpu`."""
    node = nodes("model")[name]
    if not name.endswith(("vit", "vig")):
        node["preprocess"]["size"] = SIZE
    made = load_network(node, device=device)
    made.examined()  # so that no method's count includes what is done once
    return made


@lru_cache(maxsize=128)
def method(option: str) -> Method:
    """The method of an option, with few repetitions."""
    node = nodes("method")[option]
    few = {key: FEW.get(key, value) for key, value in node.items()}
    if hasattr(find(node["_target_"]), "channels"):
        few["channels"] = FEW["channels"]
    if option in FITTED:
        few["file"] = f"eigencam:{option}-scenes_resnet.safetensors"
    return instantiate(few)


def home(option: str) -> str:
    """The network that a method is tried on; methods that run on both are split evenly."""
    if option in FITTED:
        return "scenes_resnet"
    return ELSEWHERE.get(option) or TYPES[METHODS.index(option) % 2]


def image_inputs(size: int) -> Tensor:
    """(3, 3, size, size) uint8: the two images from formulas and the constant one."""
    return torch.cat([inputs(size), torch.full((1, 3, size, size), 127, dtype=torch.uint8)])


def maps(used: Network, option: str, images: Sequence[int]) -> Maps:
    """The maps of some of the images; an image has the same class, seed and id in any batch."""
    size = used.preprocess.shape[0]
    wholes = (*originals(), np.full((80, 100, 3), 127, np.uint8))
    found = compute_maps(
        used,
        {"m": method(option)},
        image_inputs(size)[list(images)],
        labels=[(*LABELS[used.name], LABELS[used.name][0])[n] for n in images],
        index=images,
        ids=[str(n) for n in images],
        original=lambda n: wholes[images[n]],
        regions=[(0.0, 0.0, 100.0, 80.0)] * len(images),
        population=(2, lambda k: inputs(size)[k].numpy()),
        chunk=10**6,
    )
    found.arrived()
    return found
