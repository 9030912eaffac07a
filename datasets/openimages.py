"""OpenImages30k, wsolevaluation's subset of Open Images V5: images of 100 classes with masks and ignored regions.

    data = OpenImages("wsolevaluation")     # metadata/OpenImages/test and dataset/OpenImages/test/<class>/<image>.jpg

Beside each image are a mask for every object of its class, `<image>_m<class>_<hash>.png`, and `<image>_ignore.png` with
the boxes of objects that have no mask. The object is the union of the masks; the rest of the ignored region is void. A
mask pixel counts if its grey value is not 0, for any kind of PNG (1 bit, RGB, RGBA).

The resolution of a mask may differ from its image's. By default masks keep theirs, because PxAP resizes them to its own
size in one step. `masks=image` resizes them to the image's size, for evaluators that count its pixels.
"""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, BadTruthError, Truth, checksum
from eigencam.datasets.completeness import Expect, check_count, images_folder, present
from eigencam.datasets.decoding import image_size, read_object
from eigencam.datasets.image_per_file import ImageFiles
from eigencam.datasets.names import as_stored, image_id, unique
from eigencam.datasets.reading import expand, is_file
from eigencam.datasets.wsol_metadata import find_metadata, read_metadata

_STRETCH = 1.1
"""Tolerance of height / width between a mask and its image; beyond it, the mask is of another image or rotated."""

Split = Literal["test", "val", "train"]
Masks = Literal["own", "image"]
FULL = {"test": 5000, "val": 2500, "train": 29_819}
N_CLASSES = 100
IMAGES = ("dataset/OpenImages", "OpenImages", ".")
HOW_TO_GET = (
    "The images and masks are the two archives of OpenImages30k that github.com/clovaai/wsolevaluation links to, "
    "unpacked into one folder, the metadata its metadata/OpenImages; name the folder by paths.openimages30k or "
    "EIGENCAM_OPENIMAGES30K"
)


class OpenImages(ImageFiles):
    """Images of one split and their masks; an `eigencam.datasets.base.Dataset`."""

    version = 1

    name = "openimages30k"
    class_space = "openimages"

    def __init__(
        self,
        root: str | Path,
        split: Split = "test",
        images: str | Path | None = None,
        masks: Masks = "own",
        expect: Expect | None = None,
        allow_missing: bool = False,
        allow_outside: bool = False,
    ) -> None:
        """Read the lists and find the files.

        Args:
            root: folder with wsolevaluation's `metadata` and the images.
            split: test, val, or train, which has no masks.
            images: folder with `test`, `val` and `train`, images and masks; by default searched below `root`.
            masks: resolution of the masks: their `own`, or that of the image (`image`).
            expect: `full`: raise an error unless all images are there and localization.txt is wsolevaluation's.
            allow_missing: use only the images that are there with all their masks.
            allow_outside: follow listed paths that lead outside the image folder.

        Raises:
            FileNotFoundError: no metadata, or images or masks are missing.
            ValueError: an option or a line of a file is wrong.
        """
        if split not in get_args(Split):
            raise ValueError(f"split={split!r}: allowed are {', '.join(get_args(Split))}")
        if masks not in get_args(Masks):
            raise ValueError(f"masks={masks!r}: allowed are {', '.join(get_args(Masks))}")
        top = expand(root)
        metadata = find_metadata(top, "OpenImages", split)
        if metadata is None:
            raise FileNotFoundError(f"{top} has no metadata/OpenImages/{split}/class_labels.txt. {HOW_TO_GET}")
        found = read_metadata(metadata, "OpenImages", split, N_CLASSES, expect, allow_outside)
        if split != "train" and (
            bare := [path for path, lines in zip(found.paths, found.masks, strict=True) if not lines]
        ):
            raise ValueError(f"{metadata / 'localization.txt'}: no mask for {len(bare)} images, e.g. {bare[0]}")
        folder = expand(images) if images else images_folder([top / place for place in IMAGES], found.paths) or top
        stored = as_stored([folder / path for path in found.paths])
        kept = present(stored, f"OpenImages30k {split}", HOW_TO_GET, allow_missing)
        parts = {i: _masks(folder, found.masks[i]) for i in kept}
        needed = [path for of_image in parts.values() for path in of_image if path]
        what = f"OpenImages30k {split}'s masks"
        if needed and len(present(needed, what, HOW_TO_GET, allow_missing)) < len(needed):
            kept = [i for i in kept if all(is_file(path) for path in parts[i] if path)]
        check_count(f"OpenImages30k {split}", len(kept), FULL[split], expect)
        self.split, self.masks = split, masks
        self.files = [stored[i] for i in kept]
        self.ids = unique([image_id(found.paths[i]) for i in kept], self.files)
        self.labels = found.labels[kept]
        names = {int(label): Path(path).parent.name for path, label in zip(found.paths, found.labels, strict=True)}
        self.classes = tuple(names.get(k, str(k)) for k in range(N_CLASSES))
        self._masks = [parts[i] for i in kept]
        self.faults = {image_id(path): fault for path, fault in found.faults.items()}

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`; its boxes are the tightest around each mask.

        Raises:
            BadTruthError: the label or a mask is invalid, or all masks are empty.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        size, label = image_size(self.files[i]), int(self.labels[i])
        ignored, *paths = self._masks[i]
        parts = [_part(path, size) for path in paths if path]
        if not parts:
            return Truth(self.ids[i], size, label, np.zeros((0, 4)), np.zeros(0, np.int64))
        shape = size if self.masks == "image" else parts[0].shape
        parts = [resized(part, shape) for part in parts]
        thing = np.any(parts, axis=0)
        if not thing.any():
            raise BadTruthError(f"{paths[0]}: no pixel of the object in {len(paths)} masks; allowed is one or more")
        mask = np.where(thing, np.uint8(1 + label), np.uint8(0))
        if ignored:
            mask[resized(_part(ignored, size), shape) & ~thing] = VOID
        boxes = np.array([box for part in parts if (box := _tight(part, size)) is not None]).reshape(-1, 4)
        return Truth(
            self.ids[i], size, label, boxes, np.full(len(boxes), label, np.int64), mask=mask, own_resolution=True
        )

    def identity(self) -> dict[str, object]:
        """Split, masks' resolution, n, and checksums of the lists and of the files' sizes."""
        masks = [[(path.name, path.stat().st_size) for path in paths if path] for paths in self._masks]
        return {
            "name": self.name,
            "split": self.split,
            "masks": self.masks,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self.labels.tolist(), masks, strict=True)),
            "pictures": self.file_sizes(),
        }


def _part(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of any resolution; its aspect ratio must be that of an image of `size`, up to `_STRETCH`."""
    part = read_object(path)
    stretch = part.shape[0] * size[1] / (part.shape[1] * size[0])
    if not 1 / _STRETCH <= stretch <= _STRETCH:
        (height, width), (rows, columns) = size, part.shape
        raise BadTruthError(
            f"{path}: a mask of {columns} x {rows} pixels; allowed is the shape of its image, {width} x {height}, at "
            "any resolution"
        )
    return part


def _masks(folder: Path, lines: list[tuple[str, str]]) -> list[Path | None]:
    """The ignored region's file, or None, then the objects' masks."""
    ignored = as_stored([folder / name for _, name in lines if name])
    return [ignored[0] if ignored else None, *as_stored([folder / mask for mask, _ in lines])]


def resized(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Resize (H, W) bool to `shape`; each pixel has the value at its upper left corner, as with OpenCV's nearest."""
    if mask.shape == shape:
        return mask
    rows, columns = (
        np.minimum(np.floor(np.arange(n) * (1 / (n / old))).astype(np.int64), old - 1)
        for n, old in zip(shape, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _tight(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float64] | None:
    """The inclusive box, in the image's pixels, of everything that a mask of any resolution touches."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    y, x = size[0] / mask.shape[0], size[1] / mask.shape[1]
    ends = np.ceil([(columns[-1] + 1) * x - 1, (rows[-1] + 1) * y - 1])
    return np.array([np.floor(columns[0] * x), np.floor(rows[0] * y), *ends])
