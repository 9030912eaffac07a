"""Pictures of one labelled object class each, with boxes: what CUB and ImageNetV2 are once their files are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Truth, checksum
from eigencam.datasets.images import image_size, read_rgb


@dataclass(slots=True)
class Boxed:
    """An `eigencam.datasets.base.Dataset`; row `i` of everything is picture `ids[i]`.

    Attributes:
        split: part of the dataset, for the identity.
        files: the pictures.
        labels: (N,) int64.
        boxes: of each picture (B, 4) float64 inclusive pixels, of the labelled class.
        sizes: (N, 2) int64, (height, width) that the boxes refer to; zeros where that is not known.
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

    def image(self, i: int) -> NDArray[np.uint8]:
        """Picture `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` where it cannot be decoded."""
        return read_rgb(self.files[i])

    def truth(self, i: int) -> Truth:
        """The truth about picture `i`; its size is that of the file.

        Raises:
            ValueError: the picture was resized or replaced since its boxes were drawn.
            BadImageError: it has no readable header.
        """
        size, noted, boxes = image_size(self.files[i]), tuple(self.sizes[i].tolist()), self.boxes[i]
        if (any(noted) and size != noted) or (boxes[:, 2] > size[1]).any() or (boxes[:, 3] > size[0]).any():
            said = f"{noted[1]} x {noted[0]} pixels" if any(noted) else f"boxes such as {boxes[0].tolist()}"
            raise ValueError(
                f"{self.files[i]} has {size[1]} x {size[0]} pixels, its truth has {said}: use the original pictures"
            )
        label = int(self.labels[i])
        return Truth(self.ids[i], size, label, boxes, np.full(len(boxes), label, np.int64))

    def identity(self) -> dict[str, object]:
        """Split, n, and checksums of truth and picture files."""
        boxes = (box.tolist() for box in self.boxes)
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self.labels.tolist(), boxes, strict=True)),
            "pictures": checksum(path.stat().st_size for path in self.files),
        }
