"""A network under test: module, weights with their checksum, preprocessing and target layer.

A network is described by a YAML of the `model` group:

    name:        short name, part of a result's folder name
    _target_:    the constructor, any importable callable that returns an `nn.Module`
    args:        its keyword arguments
    weights:     a name of torchvision's (IMAGENET1K_V1), a .safetensors or .pth file, or null: the constructor's
    drop:        prefixes of the weight file's keys that are left out (GoogLeNet's training heads)
    layer:       target layer, a `named_modules()` path; null: the one that `eigencam layers` marks
    reshape:     channels_first | channels_last | tokens: what the layer's output must be read as; null: found out
    prefix_tokens: number of tokens before the image's; null: found out
    classes:     what its outputs mean: `imagenet`, `scenes`, ...; null for a network without a classifier
    head:        a file of `eigencam fit fit=classifier`, which replaces last layer and classes (`classifier`)
    preprocess:  see `Preprocess`
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eigencam.networks.classifier import Head, read_head
from eigencam.networks.default_layer import default_layer
from eigencam.networks.layers import LIST, Examined, examine, reading_of
from eigencam.networks.weights import hash_parameters, is_file_name, load_weights, torchvision_network, weight_file
from eigencam.passes.calls import any_tensor
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.readings import LAYOUTS, Layout, Reading
from eigencam.store.build import instantiate
from eigencam.store.identity import describe, describe_object
from eigencam.transfer import constant, to_device

Region = tuple[float, float, float, float]
"""x0 y0 x1 y1, half-open, in pixels of the original picture: the part of it that the network sees."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an RGB picture to the network's input.

    Attributes:
        size: side of the square input, pixels.
        resize: `squash`: the whole picture to size x size, so that a map covers all of it (localization);
            `crop`: the short side to `short_side`, then the centre (classification as torchvision does it).
        short_side: for `crop`.
        mean: per channel, of values in 0..1.
        std: per channel.
        bgr: whether the network takes blue first, as Caffe's do.
    """

    size: int = 224
    resize: Literal["squash", "crop"] = "squash"
    short_side: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False

    version = 1

    def __post_init__(self) -> None:
        if self.resize not in ("squash", "crop"):
            raise ValueError(f"preprocess.resize={self.resize!r}; allowed: squash, crop")
        if self.size < 1 or (self.resize == "crop" and self.short_side < self.size):
            raise ValueError(
                f"preprocess.size={self.size}, short_side={self.short_side}: a crop must fit into the short side"
            )
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise ValueError(f"preprocess.{name}={values}; three numbers are needed, std above 0")
            object.__setattr__(self, name, values)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.size, self.size

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Region]:
        """Resize one picture, bilinear with Pillow's anti-aliasing.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, size, size) uint8 RGB, and the part of the picture that it shows.
        """
        h, w = image.shape[:2]
        if self.resize == "squash":
            size, box, region = (self.size, self.size), None, (0.0, 0.0, float(w), float(h))
        else:
            scale = self.short_side / min(h, w)
            size = (max(int(w * scale + 1e-9), self.size), max(int(h * scale + 1e-9), self.size))  # as torchvision
            x, y = (round((side - self.size) / 2) for side in size)
            box = (x, y, x + self.size, y + self.size)
            fx, fy = w / size[0], h / size[1]
            region = (box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy)
        picture = Image.fromarray(image)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        if box:
            picture = picture.crop(box)
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)), region

    def normalize(self, pictures: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, 3, H, W) uint8 to the network's input, on the tensor's device."""
        mean, std = constant((self.mean, self.std), pictures.device)[..., None, None]
        x = ((pictures.float() / 255 - mean) / std).to(dtype)
        return x.flip(1) if self.bgr else x

    def ends(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(2, 3, 1, 1): what a black pixel and a white one become."""
        ends = constant(((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)), device)
        return self.normalize(ends[..., None, None], dtype)


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network.

    Attributes:
        name: short name.
        module: in eval mode on its device.
        layer: target layer, a `named_modules()` path.
        classes: class space of the outputs; None without a classifier.
        sha256: of the weight file, or of the parameters where the constructor gave them.
        preprocess: from picture to input.
        reshape: what the target layer's output must be read as; None: found out.
        prefix_tokens: number of tokens before the image's; None: found out.
        identity: what of the description changes a number, with the checksum.
        head: the classifier that replaced the network's own.
        example: (1, C, H, W) uint8, the input that is asked about whether a method can run; None: noise.
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
    head: Head | None = None
    example: Tensor | None = field(default=None, repr=False, compare=False)
    _examined: list[Examined] = field(default_factory=list, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return any_tensor(self.module).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return any_tensor(self.module).dtype

    def examined(self) -> Examined:
        """What is known of every layer, from one pass of nine inputs that is made once."""
        if not self._examined:
            self._examined.append(examine(self.module, self.preprocess.shape, len(self.preprocess.mean)))
        return self._examined[0]

    def reading(self, layer: str) -> Reading:
        """How a layer's output becomes a map. ValueError where it is none, or not as the description says."""
        check_layer(self.module, layer, self.name)
        target = layer == self.layer
        asked = (self.reshape, self.prefix_tokens) if target else (None, None)
        return reading_of(self.examined(), layer, self.name, *asked)

    def with_default_layer(self) -> "Network":
        """The network with its default layer as target. ValueError where none can be chosen for certain."""
        return replace(
            self, layer=default_layer(self.module, self.examined(), self.name, classifier=self.classes is not None)
        )

    def forward(
        self,
        pictures: Tensor,
        *,
        layers: Iterable[str] = (),
        gradients: bool = False,
        index: Tensor | None = None,
        chunk: int = 64,
    ) -> Forward:
        """One pass of (N, 3, H, W) uint8 RGB pictures of the input's size; see `forward_pass`."""
        layers = list(layers)
        (pictures,) = to_device(self.device, pictures)
        images = self.preprocess.normalize(pictures, self.dtype)
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
        forward.preprocess, forward.pixels = self.preprocess.normalize, pictures
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
        device: where it goes.
        dtype: of its parameters.
        choose: whether it gets its default layer where the description names none; else its layer is "".

    Raises:
        FileNotFoundError: no such weight file, or torchvision's cannot be downloaded.
        ValueError: weights or a head that do not fit, a layer that is not there, or none that is certain to be a map.
    """
    name, classes = description["name"], description.get("classes")
    head = read_head(description["head"]) if description.get("head") else None
    weights = None if head and head.whole else description.get("weights")
    constructor = {"_target_": description["_target_"], **(description.get("args") or {})}
    if weights is None or is_file_name(weights):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a constructor without weights of its own gives the same ones each time
            module = instantiate(constructor)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"model {name}: {description['_target_']} returned {type(module).__name__}, not an nn.Module"
            )
        sha256 = "" if weights is None else load_weights(module, weight_file(weights), description.get("drop") or ())
    else:
        module, sha256 = torchvision_network(constructor, str(weights))
    sha256 = sha256 or hash_parameters(module)
    if head:
        sha256, classes = head.attach(module, sha256, description), head.class_space
    layer = description.get("layer")
    if layer is not None:
        check_layer(module, layer, f"model {name}")
    preprocess = Preprocess(**(description.get("preprocess") or {}))
    reshape = description.get("reshape")
    prefix = description.get("prefix_tokens")
    check_asked(reshape, prefix)
    module = module.eval().to(device, dtype)
    network = Network(name, module, layer or "", classes, sha256, preprocess, reshape, prefix, head=head)
    if layer is None and choose:
        network = network.with_default_layer()
    identity = {
        "name": name,
        "constructor": describe(constructor, computes=False),
        "layer": network.layer,
        "classes": classes,
        **({"reshape": reshape} if reshape else {}),
        **({} if prefix is None else {"prefix_tokens": prefix}),
        "preprocess": describe_object(preprocess),
        "sha256": sha256,
    }
    return replace(network, identity=identity)


def check_asked(reshape: object, prefix_tokens: object) -> None:
    """ValueError for what no layer can be read as."""
    if reshape not in (None, *LAYOUTS):
        raise ValueError(f"model.reshape={reshape!r}; allowed: null, {', '.join(LAYOUTS)}")
    if prefix_tokens is not None and (not isinstance(prefix_tokens, int) or prefix_tokens < 0):
        raise ValueError(f"model.prefix_tokens={prefix_tokens!r}; allowed: null, 0, 1, ...")
    if prefix_tokens is not None and reshape not in (None, "tokens"):
        raise ValueError(f"model.prefix_tokens={prefix_tokens} with model.reshape={reshape}; it goes with tokens")


def check_layer(module: nn.Module, layer: str, where: str) -> None:
    """ValueError with near matches when `layer` is no module of the network."""
    names = [n for n, _ in module.named_modules() if n]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
        raise ValueError(f"{where}: no layer {layer!r}; near matches: {', '.join(near)} ({len(names)} in all; {LIST})")
