"""Images packed into files, many per file, with labels and boxes: the common part of Parquet files and tar shards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import BadTruthError, Truth, checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.decoding import rgb_of_bytes, size_of_bytes
from eigencam.datasets.devkit import N_CLASSES
from eigencam.datasets.digest import bytes_digest
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth, read_truths
from eigencam.datasets.possible_boxes import possible


class Store(Protocol):
    """The encoded images."""

    def read(self, i: int) -> bytes:
        """Return the file content of image `i`."""
        ...

    def place(self, i: int) -> str:
        """Return the position of image `i`, for messages."""
        ...

    def identity(self) -> dict[str, object]:
        """Return what identifies the content: JSON-ready, no paths."""
        ...


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of N images: those of image `i` are rows `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        boxes: (B, 4) float64, 0-based inclusive pixels.
        labels: (B,) int32; -1: the image's label.
        offsets: (N + 1,) int64.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass
class Packed:
    """Images of a store and their ground truth; an `eigencam.datasets.base.Dataset`.

    Attributes:
        store: the encoded images.
        labels: (N,) int32, -1 for none.
        boxes: from the store itself, or None.
        annotation: ILSVRC's lists, joined by the ids, or None; `rows` are its rows, (N,) int64.
        faults: known faults in an image's ground truth, by id.
    """

    name: str
    class_space: str
    classes: tuple[str, ...]
    ids: Sequence[str]
    store: Store
    labels: NDArray[np.int32]
    boxes: Boxes | None = None
    annotation: IlsvrcTruth | None = None
    rows: NDArray[np.int64] | None = None
    faults: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last: tuple[int, bytes] = (-1, b"")  # an image and its truth are read together
        if self.annotation is not None:
            self.faults |= {one: self.annotation.faults[one] for one in self.ids if one in self.annotation.faults}
        for i in np.flatnonzero((self.labels < -1) | (self.labels >= len(self.classes))).tolist():
            allowed = f"allowed are 0 to {len(self.classes) - 1}, and -1 for none"
            self.faults[self.ids[i]] = f"{self.store.place(i)}: {self.ids[i]}: label {self.labels[i]}; {allowed}"
        if self.boxes is not None:
            owner = np.repeat(np.arange(len(self.ids)), np.diff(self.boxes.offsets))
            for k in np.flatnonzero(~possible(self.boxes.boxes, 0, 0)).tolist():
                i = int(owner[k])
                shown = self.boxes.boxes[k].tolist()
                self.faults.setdefault(
                    self.ids[i],
                    f"{self.store.place(i)}: {self.ids[i]}: box {shown} (x1, y1, x2, y2 from 0, inclusive); allowed "
                    "are 0 <= x1 <= x2 and 0 <= y1 <= y2",
                )

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        return rgb_of_bytes(self._read(i), self.store.place(i))

    def digest(self, i: int) -> str:
        """Return the digest of image `i`'s encoded bytes (`eigencam.datasets.digest`)."""
        return bytes_digest(self._read(i))

    def truth(self, i: int) -> Truth:
        """Return the ground truth of image `i`.

        Raises:
            BadTruthError: it is invalid, or refers to an image of another size.
            BadImageError: the image has no readable header.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        place = self.store.place(i)
        size = size_of_bytes(self._read(i), place)
        if self.annotation is not None and self.rows is not None:
            return self.annotation.of_image(int(self.rows[i]), size, place, self._one_size)
        label = int(self.labels[i])
        boxes, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
        if self.boxes is not None:
            own = slice(self.boxes.offsets[i], self.boxes.offsets[i + 1])
            boxes, labels = self.boxes.boxes[own], self.boxes.labels[own].astype(np.int64)
            labels = np.where(labels < 0, label, labels)
        foreground = "any" if label < 0 else "label"
        return Truth(self.ids[i], size, label, boxes, labels, foreground=foreground, source=place)

    def identity(self) -> dict[str, object]:
        """Number of images, and checksums of truth and content."""
        facts: dict[str, object] = {"name": self.name, "n": len(self.ids), "classes": checksum(self.classes)}
        if self.annotation is not None and self.rows is not None:
            boxes = (self.annotation.boxes_of(row).tolist() for row in self.rows.tolist())
            truth = zip(self.ids, self.annotation.labels[self.rows].tolist(), boxes, strict=True)
        elif self.boxes is not None:
            stored_boxes = self.boxes
            pairs = zip(stored_boxes.offsets[:-1].tolist(), stored_boxes.offsets[1:].tolist(), strict=True)
            own = ([stored_boxes.boxes[a:b].tolist(), stored_boxes.labels[a:b].tolist()] for a, b in pairs)
            truth = zip(self.ids, self.labels.tolist(), own, strict=True)
        else:
            truth = zip(self.ids, self.labels.tolist(), strict=True)
        return {**facts, "truth": checksum(truth), **self.store.identity()}

    @cached_property
    def _one_size(self) -> tuple[int, int] | None:
        """The size that most of a few images have; None if there is no such size."""
        n = len(self.ids)
        sizes = [size_of_bytes(self.store.read(i), self.store.place(i)) for i in range(0, n, max(1, n // 8))]
        first = max(set(sizes), key=sizes.count)
        return first if 2 * sizes.count(first) > len(sizes) else None

    def _read(self, i: int) -> bytes:
        if self._last[0] != i:
            self._last = (i, self.store.read(i))
        return self._last[1]


def with_truth(made: Packed, truth: str | Path, class_space: str | None) -> Packed:
    """Return the images with the labels and boxes of ILSVRC's lists, joined by the ids.

    Args:
        made: the images; their own labels must equal those of the lists.
        truth: folder, or folders `A:B`, of the lists.
        class_space: the network's name for the classes; default `imagenet`.

    Raises:
        FileNotFoundError: there are no such lists.
        ValueError: an image is not in the lists, or has another label there.
    """
    annotation = read_truths(truth)
    rows = joined(annotation, made.ids, made.labels, str(truth))
    numbers = tuple(map(str, range(N_CLASSES)))
    names = annotation.synsets.words or annotation.synsets.wnids
    names = names or (made.classes if len(made.classes) == N_CLASSES else numbers)
    labels = annotation.labels[rows].astype(np.int32)
    space = class_space or "imagenet"
    return Packed(made.name, space, names, made.ids, made.store, labels, made.boxes, annotation, rows)


def joined(annotation: IlsvrcTruth, ids: Sequence[str], labels: NDArray[np.int32], where: str) -> NDArray[np.int64]:
    """Return the row of each image in ILSVRC's lists.

    Args:
        annotation: the lists.
        ids: the images' ids.
        labels: the images' own; -1 for none.
        where: the lists, for messages.

    Raises:
        ValueError: an image is not in the lists, or has another label there.
    """
    row = {name: i for i, name in enumerate(annotation.ids)}
    if strange := [one for one in ids if one not in row]:
        raise ValueError(f"{len(strange)} of {len(ids)} images are not in {where}, e.g. {some(strange)}")
    rows = np.fromiter((row[one] for one in ids), np.int64, len(ids))
    listed = annotation.labels[rows]
    if (other := (labels >= 0) & (listed >= 0) & (listed != labels)).any():
        i = int(other.argmax())
        raise ValueError(
            f"{other.sum()} of {len(ids)} images have another label in {where}, e.g. {ids[i]}: {listed[i]} for "
            f"{labels[i]}; labels must be indices of the sorted WordNet ids"
        )
    return rows
