"""Maps from Python, for a person's own network and picture: several methods, one forward pass.

    from eigencam import Explainer

    with Explainer(module, layer="layer4") as explain:
        found = explain("photo.jpg", ["eigencam", "gradcam"])
    found["gradcam"].save("gradcam.png")

Hooks live for the pass only; train or eval mode, `requires_grad` and `.grad` are as before. An `Explainer` holds the
network, until the block is left; what it found holds arrays only.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eigencam.datasets.base import Truth
from eigencam.datasets.images import read_rgb, rgb_of
from eigencam.datasets.reading import expand
from eigencam.evaluation.maps import ScoreMap, box_of
from eigencam.methods.base import Method, gives_boxes, is_class_specific, lack_of
from eigencam.methods.support import refusal
from eigencam.moved import renamed
from eigencam.networks.network import Network, Preprocess, Region, check_asked
from eigencam.passes.calls import OutputError, float32_precision
from eigencam.passes.readings import Layout
from eigencam.reporting import draw
from eigencam.running.maps import Maps, compute_maps

LOG = logging.getLogger(__name__)

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor
Methods = str | Method | Sequence[str | Method] | Mapping[str, Method]


@dataclass(frozen=True, slots=True)
class Explained:
    """One method's map of one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        score_map: the raw map, and where of the picture it lies.
        target: the class it was asked for.
    """

    image: NDArray[np.uint8]
    score_map: ScoreMap
    target: int

    @property
    def raw(self) -> NDArray[np.float32]:
        """(h, w) what the method returned."""
        return np.asarray(self.score_map.values, np.float32)

    @property
    def map(self) -> NDArray[np.float32]:
        """(H, W) float32 at the picture's size, any range."""
        return self.score_map.full

    def box(self, threshold: float = 0.15) -> tuple[float, float, float, float] | None:
        """`x1 y1 x2 y2`, inclusive pixels: around the largest component above a share of the maximum; None: none."""
        x1, y1, x2, y2 = box_of(self.score_map, "max", threshold).tolist()
        return None if x1 != x1 else (x1, y1, x2, y2)

    def overlay(self, *, box: bool = True, threshold: float = 0.15) -> Image.Image:
        """The map's heat over the picture, its box drawn in."""
        shown = draw.overlay(self.image, self.score_map)
        if box:
            shown = draw.with_boxes(shown, box_of(self.score_map, "max", threshold), draw.BLUE)
        return Image.fromarray(shown)

    def save(self, path: str | Path) -> Path:
        """Write the overlay; PNG or JPEG by the name's ending."""
        return draw.save(self.overlay(), expand(path))


@dataclass(frozen=True, slots=True)
class Explanation(Mapping[str, Explained]):
    """The maps of one picture, by method.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        logits: (K,) float32; K = 0 without a classifier.
        target: the class that the maps are for.
        by_method: the maps.
        refused: why the other methods that were asked for cannot run on the network.
    """

    image: NDArray[np.uint8]
    logits: NDArray[np.float32]
    target: int
    by_method: Mapping[str, Explained]
    refused: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, method: str) -> Explained:
        if method in self.refused:
            raise KeyError(f"method {method}: {self.refused[method]}")
        return self.by_method[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_method)

    def __len__(self) -> int:
        return len(self.by_method)

    def line(self, caption: str = "", truth: Truth | None = None) -> draw.Line:
        """A line of a grid of several pictures."""
        return draw.Line(self.image, truth, {name: found.score_map for name, found in self.items()}, caption)

    def grid(self, caption: str = "") -> Image.Image:
        """The picture and every method's map, side by side."""
        return draw.grid([self.line(caption)])


class Explainer:
    """Makes maps of a network; see the module. In a `with` block or without.

    Args:
        network: an `nn.Module` that returns (N, K) logits, on any device; or a loaded `Network`.
        layer: target layer, a `named_modules()` path; the last one that is a map and that everything passes through
            where it is None (`eigencam layers` marks it).
        preprocess: from picture to input; ImageNet's, 224 x 224, the whole picture, where it is None.
        reshape: `channels_first`, `channels_last` or `tokens`: what the layer must be read as; None: found out.
        prefix_tokens: number of tokens before the image's; found out where it is None.
        tf32: whether products of float32 numbers may be made in TF32 on a GPU.

    Raises:
        ValueError: there is no such layer, it is no map or is read otherwise, or no layer can be chosen for certain.
    """

    def __init__(
        self,
        network: nn.Module | Network,
        layer: str | None = None,
        *,
        preprocess: Preprocess | None = None,
        reshape: Layout | None = None,
        prefix_tokens: int | None = None,
        tf32: bool = False,
    ) -> None:
        self._network: Network | None
        self._tf32 = tf32
        if isinstance(network, Network):
            self._network = network
            return
        shaped = preprocess or Preprocess()
        name = type(network).__name__
        check_asked(reshape, prefix_tokens)
        made = Network(name, network, layer or "", "", "", shaped, reshape, prefix_tokens)
        self._network = made if layer is not None else made.with_default_layer()
        self._network.reading(self._network.layer)

    @property
    def network(self) -> Network:
        """The network with its target layer. ValueError once the `with` block has been left."""
        if self._network is None:
            raise ValueError("the `with` block of this Explainer has been left; call it inside, or make another")
        return self._network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._network = None

    def __call__(
        self,
        picture: Picture,
        methods: Methods = ("eigencam", "gradcam"),
        *,
        target: int | None = None,
        name: str = "",
    ) -> Explanation:
        """The maps of one picture.

        Args:
            picture: a file, a PIL picture, (H, W, 3) uint8 or (3, H, W) uint8 or float 0..1, RGB, of any size.
            methods: names as `eigencam methods` lists them, or callables `(forward, targets) -> (N, h, w)`; one, or
                several, callables also in a mapping with names.
            target: the class that the maps are for; the predicted one where it is None.
            name: of the picture, for methods that look their map up; else the file's, without its ending.

        Methods that cannot run on the network are left out, with a warning in the log and the reason in `refused`.

        Raises:
            ValueError: a picture of another form, an unknown method or one that gives boxes or has no map of the
                picture, a class that is not there, none of the methods can run on the network, its forward pass fails,
                or the `with` block has been left.
        """
        network, image = self.network, as_rgb(picture)
        resized, region = network.preprocess(image)
        built = as_methods(methods, network.name)
        if boxy := [name for name, method in built.items() if gives_boxes(method)]:
            raise ValueError(f"method {', '.join(boxy)}: gives boxes; allowed are methods that give maps")
        ids = [name or (Path(picture).stem if isinstance(picture, str | Path) else "picture")]
        for method, made in built.items():
            if lack := lack_of(made, ids):
                raise ValueError(f"method {method}: {lack}")
        with float32_precision(tf32=self._tf32):
            refused = _refused(built, network)
            able = {m: method for m, method in built.items() if m not in refused}
            found = _maps(network, able, resized, target, ids, region)
        size = (image.shape[0], image.shape[1])
        asked = found.targets[0]
        maps = {m: Explained(image, ScoreMap(values[0], size, region), asked) for m, values in found.maps.items()}
        return Explanation(image, found.forward.logits[0].cpu().numpy(), asked, maps, refused)


def _refused(methods: Mapping[str, Method], network: Network) -> dict[str, str]:
    """Why methods cannot run on the network, for those that cannot. ValueError where that is all of them."""
    reasons = {name: refusal(method, network) for name, method in methods.items()}
    refused = {name: reason for name, reason in reasons.items() if reason}
    lines = [f"method {name} on {network.name}: {reason}" for name, reason in refused.items()]
    if refused and len(refused) == len(methods):
        raise ValueError("\n".join(lines))
    for line in lines:
        LOG.warning("left out: %s", line)
    return refused


def _maps(
    network: Network,
    methods: Mapping[str, Method],
    image: NDArray[np.uint8],
    target: int | None,
    ids: Sequence[str],
    region: Region,
) -> Maps:
    """The methods' maps of one (3, H, W) image; without a class where none of them needs the network's logits."""
    labels = None if target is None else [target]
    images = torch.from_numpy(image)[None]
    try:
        return compute_maps(network, methods, images, labels=labels, ids=ids, regions=[region])
    except OutputError:
        if any(is_class_specific(method) for method in methods.values()):
            raise
    bare = replace(network, classes=None)
    return compute_maps(bare, methods, images, labels=labels, ids=ids, regions=[region])


def as_rgb(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of whatever a picture comes as."""
    if isinstance(picture, str | Path):
        return read_rgb(expand(picture))
    if isinstance(picture, Image.Image):
        return rgb_of(picture)
    if isinstance(picture, Tensor):
        values = picture.detach().cpu()
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        if values.is_floating_point() and values.numel() and 0 <= values.min() <= values.max() <= 1:
            values = (values.float() * 255).round().byte()
        if values.ndim == 3 and len(values) == 3 and values.dtype == torch.uint8:
            return np.ascontiguousarray(values.permute(1, 2, 0).numpy())
    elif picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    kind = f"{type(picture).__name__} of {tuple(picture.shape)}, {picture.dtype}"
    raise ValueError(
        f"a picture as {kind}; allowed: a file, a PIL picture, an array (H, W, 3) uint8, a tensor (3, H, W) uint8 or "
        "float 0..1, not normalised"
    )


def as_methods(methods: Methods, model: str = "") -> dict[str, Method]:
    """Methods by name; options of the `method` group are built with their own defaults."""
    if isinstance(methods, Mapping):
        return dict(methods)
    built: dict[str, Method] = {}
    for method in [methods] if isinstance(methods, str) or callable(methods) else methods:
        if isinstance(method, str):
            made = _option(method, model)
        else:
            made = {getattr(method, "__name__", type(method).__name__): method}
        if twice := sorted(built.keys() & made.keys()):
            raise ValueError(f"named twice: {', '.join(twice)}; give callables of one name in a mapping, by name")
        built |= made
    return built


def _option(name: str, model: str) -> dict[str, Method]:
    from omegaconf import OmegaConf

    from eigencam.configuring.catalogue import catalogue
    from eigencam.configuring.named import node
    from eigencam.running.prepare import build_node

    path = files("eigencam.configs") / "method" / f"{name}.yaml"
    if not path.is_file():
        if "." in name or Path(name).is_dir():
            return {short: build_node(short, described) for short, described in node(name).items()}
        if now := renamed("method", name):
            raise ValueError(now)
        raise ValueError(f"method {name!r}; allowed: {', '.join(e.option for e in catalogue())}, a callable, a file")
    paths = (files("eigencam.configs") / "paths" / "default.yaml").read_text()
    whole = OmegaConf.create({"paths": OmegaConf.create(paths), "model": {"name": model}, "method": {}})
    whole.method = OmegaConf.create(path.read_text())
    content: Any = OmegaConf.to_container(whole, resolve=True)
    return {short: build_node(f"method.{short}", described) for short, described in content["method"].items()}
