"""What a map is for when it is not a class: a function of the network's output that returns one number per image.

    maps = explain("street.jpg", ["gradcam"], target=targets.box_score(0))

A target is any callable `(output) -> (N,)`, where `output` is what the network returns for N images; those below
handle the outputs of torchvision's networks. `ScoredNetwork` turns a network and K targets into a network whose
logits are the K values, so every class-specific method, whichever passes it makes, explains a target like a class.

A target with a method `on(output, view)` is first resolved on the explained image: `box_score(0)` becomes the box that
the network finds there, which is then looked for in all inputs that a method tries.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, SupportsIndex, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.passes.calls import RefusedError, TargetError, evaluating, logits_of, run_network
from eigencam.passes.embeddings import SCALE, Embedding, Prompt, check_number
from eigencam.passes.embeddings import read_embedding as read_embedding
from eigencam.passes.embeddings import read_embeddings as read_embeddings
from eigencam.passes.finer_score import Contrast, Weights
from eigencam.passes.predictions import Prediction, dense_logits, detections, overlaps_with, with_label

Target = Callable[[Any], Tensor]
"""Function from a network's output for N images to (N,) values, or to one for N = 1; differentiable, for gradients."""

OVERLAP = 0.5
"""Smallest IoU at which a detection counts as the requested box."""


@dataclass(frozen=True, slots=True)
class View:
    """The position of the network's input in the image.

    Attributes:
        size: (height, width) of the input.
        region: x0 y0 x1 y1, half-open: the part of the image that the input shows.
    """

    size: tuple[int, int]
    region: tuple[float, float, float, float]

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return a box of the image, `x1 y1 x2 y2`, in pixels of the input."""
        x0, y0, x1, y1 = self.region
        x, y = self.size[1] / (x1 - x0), self.size[0] / (y1 - y0)
        return (box[0] - x0) * x, (box[1] - y0) * y, (box[2] - x0) * x, (box[3] - y0) * y

    def back(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return a box of the input in pixels of the image: the inverse of `box`."""
        x0, y0, x1, y1 = self.region
        x, y = (x1 - x0) / self.size[1], (y1 - y0) / self.size[0]
        return box[0] * x + x0, box[1] * y + y0, box[2] * x + x0, box[3] * y + y0

    def mask(self, mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Sample a mask (H, W) of the image at the centres of a grid of `size` cells over the input."""
        x0, y0, x1, y1 = self.region
        rows = np.floor(y0 + (np.arange(size[0]) + 0.5) * (y1 - y0) / size[0]).astype(int)
        columns = np.floor(x0 + (np.arange(size[1]) + 0.5) * (x1 - x0) / size[1]).astype(int)
        h, w = mask.shape
        inside = np.outer((rows >= 0) & (rows < h), (columns >= 0) & (columns < w))
        return (mask[rows.clip(0, h - 1)][:, columns.clip(0, w - 1)] != 0) & inside


@runtime_checkable
class Placeable(Protocol):
    """A target that must first be resolved on the network's output for the image."""

    def on(self, output: Any, view: View) -> Target:
        """Return the target resolved on this image. TargetError if it does not exist there."""
        ...


def placed(target: Target, output: Any, view: View) -> Target:
    """Resolve a target on one image, for which the network returns `output`."""
    return target.on(output, view) if isinstance(target, Placeable) else target


def prediction(target: Target, output: Any, view: View, names: Sequence[str] = ()) -> Prediction | None:
    """Return what the network predicts where a resolved target points; None if it points at neither box nor segment.

    Args:
        target: as `placed` returned it for this output.
        output: the network's output for one image.
        view: the position of the network's input in the image.
        names: names of the classes, in order.
    """
    found = target.prediction(output, view) if isinstance(target, _Box | _Segment) else None
    return replace(found, name=names[found.label]) if found and found.label < len(names) else found


def class_score(label: SupportsIndex) -> Target:
    """The logit of a class. ValueError if its number is no integer."""
    return _Class(_number(label, "class_score"))


def _number(label: object, what: str) -> int:
    """The number of a class, of any integer type."""
    try:
        if not isinstance(label, bool):
            return operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise ValueError(f"{what}({label!r}): {type(label).__name__}; allowed: a class's number, 0, 1, ...")


def box_score(box: int | Sequence[float], label: int | None = None) -> Target:
    """The score of a detection, for networks that return a dict of `boxes`, `scores` and `labels` per image.

    On inputs changed by a method it is the score of the detection with the same label and the largest IoU with the
    box, if that is at least 0.5; otherwise 0.

    Args:
        box: the index of a detection, best first, or a box `x1 y1 x2 y2` in pixels of the image.
        label: label of the detection; None: any label.
    """
    if isinstance(box, int) and not isinstance(box, bool):
        return _Numbered(box, label)
    values = tuple(float(v) for v in box) if isinstance(box, Iterable) else ()
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise ValueError(f"box_score({box!r}): allowed: the index of a detection, or x1 y1 x2 y2 with x1<x2, y1<y2")
    return _Box(values, label)


def segment(label: SupportsIndex, mask: NDArray[Any] | None = None) -> Target:
    """The mean logit of a class over some pixels, for networks that return (N, K, h, w) logits, alone or as `out`.

    Args:
        label: the class.
        mask: (H, W) of the image; pixels that are True or above 0 count. None: those predicted as this class.
    """
    if mask is not None and np.ndim(mask) != 2:
        raise ValueError(f"segment: a mask of shape {np.shape(mask)}; allowed: (H, W)")
    return _Segment(_number(label, "segment"), None if mask is None else np.asarray(mask))


def embedding(reference: Tensor | NDArray[Any], scale: float = 1.0) -> Target:
    """The cosine similarity of the features (N, ...) to those of another image or a text: one row of the same length.

    Args:
        reference: D numbers, of any shape.
        scale: what the cosine is multiplied by; 100 gives CLIP's logit.
    """
    return Embedding(torch.as_tensor(reference).detach().flatten().float(), scale)


def prompt(references: Tensor | NDArray[Any], number: int, scale: float = SCALE) -> Target:
    """The probability of one of several texts: the softmax over them of `scale` times the cosines.

    Args:
        references: (K, D), the texts' embeddings.
        number: number of the text, from 0.
        scale: 100 is CLIP's.
    """
    rows = torch.as_tensor(references).detach().float()
    if rows.ndim != 2:
        raise ValueError(f"prompt: references of shape {tuple(rows.shape)}; allowed: (K, D)")
    return Prompt(rows, check_number(number, rows), scale)


def similarity(target: Target) -> Target | None:
    """D-RISE's similarity to the detection that a target names (`eigencam.methods.drise`); None if it is no box."""
    return _Similar(target) if isinstance(target, _Box) else None


def difference(one: int | Target, other: int | Target) -> Target:
    """The value of one target minus that of another; a number is a class."""
    return _Difference(*(t if callable(t) else class_score(t) for t in (one, other)))


def finer(label: int, alpha: float = 1.0, references: int = 3, weights: Weights = "probability") -> Target:
    """Finer-CAM's score: the logit minus those of the classes nearest to it; see `eigencam.methods.finer`."""
    return Contrast(label, alpha, references, weights)


@dataclass(frozen=True, slots=True)
class _Class:
    label: int

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        return logits[:, _known(self.label, logits.shape[1])]

    def __str__(self) -> str:
        return f"class {self.label}"


def _known(label: int, count: int) -> int:
    """Return the class. TargetError if the network has no class of this number."""
    if not 0 <= label < count:
        raise TargetError(f"a map for class {label} was requested; the network has 0 to {count - 1}")
    return label


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A detection by its index."""

    number: int
    label: int | None

    def __call__(self, output: Any) -> Tensor:
        return torch.stack([found["scores"][self._at(found)] for found in detections(output)])

    def on(self, output: Any, view: View) -> "_Box":
        (found,) = detections(output)
        k = self._at(found)
        x1, y1, x2, y2 = found["boxes"][k].tolist()
        return _Box((x1, y1, x2, y2), int(found["labels"][k]), f"box {self.number}")

    def _at(self, found: Mapping[str, Tensor]) -> int:
        places = with_label(found, self.label)
        if not 0 <= self.number < len(places):
            label = "" if self.label is None else f" of label {self.label}"
            raise TargetError(f"box {self.number}{label} was requested; the network finds {len(places)} in this image")
        return int(places[self.number])

    def __str__(self) -> str:
        return f"box {self.number}"


@dataclass(frozen=True, slots=True)
class _Box:
    """A detection by its box: in pixels of the image; once resolved, of the network's input."""

    box: tuple[float, ...]
    label: int | None
    words: str = "box"

    def __call__(self, output: Any) -> Tensor:
        return torch.stack([self._score(found) for found in detections(output)])

    def _score(self, found: Mapping[str, Tensor]) -> Tensor:
        k, overlap = self._best(found)
        scores = found["scores"]
        return scores[k] if overlap >= OVERLAP else scores.sum() * 0  # keeps the graph, if there is one

    def _best(self, found: Mapping[str, Tensor]) -> tuple[int, float]:
        places = with_label(found, self.label)
        if not len(places):
            return 0, 0.0
        overlaps = overlaps_with(found["boxes"].detach()[places], self.box)
        k = int(overlaps.argmax())
        return int(places[k]), float(overlaps[k])

    def prediction(self, output: Any, view: View) -> Prediction:
        (found,) = detections(output)
        k, _ = self._best(found)
        return Prediction(int(found["labels"][k]), view.back(found["boxes"][k].tolist()))

    def on(self, output: Any, view: View) -> "_Box":
        seen = _Box(view.box(self.box), self.label, f"box {', '.join(f'{v:g}' for v in self.box)}")
        (found,) = detections(output)
        k, overlap = seen._best(found)
        if overlap < OVERLAP:
            label, count = "" if self.label is None else f" of label {self.label}", len(with_label(found, self.label))
            raise TargetError(
                f"{seen.words}: none of the {count} boxes{label} that the network finds in "
                f"this image has an IoU of at least {OVERLAP:.0%} with it (the nearest: {overlap:.0%})"
            )
        return _Box(seen.box, int(found["labels"][k]), seen.words)

    def __str__(self) -> str:
        return self.words if self.label is None else f"{self.words}, label {self.label}"


@dataclass(frozen=True, slots=True)
class _Similar:
    """The largest product of IoU and score over the detections with the box's label; 0 if there is none."""

    of: _Box

    def __call__(self, output: Any) -> Tensor:
        return torch.stack([self._best(found) for found in detections(output)])

    def _best(self, found: Mapping[str, Tensor]) -> Tensor:
        places, scores = with_label(found, self.of.label), found["scores"]
        if not len(places):
            return scores.sum() * 0
        return (overlaps_with(found["boxes"].detach()[places], self.of.box).to(scores.dtype) * scores[places]).amax()


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    label: int
    mask: NDArray[Any] | None = field(repr=False)

    def __call__(self, output: Any) -> Tensor:
        maps = dense_logits(output)
        _known(self.label, maps.shape[1])
        if self.mask is None:
            inside = (maps.argmax(1) == self.label).to(maps.dtype)
        else:
            inside = torch.as_tensor(self.mask != 0, device=maps.device).to(maps.dtype).expand(len(maps), -1, -1)
        return (maps[:, self.label] * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)

    def on(self, output: Any, view: View) -> "_Segment":
        maps = dense_logits(output)
        label = _known(self.label, maps.shape[1])
        if self.mask is None:
            inside = (maps[0].argmax(0) == label).cpu().numpy()
        else:
            inside = view.mask(self.mask, (maps.shape[2], maps.shape[3]))
        if not inside.any():
            seen = maps[0].argmax(0).unique().tolist()
            none = f"the network predicts class {label} at no pixel; it predicts {seen}"
            raise TargetError(f"{self}: {none if self.mask is None else 'empty mask'}")
        return _Segment(label, inside)

    def prediction(self, _output: Any, _view: View) -> Prediction:
        return Prediction(self.label, share=None if self.mask is None else float((self.mask != 0).mean()))

    def __str__(self) -> str:
        return f"segment {self.label}"


@dataclass(frozen=True, slots=True)
class _Difference:
    one: Target
    other: Target

    def __call__(self, output: Any) -> Tensor:
        return self.one(output) - self.other(output)

    def on(self, output: Any, view: View) -> Self:
        return type(self)(placed(self.one, output, view), placed(self.other, output, view))

    def __str__(self) -> str:
        return f"{words(self.one)} minus {words(self.other)}"


def words(target: Target) -> str:
    """A target in a few words: its `str`, or its name."""
    if isinstance(target, _Class | _Numbered | _Box | _Segment | Embedding | Prompt | _Difference | Contrast):
        return str(target)
    return getattr(target, "__name__", type(target).__name__)


class ScoredNetwork(nn.Module):
    """A network whose logits are the targets' values of its output; its modules keep their names."""

    network: nn.Module

    def __init__(self, network: nn.Module, targets: Sequence[Target]) -> None:
        """Share the network's modules, parameters and buffers."""
        super().__init__()
        self.__dict__["network"] = network  # not as a submodule, which would prefix all names
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self.targets = tuple(targets)

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) float32 scores."""
        with evaluating(self.network):
            output = run_network(self.network, images)
        return torch.stack([_numbers(target, output, len(images)) for target in self.targets], 1)


def _numbers(target: Target, output: Any, count: int) -> Tensor:
    """(N,) values of a target, checked."""
    try:
        made = target(output)
    except RefusedError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise TargetError(f"target {words(target)} fails: {type(error).__name__}: {error}") from error
    if not isinstance(made, Tensor) or not made.is_floating_point() or made.numel() != count or made.ndim > 1:
        form = f"{tuple(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise TargetError(f"target {words(target)}: {form} for {count} images; needed: a float tensor ({count},)")
    return made.reshape(count).float()


def targets_of(asked: Sequence[int | Target]) -> Iterator[Target]:
    """Yield each class as a target, and each target as it is."""
    for one in asked:
        yield one if callable(one) else class_score(one)
