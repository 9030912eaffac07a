"""Predictions made by any other program: boxes in the ILSVRC devkit's or COCO's format, or a folder of maps.

devkit  text, plain or .gz, line k for image k in the order of the ids: up to five guesses `label x1 y1 x2 y2`,
        best first, inclusive pixels of the original image, 0-based
coco    JSON, plain or .gz, a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`
maps    files `<image id>.npy` (real, (h, w)) or `<image id>.png` (grey, 8 or 16 bits) of any resolution; a map
        covers the whole image. An image suffix in the name, as in `<image id>.JPEG.npy`, is not part of the id. If
        an id contains folders, leading ones may be missing as long as the rest identifies the image
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eigencam.datasets.base import BadTruthError, Truth
from eigencam.datasets.boxes import Boxes, area, best_iou, from_xywh
from eigencam.datasets.coco_annotations import is_number, read_instances
from eigencam.datasets.devkit import N_CLASSES
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth
from eigencam.datasets.names import match, unique
from eigencam.datasets.reading import Reading, decimal, expand, files_in, integer
from eigencam.evaluation import statistics
from eigencam.evaluation.base import Metric

GUESSES = 5
MAP_SUFFIXES = (".npy", ".png")
NO_CATEGORY = -1
"""Category of a COCO result that gives none; others count from 0 or 1."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """A file in the devkit's format.

    Attributes:
        labels: (N, G) int64, as in the file; 0 for missing guesses.
        boxes: (N, G, 4) float64, inclusive pixels; NaN for missing guesses.
    """

    labels: NDArray[np.int64]
    boxes: Boxes

    def select(self, rows: Sequence[int]) -> "Guesses":
        """The guesses of some rows."""
        kept = np.asarray(rows, np.int64)
        return Guesses(self.labels[kept], self.boxes[kept])


def read_devkit(path: Path | str) -> Guesses:
    """Read a file in the devkit's format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line does not hold one to five times five numbers, a label is not a whole number, or a box is
            empty.
    """
    with Reading(path, f"1 to {GUESSES} guesses in each line, of five numbers each: label x1 y1 x2 y2") as file:
        lines = file.text().rstrip().split("\n")
        width = np.array([len(line.split()) for line in lines])
        wrong = (width % 5 != 0) | (width == 0) | (width > 5 * GUESSES)
        if wrong.any():
            k = int(np.argmax(wrong))
            file.place = f"line {k + 1}"
            raise ValueError(f"{width[k]} numbers in {lines[k]!r}")
        values = np.full((len(lines), int(width.max())), np.nan)
        try:
            values[np.arange(values.shape[1]) < width[:, None]] = [decimal(word) for word in " ".join(lines).split()]
        except ValueError:
            file.place = f"line {_not_numbers(lines) + 1}"
            raise ValueError(f"{lines[_not_numbers(lines)]!r}") from None
        values = values.reshape(len(lines), -1, 5)
        labels = np.nan_to_num(values[..., 0])
        whole = ((labels == np.round(labels)) & (np.abs(labels) < 2**31)).all(axis=1)
        whole &= np.isfinite(values).all(axis=2).sum(axis=1) == width // 5
        if not whole.all():
            k = int(np.argmin(whole))
            file.place = f"line {k + 1}"
            raise ValueError(f"{lines[k]!r}; allowed are whole labels and finite coordinates")
        empty = (area(values[..., 1:]) == 0) & np.isfinite(values[..., 1:]).all(axis=2)
        if empty.any():
            k = int(np.argmax(empty.any(axis=1)))
            file.place = f"line {k + 1}"
            raise ValueError(f"{lines[k]!r}; allowed are boxes x1 y1 x2 y2 with x1 <= x2 and y1 <= y2")
    return Guesses(labels.astype(np.int64), values[..., 1:])


def devkit_metrics(
    path: Path | str,
    guesses: Guesses,
    truth: IlsvrcTruth,
    labels: str = "devkit",
    rows: Sequence[int] | None = None,
) -> list[Metric]:
    """Errors by the rule of the ILSVRC2014 development kit, in percent of the images.

    The error of an image is the minimum over its guesses of max(label wrong, box wrong); a box is right if its
    inclusive IoU with any box of the image is at least 0.5. No blacklist.

    Args:
        path: the file, for messages.
        guesses: its content, row k for row k of `truth`.
        truth: truth of all the images.
        labels: how the file numbers classes: `devkit` ids 1 to 1000, or indices of the `sorted` WordNet ids, 0 to
            999.
        rows: the images that are scored; None for all of the truth.

    Returns:
        `top1_loc_error`, `top1_cls_error`; with more than one guess also the same for the first five, named `top5_`;
        `box_error`: the first box is wrong, whatever its label; `mean_iou` of the first box.

    Raises:
        ValueError: the numbers of lines and images differ, or a label is out of range.
    """
    n, most = guesses.labels.shape
    if n != len(truth.ids):
        raise ValueError(f"{path}: {n} lines, the truth has {len(truth.ids)} images; allowed is one line per image")
    given = ~np.isnan(guesses.boxes[..., 0])
    low, high = (1, N_CLASSES) if labels == "devkit" else (0, N_CLASSES - 1)
    outside = (given & ((guesses.labels < low) | (guesses.labels > high))).any(axis=1)
    if outside.any():
        k = int(np.argmax(outside))
        seen = guesses.labels[k][given[k]].tolist()
        raise ValueError(f"{path}, line {k + 1}: labels {seen}; allowed are {low} to {high}: {labels} labels")
    if rows is not None:
        guesses, truth, given = guesses.select(rows), truth.select(rows), given[np.asarray(rows, np.int64)]
    index = truth.synsets.index_by_devkit_id()[guesses.labels] if labels == "devkit" else guesses.labels
    wrong_label = (index != truth.labels[:, None]) | ~given
    overlaps = np.stack([best_iou(guesses.boxes[:, g], truth.boxes, truth.offsets) for g in range(most)], axis=1)
    wrong_box = overlaps < 0.5
    wrong = wrong_label | wrong_box
    metrics = [("top1_loc_error", wrong[:, 0]), ("top1_cls_error", wrong_label[:, 0])]
    if most > 1:
        metrics += [("top5_loc_error", wrong.all(axis=1)), ("top5_cls_error", wrong_label.all(axis=1))]
    metrics.append(("box_error", wrong_box[:, 0]))
    return [
        *(statistics.rate(name, errors, better="lower") for name, errors in metrics),
        statistics.mean("mean_iou", overlaps[:, 0]),
    ]


def read_coco_boxes(path: Path | str, ids: Sequence[str]) -> dict[str, Boxes]:
    """Read a COCO results file: for each image its boxes (P, 4), inclusive pixels, by descending score.

    Boxes of equal score are in the order in which COCOeval takes them without classes: by `category_id`, and
    within a category in the order of the file. A result without a category comes first.

    Args:
        path: the file.
        ids: ids of the truth's images. An `image_id` is one of these, or the number after the letters of one: 1
            for `ILSVRC2012_val_00000001`, 2008000002 for `2008_000002`.

    Raises:
        ValueError: the file is not a list of results, or names an image that the truth does not have.
    """
    numbers: dict[str, list[str]] = {}
    for name in ids:
        numbers.setdefault(str(_number(name)), []).append(name)
    aliases: Mapping[str, str] | None = getattr(ids, "aliases", None)  # the annotation file's own ids
    known = {name: [name] for name in ids} | {key: [name] for key, name in (aliases or {}).items()}
    known = known if aliases else numbers | known
    found: dict[str, list[tuple[float, int, list[float]]]] = {}
    unknown: list[str] = []
    with Reading(path, "a list of results with image_id, bbox of four finite numbers, and score") as file:
        if not isinstance(results := file.json(), list):
            raise ValueError(f"JSON of a {type(results).__name__}")
        for result in file.each("result", results):
            image, score, box = str(result["image_id"]), result["score"], list(result["bbox"])
            category = integer(result["category_id"]) if result.get("category_id") is not None else NO_CATEGORY
            if len(box) != 4 or not all(map(is_number, (score, *box))) or not np.isfinite([score, *box]).all():
                raise ValueError(f"bbox {box}, score {score}")
            if box[2] <= 0 or box[3] <= 0:
                raise ValueError(f"bbox {box} (x y width height) of image {image}; allowed are sizes more than 0")
            meant = known.get(image, [])
            if len(meant) > 1:
                raise ValueError(f"image_id {image} could be {meant[0]} or {meant[1]}; name the image by its whole id")
            if meant:
                found.setdefault(meant[0], []).append((score, category, box))
            else:
                unknown.append(image)
        if unknown:
            raise ValueError(
                f"{len(unknown)} results are of images that the truth does not have, e.g. {some(unknown)}; it has "
                f"{some(ids)}"
            )
    ranked = {image: sorted(boxes, key=lambda one: (-one[0], one[1])) for image, boxes in found.items()}  # stable
    return {image: from_xywh(np.array([box for *_, box in boxes])) for image, boxes in ranked.items()}


def read_coco_truth(path: Path | str, faults: dict[str, str] | None = None) -> list[Truth]:
    """Read a COCO instances file, images sorted by id; every object is a target object, crowds are `difficult`.

    Args:
        path: the file.
        faults: collects faults in annotations by image id, and such images are left out; None: a fault is raised.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another structure, or an annotation is wrong.
    """
    found = read_instances(path, order=lambda image: image["id"], pixels=False)
    wrong = {str(image["id"]): fault for image, fault in zip(found.images, found.faults, strict=True) if fault}
    if wrong and faults is None:
        raise BadTruthError(next(iter(wrong.values())))
    (faults if faults is not None else {}).update(wrong)
    return [
        Truth(
            str(image["id"]),
            (image["height"], image["width"]),
            -1,
            from_xywh(np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)),
            np.array([one["class"] for one in objects], np.int64),
            np.array([one["crowd"] for one in objects], bool),
            foreground="any",
            source=str(path),
        )
        for image, objects in zip(found.images, found.objects, strict=True)
        if str(image["id"]) not in wrong
    ]


def find_maps(folder: Path | str) -> dict[str, Path]:
    """Find the map files in `folder` and its subfolders, by their relative path without the suffix."""
    folder = expand(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; allowed is one with {' or '.join(MAP_SUFFIXES)} files")
    files = list(files_in(folder, MAP_SUFFIXES, depth=-1))
    if not files:
        raise FileNotFoundError(f"{folder}: no {' or '.join(MAP_SUFFIXES)} files in it")
    keys = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    return dict(zip(unique(keys, files, "maps"), files, strict=True))


def maps_of(ids: Iterable[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the map of each image that has one. Raises a ValueError if a match is not unique.

    Args:
        ids: the images' ids.
        files: from `find_maps`.
    """
    return {name: files[key] for name, key in match(ids, files, files.__getitem__, "maps").items()}


def read_map(path: Path) -> NDArray[Any]:
    """Read a score map (h, w) as stored: `.npy`, without further axes of length one, or a grey image."""
    with Reading(path, "a real array (h, w) in .npy, or a grey image") as file:
        if path.suffix.lower() == ".npy":
            values = np.load(file.regular(), allow_pickle=False)
        else:
            with Image.open(file.regular()) as image:
                if image.mode not in ("L", "I", "I;16", "I;16B", "F", "1"):
                    raise ValueError(f"an image of mode {image.mode}")
                values = np.asarray(image)
        if values.ndim > 2:
            values = values.reshape([side for side in values.shape if side > 1] if values.size > 1 else [1, 1])
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
            raise ValueError(f"an array of {values.shape}, {values.dtype}")
    return values


def some(names: Iterable[str], n: int = 3) -> str:
    """The first `n` names, for messages."""
    names = list(names)
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")


def _number(image_id: str) -> int:
    digits = re.sub(r"\D", "", re.split(r"[A-Za-z]", image_id)[-1])
    return int(digits) if digits else -1


def _not_numbers(lines: Sequence[str]) -> int:
    """The first line that holds something other than numbers."""
    for k, line in enumerate(lines):
        try:
            [decimal(word) for word in line.split()]
        except ValueError:
            return k
    return 0
