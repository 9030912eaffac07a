"""The interface of a dataset: image `i` and its ground truth.

A dataset is any object with the members of `Dataset`; there is no base class and no registry. Only the member `image`
decodes an image, so existing predictions can be scored without decoding any.
"""

import hashlib
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.possible_boxes import possible

VERSIONS = {"truth": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

VOID = 255
"""Mask value of pixels that no metric counts."""

LAST_CLASS = VOID - 2
"""The largest class that a mask can hold; its value there is 1 + class."""

MASK_VALUES = (
    "0 is background, 1 + class an object, 255 void; convert a bool or 0/255 mask of class k by "
    "np.where(mask, 1 + k, 0).astype(np.uint8); dataset=folder reads 0/255 with dataset.mask_values={object: 255}"
)


class BadImageError(ValueError):
    """An image that cannot be decoded, with its file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadTruthError(ValueError):
    """Invalid ground truth; the text names the file, the annotation, the value found and the values allowed."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The ground truth of one image. It validates itself on construction, and its arrays are read-only.

    A box must be finite, have positive width and height and lie within the image
    (`eigencam.datasets.possible_boxes.possible` is the rule). Boxes are refused if no coordinate exceeds 1 and some are
    fractional, since they are probably fractions of the image's size. A mask must be uint8, of the image's size, and
    not void everywhere. `of_classes` checks that labels and mask values are classes of the dataset.

    Attributes:
        image_id: unique within the dataset; rows of results are keyed by it.
        size: (height, width) of the original image, pixels; (0, 0) if not known, which suffices for scoring boxes.
        label: index into the dataset's `classes`, or -1 if the image has no single label.
        boxes: (B, 4) float64, `x1 y1 x2 y2`, 0-based inclusive pixels of the original image.
        box_labels: (B,) int64, index into `classes` of each box.
        difficult: (B,) bool, VOC's flag.
        mask: (height, width) uint8, 0 background, 1 + class for objects, 255 void; None if there is none; covers the
            whole image.
        foreground: which objects are target objects: those of class `label`, or `any`.
        source: file that the ground truth was read from, for messages.
        rounded: whether the boxes were scaled and rounded with their image, so that they may end one pixel beyond it.
        own_resolution: whether the mask's size may differ from the image's.

    Raises:
        BadTruthError: a value is not allowed.
    """

    image_id: str
    size: tuple[int, int]
    label: int
    boxes: NDArray[np.float64]
    box_labels: NDArray[np.int64]
    difficult: NDArray[np.bool_] = field(default=None)  # type: ignore[assignment]
    mask: NDArray[np.uint8] | None = None
    foreground: Literal["label", "any"] = "label"
    source: str = field(default="", compare=False)
    rounded: bool = field(default=False, compare=False)
    own_resolution: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.image_id, str) or not self.image_id:
            raise self.fault(f"image_id {self.image_id!r}; allowed is a text that is not empty")
        size = tuple(whole(side) for side in self.size)
        if len(size) != 2 or None in size or not (size == (0, 0) or min(s for s in size if s is not None) > 0):
            raise self.fault(
                f"size {self.size!r}; allowed are two whole numbers, (height, width), more than 0, or (0, 0) if unknown"
            )
        if (label := whole(self.label)) is None or label < -1:
            raise self.fault(f"label {self.label!r}; allowed are whole numbers from 0, and -1 where there is no label")
        if self.foreground not in ("label", "any"):
            raise self.fault(f"foreground {self.foreground!r}; allowed are 'label' and 'any'")
        for name, value in (("size", size), ("label", label)):
            object.__setattr__(self, name, value)
        self._check_boxes()
        if self.mask is not None:
            self._check_mask(self.mask)
        for name in ("boxes", "box_labels", "difficult", "mask"):
            if (array := getattr(self, name)) is not None:
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def _check_boxes(self) -> None:
        boxes, labels = np.asarray(self.boxes), np.asarray(self.box_labels)
        if boxes.size == 0:
            boxes = np.zeros((0, 4))
        if boxes.dtype.kind not in "fiu" or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise self.fault(f"boxes {boxes.shape} of {boxes.dtype}; allowed are (B, 4) numbers, x1 y1 x2 y2")
        n = len(boxes)
        if labels.shape != (n,) or (n and labels.dtype.kind not in "iu"):
            raise self.fault(f"box_labels {labels.shape} of {labels.dtype}; allowed is ({n},) int64, one for each box")
        difficult = np.zeros(n, bool) if self.difficult is None else np.asarray(self.difficult)
        if difficult.shape != (n,) or difficult.dtype != bool:
            raise self.fault(f"difficult {difficult.shape} of {difficult.dtype}; allowed is ({n},) bool")
        boxes, labels = boxes.astype(np.float64, copy=False), labels.astype(np.int64, copy=False)
        for name, value in (("boxes", boxes), ("box_labels", labels), ("difficult", difficult)):
            object.__setattr__(self, name, value)
        if not n:
            return
        fits = possible(boxes, *self.size, beyond=float(self.rounded))
        if not fits.all():
            k = int(fits.argmin())
            raise self.fault(f"box {k + 1} of {n} is {box_fault(boxes[k], self.size)}")
        if boxes.max() <= 1 and max(self.size) != 1 and (boxes % 1).any():
            raise self.fault(
                f"box 1 of {n} is {boxes[0].tolist()}, and none ends beyond 1; allowed are pixels, not fractions"
            )
        if labels.min() < 0:
            k = int(labels.argmin())
            raise self.fault(f"label {labels[k]} of box {k + 1} of {n}; allowed are indices of the classes, from 0")

    def _check_mask(self, mask: NDArray[np.uint8]) -> None:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8:
            seen = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise self.fault(f"a mask of {seen}; allowed is uint8: {MASK_VALUES}")
        if mask.ndim != 2 or mask.size == 0 or not (self.own_resolution or mask.shape == self.size):
            raise self.fault(f"a mask of {mask.shape}; allowed is the image's size, {self.size}, as (height, width)")
        if self.label > LAST_CLASS:
            raise self.fault(f"label {self.label}; a mask of bytes has room for {LAST_CLASS + 1} classes")
        if mask.min() == VOID:
            raise self.fault(f"all pixels of the mask are {VOID}, void; allowed: {MASK_VALUES}")

    def fault(self, words: str) -> BadTruthError:
        """Return the error whose text is source, image id and `words`."""
        return BadTruthError(": ".join(filter(None, (str(self.source), str(self.image_id), words))))

    def of_classes(self, n: int) -> "Truth":
        """Return this ground truth after checking that its labels and mask values are among `n` classes.

        Args:
            n: number of the dataset's classes; 0 if it does not say.

        Raises:
            BadTruthError: a label or a mask value is not among them.
        """
        if not n:
            return self
        for what, value in (("label", self.label), ("label of a box", int(self.box_labels.max(initial=-1)))):
            if value >= n:
                raise self.fault(f"{what} {value}; allowed are 0 to {n - 1}, indices of the dataset's classes")
        if self.mask is not None and (value := int((self.mask + np.uint8(1)).max()) - 1) > n:  # void counts as -1
            raise self.fault(f"{value} in the mask; allowed are 0 to {n} and {VOID}: {MASK_VALUES}")
        return self

    def sought_pixels(self, mask: NDArray[np.uint8] | None = None) -> NDArray[np.bool_]:
        """Whether each pixel belongs to a target object; void pixels do not.

        Args:
            mask: the mask to look at, in the form of `Truth.mask`; by default `Truth.mask` itself.

        Returns:
            A bool array of the mask's shape.

        Raises:
            ValueError: there is no mask.
        """
        mask = self.mask if mask is None else mask
        if mask is None:
            raise ValueError(f"{self.image_id}: the truth has no mask")
        if self.foreground == "any":
            return (mask > 0) & (mask < VOID)
        return mask == self.label + 1 if self.label >= 0 else np.zeros(mask.shape, bool)

    def sought(self) -> NDArray[np.bool_]:
        """(B,) bool: whether each box is that of a target object."""
        return np.ones(len(self.boxes), bool) if self.foreground == "any" else self.box_labels == self.label

    def objects(self) -> list[int]:
        """The classes of the image's objects, ascending: of its boxes, or of its mask if it has none."""
        if len(self.box_labels) or self.mask is None:
            return np.unique(self.box_labels).tolist()
        return [k - 1 for k in np.flatnonzero(np.bincount(self.mask.ravel(), minlength=VOID)[:VOID]).tolist() if k]


def box_fault(box: NDArray[np.float64], size: tuple[int, int]) -> str:
    """What is wrong with an impossible box (4,), and what is allowed in an image of `size`, (height, width)."""
    x1, y1, x2, y2 = box.tolist()
    height, width = size
    place = f" in {width} x {height} pixels" if height else ""
    right, lower = (width - 1, height - 1) if height else ("..", "..")
    one_off = bool(height) and max(x2 - width, y2 - height) == 0
    return (
        f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}] (x1, y1, x2, y2); allowed{place}: "
        f"0 <= x1 <= x2 <= {right}, 0 <= y1 <= y2 <= {lower}"
        + ("; boxes that are counted from 1, or that end at x + width, are one pixel off" if one_off else "")
    )


def whole(value: object) -> int | None:
    """The value as an int, if it is an integer of any type but bool; else None."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


@runtime_checkable
class Dataset(Protocol):
    """Images with their ground truth, in an order that depends on the image ids alone.

    A dataset may also have `faults`: by image id, the faults in the ground truth that are known from the dataset's
    lists before any image is read. It may have `digest(i)`, a text that identifies image `i`
    (`eigencam.datasets.digest`); without it, the decoded pixels are hashed.

    Attributes:
        name: short name, part of a result's folder name, e.g. `voc2012`.
        classes: names of the classes, in the order of the labels.
        class_space: `imagenet`, `voc`, `scenes`, ...: labels are comparable with a network's outputs only if the
            network has the same class space.
    """

    name: str
    classes: tuple[str, ...]
    class_space: str

    @property
    def ids(self) -> Sequence[str]:
        """Image ids, in order."""
        ...

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        ...

    def truth(self, i: int) -> Truth:
        """Return the ground truth of image `i`. Raises `BadTruthError` if it is invalid."""
        ...

    def identity(self) -> dict[str, object]:
        """What changes results: split, options, n, and a checksum of ids and truth. JSON-ready, no paths."""
        ...


def checksum(items: Iterable[object]) -> str:
    """SHA-256, first 16 hex digits, of the canonical JSON of `items`, in order.

    >>> checksum([1, "a"]) == checksum([1, "a"]) != checksum(["a", 1])
    True
    """
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()[:16]
