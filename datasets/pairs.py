"""Pairs of images that match or do not: faces of one person, scenes with an object in common.

    Lfw("lfw", "pairs.txt")     # LFW's list, or one of its format for the user's folders
    ScenePairs(100)             # generated: every pair shares an object of one class, and of no other

Each image of a pair is an item of the dataset and is explained in comparison with the other one: pair k gives the items
`000k-a` and `000k-b`. There are two classes, `different` and `same`, and the label is the pair's. If the objects are
known, those that both images show have the class `same` and all others `different`, in boxes and mask. A map of a match
should highlight the former.

The first line of LFW's list (vis-www.cs.umass.edu/lfw, G. Huang et al., 2007) gives the number of folds and of pairs in
a half fold (`10 300`; a single number means one fold). Each fold has its matching pairs, `name m n`, then as many
non-matching ones, `name m other n`. Image n of a person is `<root>/name/name_000n.jpg`. No pair occurs twice.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Truth, checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.decoding import image_size, read_rgb
from eigencam.datasets.digest import file_digest, generated_digest, pair_digest
from eigencam.datasets.names import as_stored, once
from eigencam.datasets.reading import Reading, expand, integer
from eigencam.datasets.scenes import VERSION, Scene, Scenes, draw_scene

CLASSES = ("different", "same")
SAME = CLASSES.index("same")
SPACE = "pairs"
SUFFIXES = (".jpg", ".jpeg", ".png")
HOW_TO_GET = (
    "LFW's pairs.txt and lfw.tgz are at vis-www.cs.umass.edu/lfw; name the folder of the persons' folders by "
    "paths.pairs or EIGENCAM_PAIRS"
)
STREAM = 2
"""Replaces the split in a scene's seed: no image of a pair is one of `scenes`."""

Pixels = NDArray[np.uint8]


@runtime_checkable
class Paired(Protocol):
    """A dataset whose images are compared with others."""

    def partner(self, i: int) -> Pixels:
        """Return the image that image `i` is compared with: (H, W, 3) uint8 RGB."""
        ...


def partner_of(dataset: object) -> Callable[[int], Pixels] | None:
    """Return the function that gives an image's partner; None for a dataset without pairs."""
    try:
        return dataset.partner if isinstance(dataset, Paired) else None
    except AttributeError:  # a subset has the attribute, and asks its dataset
        return None


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of a list: two files, and whether they match."""

    files: tuple[Path, Path]
    same: bool


class Lfw:
    """Pairs of files from a list in LFW's format; an `eigencam.datasets.base.Dataset`.

    Attributes:
        pairs: the pairs, in the list's order.
    """

    version = 1
    class_space, classes = SPACE, CLASSES

    def __init__(
        self,
        root: str | Path,
        pairs: str | Path = "pairs.txt",
        matching: bool | None = True,
        allow_missing: bool = False,
        name: str = "pairs",
    ) -> None:
        """Read the list and find the files.

        Args:
            root: folder of the persons' folders.
            pairs: the list, a path or the name of a file in `root`.
            matching: True: only matching pairs; False: only non-matching ones; None: all.
            allow_missing: use only the pairs whose files are there.
            name: short name of the dataset.

        Raises:
            FileNotFoundError: the list or images are missing.
            ValueError: a line has another format, or the first one does not fit the others.
        """
        top = expand(root)
        path = expand(pairs)
        self.name, self.matching = name, matching
        listed = [pair for pair in read_pairs(top / path if not path.is_file() else path, top) if _is(pair, matching)]
        files = as_stored([file for pair in listed for file in pair.files])
        exists = [os.path.isfile(file) for file in files]  # noqa: PTH113
        if not all(exists) and not allow_missing:
            missing = [str(file) for file, found in zip(files, exists, strict=True) if not found]
            raise FileNotFoundError(
                f"{len(missing)} images of {path.name} are missing: {some(missing)} (dataset.allow_missing=true takes "
                f"the pairs that are there). {HOW_TO_GET}"
            )
        whole = [k for k in range(len(listed)) if exists[2 * k] and exists[2 * k + 1]]
        if not whole:
            raise FileNotFoundError(f"none of the {len(listed)} pairs of {path.name} is in {top}. {HOW_TO_GET}")
        self.pairs = [Pair((files[2 * k], files[2 * k + 1]), listed[k].same) for k in whole]
        self.ids = [_id(k, side) for k in whole for side in (0, 1)]

    def image(self, i: int) -> Pixels:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        return read_rgb(self._files(i)[0])

    def partner(self, i: int) -> Pixels:
        """Return the other image of its pair."""
        return read_rgb(self._files(i)[1])

    def digest(self, i: int) -> str:
        """Return the digest of both images' encoded bytes (`eigencam.datasets.digest`)."""
        return pair_digest([file_digest(file) for file in self._files(i)])

    def truth(self, i: int) -> Truth:
        """Return whether image `i` and its partner match; there are no boxes."""
        none = np.zeros((0, 4)), np.zeros(0, np.int64)
        return Truth(self.ids[i], image_size(self._files(i)[0]), int(self.pairs[i // 2].same), *none)

    def identity(self) -> dict[str, object]:
        """The selection of pairs, their number, and a checksum of files and labels."""
        rows = [[*("/".join(file.parts[-2:]) for file in pair.files), pair.same] for pair in self.pairs]
        return {"name": self.name, "matching": self.matching, "n": len(self.ids), "truth": checksum([*self.ids, *rows])}

    def _files(self, i: int) -> tuple[Path, Path]:
        """The file of image `i`, and its partner's."""
        first, second = self.pairs[i // 2].files
        return (second, first) if i % 2 else (first, second)


def _is(pair: Pair, matching: bool | None) -> bool:
    return matching is None or pair.same == matching


def _id(k: int, side: int) -> str:
    return f"{k:05d}-{'ab'[side]}"


def read_pairs(path: Path, root: Path) -> list[Pair]:
    """Read a list in LFW's format; the files need not exist.

    Args:
        path: the list.
        root: folder of the persons' folders.

    Raises:
        FileError: it has another format.
        FileNotFoundError: there is no such list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}. {HOW_TO_GET}")
    file_of = _finder(root)
    with Reading(path, "`name m n` or `name m other n`, after a line with the numbers of folds and pairs") as file:
        lines = file.lines()
        numbers = [integer(word) for word in next(lines, "").split()]
        if not 1 <= len(numbers) <= 2 or min(numbers) < 1:
            raise ValueError("no numbers of folds and pairs; expected: `10 300`, or `1000`")
        pairs = list(_pairs(file, lines, file_of))
        folds, half = numbers if len(numbers) == 2 else (1, numbers[0])
        if len(pairs) != 2 * folds * half:
            file.place = "line 1"
            raise ValueError(
                f"{' '.join(map(str, numbers))}; expected with the {len(pairs)} pairs that follow: numbers whose "
                "product is half of that"
            )
        for fold in range(folds):
            same = sum(pair.same for pair in pairs[2 * half * fold : 2 * half * (fold + 1)])
            if same != half:
                file.place = f"fold {fold + 1}"
                raise ValueError(f"{same} of {2 * half} pairs match; expected: {half}, by line 1")
    return pairs


def _pairs(file: Reading, lines: Iterator[str], file_of: Callable[[str, str], Path]) -> Iterator[Pair]:
    seen: dict[str, str] = {}
    for line in lines:
        words = line.split("\t") if "\t" in line else line.split()
        if len(words) not in (3, 4):
            raise ValueError(f"{len(words)} columns")
        same = len(words) == 3
        first, second = file_of(words[0], words[1]), file_of(words[0 if same else 2], words[-1])
        if first == second or (not same and words[0] == words[2]):
            fault = "an image with itself" if same else f"{words[0]!r} twice in a pair that does not match"
            raise ValueError(f"{fault}, in {line!r}")
        once(seen, " with ".join(sorted((first.stem, second.stem))), file.place)
        yield Pair((first, second), same)


def _finder(root: Path) -> Callable[[str, str], Path]:
    """A function from a name and a number to the file: JPEG, unless only a PNG exists."""

    def file_of(name: str, number: str) -> Path:
        if not name or Path(name).name != name or name in (".", ".."):
            raise ValueError(f"{name!r} is no name of a folder")
        if (index := integer(number)) < 0:
            raise ValueError(f"image {number} of {name}; allowed are whole numbers from 0")
        stem = root / name / f"{name}_{index:04d}"
        files = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
        return next((file for file in files if file.is_file()), files[0])

    return file_of


class ScenePairs:
    """Pairs of generated scenes; an `eigencam.datasets.base.Dataset`. No image is one of `scenes`.

    In a matching pair the main objects have the same class, but differ in colours, pose, size and background, and no
    other class occurs in both images. In a non-matching pair no class occurs in both.
    """

    version = 1
    name, class_space, classes = "scenes_pairs", SPACE, CLASSES

    def __init__(self, count: int = 100, seed: int = 0, matching: bool | None = True) -> None:
        """Store the options; images are drawn on access.

        Args:
            count: number of pairs.
            seed: another seed gives other pairs.
            matching: True: all match; False: none; None: every other one does.
        """
        if count < 1 or seed < 0:
            raise ValueError(f"scenes_pairs need count >= 1 and seed >= 0, not count={count}, seed={seed}")
        self.count, self.seed, self.matching = count, seed, matching
        self.ids = [_id(k, side) for k in range(count) for side in (0, 1)]

    def same(self, k: int) -> bool:
        """Whether pair `k` matches."""
        return k % 2 == 0 if self.matching is None else self.matching

    def image(self, i: int) -> Pixels:
        """Image `i`: (H, W, 3) uint8 RGB."""
        return self._scenes(i)[i % 2].image.copy()

    def partner(self, i: int) -> Pixels:
        """Return the other image of its pair."""
        return self._scenes(i)[1 - i % 2].image.copy()

    def digest(self, i: int) -> str:
        """Return the digest of what the two images are made from (`eigencam.datasets.digest`)."""
        asked = (VERSION, STREAM, self.seed, i // 2, int(self.same(i // 2)))
        return pair_digest([generated_digest("scenes", *asked, side) for side in (i % 2, 1 - i % 2)])

    def truth(self, i: int) -> Truth:
        """Return the ground truth of image `i`: objects of a class that the other image also shows are `same`."""
        scene = self._scenes(i)[i % 2]
        same = self.same(i // 2)
        shared = int(scene.labels[0]) if same else -1
        mask = np.where(scene.mask == 0, 0, np.where(scene.mask == shared + 1, 1 + SAME, 1)).astype(np.uint8)
        labels = np.where(scene.labels == shared, SAME, 0).astype(np.int64)
        height, width = mask.shape
        return Truth(self.ids[i], (height, width), int(same), scene.boxes.copy(), labels, mask=mask)

    def identity(self) -> dict[str, object]:
        """Version, seed, selection of pairs, n, and a checksum of ids and of the ground truth of the first pairs."""
        facts = [self.truth(i) for i in range(min(len(self.ids), 4))]
        rows = [[truth.size, truth.boxes.tolist(), truth.box_labels.tolist()] for truth in facts]
        about = {"name": self.name, "version": VERSION, "seed": self.seed, "matching": self.matching}
        return {**about, "n": len(self.ids), "truth": checksum([*self.ids, *rows])}

    def _scenes(self, i: int) -> tuple[Scene, Scene]:
        if not 0 <= i < len(self.ids):
            raise IndexError(f"image {i} of {len(self.ids)}")
        return _scene_pair(self.seed, i // 2, self.same(i // 2))


@lru_cache(maxsize=16)
def _scene_pair(seed: int, k: int, same: bool) -> tuple[Scene, Scene]:
    first = draw_scene((seed, STREAM, 2 * k))
    seen = frozenset(int(label) for label in first.labels)
    main = int(first.labels[0]) if same else _other(seen, k)
    return first, draw_scene((seed, STREAM, 2 * k + 1), main, seen)


def _other(seen: frozenset[int], k: int) -> int:
    """A class that a scene does not have, varying from pair to pair."""
    left = [label for label in range(len(Scenes.classes)) if label not in seen]
    return left[k % len(left)]
