"""Maps from Python, for your own network and image: several methods, one forward pass.

    from eigencam import Explainer

    with Explainer(module, layer="layer4") as explain:
        maps = explain("photo.jpg", ["eigencam", "gradcam"])
    maps["gradcam"].save("gradcam.png")

Hooks exist only during the pass; train or eval mode, `requires_grad` and `.grad` are left as they were. An `Explainer`
holds the network until its block is left; the explanations hold arrays only.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, SupportsIndex, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from eigencam.datasets.base import BadImageError
from eigencam.datasets.decoding import orientation
from eigencam.datasets.reading import expand
from eigencam.evaluation.maps import ScoreMap
from eigencam.methods.base import Method, draws_references, is_class_specific, lack_of
from eigencam.methods.refusal import refusal
from eigencam.networks.classes import class_number, names_of
from eigencam.networks.detectors import check_normalised_once, own_preprocess
from eigencam.networks.image_inputs import ImageLike, each_image, opened, pixels_of, shown
from eigencam.networks.network import Network, Preprocess, check_asked, layer_path
from eigencam.networks.preprocess import Region
from eigencam.passes.calls import OutputError, evaluating, logits_of, run_network
from eigencam.passes.precision import float32_precision
from eigencam.passes.readings import Layout
from eigencam.reporting.explained import Explained as Explained
from eigencam.reporting.explained import Explanation as Explanation
from eigencam.running.batch_maps import Maps, compute_maps
from eigencam.running.named_methods import Methods, methods_with_maps
from eigencam.targets import Prediction, ScoredNetwork, Target, View, placed, prediction, targets_of, words

LOG = logging.getLogger(__name__)
TARGETS = "targets"
"""Class space of a network whose logits are the values of targets."""

NO_REFERENCES = (
    "it draws reference images, and there are none: give Explainer(references=[...]), or explain a dataset's images"
)
Named = tuple[NDArray[np.uint8], str]
"""An image (H, W, C) and its name."""
TargetLike = SupportsIndex | str | Target | None
"""A class by number or name, a function of the network's output (`eigencam.targets`), or None: the predicted class."""


class Explainer:
    """Computes maps of a network, as described in the module; works with or without a `with` block.

    Args:
        network: an `nn.Module`, on any device; or a loaded `Network`.
        layer: target layer, a `named_modules()` path or the module itself. None: the last layer that is a map and that
            no path bypasses (`eigencam layers` marks it).
        preprocess: from image to input. None: ImageNet's, 224 x 224, the whole image; for torchvision's detectors,
            which normalise their input themselves, values in 0..1.
        reshape: how the layer is to be read: `channels_first`, `channels_last` or `tokens`; None: determined.
        prefix_tokens: number of tokens before the image's; None: determined.
        classes: names of the classes, in order; a target may then be a name.
        upright: whether images are rotated as their EXIF tag says; otherwise they are used as stored.
        tf32: whether products of float32 numbers may be computed in TF32 on a GPU.
        autocast: whether the network's passes run under `torch.autocast` in bfloat16.
        references: images of any form from which methods draw references (`expected_gradients`); a run draws them from
            its dataset.

    Raises:
        ValueError: the layer does not exist, is no map, or does not have the requested layout; or no layer can be
            chosen with certainty.
    """

    def __init__(
        self,
        network: nn.Module | Network,
        layer: str | nn.Module | None = None,
        *,
        preprocess: Preprocess | None = None,
        reshape: Layout | None = None,
        prefix_tokens: int | None = None,
        classes: Sequence[str] = (),
        upright: bool = False,
        tf32: bool = False,
        autocast: bool = False,
        references: Sequence[ImageLike] = (),
    ) -> None:
        self._network: Network | None
        self._references = references
        self._precision = {"tf32": tf32, "autocast": autocast}
        self._upright, self._said, self._answers = upright, False, True
        _check_forms(classes, preprocess)
        if isinstance(network, Network):
            if (layer, preprocess, reshape, prefix_tokens) != (None, None, None, None):
                raise ValueError(
                    "layer, preprocess, reshape and prefix_tokens go with an nn.Module; a Network has its own"
                )
            self._network = network
        else:
            name = type(network).__name__
            check_asked(reshape, prefix_tokens)
            shaped = preprocess or Preprocess(**own_preprocess(network))
            check_normalised_once(network, shaped, name)
            made = Network(name, network, layer_path(network, layer), "", "", shaped, reshape, prefix_tokens)
            self._network = made if layer is not None else made.with_default_layer()
            self._network.reading(self._network.layer)
        self._classes = classes or names_of(self._network)

    @property
    def network(self) -> Network:
        """Return the network with its target layer. ValueError after the `with` block."""
        if self._network is None:
            raise ValueError("the `with` block of this Explainer has been left; call it inside, or make another")
        return self._network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._network = None

    def __repr__(self) -> str:
        if self._network is None:
            return "<Explainer, left>"
        size = " x ".join(map(str, self._network.preprocess.shape))
        return f"<Explainer of {self._network.name} at layer {self._network.layer}, input {size}>"

    @overload
    def __call__(
        self, image: ImageLike, methods: Methods = ..., *, target: TargetLike = None, name: str = ""
    ) -> Explanation: ...

    @overload
    def __call__(
        self,
        image: ImageLike,
        methods: Methods = ...,
        *,
        target: Sequence[TargetLike],
        name: str = "",
    ) -> list[Explanation]: ...

    def __call__(
        self,
        image: ImageLike,
        methods: Methods = ("eigencam", "gradcam"),
        *,
        target: TargetLike | Sequence[TargetLike] = None,
        name: str = "",
    ) -> Explanation | list[Explanation]:
        """Return the maps of one image.

        Args:
            image: a file; a Pillow image of any mode; an array (H, W) or (H, W, 1/3/4); a tensor (H, W) or
                (1/3/4, H, W). Values are uint8, uint16, bool, or floats in 0..1, colours RGB; of any size.
            methods: names as `eigencam methods` lists them, or callables `(forward, targets) -> (N, h, w)`; one, or
                several, callables also in a mapping with names.
            target: what the maps are for: a class by number or name, or a function of the network's output
                (`eigencam.targets`); None: the predicted class. All targets of a list share one pass.
            name: the image's name, by which methods that read files find its map; by default the file's, without
                suffix.

        Methods that cannot run on the network are left out, with a warning in the log and the reason in `refused`.

        Returns:
            The maps by method; for a list of targets, a list with one entry per target.

        Raises:
            ValueError: an image of another form; an unknown method, or one that returns boxes or has no map of the
                image; a class or target that does not exist; no method can run on the network; its forward
                pass fails; or the `with` block has been left.
        """
        several = isinstance(target, list | tuple)
        asked: list[Any] = list(target) if isinstance(target, list | tuple) else [target]
        if not asked:
            raise ValueError("target=[]: an empty list of targets")
        built = methods_with_maps(methods, self.network.name)
        name = name or _name(image) or "image"
        with float32_precision(**self._precision):
            made = self._explained([(self._pixels(image), name)], built, self._numbers(asked))
        return made if several else made[0]

    def each(
        self,
        images: ImageLike | Iterable[ImageLike],
        methods: Methods = ("eigencam", "gradcam"),
        *,
        target: TargetLike = None,
        batch_size: int = 1,
    ) -> Iterator[Explanation]:
        """Yield the maps of one image after the other, computed on demand.

        Args:
            images: a folder; a batch, an array (N, H, W, C) or a tensor (N, C, H, W); a list of images of any form;
                or any other iterable, such as a video's frames.
            methods: as in a call.
            target: as in a call, for each image.
            batch_size: number of images that are read ahead and share a pass of the network. A target that is a
                function is resolved on each image, with a pass for each.

        A folder's files that cannot be decoded are left out, with a warning in the log.

        Raises:
            ValueError: as in a call, or a batch size below 1.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}; allowed: 1, 2, ...")
        built, numbers = methods_with_maps(methods, self.network.name), self._numbers([target])
        decoded = self._decoded(images)
        while batch := list(islice(decoded, 1 if callable(target) else batch_size)):
            with float32_precision(**self._precision):
                made = self._explained(batch, built, numbers)
            yield from made

    def _decoded(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[Named]:
        """The images with their names, without a folder's files that cannot be decoded."""
        folder = isinstance(images, str | Path) and expand(images).is_dir()
        for number, image in enumerate(each_image(images)):
            try:
                yield self._pixels(image), _name(image) or f"image-{number}"
            except BadImageError as error:
                if not folder:
                    raise
                LOG.warning("left out: %s", error)

    def _numbers(self, targets: Sequence[TargetLike]) -> list[int | Target | None]:
        return [t if t is None or callable(t) else class_number(t, self._classes) for t in targets]

    def output(self, image: ImageLike) -> Any:
        """Return the network's output for a batch of this image: features for `targets.embedding`, boxes, logits."""
        with float32_precision(**self._precision):
            return self._run(self.network.preprocess(self._pixels(image))[0])

    def _run(self, resized: NDArray[np.uint8]) -> Any:
        network = self.network
        images = torch.from_numpy(resized)[None].to(network.device)
        with evaluating(network.module), torch.no_grad():
            return run_network(network.module, network.preprocess.normalize(images, network.dtype))

    def _pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """(H, W, C) uint8 for the network; warns once if an EXIF rotation is ignored."""
        made, name = opened(image), image if isinstance(image, str | Path) else "image"
        if not self._upright and not self._said and isinstance(made, Image.Image) and orientation(made) != 1:
            self._said = True
            LOG.warning(
                "%s: used as stored; its EXIF tag asks for a rotation, which upright=True (`--upright`) applies", name
            )
        return pixels_of(made, len(self.network.preprocess.mean), turn=self._upright, name=name)

    def _explained(
        self, images: Sequence[Named], methods: Mapping[str, Method], targets: Sequence[int | Target | None]
    ) -> list[Explanation]:
        """One explanation per target of one image, or per image for one target; all come from one pass."""
        for m, method in methods.items():
            if lack := lack_of(method, [name for _, name in images]):
                raise ValueError(f"method {m}: {lack}")
        seen = [self.network.preprocess(image) for image, _ in images]
        functions = any(callable(t) for t in targets)
        asked, network = list(targets) * len(images), self.network
        predictions: list[Prediction | None] = [None] * len(asked)
        if functions or (len(targets) > 1 and None in targets):
            ((resized, region),) = seen
            output, view = self._run(resized), View(self.network.preprocess.shape, region)
            known = [int(logits_of(output)[0].argmax()) if t is None else t for t in asked]
            if functions:
                meant = [placed(target, output, view) for target in targets_of(known)]
                predictions = [prediction(target, output, view, self._classes) for target in meant]
                network = self._scored(meant, resized)
            asked = list[int | Target | None](known)
        refused = self._refused(methods, network)
        able = {m: method for m, method in methods.items() if m not in refused}
        classes = [t for t in asked if isinstance(t, int)]
        labels = list(range(len(asked))) if functions else classes or None
        rows = list(range(len(images))) if len(images) > 1 else [0] * len(asked)
        found, made = self._maps(network, able, images, seen, labels, rows), list[Explanation]()
        for k, target in enumerate(asked):
            (image, name), (_, region) = images[rows[k]], seen[rows[k]]
            size, display = (image.shape[0], image.shape[1]), shown(image)
            logits, column = found.forward.logits[k].cpu().numpy(), found.targets[k]
            what = column if target is None and len(logits) else target
            label, score = self._words(what), float(logits[column]) if len(logits) else float("nan")
            maps = {m: Explained(display, ScoreMap(v[k], size, region), what, m, label) for m, v in found.maps.items()}
            kept = logits[:0] if functions else logits
            made.append(Explanation(display, kept, what, maps, refused, name, label, score, predictions[k]))
        return made

    def _refused(self, methods: Mapping[str, Method], network: Network) -> dict[str, str]:
        """Return the reason for each method that cannot run on the network. ValueError if none can."""
        missing = "" if len(self._references) else NO_REFERENCES
        reasons = {m: refusal(one, network) or (missing if draws_references(one) else "") for m, one in methods.items()}
        refused = {name: reason for name, reason in reasons.items() if reason}
        lines = [f"method {name} on {network.name}: {reason}" for name, reason in refused.items()]
        if refused and len(refused) == len(methods):
            raise ValueError("\n".join(lines))
        for line in lines:
            LOG.warning("left out: %s", line)
        return refused

    def _reference(self, k: int) -> NDArray[np.uint8]:
        """(C, height, width): a reference image as the network sees it."""
        return self.network.preprocess(self._pixels(self._references[k]))[0]

    def _scored(self, meant: Sequence[Target], resized: NDArray[np.uint8]) -> Network:
        """Return a network whose logits are the values of the targets, resolved on this image."""
        example = torch.from_numpy(resized)[None]
        return replace(self.network, module=ScoredNetwork(self.network.module, meant), classes=TARGETS, example=example)

    def _words(self, target: int | Target | None) -> str:
        if target is None:
            return ""
        if callable(target):
            return words(target)
        return self._classes[target] if target < len(self._classes) else f"class {target}"

    def _maps(
        self,
        network: Network,
        methods: Mapping[str, Method],
        images: Sequence[Named],
        seen: Sequence[tuple[NDArray[np.uint8], Region]],
        labels: Sequence[int] | None,
        rows: Sequence[int],
    ) -> Maps:
        """The maps of images, for each label; class-agnostic methods need no classifier.

        Args:
            network: the network.
            methods: the methods by name.
            images: the originals, with their names.
            seen: each image as the network sees it, and the part of the image that it shows.
            labels: the classes; the predicted ones when None.
            rows: the image of each label.
        """
        batch = torch.from_numpy(np.stack([resized for resized, _ in seen]))

        def made(network: Network) -> Maps:
            return compute_maps(
                network,
                methods,
                batch,
                labels=labels,
                rows=None if labels is None else rows,
                index=[0] * len(images),  # random draws are the same for every image, in any batch
                ids=[name for _, name in images],
                original=lambda n: images[n][0],
                regions=[region for _, region in seen],
                population=(len(self._references), self._reference) if len(self._references) else None,
            )

        if network.classes == TARGETS or any(is_class_specific(method) for method in methods.values()):
            return made(network)
        if self._answers:
            try:
                return made(network)
            except OutputError:
                self._answers = False
        return made(replace(network, classes=None))


def _check_forms(classes: object, preprocess: object) -> None:
    """ValueError for names of classes or a preprocessing in another form."""
    if isinstance(classes, str | Mapping):
        raise ValueError(f"classes as {type(classes).__name__}; allowed: a list of names, in the order of the outputs")
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        form = type(preprocess).__name__
        raise ValueError(
            f"preprocess as {form}; allowed: eigencam.networks.network.Preprocess(size=..., mean=..., ...)"
        )


def _name(image: object) -> str:
    """A file's name without its suffix; "" for anything else."""
    return Path(image).stem if isinstance(image, str | Path) else ""
