"""Predictions made by any other program: boxes in the ILSVRC devkit's or COCO's form, or a folder of maps.

devkit  text, plain or .gz, line k for picture k in the order of the ids: up to five guesses `label x1 y1 x2 y2`,
        best first, inclusive pixels of the original picture, 0-based
coco    JSON, plain or .gz, a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`
maps    files `<image id>.npy` (real, (h, w)) or `<image id>.png` (grey, 8 or 16 bits) of any resolution; a map
        covers the whole picture. What follows the first dot of a name is no part of the id
"""

import gzip
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eigencam.datasets.base import BadTruthError, Truth
from eigencam.datasets.boxes import Boxes, area, best_iou, from_xywh
from eigencam.datasets.coco_objects import read_instances
from eigencam.datasets.devkit import N_CLASSES
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth
from eigencam.evaluation import statistics
from eigencam.evaluation.base import Metric
from eigencam.files import regular

GUESSES = 5
MAP_SUFFIXES = (".npy", ".png")


@dataclass(frozen=True, slots=True)
class Guesses:
    """A file in the devkit's form.

    Attributes:
        labels: (N, G) int64, as in the file; 0 where a picture has fewer than G guesses.
        boxes: (N, G, 4) float64, inclusive pixels; NaN where a picture has fewer.
    """

    labels: NDArray[np.int64]
    boxes: Boxes


def read_devkit(path: Path | str) -> Guesses:
    """Read a file in the devkit's form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line does not hold one to five times five numbers, a label is not a whole number, or a box is
            empty.
    """
    lines = read_text(path).rstrip().split("\n")
    width = np.array([len(line.split()) for line in lines])
    wrong = (width % 5 != 0) | (width == 0) | (width > 5 * GUESSES)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(
            f"{path}, line {k + 1}: {width[k]} numbers in {lines[k]!r}; allowed are 1 to {GUESSES} guesses of five: "
            "label x1 y1 x2 y2"
        )
    values = np.full((len(lines), int(width.max())), np.nan)
    try:
        values[np.arange(values.shape[1]) < width[:, None]] = np.array(" ".join(lines).split(), np.float64)
    except ValueError:
        raise _not_a_number(path, lines) from None
    values = values.reshape(len(lines), -1, 5)
    labels = np.nan_to_num(values[..., 0])
    whole = (labels == np.round(labels)).all(axis=1) & (np.isfinite(values).all(axis=2).sum(axis=1) == width // 5)
    if not whole.all():
        k = int(np.argmin(whole))
        raise ValueError(f"{path}, line {k + 1}: {lines[k]!r}; allowed are whole labels and finite coordinates")
    empty = (area(values[..., 1:]) == 0) & np.isfinite(values[..., 1:]).all(axis=2)
    if empty.any():
        k = int(np.argmax(empty.any(axis=1)))
        raise ValueError(
            f"{path}, line {k + 1}: {lines[k]!r}; allowed are boxes x1 y1 x2 y2 with x1 <= x2 and y1 <= y2"
        )
    return Guesses(labels.astype(np.int64), values[..., 1:])


def devkit_metrics(path: Path | str, guesses: Guesses, truth: IlsvrcTruth, labels: str = "devkit") -> list[Metric]:
    """Errors by the rule of the ILSVRC2014 development kit, in percent of all pictures of the truth.

    The error of a picture is the minimum over its guesses of max(label wrong, box wrong); a box is right if its
    inclusive IoU with any box of the picture is at least 0.5. No blacklist.

    Args:
        path: the file, for messages.
        guesses: its content, row k for row k of `truth`.
        truth: of all the pictures.
        labels: what the file counts classes by: `devkit` ids 1 to 1000, or indices of the `sorted` WordNet ids, 0 to
            999.

    Returns:
        `top1_loc_error`, `top1_cls_error`; with more than one guess also the same for the first five, named `top5_`;
        `box_error`: the first box is wrong, whatever its label; `mean_iou` of the first box.

    Raises:
        ValueError: the numbers of lines and pictures differ, or a label is out of range.
    """
    n, most = guesses.labels.shape
    if n != len(truth.ids):
        raise ValueError(f"{path}: {n} lines, the truth has {len(truth.ids)} pictures; allowed is a line a picture")
    given = ~np.isnan(guesses.boxes[..., 0])
    low, high = (1, N_CLASSES) if labels == "devkit" else (0, N_CLASSES - 1)
    outside = (given & ((guesses.labels < low) | (guesses.labels > high))).any(axis=1)
    if outside.any():
        k = int(np.argmax(outside))
        seen = guesses.labels[k][given[k]].tolist()
        raise ValueError(f"{path}, line {k + 1}: labels {seen}; allowed are {low} to {high}: {labels} labels")
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
    """Read a COCO results file: for each picture its boxes (P, 4), inclusive pixels, by falling score.

    Args:
        path: the file.
        ids: of the truth's pictures. An `image_id` is one of these, or the number that one has behind its letters: 1
            for `ILSVRC2012_val_00000001`, 2008000002 for `2008_000002`.

    Raises:
        ValueError: the file is not a list of results, or names a picture that the truth does not have.
    """
    results = _json(path)
    if not isinstance(results, list):
        raise ValueError(f"{path}: JSON of a {type(results).__name__}; allowed is a list of results, as COCO's loadRes")
    known = {**{str(_number(name)): name for name in ids}, **{name: name for name in ids}}
    found: dict[str, list[tuple[float, list[float]]]] = {}
    unknown: list[str] = []
    for i, result in enumerate(results):
        try:
            image, score, box = str(result["image_id"]), float(result["score"]), [float(x) for x in result["bbox"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, result {i}: {result!r}: {error!r}; image_id, bbox and score are needed"
            ) from None
        if len(box) != 4 or not np.isfinite([score, *box]).all():
            raise ValueError(f"{path}, result {i}: bbox {box}, score {score}; allowed are four numbers and one, finite")
        if box[2] <= 0 or box[3] <= 0:
            raise ValueError(
                f"{path}, result {i} of image {image}: bbox {box} (x y width height); allowed are sizes more than 0"
            )
        if image in known:
            found.setdefault(known[image], []).append((score, box))
        else:
            unknown.append(image)
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} results are of pictures that the truth does not have, e.g. {some(unknown)}; "
            f"it has {some(ids)}"
        )
    # The sort is stable: equal scores stay in the order of the file.
    ranked = {image: sorted(boxes, key=lambda item: -item[0]) for image, boxes in found.items()}
    return {image: from_xywh(np.array([box for _, box in boxes])) for image, boxes in ranked.items()}


def read_coco_truth(path: Path | str) -> list[Truth]:
    """Read a COCO instances file, images sorted by id: every object is sought, crowds are `difficult`.

    Raises:
        ValueError: the file has another structure, or an annotation is wrong.
    """
    found = read_instances(path, _json(path), order=lambda image: image["id"], pixels=False)
    if fault := next(filter(None, found.faults), ""):
        raise BadTruthError(fault)
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
    ]


def find_maps(folder: Path | str) -> dict[str, Path]:
    """The map files in `folder` and below it, by image id. Raises a ValueError where two have the same id."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; allowed is one with {' or '.join(MAP_SUFFIXES)} files")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in MAP_SUFFIXES):
        name = path.name.split(".", 1)[0]
        if name in found:
            raise ValueError(f"two maps for {name}: {found[name]} and {path}; allowed is one")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{folder}: no {' or '.join(MAP_SUFFIXES)} files in it")
    return found


def read_map(path: Path) -> NDArray[Any]:
    """A score map (h, w), as stored: `.npy`, where further axes of length one are dropped, or a grey picture."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(regular(path), allow_pickle=False)
        else:
            with Image.open(regular(path)) as image:
                if image.mode not in ("L", "I", "I;16", "I;16B", "F", "1"):
                    raise ValueError(f"a picture of mode {image.mode}")
                values = np.asarray(image)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: {error}; allowed are real arrays in .npy and grey pictures") from None
    if values.ndim > 2:
        values = values.reshape([side for side in values.shape if side > 1] if values.size > 1 else [1, 1])
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: an array of {values.shape}, {values.dtype}; allowed is a real (h, w)")
    return values


def read_text(path: Path | str) -> str:
    """The text of a file, plain or gzipped, whatever its name says."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; allowed is text, plain or gzipped") from None


def some(names: Iterable[str], n: int = 3) -> str:
    """The first `n` names, for messages."""
    names = list(names)
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")


def _json(path: Path | str) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def _number(image_id: str) -> int:
    digits = re.sub(r"\D", "", re.split(r"[A-Za-z]", image_id)[-1])
    return int(digits) if digits else -1


def _not_a_number(path: Path | str, lines: Sequence[str]) -> ValueError:
    for k, line in enumerate(lines, 1):
        try:
            [float(word) for word in line.split()]
        except ValueError:
            return ValueError(f"{path}, line {k}: {line!r}; allowed are numbers")
    return ValueError(f"{path}: allowed are numbers")
