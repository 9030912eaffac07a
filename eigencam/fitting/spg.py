r"""SPG (Zhang et al., ECCV 2018): side heads that learn from the confident part of the class map, and from each other.

Three heads of one channel, all enlarged bilinearly to 224 x 224, beside the cross-entropy with weight 1 each:

    head    reads                                    learns, by binary cross-entropy on the logits
    B2      the second layer                         M, the map of the image's class, enlarged, scaled to 0..1
    B1      the first layer, then as B2              sigma(B2)
    C       the features of the class map            (sigma(B1) + sigma(B2)) / 2

Each teacher has two thresholds and carries no gradient. Pixels above `high` are object (if these are fewer than 30:
pixels above 0.7 of the maximum). Pixels below `low` are background, even if they are also above `high`. All other
pixels are ignored, and so is a constant class map. A batch without object and background pixels adds 0; the authors'
code divides by 0.

    B1, B2   conv 3 x 3, ReLU each; then shared: conv 3 x 3, ReLU, conv 1 x 1
    C        conv 3 x 3 to 512, ReLU, conv 1 x 1

The heads are used in training only: SPG's map is the network's CAM of the class.

References: X. Zhang et al., "Self-produced guidance for weakly-supervised object localization", ECCV 2018; the form of
clovaai/wsolevaluation@96f4b88 (there `wsol/method/spg.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.methods.cam import PooledClassifier, find_pooled_classifier
from eigencam.networks.acol import scaled
from eigencam.networks.network import Network, check_layer
from eigencam.networks.wsol import SPGForm, drawn
from eigencam.passes.calls import evaluating, network_logits, random_images

SIDE = 224
"""Size of the enlarged maps, independent of the input's."""
FEWEST, SHARE = 30, 0.7
"""Smallest number of an object's pixels; if there are fewer, the object is what exceeds this share of the maximum."""
WIDTH_C = 512
LAYERS = {"resnet50": SPGForm(("layer3.0", "layer3"), 1024, new_heads=False, new_layers=("layer4",))}
"""Where the authors put the heads, by the network's name; networks of `eigencam.networks.wsol` declare it
themselves."""


@dataclass(frozen=True, slots=True)
class SPG:
    """Thresholds (high, low) of the teachers of B2, B1 and C, layers of B1 and B2, width; by default the authors'."""

    thresholds: Sequence[Sequence[float]] = ((0.7, 0.01), (0.5, 0.05), (0.7, 0.1))
    layers: Sequence[str] = ()
    width: int | None = None

    def __post_init__(self) -> None:
        pairs = [list(pair) for pair in self.thresholds]
        if len(pairs) != 3 or any(len(pair) != 2 or not 0 <= pair[1] <= pair[0] <= 1 for pair in pairs):
            raise ValueError(
                f"fit.spg.thresholds={pairs}; allowed: three pairs [high, low] in 0..1, low not above high"
            )
        if self.layers and len(self.layers) != 2:
            raise ValueError(f"fit.spg.layers={list(self.layers)}; allowed: two layers, or none for the authors'")
        if self.width is not None and self.width < 1:
            raise ValueError(f"fit.spg.width={self.width}; allowed: 1 or more, or null")

    def form(self, network: Network) -> SPGForm:
        """Return where the heads go on a network. ValueError if it is not known."""
        said: SPGForm | None = getattr(network.module, "spg", None) or LAYERS.get(network.name)
        if said is None and not self.layers:
            raise ValueError(
                "fit: the layers that SPG's side heads read are published for VGG-16, ResNet-50 and Inception-v3, not "
                f"for {network.name}; set fit.spg.layers=[FIRST,SECOND]"
            )
        form = said or SPGForm(("", ""), WIDTH_C, new_heads=True, new_layers=())
        layers = (self.layers[0], self.layers[1]) if self.layers else form.layers
        return form._replace(layers=layers, width=self.width or form.width)

    def fault(self, network: Network) -> str:
        """Return why the heads cannot be attached to a network; "" if they can."""
        try:
            for layer in self.form(network).layers:
                check_layer(network.module, layer, "fit.spg.layers")
            SideHeads(network, self)
            head = head_of(network)
        except ValueError as error:
            return str(error)
        if head.positive:
            return f"fit: {network.name} rectifies its class maps before the pooling; SPG is for linear ones"
        return ""


def head_of(network: Network) -> PooledClassifier:
    """Return the classifier behind the target layer. ValueError unless it is an average and a linear layer."""
    return find_pooled_classifier(
        network.module, network.layer, network.preprocess.shape, network.reading(network.layer)
    )


class SideHeads(nn.Module):
    """The heads; see the module."""

    def __init__(self, network: Network, options: SPG) -> None:
        super().__init__()
        form = options.form(network)
        shape = network.preprocess.shape
        first, second, last = channels(network.module, [*form.layers, network.layer], shape)
        self.first, self.second = _block(first, form.width), _block(second, form.width)
        self.shared = nn.Sequential(*_block(form.width, form.width), nn.Conv2d(form.width, 1, 1))
        self.last = nn.Sequential(*_block(last, WIDTH_C), nn.Conv2d(WIDTH_C, 1, 1))
        drawn(self, xavier=True)

    def forward(self, first: Tensor, second: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 1, h, w) logits of B1, B2 and C."""
        return self.shared(self.first(first)), self.shared(self.second(second)), self.last(last)


def _block(channels_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, width, 3, padding=1), nn.ReLU())


def channels(module: nn.Module, layers: Sequence[str], shape: tuple[int, int]) -> list[int]:
    """Return the number of channels of each layer's map. ValueError where one is no map (N, C, h, w)."""
    seen: dict[str, Any] = {}

    def keep(name: str, out: Any) -> None:
        seen[name] = out

    handles = [
        module.get_submodule(name).register_forward_hook(lambda _module, _args, out, name=name: keep(name, out))
        for name in layers
    ]
    try:
        with evaluating(module), torch.no_grad():
            network_logits(module, random_images(module, shape))
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if not isinstance(seen.get(name), Tensor) or seen[name].ndim != 4:
            raise ValueError(f"fit.spg.layers: the output of {name} is no map (N, C, h, w), which SPG's heads convolve")
    return [seen[name].shape[1] for name in layers]


def enlarged(maps: Tensor) -> Tensor:
    """(N, 1, 224, 224) from (N, 1, h, w)."""
    return F.interpolate(maps, (SIDE, SIDE), mode="bilinear")


def target(teacher: Tensor, high: float, low: float) -> Tensor:
    """The targets from a teacher (N, 1, H, W) in 0..1: 1 for object, 0 for background, 255 for ignored pixels."""
    flat = teacher.flatten(1)
    limit = torch.where((flat > high).sum(1) < FEWEST, SHARE * flat.amax(1), high).to(flat)
    made = torch.full_like(teacher, 255.0).masked_fill(teacher > limit.view(-1, 1, 1, 1), 1.0)
    return made.masked_fill(teacher < low, 0.0)


def taught(logits: Tensor, teacher: Tensor, high: float, low: float) -> Tensor:
    """Return the binary cross-entropy of enlarged logits (N, 1, H, W) over a teacher's targets; 0 if it has none."""
    learned = target(teacher.detach(), high, low)
    sure = (learned < 255).to(logits)
    each = F.binary_cross_entropy_with_logits(logits, learned.clamp(max=1), reduction="none")
    return (each * sure).sum() / sure.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class SideLoss:
    """The three terms, from the outputs of the network and the heads."""

    options: SPG = field(default_factory=SPG)

    def __call__(self, b1: Tensor, b2: Tensor, c: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """The terms, from the heads' logits (N, 1, h, w) and the maps (N, h, w) of the images' classes."""
        b1, b2, c = enlarged(b1), enlarged(b2), enlarged(c)
        large = enlarged(maps.detach()[:, None])
        constant = large.amax((2, 3), keepdim=True) == large.amin((2, 3), keepdim=True)
        attention = scaled(large[:, 0])[:, None].masked_fill(constant, torch.nan)  # neither above nor below anything
        sigma = b2.detach().sigmoid()
        fused = (b1.detach().sigmoid() + sigma) / 2
        of_b2, of_b1, of_c = self.options.thresholds
        return {
            "b2": taught(b2, attention, *of_b2),
            "b1": taught(b1, sigma, *of_b1),
            "c": taught(c, fused, *of_c),
        }
