"""The text files in which wsolevaluation describes its three datasets.

    metadata/<dataset>/<split>/image_ids.txt      path
                              class_labels.txt    path,class
                              image_sizes.txt     path,width,height                 (empty for OpenImages)
                              localization.txt    path,x0,y0,x1,y1                  boxes, a line each; or
                                                  path,mask,ignore                  OpenImages; `ignore` on a first line

Paths are relative to the dataset's folder of pictures. Boxes are read as they stand, as inclusive pixels: no x1 is
beyond the last column of its picture, and many are that column.

Reference: J. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020;
github.com/clovaai/wsolevaluation.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.completeness import Expect, first_folder

VERSIONS = {"wsol_metadata": 1}
"""Raised when a change here moves a number; see `eigencam.versions`."""

MD5 = {
    ("CUB", "test"): "3192e07cdb04e003ae396482bdf8d83e",
    ("CUB", "val"): "4d8cd4975ecdd3bccb8bfae1df01fddc",
    ("CUB", "train"): "afffba6c8d68ae0e32c141618be1765d",
    ("ILSVRC", "val"): "65669883616aee578e4c2ec2ffa54f18",
    ("OpenImages", "test"): "7a4918b3ba103e83045ec23e4c19431e",
    ("OpenImages", "val"): "0e85c9a23a61bcb66ca04bda126e6c6f",
}
"""Of each localization.txt."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """One split; row `i` is picture `paths[i]`.

    Attributes:
        paths: of the pictures, sorted; what the files name them by.
        labels: (N,) int64.
        sizes: (N, 2) int64, (height, width); zeros where the files do not tell.
        localization: of each picture its lines of localization.txt, without the path.
        faults: what is wrong with the label of an image, by path.
    """

    paths: list[str]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    localization: list[list[tuple[str, ...]]]
    faults: Mapping[str, str] = field(default_factory=dict)

    def boxes(self, folder: Path) -> list[NDArray[np.float64]]:
        """Of each picture its boxes (B, 4) float64, inclusive pixels. `folder` is for messages."""
        try:
            return [np.array(lines, np.float64).reshape(-1, 4) for lines in self.localization]
        except ValueError as error:
            raise ValueError(f"{folder / 'localization.txt'}: path,x0,y0,x1,y1 is expected: {error}") from None


def find_metadata(root: Path, dataset: str, split: str) -> Path | None:
    """The folder of a split's files: below `root`, in `metadata`, or `root` itself."""
    places = (f"metadata/{dataset}/{split}", f"{dataset}/{split}", f"metadata/{split}", split, ".")
    return first_folder((root / place for place in places), "class_labels.txt")


def read_metadata(folder: Path, dataset: str, split: str, n_classes: int, expect: Expect | None = None) -> Metadata:
    """Read a split.

    Args:
        folder: that of the files.
        dataset: `CUB`, `ILSVRC` or `OpenImages`.
        split: `train`, `val` or `test`.
        n_classes: labels are 0 to n_classes - 1.
        expect: `full`: localization.txt must be that of the repository, by its MD5.

    Raises:
        FileNotFoundError: localization.txt is missing.
        ValueError: a line is not of the form expected, or a picture has no class.
    """
    place = folder / "localization.txt"
    if not place.is_file():
        raise FileNotFoundError(
            f"{place} is missing; it comes with the other files of github.com/clovaai/wsolevaluation"
        )
    wanted = MD5.get((dataset, split))
    if expect == "full" and wanted and (found := hashlib.md5(place.read_bytes()).hexdigest()) != wanted:
        raise ValueError(
            f"{place} has the MD5 {found}, that of the repository has {wanted}; dataset.expect=null reads it"
        )
    labels, faults = _labels(folder / "class_labels.txt", n_classes)
    listed = folder / "image_ids.txt"
    paths = sorted(path for (path,) in _lines(listed, 1)) if listed.is_file() else sorted(labels)
    if bare := [path for path in paths if path not in labels]:
        raise ValueError(f"{folder / 'class_labels.txt'}: no class for {len(bare)} of {len(paths)} pictures, {bare[0]}")
    sizes: dict[str, tuple[int, int]] = {}
    if (folder / "image_sizes.txt").is_file():
        sizes = {path: (int(h), int(w)) for path, w, h in _lines(folder / "image_sizes.txt", 3)}
    located: dict[str, list[tuple[str, ...]]] = {path: [] for path in paths}
    for path, *rest in _lines(place, 3 if dataset == "OpenImages" else 5):
        if path in located:
            located[path].append(tuple(rest))
    return Metadata(
        paths,
        np.array([labels[path] for path in paths], np.int64),
        np.array([sizes.get(path, (0, 0)) for path in paths], np.int64).reshape(-1, 2),
        [located[path] for path in paths],
        faults,
    )


def class_index(text: str, n_classes: int, first: int = 0) -> int | None:
    """The index that a file's class number stands for, or None if it is no whole number from `first` on."""
    if not text.strip().isdecimal() or len(text) > 9:
        return None
    index = int(text) - first
    return index if 0 <= index < n_classes else None


def _labels(path: Path, n_classes: int) -> tuple[dict[str, int], dict[str, str]]:
    """Label and what is wrong with it (then the label is -1), by the image's path."""
    labels, faults = {}, {}
    for image, text in _lines(path, 2):
        index = class_index(text, n_classes)
        labels[image] = -1 if index is None else index
        if index is None:
            faults[image] = f"{path}: label {text!r} of {image}; allowed are whole numbers, 0 to {n_classes - 1}"
    return labels, faults


def _lines(path: Path, columns: int) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = tuple(line.strip().split(","))
        if parts == ("",):
            continue
        if len(parts) != columns:
            raise ValueError(f"{path} line {number}: {line!r}; {columns} values separated by commas are expected")
        yield parts
