"""CUB-200-2011: 11,788 images of 200 bird species, each with one box; 5,794 of them are the test set.

    data = read_cub("CUB_200_2011")                    # the unpacked archive
    data = read_cub("wsolevaluation", split="val")     # metadata/CUB/<split> and dataset/CUB/<class>/<image>

Both forms give the same ground truth. CUB writes `x y width height`. With x + width as its last column, no box of the
11,788 extends beyond its image. So x + width is used as the inclusive end, without subtracting a pixel. The split `val`
is CUBV2: 1,000 further images, on which wsolevaluation tunes thresholds.

Reference: C. Wah et al., "The Caltech-UCSD Birds-200-2011 dataset", CNS-TR-2011-001.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from eigencam.datasets.boxed import Boxed
from eigencam.datasets.completeness import Expect, check_count, first_folder, images_folder, present
from eigencam.datasets.names import as_stored, image_id, inside, once, unique
from eigencam.datasets.reading import Reading, decimal, expand
from eigencam.datasets.wsol_metadata import Metadata, class_index, find_metadata, read_metadata

T = TypeVar("T")
Split = Literal["test", "train", "val"]
FULL = {"test": 5794, "train": 5994, "val": 1000}
N_CLASSES = 200
IMAGES = ("dataset/CUB", "CUB", "images", "CUB_200_2011/images", ".")
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
    allow_outside: bool = False,
) -> Boxed:
    """Read the truth and find the images.

    Args:
        root: the unpacked archive, or a folder with wsolevaluation's `metadata`.
        split: test, train, or val (CUBV2, with wsolevaluation's metadata alone).
        images: folder of the class folders; by default searched below `root`.
        expect: `full`: raise an error unless all images of the split are there.
        allow_missing: use only the images that are there.
        allow_outside: follow listed paths that lead outside the image folder.

    Raises:
        FileNotFoundError: ground truth or images are missing.
        ValueError: an option or a line of a file is wrong.
    """
    if split not in get_args(Split):
        raise ValueError(f"split={split!r}: allowed are {', '.join(get_args(Split))}")
    top = expand(root)
    metadata = find_metadata(top, "CUB", split)
    original = first_folder((top, top / "CUB_200_2011"), "bounding_boxes.txt")
    if metadata is not None:
        found = read_metadata(metadata, "CUB", split, N_CLASSES, expect, allow_outside)
        source = metadata / "localization.txt"
    elif original is not None and split != "val":
        found, source = _read_original(original, split, allow_outside), original / "bounding_boxes.txt"
    else:
        raise FileNotFoundError(
            f"{top} has neither bounding_boxes.txt with images.txt, image_class_labels.txt and train_test_split.txt "
            f"(the archive) nor metadata/CUB/{split}/class_labels.txt. {HOW_TO_GET}"
        )
    folder = expand(images) if images else images_folder([top / place for place in IMAGES], found.paths) or top
    files = as_stored([folder / path for path in found.paths])
    kept = present(files, f"CUB {split}", HOW_TO_GET, allow_missing)
    check_count(f"CUB {split}", len(kept), FULL[split], expect)
    return Boxed(
        "cub",
        "cub",
        _classes(found),
        unique([image_id(found.paths[i]) for i in kept], [files[i] for i in kept]),
        split,
        [files[i] for i in kept],
        found.labels[kept],
        [found.boxes[i] for i in kept],
        found.sizes[kept],
        source,
        {image_id(path): fault for path, fault in found.faults.items()},
    )


read_cub.version = 1  # type: ignore[attr-defined]


def _classes(metadata: Metadata) -> tuple[str, ...]:
    names = {int(label): Path(path).parent.name for path, label in zip(metadata.paths, metadata.labels, strict=True)}
    return tuple(names.get(k, str(k)) for k in range(N_CLASSES))


def _read_original(folder: Path, split: str, allow_outside: bool) -> Metadata:
    """The archive's files, which count images and classes from 1."""
    paths = _by_number(folder / "images.txt", "path", lambda path: inside(path, allow_outside))
    named = _by_number(folder / "image_class_labels.txt", "class", str)
    flags = _by_number(folder / "train_test_split.txt", "is_training_image", lambda flag: {"0": False, "1": True}[flag])
    boxes = _by_number(folder / "bounding_boxes.txt", "x y width height", lambda *values: [decimal(v) for v in values])
    for what, known in (("class", named), ("part of the split", flags), ("box", boxes)):
        if bare := [path for number, path in paths.items() if number not in known]:
            raise ValueError(f"{folder}: no {what} for {len(bare)} of {len(paths)} images, e.g. {bare[0]}")
    unique(list(paths.values()), [f"number {number} of {folder / 'images.txt'}" for number in paths])
    chosen = sorted((number for number in paths if flags[number] == (split == "train")), key=paths.__getitem__)
    labels, faults = [], dict[str, str]()
    for number in chosen:
        index = class_index(named[number], N_CLASSES, first=1)
        labels.append(-1 if index is None else index)
        if index is None:
            faults[paths[number]] = (
                f"{folder / 'image_class_labels.txt'}: class {named[number]!r} of image {number}, {paths[number]}; "
                f"allowed are whole numbers, 1 to {N_CLASSES}"
            )
        elif not (boxes[number][2] > 0 and boxes[number][3] > 0):
            faults[paths[number]] = (
                f"{folder / 'bounding_boxes.txt'}: box {boxes[number]} (x, y, width, height) of image {number}, "
                f"{paths[number]}; allowed are widths and heights more than 0"
            )
    corners = np.array([boxes[number] for number in chosen]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Metadata(
        [paths[number] for number in chosen],
        np.array(labels, np.int64),
        np.zeros((len(chosen), 2), np.int64),
        [box[None] for box in corners],
        [[] for _ in chosen],
        faults,
    )


def _by_number(path: Path, columns: str, value: Callable[..., T]) -> dict[str, T]:
    """Return one file's value for each image, by the image's number."""
    found: dict[str, T] = {}
    seen: dict[str, str] = {}
    with Reading(path, f"`number {columns}`; {HOW_TO_GET}") as file:
        for number, *values in file.columns(None, 1 + len(columns.split())):
            found[once(seen, number, file.place)] = value(*values)
        if not found:
            raise ValueError("no image is listed")
    return found
