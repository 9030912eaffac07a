"""The text files in which wsolevaluation describes its three datasets.

    metadata/<dataset>/<split>/image_ids.txt      path
                              class_labels.txt    path,class
                              image_sizes.txt     path,width,height                 (empty for OpenImages)
                              localization.txt    path,x0,y0,x1,y1                  boxes, one per line; or
                                                  path,mask,ignore                  OpenImages; `ignore` on a first line

Paths are relative to the dataset's image folder. Boxes are read unchanged, as inclusive pixels: no x1 exceeds the last
column of its image, and many equal it.

Reference: J. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020;
github.com/clovaai/wsolevaluation.
"""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.completeness import Expect, first_folder
from eigencam.datasets.names import inside, once
from eigencam.datasets.possible_boxes import LONGEST_SIDE
from eigencam.datasets.reading import Reading, decimal, is_file

VERSIONS = {"wsol_metadata": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

MD5 = {
    ("CUB", "test"): "3192e07cdb04e003ae396482bdf8d83e",
    ("CUB", "val"): "4d8cd4975ecdd3bccb8bfae1df01fddc",
    ("CUB", "train"): "afffba6c8d68ae0e32c141618be1765d",
    ("ILSVRC", "val"): "65669883616aee578e4c2ec2ffa54f18",
    ("OpenImages", "test"): "7a4918b3ba103e83045ec23e4c19431e",
    ("OpenImages", "val"): "0e85c9a23a61bcb66ca04bda126e6c6f",
}
"""MD5 of each localization.txt."""


Boxes = list[NDArray[np.float64]]
Masks = list[list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Metadata:
    """One split; row `i` is image `paths[i]`.

    Attributes:
        paths: the images' paths, as in the files, sorted.
        labels: (N,) int64.
        sizes: (N, 2) int64, (height, width); zeros if the files do not say.
        boxes: for each image (B, 4) float64, inclusive pixels; empty for OpenImages.
        masks: for each OpenImages image, the paths of its masks, each with that of the ignored region or "".
        faults: faults in an image's label or size, by path.
    """

    paths: list[str]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    boxes: Boxes
    masks: Masks
    faults: Mapping[str, str] = field(default_factory=dict)


def find_metadata(root: Path, dataset: str, split: str) -> Path | None:
    """The folder of a split's files: below `root`, in `metadata`, or `root` itself."""
    places = (f"metadata/{dataset}/{split}", f"{dataset}/{split}", f"metadata/{split}", split, ".")
    return first_folder((root / place for place in places), "class_labels.txt")


def read_metadata(
    folder: Path, dataset: str, split: str, n_classes: int, expect: Expect | None = None, allow_outside: bool = False
) -> Metadata:
    """Read a split.

    Args:
        folder: folder of the files.
        dataset: `CUB`, `ILSVRC` or `OpenImages`.
        split: `train`, `val` or `test`.
        n_classes: labels are 0 to n_classes - 1.
        expect: `full`: localization.txt must be the repository's, by its MD5.
        allow_outside: follow paths that lead outside the image folder.

    Raises:
        FileNotFoundError: localization.txt is missing.
        ValueError: a line has another format, an image occurs twice, or it has no class.
    """
    place = folder / "localization.txt"
    with Reading(place, "the file beside class_labels.txt in github.com/clovaai/wsolevaluation") as file:
        found, wanted = hashlib.md5(file.raw()).hexdigest(), MD5.get((dataset, split))
        if expect == "full" and wanted and found != wanted:
            raise ValueError(f"has the MD5 {found}, not {wanted}; dataset.expect=null reads it")
    faults: dict[str, str] = {}
    labels = _labels(folder / "class_labels.txt", n_classes, allow_outside, faults)
    paths = _listed(folder, labels, allow_outside)
    # OpenImages' file is empty.
    wanted_sizes = paths if dataset != "OpenImages" else []
    sizes = _sizes(folder / "image_sizes.txt", wanted_sizes, allow_outside, faults)
    boxes, masks = (_masks if dataset == "OpenImages" else _boxes)(place, paths, labels, allow_outside)
    return Metadata(
        paths,
        np.array([labels[path] for path in paths], np.int64),
        np.array([sizes.get(path, (0, 0)) for path in paths], np.int64).reshape(-1, 2),
        boxes,
        masks,
        faults,
    )


def class_index(text: str, n_classes: int, first: int = 0) -> int | None:
    """The index of a class whose number in a file counts from `first`; None if the text is no class's number."""
    if not text.strip().isdecimal() or len(text) > 9:
        return None
    index = int(text) - first
    return index if 0 <= index < n_classes else None


def _labels(path: Path, n_classes: int, allow_outside: bool, faults: dict[str, str]) -> dict[str, int]:
    """Label of each image; an invalid one becomes -1 and is added to `faults`."""
    labels: dict[str, int] = {}
    seen: dict[str, str] = {}
    with Reading(path, "`path,class`") as file:
        for name, text in file.columns(",", 2):
            image, index = once(seen, inside(name, allow_outside), file.place), class_index(text, n_classes)
            labels[image] = -1 if index is None else index
            if index is None:
                faults[image] = f"{path}: label {text!r} of {image}; allowed are whole numbers, 0 to {n_classes - 1}"
        if not labels:
            raise ValueError("no image is listed")
    return labels


def _sizes(
    path: Path, images: Sequence[str], allow_outside: bool, faults: dict[str, str]
) -> dict[str, tuple[int, int]]:
    """(height, width) of the images, if there is such a file; invalid ones are added to `faults`."""
    sizes: dict[str, tuple[int, int]] = {}
    seen: dict[str, str] = {}
    if not is_file(path):
        return sizes
    with Reading(path, "`path,width,height`") as file:
        for name, width, height in file.columns(",", 3):
            image = once(seen, inside(name, allow_outside), file.place)
            size = class_index(height, LONGEST_SIDE + 1), class_index(width, LONGEST_SIDE + 1)
            if size[0] and size[1]:
                sizes[image] = (size[0], size[1])
            else:
                faults.setdefault(
                    image, f"{path}: {width} x {height} pixels of {image}; allowed are whole numbers from 1"
                )
        if bare := [image for image in images if image not in seen]:
            raise ValueError(f"no size of {len(bare)} of {len(images)} images, e.g. {bare[0]}")
    return sizes


def _listed(folder: Path, labels: dict[str, int], allow_outside: bool) -> list[str]:
    """The images of image_ids.txt, or all labelled ones if there is no such file, sorted."""
    if not is_file(folder / "image_ids.txt"):
        return sorted(labels)
    seen: dict[str, str] = {}
    with Reading(folder / "image_ids.txt", "`path` of an image that class_labels.txt gives a class") as file:
        for (path,) in file.columns(",", 1):
            if once(seen, inside(path, allow_outside), file.place) not in labels:
                raise ValueError(f"no class for {path!r}")
        if not seen:
            raise ValueError("no image is listed")
    return sorted(seen)


def _known(path: str, labels: Container[str], allow_outside: bool) -> str:
    """The path of an image that class_labels.txt lists. Raises a ValueError for another one."""
    if (path := inside(path, allow_outside)) not in labels:
        raise ValueError(f"{path!r} is no image of class_labels.txt")
    return path


def _boxes(place: Path, paths: list[str], labels: Container[str], allow_outside: bool) -> tuple[Boxes, Masks]:
    """The boxes in localization.txt for the images of image_ids.txt; a box may occur twice."""
    found: dict[str, list[list[float]]] = {path: [] for path in paths}
    with Reading(place, "`path,x0,y0,x1,y1`") as file:
        for path, *corners in file.columns(",", 5):
            if (path := _known(path, labels, allow_outside)) in found:
                found[path].append([decimal(corner) for corner in corners])
    return [np.array(found[path], np.float64).reshape(-1, 4) for path in paths], [[] for _ in paths]


def _masks(place: Path, paths: list[str], labels: Container[str], allow_outside: bool) -> tuple[Boxes, Masks]:
    """The masks in localization.txt; one line of an image, the first, also has the ignored region."""
    found: dict[str, list[tuple[str, str]]] = {path: [] for path in paths}
    seen: dict[str, str] = {}
    with Reading(place, "`path,mask,ignore`") as file:
        for path, mask, ignored in file.columns(",", 3):
            if (path := _known(path, labels, allow_outside)) in found:
                if mask == ignored:
                    raise ValueError(f"the mask {mask} is also the ignored region of {path}")
                once(seen, inside(mask, allow_outside), file.place)
                if ignored and any(region for _, region in found[path]):
                    raise ValueError(f"a second ignored region of {path}")
                found[path].append((inside(mask, allow_outside), ignored and inside(ignored, allow_outside)))
    return [np.zeros((0, 4)) for _ in paths], [found[path] for path in paths]
