"""PASCAL VOC 2007 and 2012: boxes of 20 classes, and segmentation masks for a part of the images.

    data = Voc("data", year=2007, image_set="test")                       # boxes
    data = Voc("data", year=2012, image_set="val", task="Segmentation")   # masks, and boxes where annotated

All objects of the 20 classes are target objects (`foreground="any"`). VOC's files count pixels from 1; boxes are
shifted to 0-based inclusive pixels, and fractions (VOC 2012 has some) are kept.

An image may have objects of several classes; its label is the class with the largest area, by the rule of
`eigencam.datasets.main_class`. Ties go to the first class in alphabetical order; without any object the label is -1.
"""

import hashlib
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, BadImageError, BadTruthError, Truth, checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.decoding import image_size, read_mask, read_rgb
from eigencam.datasets.digest import file_digest
from eigencam.datasets.main_class import main_class
from eigencam.datasets.names import JPEG, PNG, by_stem, once
from eigencam.datasets.reading import FileError, Reading, expand, files_in, is_file, read_lines
from eigencam.datasets.voc_xml import of_another, read_objects

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Names in the order of the masks' palette: class `k` has the palette index `k + 1`."""

Task = Literal["Main", "Segmentation"]
YEARS = (2007, 2012)
SUFFIXES = {"JPEGImages": (JPEG, PNG), "Annotations": ((".xml",),), "SegmentationClass": (PNG,)}
"""Suffixes in each folder, by descending preference; an image set lists names without suffix."""
HOW_TO_GET = (
    "The archives are VOCtrainval_11-May-2012.tar, VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar of "
    "host.robots.ox.ac.uk/pascal/VOC; download=true lets torchvision fetch them"
)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One XML file.

    Attributes:
        size: (height, width) in pixels; None if there is no file.
        boxes: (B, 4) float64, `x1 y1 x2 y2`, 0-based inclusive pixels.
        labels: (B,) int64, index into `CLASSES`.
        difficult: (B,) bool.
        file_name: the image's file name, as the annotation gives it.
    """

    size: tuple[int, int] | None
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    file_name: str = ""


_NOTHING = Annotation(None, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


def read_annotation(path: Path, origin: int = 1) -> Annotation:
    """Read one of VOC's XML files. Parts of a person (`head`, `hand`, `foot`) are not objects.

    Args:
        path: the file.
        origin: number of the first pixel in the file.

    Raises:
        FileError: the file is not such an annotation.
        BadTruthError: it names an unknown class, or has a box outside the image.
    """
    found = read_objects(path, origin)
    if unknown := sorted(set(found.names) - set(CLASSES)):
        raise BadTruthError(f"{path}: class {unknown[0]!r}; the classes are {', '.join(CLASSES)}")
    labels = np.array([CLASSES.index(name) for name in found.names], np.int64)
    return Annotation(found.size, found.boxes, labels, found.difficult, found.file_name)


class Voc:
    """Images of one of VOC's image sets and their ground truth; an `eigencam.datasets.base.Dataset`."""

    version = 1
    class_space = "voc"
    classes = CLASSES

    def __init__(
        self,
        root: str | Path,
        year: int = 2012,
        image_set: str = "val",
        task: Task = "Main",
        difficult: bool = True,
        allow_missing: bool = False,
        download: bool = False,
        without: str | Path | None = None,
        origin: int = 1,
    ) -> None:
        """Find the files and read all annotations.

        Args:
            root: the folder that contains `VOCdevkit`, or `VOCdevkit` or `VOC2012` itself.
            year: 2007 or 2012.
            image_set: a list in `ImageSets/<task>`: train, val, trainval, test, or a class's, such as `cow_val`, whose
                images flagged -1 (no such object) are left out.
            task: `Main`: every image has boxes; `Segmentation`: every image has a mask, and boxes where annotated.
            difficult: keep the boxes flagged difficult (`Truth.difficult` marks them).
            allow_missing: use only the images whose files are all there.
            download: let torchvision download the archive into `root` unless the image set is there already.
            without: a text file of ids to leave out, one per line; ids of other image sets are ignored.
            origin: number of the first pixel in the annotations: 1, as in VOC's own, or 0, as some programs write them.

        Raises:
            FileNotFoundError: the folder, the image set, some of its files, or `without` are missing.
            ValueError: an option has a value that is not allowed.
        """
        if year not in YEARS:
            raise ValueError(f"year={year!r}: allowed are {YEARS[0]} and {YEARS[1]}")
        if task not in get_args(Task):
            raise ValueError(f"task={task!r}: allowed are {' and '.join(get_args(Task))}")
        if origin not in (0, 1):
            raise ValueError(f"origin={origin!r}: allowed are 0 and 1")
        self.name = f"voc{year}"
        self.image_set, self.task, self.difficult = image_set, task, difficult
        top = expand(root)
        if download and _folder(top, year, image_set, task) is None:
            _download(top, year, image_set)
        self.folder = _folder(top, year, image_set, task) or _complain(top, year, image_set, task)
        listed = _listed(self.folder / "ImageSets" / task / f"{image_set}.txt")
        every = len(listed)
        if without:
            listed = _rest(listed, expand(without))
        self.without = every - len(listed)
        files = {kind: by_stem(self.folder / kind, families) for kind, families in SUFFIXES.items()}
        self.ids = self._complete(listed, files, allow_missing)
        self._files = {kind: {k: existing[k] for k in self.ids if k in existing} for kind, existing in files.items()}
        self.faults: dict[str, str] = {}
        self._annotations = [self._annotation(name, origin, files["JPEGImages"].keys()) for name in self.ids]

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        return read_rgb(self._path("JPEGImages", self.ids[i]))

    def digest(self, i: int) -> str:
        """Return the digest of image `i`'s encoded bytes (`eigencam.datasets.digest`)."""
        return file_digest(self._path("JPEGImages", self.ids[i]))

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`, with its mask for the task Segmentation.

        Raises:
            BadTruthError: the annotation is wrong; image, annotation and mask differ in size; or the mask has values
                that are not classes.
            BadImageError: the mask cannot be decoded.
        """
        name, annotation = self.ids[i], self._annotations[i]
        if fault := self.faults.get(name):
            raise BadTruthError(fault)
        mask = self._mask(name) if self.task == "Segmentation" else None
        sizes: dict[str, tuple[int, ...]] = {}
        if annotation.size:
            sizes["annotation"] = annotation.size
        if mask is not None:
            sizes["mask"] = mask.shape
        with suppress(BadImageError):  # `image` raises it; the ground truth does not need the image
            sizes["image"] = image_size(self._path("JPEGImages", name))
        if len(set(sizes.values())) > 1:
            seen = ", ".join(f"{what} {width} x {height}" for what, (height, width) in sizes.items())
            raise BadTruthError(f"{name} in {self.folder}: {seen} pixels; all must be those of the original image")
        height, width = next(iter(sizes.values()))
        kept = np.ones(len(annotation.boxes), bool) if self.difficult else ~annotation.difficult
        return Truth(
            name,
            (height, width),
            main_class(len(CLASSES), annotation.boxes, annotation.labels, annotation.difficult, mask),
            annotation.boxes[kept],
            annotation.labels[kept],
            annotation.difficult[kept],
            mask,
            foreground="any",
            source=str(self._path("Annotations" if mask is None else "SegmentationClass", name)),
        )

    def identity(self) -> dict[str, object]:
        """Year, task, image set, n, and checksums of the ground truth and of the images' files."""
        truth = (
            [name, a.size, a.boxes.tolist(), a.labels.tolist(), a.difficult.tolist()]
            for name, a in zip(self.ids, self._annotations, strict=True)
        )
        masks = (hashlib.sha256(self._path("SegmentationClass", name).read_bytes()).hexdigest() for name in self.ids)
        return {
            "name": self.name,
            "task": self.task,
            "image_set": self.image_set,
            "difficult": self.difficult,
            **({"without": self.without} if self.without else {}),
            "n": len(self.ids),
            "truth": checksum(truth),
            "masks": checksum(masks) if self.task == "Segmentation" else None,
            "pictures": checksum(self._path("JPEGImages", name).stat().st_size for name in self.ids),
        }

    def _path(self, kind: str, name: str) -> Path:
        return Path(self._files[kind][name])

    def _annotation(self, name: str, origin: int, stems: Container[str]) -> Annotation:
        if name not in self._files["Annotations"]:  # only possible for the task Segmentation
            return _NOTHING
        path = self._path("Annotations", name)
        try:
            found = read_annotation(path, origin)
            if fault := of_another(path, found.file_name, stems):
                raise BadTruthError(fault)
            return found
        except (FileError, BadTruthError) as error:
            self.faults[name] = str(error)
            return _NOTHING

    def _mask(self, name: str) -> NDArray[np.uint8]:
        path = self._path("SegmentationClass", name)
        mask = read_mask(path)
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=VOID + 1))
        if wrong := [int(value) for value in values if len(CLASSES) < value < VOID]:
            raise BadTruthError(
                f"{path}: values {wrong[:5]}; allowed are 0 (background), 1..{len(CLASSES)} and {VOID} (void)"
            )
        return mask

    def _complete(self, listed: list[str], existing: dict[str, dict[str, str]], allow_missing: bool) -> list[str]:
        """The images that have all their files. Raises FileNotFoundError if one lacks any, unless `allow_missing`."""
        kinds = ("JPEGImages", "Annotations" if self.task == "Main" else "SegmentationClass")
        complete = [name for name in listed if all(name in existing[kind] for kind in kinds)]
        if len(complete) < len(listed) and not (allow_missing and complete):
            lacks = {kind: [name for name in listed if name not in existing[kind]] for kind in kinds}
            counts = "; ".join(
                f"{len(names)} lack their file in {self.folder / kind}, e.g. {some(names)}"
                for kind, names in lacks.items()
                if names
            )
            proceed = f"; allow_missing=true evaluates the {len(complete)} that are complete" if complete else ""
            raise FileNotFoundError(
                f"of the {len(listed)} images of {self.name} {self.task}/{self.image_set} {counts}. "
                f"{HOW_TO_GET}{proceed}"
            )
        return complete


def _candidates(root: Path, year: int) -> list[Path]:
    inside = [root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"]
    return inside if root.name == f"VOC{2007 + 2012 - year}" else [*inside, root]


def _folder(root: Path, year: int, image_set: str, task: str) -> Path | None:
    """The first candidate that has the image set."""
    found = (one for one in _candidates(root, year) if is_file(one / "ImageSets" / task / f"{image_set}.txt"))
    return next(found, None)


def _complain(root: Path, year: int, image_set: str, task: str) -> NoReturn:
    looked = ", ".join(str(one) for one in _candidates(root, year))
    lists = [path for one in _candidates(root, year) for path in files_in(one / "ImageSets" / task, (".txt",))]
    names = [path.stem for path in lists if "_" not in path.stem]
    raise FileNotFoundError(
        f"no ImageSets/{task}/{image_set}.txt of VOC {year} in {looked}"
        f"{f'; the image sets there are {some(names, 4)}' if names else ''}. {HOW_TO_GET}"
    )


def _listed(path: Path) -> list[str]:
    seen: dict[str, str] = {}
    with Reading(path, "a line for each image: its name and, in a class's list, a flag") as file:
        for line in file.lines():
            name, *flag = line.split()
            if flag not in ([], ["-1"], ["0"], ["1"]):
                raise ValueError(f"{line!r}; allowed flags are -1, 0 and 1")
            if flag != ["-1"]:
                once(seen, name, file.place)
        if not seen:
            raise ValueError("no image is listed")
    return sorted(seen)


def _rest(listed: list[str], path: Path) -> list[str]:
    """The listed images without those that a file names."""
    left_out = set(read_lines(path, "an image's id in each line of dataset.without"))
    rest = [name for name in listed if name not in left_out]
    if not rest:
        raise ValueError(f"dataset.without={path}: it names all {len(listed)} images")
    return rest


def _download(root: Path, year: int, image_set: str) -> None:
    from torchvision.datasets import VOCDetection  # here, so that data on disk needs no torch

    try:
        VOCDetection(str(root), year=str(year), image_set=image_set, download=True)
    except (OSError, RuntimeError) as error:  # no network, or an archive with another checksum
        raise FileNotFoundError(f"VOC {year} could not be downloaded into {root}: {error}. {HOW_TO_GET}") from error
