"""CUB-200-2011: 11,788 birds of 200 species with a box each; 5,794 of them are the test set.

    data = read_cub("CUB_200_2011")                    # the archive as it unpacks
    data = read_cub("wsolevaluation", split="val")     # metadata/CUB/<split> and dataset/CUB/<class>/<picture>

Both forms give the same truth. CUB writes `x y width height`; x + width is the last column (no box of the 11,788 goes
beyond it), so that it is taken as it is and no pixel is subtracted. The split `val` is CUBV2, 1,000 further pictures
that wsolevaluation tunes thresholds on.

Reference: C. Wah et al., "The Caltech-UCSD Birds-200-2011 dataset", CNS-TR-2011-001.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.boxed import Boxed
from eigencam.datasets.completeness import Expect, check_count, first_folder, present
from eigencam.datasets.wsol_metadata import Metadata, class_index, find_metadata, read_metadata

Split = Literal["test", "train", "val"]
FULL = {"test": 5794, "train": 5994, "val": 1000}
N_CLASSES = 200
PICTURES = ("dataset/CUB", "CUB", "images", "CUB_200_2011/images", ".")
HOW_TO_GET = (
    "CUB_200_2011.tgz is at data.caltech.edu/records/65de6-vp158; the split val (CUBV2) and the metadata are at "
    "github.com/clovaai/wsolevaluation; name the folder by paths.cub or EIGENCAM_CUB"
)


def read_cub(
    root: str | Path,
    split: Split = "test",
    images: str | Path | None = None,
    expect: Expect | None = None,
    allow_missing: bool = False,
) -> Boxed:
    """Read the truth and find the pictures.

    Args:
        root: the unpacked archive, or a folder with wsolevaluation's `metadata`.
        split: test, train, or val (CUBV2, with wsolevaluation's metadata alone).
        images: folder of the class folders; by default looked for below `root`.
        expect: `full`: an error unless all pictures of the split are there.
        allow_missing: take the pictures that are there.

    Raises:
        FileNotFoundError: no truth, or pictures are missing.
        ValueError: an option or a line of a file is wrong.
    """
    if split not in get_args(Split):
        raise ValueError(f"split={split!r}: allowed are {', '.join(get_args(Split))}")
    top = Path(root).expanduser()
    metadata = find_metadata(top, "CUB", split)
    original = first_folder((top, top / "CUB_200_2011"), "bounding_boxes.txt")
    if metadata is not None:
        found = read_metadata(metadata, "CUB", split, N_CLASSES, expect)
        boxes, source = found.boxes(metadata), metadata / "localization.txt"
    elif original is not None and split != "val":
        found, boxes = _read_original(original, split)
        source = original / "bounding_boxes.txt"
    else:
        raise FileNotFoundError(
            f"{top} has neither bounding_boxes.txt with images.txt, image_class_labels.txt and train_test_split.txt "
            f"(the archive) nor metadata/CUB/{split}/class_labels.txt. {HOW_TO_GET}"
        )
    folder = Path(images) if images else _pictures(top, found.paths)
    files = [folder / path for path in found.paths]
    kept = present(files, f"CUB {split}", HOW_TO_GET, allow_missing)
    check_count(f"CUB {split}", len(kept), FULL[split], expect)
    return Boxed(
        "cub",
        "cub",
        _classes(found),
        [Path(found.paths[i]).stem for i in kept],
        split,
        [files[i] for i in kept],
        found.labels[kept],
        [boxes[i] for i in kept],
        found.sizes[kept],
        source,
        {Path(path).stem: fault for path, fault in found.faults.items()},
    )


read_cub.version = 1  # type: ignore[attr-defined]


def _pictures(top: Path, paths: list[str]) -> Path:
    """The first folder that has any of the pictures; `top` where none has."""
    return next((top / place for place in PICTURES if any((top / place / path).is_file() for path in paths)), top)


def _classes(found: Metadata) -> tuple[str, ...]:
    names = {int(label): Path(path).parent.name for path, label in zip(found.paths, found.labels, strict=True)}
    return tuple(names.get(k, str(k)) for k in range(N_CLASSES))


def _read_original(folder: Path, split: str) -> tuple[Metadata, list[NDArray[np.float64]]]:
    """The archive's files: `number value ...` lines, classes counted from 1."""
    paths = dict(_pairs(folder / "images.txt"))
    named = dict(_pairs(folder / "image_class_labels.txt"))
    labels = {number: class_index(text, N_CLASSES, first=1) for number, text in named.items()}
    training = {number: flag == "1" for number, flag in _pairs(folder / "train_test_split.txt")}
    corners: dict[str, list[float]] = {}
    faults = {
        number: f"{folder / 'image_class_labels.txt'}: class {text!r} of image {number}, {paths.get(number)}; allowed "
        f"are whole numbers, 1 to {N_CLASSES}"
        for number, text in named.items()
        if labels[number] is None
    }
    for number, *values in _rows(folder / "bounding_boxes.txt", 5):
        x, y, width, height = map(float, values)
        corners[number] = [x, y, x + width, y + height]
        if not (width > 0 and height > 0):
            faults[number] = (
                f"{folder / 'bounding_boxes.txt'}: box {values} (x, y, width, height) of image {number}, "
                f"{paths.get(number)}; allowed are widths and heights more than 0"
            )
    chosen = sorted((number for number in paths if training.get(number) == (split == "train")), key=paths.__getitem__)
    if lacking := [paths[number] for number in chosen if number not in labels or number not in corners]:
        raise ValueError(f"{folder}: no class or no box for {len(lacking)} pictures, e.g. {lacking[0]}")
    found = Metadata(
        [paths[number] for number in chosen],
        np.array([-1 if labels[number] is None else labels[number] for number in chosen], np.int64),
        np.zeros((len(chosen), 2), np.int64),
        [[] for _ in chosen],
        {paths[number]: fault for number, fault in faults.items() if number in paths},
    )
    return found, [np.array([corners[number]]) for number in chosen]


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    return ((number, value) for number, value in _rows(path, 2))


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {HOW_TO_GET}")
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        if len(parts) != columns:
            raise ValueError(f"{path} line {number}: {line!r}; {columns} values are expected")
        yield parts
