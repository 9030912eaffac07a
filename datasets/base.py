"""What a dataset is: picture `i` and the truth about it.

A dataset is any object with the members of `Dataset`; there is no base class and no registry. `image` is the only
member that decodes a picture, so that predictions made elsewhere can be scored without one.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

VERSIONS = {"truth": 1}
"""Raised when a change here moves a number; see `eigencam.versions`."""

VOID = 255
"""Value of a mask's pixels that no metric counts."""


class BadImageError(ValueError):
    """A picture that cannot be decoded; carries the file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about one picture.

    Attributes:
        image_id: unique within the dataset; rows of results are keyed by it.
        size: (height, width) of the original picture, pixels.
        label: index into the dataset's `classes`, or -1 where the picture has no single label.
        boxes: (B, 4) float64, `x1 y1 x2 y2`, 0-based inclusive pixels of the original picture.
        box_labels: (B,) int64, index into `classes` of each box.
        difficult: (B,) bool, VOC's flag.
        mask: (height, width) uint8, 0 background, 1 + class for objects, 255 void; None where there is none; of the
            whole picture, and of its size unless the dataset says otherwise.
        foreground: which objects count as the object sought: those of class `label`, or `any`.
    """

    image_id: str
    size: tuple[int, int]
    label: int
    boxes: NDArray[np.float64]
    box_labels: NDArray[np.int64]
    difficult: NDArray[np.bool_] = field(default=None)  # type: ignore[assignment]
    mask: NDArray[np.uint8] | None = None
    foreground: Literal["label", "any"] = "label"

    def __post_init__(self) -> None:
        if self.difficult is None:
            object.__setattr__(self, "difficult", np.zeros(len(self.boxes), bool))

    def sought(self) -> NDArray[np.bool_]:
        """(B,) bool: the boxes of the objects that count as the object sought."""
        return np.ones(len(self.boxes), bool) if self.foreground == "any" else self.box_labels == self.label

    def objects(self) -> list[int]:
        """The classes among the picture's objects, ascending: of the boxes, without any those of the mask."""
        if len(self.box_labels) or self.mask is None:
            return np.unique(self.box_labels).tolist()
        return [k - 1 for k in np.flatnonzero(np.bincount(self.mask.ravel(), minlength=VOID)[:VOID]).tolist() if k]


@runtime_checkable
class Dataset(Protocol):
    """Pictures with their truth, in an order that depends on the image ids alone.

    Attributes:
        name: short name, part of a result's folder name, e.g. `voc2012`.
        classes: names of the classes, in the order of the labels.
        class_space: `imagenet`, `voc`, `scenes`, ...: labels are comparable with a network's outputs only when the
            network names the same one.
        ids: image ids, in order.
    """

    name: str
    classes: tuple[str, ...]
    class_space: str
    ids: list[str]

    def image(self, i: int) -> NDArray[np.uint8]:
        """Picture `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` where it cannot be decoded."""
        ...

    def truth(self, i: int) -> Truth:
        """The truth about picture `i`."""
        ...

    def identity(self) -> dict[str, object]:
        """What changes a number: split, options, n, and a checksum of ids and truth. JSON-ready, no paths."""
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
