"""Images with one labelled class and its boxes, as in CUB and ImageNetV2."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import BadTruthError, Truth, checksum
from eigencam.datasets.decoding import image_size
from eigencam.datasets.image_per_file import ImageFiles
from eigencam.datasets.possible_boxes import possible


@dataclass(slots=True)
class Boxed(ImageFiles):
    """An `eigencam.datasets.base.Dataset`; row `i` of everything is image `ids[i]`.

    Attributes:
        split: part of the dataset, for the identity.
        files: the images.
        labels: (N,) int64.
        boxes: for each image (B, 4) float64, inclusive pixels, the boxes of the labelled class.
        sizes: (N, 2) int64, (height, width) that the boxes refer to; zeros if not known.
        source: file of the boxes, for messages.
        faults: faults in the images' ground truth that the lists reveal, by id; `truth` raises them.
    """

    name: str
    class_space: str
    classes: tuple[str, ...]
    ids: list[str]
    split: str
    files: list[Path]
    labels: NDArray[np.int64]
    boxes: list[NDArray[np.float64]]
    sizes: NDArray[np.int64]
    source: Path
    faults: dict[str, str]

    def __post_init__(self) -> None:
        counts = np.array([len(boxes) for boxes in self.boxes])
        sizes = np.repeat(self.sizes, counts, axis=0)
        fits = possible(np.concatenate([np.zeros((0, 4)), *self.boxes]), sizes[:, 0], sizes[:, 1])
        wrong = np.unique(np.repeat(np.arange(len(counts)), counts)[~fits]).tolist()
        for i in [*np.flatnonzero(counts == 0).tolist(), *wrong]:
            try:
                self._truth(i, (int(self.sizes[i, 0]), int(self.sizes[i, 1])))
            except BadTruthError as error:
                self.faults.setdefault(self.ids[i], str(error))

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`; its size is that of the file.

        Raises:
            BadTruthError: label or boxes are wrong, or the image was resized or replaced since its boxes were drawn.
            BadImageError: the image has no readable header.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        size, noted, boxes = image_size(self.files[i]), tuple(self.sizes[i].tolist()), self.boxes[i]
        if (any(noted) and size != noted) or (boxes[:, 2] > size[1]).any() or (boxes[:, 3] > size[0]).any():
            said = f"{noted[1]} x {noted[0]} pixels" if any(noted) else f"boxes such as {boxes[0].tolist()}"
            raise BadTruthError(
                f"{self.files[i]} has {size[1]} x {size[0]} pixels, its truth has {said}: use the original images"
            )
        return self._truth(i, size)

    def _truth(self, i: int, size: tuple[int, int]) -> Truth:
        label, boxes = int(self.labels[i]), self.boxes[i]
        if not len(boxes):
            raise BadTruthError(f"{self.source}: {self.ids[i]} has no box; allowed is one or more for each image")
        return Truth(self.ids[i], size, label, boxes, np.full(len(boxes), label, np.int64), source=str(self.source))

    def identity(self) -> dict[str, object]:
        """Split, n, and checksums of truth and image files."""
        boxes = (box.tolist() for box in self.boxes)
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self.labels.tolist(), boxes, strict=True)),
            "pictures": self.file_sizes(),
        }
