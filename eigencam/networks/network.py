"""A network under test: module, weights with their checksum, preprocessing and target layer.

A network is described by a YAML of the `model` group:

    name:        short name, part of a result's folder name
    _target_:    the constructor, any importable callable that returns an `nn.Module`
    args:        its keyword arguments
    library:     torchvision or timm, instead of `_target_`: its network called `name`
    weights:     a name of torchvision's (IMAGENET1K_V1), a weights file, or null: the constructor's; for a library
                 `default`, a name of its own, a file, or null: untrained
    drop:        prefixes of the weights file's keys to leave out (GoogLeNet's auxiliary heads)
    layer:       target layer, a `named_modules()` path; null: the one that `eigencam layers` marks
    reshape:     channels_first | channels_last | tokens: required layout of the layer's output; null: detected
    prefix_tokens: number of tokens before the image's; null: detected
    classes:     class space of its outputs: `imagenet`, `scenes`, ...; null for a network without a classifier;
                 `weights`: according to the library's metadata of its weights
    head:        a file of `eigencam fit` that replaces last layer and classes, or all weights (`classifier`)
    preprocess:  see `Preprocess`; for a library, a null field is taken from its weights' metadata
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.networks.building import build, check_module, constructor_identity
from eigencam.networks.classifier import FittedClassifier, read_head
from eigencam.networks.default_layer import default_layer
from eigencam.networks.detectors import check_normalised_once, own_preprocess
from eigencam.networks.layers import LIST, Examined, examine, reading_of
from eigencam.networks.preprocess import Preprocess
from eigencam.passes.calls import any_tensor
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.layer_items import module_path
from eigencam.passes.readings import LAYOUTS, Layout, Reading
from eigencam.store.identity import describe_object
from eigencam.store.schema import network_label
from eigencam.transfer import to_device

FROM_WEIGHTS = "weights"
"""A class space that stands for that of the library's metadata."""


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network.

    Attributes:
        name: short name.
        module: the network, in eval mode on its device.
        layer: target layer, a `named_modules()` path.
        classes: class space of the outputs; None without a classifier.
        sha256: SHA-256 of the weights file, or of the parameters where the constructor gave them.
        preprocess: from image to input.
        reshape: required layout of the target layer's output; None: detected.
        prefix_tokens: number of tokens before the image's; None: detected.
        identity: the parts of the description that change results, with the checksum.
        head: the classifier that replaced the network's own.
        example: (1, C, H, W) uint8: input for checking whether a method can run; None: noise.
        untrained: which of its weights are random, in words; "" if none are, or if it is not known.
        top1: reported top-1 accuracy of its weights on ILSVRC's validation images, %; None: not known.
    """

    name: str
    module: nn.Module
    layer: str
    classes: str | None
    sha256: str
    preprocess: Preprocess
    reshape: Layout | None = None
    prefix_tokens: int | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    head: FittedClassifier | None = None
    example: Tensor | None = field(default=None, repr=False, compare=False)
    untrained: str = ""
    top1: float | None = None
    _examined: list[Examined] = field(default_factory=list, repr=False, compare=False)

    def versions(self) -> list[tuple[int, int]]:
        """Identity and version of each weight and buffer; they differ if one is modified in place or replaced."""
        kept = (*self.module.parameters(), *self.module.buffers())
        return [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in kept]

    def __post_init__(self) -> None:
        check_module(self.module, self.name)

    @property
    def label(self) -> str:
        """Its name, with a note if its weights are random."""
        return network_label(self.name, self.untrained)

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return any_tensor(self.module).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return any_tensor(self.module).dtype

    def examined(self) -> Examined:
        """Findings for every layer, from one pass of nine inputs that is made once."""
        if not self._examined:
            self._examined.append(examine(self.module, self.preprocess.shape, self.preprocess.channels))
        return self._examined[0]

    def reading(self, layer: str) -> Reading:
        """How a layer's output becomes a map. ValueError if it is not a map, or not with the description's layout."""
        check_layer(self.module, layer, self.name)
        target = layer == self.layer
        asked = (self.reshape, self.prefix_tokens) if target else (None, None)
        return reading_of(self.examined(), layer, self.name, *asked)

    def with_default_layer(self) -> "Network":
        """The network with its default layer as target. ValueError if none can be chosen with certainty."""
        return replace(
            self, layer=default_layer(self.module, self.examined(), self.name, classifier=self.classes is not None)
        )

    def forward(
        self,
        pixels: Tensor,
        *,
        layers: Iterable[str] = (),
        gradients: bool = False,
        index: Tensor | None = None,
        chunk: int | None = None,
    ) -> Forward:
        """One pass of (N, C, H, W) uint8 images of the input's size; see `forward_pass`."""
        layers = list(layers)
        (pixels,) = to_device(self.device, pixels)
        images = self.preprocess.normalize(pixels, self.dtype)
        forward = forward_pass(
            self.module,
            images,
            self.layer,
            classifier=self.classes is not None,
            layers=layers,
            gradients=gradients,
            index=index,
            readings={name: self.reading(name) for name in {self.layer, *layers}},
            chunk=chunk,
        )
        forward.preprocess, forward.pixels = self.preprocess.normalize, pixels
        forward.black, forward.white = self.preprocess.ends(self.device, self.dtype)
        return forward


def load_network(
    description: Mapping[str, Any],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    choose: bool = True,
) -> Network:
    """Build a network from its description (the `model` node of a config).

    Args:
        description: the node.
        device: device of the network.
        dtype: dtype of its parameters.
        choose: whether the default layer is chosen if the description names none; otherwise its layer is "".

    Raises:
        FileNotFoundError: no such weights file, or torchvision's cannot be downloaded.
        ValueError: weights or head do not fit, the layer does not exist, or no layer is certain to be a map.
    """
    name = description["name"]
    head = read_head(description["head"]) if description.get("head") else None
    built = build(description, None if head and head.whole else description.get("weights"))
    module, sha256, untrained = built.module, built.sha256, built.untrained
    classes = built.classes if description.get("classes") == FROM_WEIGHTS else description.get("classes")
    if head:
        sha256, classes = head.attach(module, sha256, description), head.class_space
        untrained = "" if head.whole else untrained
    layer = description.get("layer")
    if layer is not None:
        check_layer(module, layer, f"model {name}")
    preprocess = chosen_preprocess(
        built.preprocess or own_preprocess(module), description.get("preprocess") or {}, f"model {name}"
    )
    check_normalised_once(module, preprocess, f"model {name}")
    reshape = description.get("reshape")
    prefix = description.get("prefix_tokens")
    check_asked(reshape, prefix)
    module = module.eval().to(device, dtype)
    network = Network(name, module, layer or "", classes, sha256, preprocess, reshape, prefix, head=head)
    if layer is None and choose:
        network = network.with_default_layer()
    identity = {
        "name": name,
        "constructor": constructor_identity(description),
        "layer": network.layer,
        "classes": classes,
        **({"reshape": reshape} if reshape else {}),
        **({} if prefix is None else {"prefix_tokens": prefix}),
        "preprocess": describe_object(preprocess),
        "sha256": sha256,
        **({"untrained": untrained} if untrained else {}),
        **({"fitted": head.label} if head and head.label else {}),
    }
    top1 = None if head else built.top1
    return replace(network, identity=identity, untrained=untrained, top1=top1)


def chosen_preprocess(from_weights: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Preprocess:
    """The preprocessing that the weights define, with the fields that a config overrides.

    Args:
        from_weights: fields of a `Preprocess`.
        given: fields of a `Preprocess`; a null is taken from the weights, or is the default. If only the size changes,
            the crop keeps its ratio.
        where: the network, for messages.
    """
    said = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(map(str, said.keys() - {f.name for f in fields(Preprocess)})):
        allowed = ", ".join(f.name for f in fields(Preprocess))
        raise ValueError(f"{where}: preprocess.{unknown[0]}: unknown; allowed: {allowed}")
    if from_weights and "size" not in {*from_weights, *said}:
        raise ValueError(f"{where}: its weights do not say the input's size; set model.preprocess.size")
    own = dict(from_weights)
    if "size" in said and "short_side" in own:
        share = own["short_side"] / min(Preprocess(own["size"]).shape)
        own["short_side"] = int(min(Preprocess(said["size"]).shape) * share)
    return Preprocess(**{**own, **said})


def check_asked(reshape: object, prefix_tokens: object) -> None:
    """ValueError for a layout that no layer can have."""
    if reshape not in (None, *LAYOUTS):
        raise ValueError(f"model.reshape={reshape!r}; allowed: null, {', '.join(LAYOUTS)}")
    if prefix_tokens is not None and (not isinstance(prefix_tokens, int) or prefix_tokens < 0):
        raise ValueError(f"model.prefix_tokens={prefix_tokens!r}; allowed: null, 0, 1, ...")
    if prefix_tokens is not None and reshape not in (None, "tokens"):
        raise ValueError(f"model.prefix_tokens={prefix_tokens} with model.reshape={reshape}; it goes with tokens")


def layer_path(module: nn.Module, layer: object) -> str:
    """The path of a layer that is given by its path, or as the module itself; "" for None.

    ValueError for another type, or a module that is not of the network.
    """
    if layer is None or isinstance(layer, str):
        return layer or ""
    if not isinstance(layer, nn.Module):
        raise ValueError(f"layer={layer!r}: {type(layer).__name__}; allowed: a layer's path, or the module itself")
    paths = [name for name, inner in module.named_modules() if inner is layer and name]
    if not paths:
        raise ValueError(f"layer={type(layer).__name__}(...) is no module of the network; {LIST}")
    return paths[0]


def check_layer(module: nn.Module, layer: str, where: str) -> None:
    """ValueError with near matches if `layer` is no module of the network."""
    names = [n for n, _ in module.named_modules() if n]
    if module_path(layer) not in names:
        near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
        raise ValueError(f"{where}: no layer {layer!r}; near matches: {', '.join(near)} ({len(names)} in all; {LIST})")
