"""INRIA's annotations for Graz-02 (IG02): bikes, cars and people, with a mask for every object.

    data = Ig02("ig02", category="cars")     # cars/carsgraz_001.image.png, .mask.0.png, ...; cars_test.txt

A mask is painted: red where the object is visible, green where something in front of it occludes it, black elsewhere.
Some masks are empty. `occluded` sets the meaning of the green pixels: `background` (only the visible part counts),
`object` (the whole object) or `void` (ignored). A pixel that is red in one mask of an image and green in another
belongs to the object.

The lists `<category>_test.txt` and `<category>_train.txt` are the suggested split. The protocol evaluates each category
on its own test images, so a dataset here is one category, named `ig02_cars`, unless `category` is `all`.

Reference: M. Marszalek, C. Schmid, "Accurate object localization with shape masks", CVPR 2007; images: A. Opelt et
al., "Generic object recognition with boosting", PAMI 2006.
"""

import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, BadTruthError, Truth, checksum
from eigencam.datasets.completeness import Expect, check_count, first_folder, present
from eigencam.datasets.decoding import image_size, read_rgb
from eigencam.datasets.image_per_file import ImageFiles
from eigencam.datasets.names import PNG, as_stored, inside, once, unique
from eigencam.datasets.reading import Reading, expand, files_in

CATEGORIES = ("bikes", "cars", "people")
Split = Literal["test", "train", "all"]
Occluded = Literal["background", "object", "void"]
FULL = {
    "bikes": {"test": 162, "train": 162, "all": 365},
    "cars": {"test": 177, "train": 177, "all": 420},
    "people": {"test": 140, "train": 140, "all": 311},
}
_IMAGE, _MASK = (re.compile(rf"(.+)\.{what}\.png", re.IGNORECASE) for what in ("image", r"mask\.(\d+)"))
HOW_TO_GET = (
    "The archives are ig02-v1.0-bikes.zip (MD5 13266fdf968176fa3aebdd439184254f), ig02-v1.0-cars.zip "
    "(34de933832755ee009c6f0e9d9c6426e) and ig02-v1.0-people.zip (f80d8d21f018197979c72b977986fd2f) of "
    "lear.inrialpes.fr/people/marszalek/data/ig02, unpacked into one folder; name it by paths.ig02 or EIGENCAM_IG02"
)


class Ig02(ImageFiles):
    """Images of a category, or of all, and their masks; an `eigencam.datasets.base.Dataset`."""

    class_space = "ig02"
    classes: tuple[str, ...] = CATEGORIES

    version = 1

    def __init__(
        self,
        root: str | Path,
        category: str = "bikes",
        split: Split = "test",
        occluded: Occluded = "background",
        expect: Expect | None = None,
        allow_missing: bool = False,
    ) -> None:
        """Read the lists and find the files.

        Args:
            root: the folder with `bikes`, `cars`, `people` and the lists, or with one folder per archive.
            category: bikes, cars, people, or all.
            split: test, train, or all images of the category's folder.
            occluded: the meaning of occluded parts of objects.
            expect: `full`: raise an error unless all images of the split are there.
            allow_missing: use only the images that are there.

        Raises:
            FileNotFoundError: a list, an image, or all masks of an image are missing.
            ValueError: an option has a value that is not allowed.
        """
        for key, value, allowed in (
            ("category", category, (*CATEGORIES, "all")),
            ("split", split, get_args(Split)),
            ("occluded", occluded, get_args(Occluded)),
        ):
            if value not in allowed:
                raise ValueError(f"{key}={value!r}: allowed are {', '.join(allowed)}")
        self.name = f"ig02_{category}"
        self.split, self.occluded = split, occluded
        self.files: list[Path] = []
        self._masks: list[list[Path]] = []
        self._labels: list[int] = []
        ids: list[str] = []
        for label, name in enumerate(CATEGORIES):
            if category not in (name, "all"):
                continue
            folder, listed = _listed(expand(root), name, split)
            files = as_stored([folder / name / f"{stem}.image.png" for stem in listed])
            masks = _masks(folder / name)
            whole = [i for i in present(files, f"IG02 {name}", HOW_TO_GET, allow_missing) if listed[i] in masks]
            if len(whole) < len(files) and not allow_missing:
                bare = next(stem for stem in listed if stem not in masks)
                raise FileNotFoundError(f"{folder / name}: no {bare}.mask.0.png beside its image. {HOW_TO_GET}")
            check_count(f"IG02 {name} {split}", len(whole), FULL[name][split], expect)
            self.files += [files[i] for i in whole]
            self._masks += [masks[listed[i]] for i in whole]
            self._labels += [label] * len(whole)
            ids += [f"{name}/{listed[i]}" for i in whole]
        self.ids = unique(ids, self.files)

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`; a box is the tightest around the object's pixels that count.

        Raises:
            BadTruthError: a mask is not of the image's size, or painted in other colours than red and green.
        """
        size, label = image_size(self.files[i]), self._labels[i]
        seen, hidden = np.zeros(size, bool), np.zeros(size, bool)
        boxes = []
        for path in self._masks[i]:
            colours = read_rgb(path)
            if colours.shape[:2] != size:
                raise BadTruthError(f"{path}: a mask of {colours.shape[1::-1]} pixels, the image has {size[::-1]}")
            _check_colours(path, colours)
            red, green = painted(colours)
            seen |= red
            hidden |= green
            counts = red | green if self.occluded == "object" else red
            if counts.any():
                rows, columns = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
                boxes.append([columns[0], rows[0], columns[-1], rows[-1]])
        value = {"background": 0, "object": 1 + label, "void": VOID}[self.occluded]
        mask = np.where(seen, 1 + label, np.where(hidden, value, 0)).astype(np.uint8)
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        labels = np.full(len(corners), label, np.int64)
        return Truth(self.ids[i], size, label, corners, labels, mask=mask, source=str(self._masks[i][0]))

    def identity(self) -> dict[str, object]:
        """Split, treatment of occluded parts, n, and checksums of ids and of the files' sizes."""
        masks = ([path.stat().st_size for path in paths] for paths in self._masks)
        return {
            "name": self.name,
            "split": self.split,
            "occluded": self.occluded,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self._labels, masks, strict=True)),
            "pictures": self.file_sizes(),
        }


def painted(colours: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(H, W, 3) RGB -> two (H, W) bool: visible (red at least as strong as green, not black) and occluded (green)."""
    red, green = colours[..., 0], colours[..., 1]
    return (red > 0) & (red >= green), green > red


def _check_colours(path: Path, colours: NDArray[np.uint8]) -> None:
    """Raise BadTruthError if the blue of a pixel exceeds half of the larger of its red and green."""
    wrong = colours[..., 2] > np.maximum(colours[..., 0], colours[..., 1]) // 2
    if wrong.any():
        y, x = (int(k) for k in np.argwhere(wrong)[0])
        raise BadTruthError(
            f"{path}: the colour {tuple(colours[y, x].tolist())} at x = {x}, y = {y}, {wrong.sum()} such pixels; "
            "allowed are red (seen), green (hidden) and black"
        )


def _listed(root: Path, category: str, split: str) -> tuple[Path, list[str]]:
    """The folder that has a category's images and lists, and the names of the split's images, sorted."""
    list_name = f"{category}_{'test' if split == 'all' else split}.txt"
    places = (root, root / f"ig02-v1.0-{category}", root / f"ig02-{category}", root / category)
    folder = first_folder(places, list_name)
    if folder is None:
        looked = ", ".join(str(place) for place in places)
        raise FileNotFoundError(f"no {list_name} in {looked}. {HOW_TO_GET}")
    if split == "all":
        stems = sorted(match[1] for path in files_in(folder / category, PNG) if (match := _IMAGE.fullmatch(path.name)))
        if not stems:
            raise FileNotFoundError(f"{folder / category}: no image. {HOW_TO_GET}")
        return folder, stems
    seen: dict[str, str] = {}
    with Reading(folder / list_name, f"an image's name, as {category}/NAME.image.png") as file:
        for (stem,) in file.columns(None, 1):
            name = inside(stem).removeprefix(f"{category}/")
            once(seen, match[1] if (match := _IMAGE.fullmatch(name)) else name, file.place)
        if not seen:
            raise ValueError("no image is listed")
    return folder, sorted(seen)


def _masks(folder: Path) -> dict[str, list[Path]]:
    """The masks of each image, by its name."""
    found: dict[str, list[Path]] = {}
    files = [path for path in files_in(folder, PNG) if _MASK.fullmatch(path.name)]
    numbers = [(match[1], int(match[2])) for path in files if (match := _MASK.fullmatch(path.name))]
    unique([f"{stem.lower()}.mask.{number}" for stem, number in numbers], files, "masks")
    for path, (stem, _) in zip(files, numbers, strict=True):
        found.setdefault(stem, []).append(path)
    return found
