"""COCO's annotations: validation, and decoding to pixels.

A box is `x y width height` with a continuous extent. Pixels are given as polygons or as run lengths. A polygon is a
list `x1 y1 x2 y2 ...` of at least three corners. Run lengths go column by column and begin with the background:
`{"size": [height, width], "counts": ...}`, where the counts are a list of numbers or COCO's packed text.

Both are checked before they are decoded: polygons must lie in their image, so that the decoded size is bounded by the
image, and run lengths must cover it exactly. Polygons are filled by COCO's own code (pycocotools).
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, whole
from eigencam.datasets.names import unique
from eigencam.datasets.possible_boxes import LONGEST_SIDE
from eigencam.datasets.reading import Reading

LONGEST_OUTLINE = 4_000_000
"""Maximum number of pixels on the outline of one object; COCO's code takes about 40 bytes for each."""

_SEGMENTATION = "allowed are polygons (lists of at least 6 numbers: x1, y1, x2, y2, ...) or run lengths"
_LONGEST_COUNT = 7  # characters of 5 bits


@dataclass(frozen=True, slots=True)
class Instances:
    """The content of a file of instances; item `i` of `sizes`, `objects` and `faults` is that of `images[i]`.

    Attributes:
        images: as in the file, sorted.
        classes: names, in the order of the categories' ids.
        sizes: (height, width) of each image; (0, 0) if the file's is invalid.
        objects: list of each image's objects: `class`, `crowd`, `bbox`, `area`, `segmentation`.
        faults: for each image, what is wrong with its annotations; "" if nothing.
        pixels: whether the objects have a segmentation.
    """

    images: list[dict[str, Any]]
    classes: tuple[str, ...]
    sizes: list[tuple[int, int]]
    objects: list[list[dict[str, Any]]]
    faults: list[str]
    pixels: bool


def read_instances(path: Path | str, order: Callable[[Any], Any], pixels: bool | None = True) -> Instances:
    """Read a file of instances and validate it.

    Args:
        path: the file.
        order: key by which the images are sorted.
        pixels: whether every object must have a segmentation; None: segmentations are used if all have one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the content has another structure, or two images or two categories have the same id.
    """
    with Reading(path, "COCO's instances (images, annotations, categories)") as file:
        data = file.json()
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}; ground truth is an object (a file of detections is a list)")
        images = sorted(data["images"], key=order)
        categories = sorted(data["categories"], key=lambda category: category["id"])
        unique([str(image["id"]) for image in images], [image.get("file_name", "an image") for image in images])
        unique([str(one["id"]) for one in categories], [one["name"] for one in categories], "categories")
        unique([str(one["name"]) for one in categories], [f"id {one['id']}" for one in categories], "categories")
        if not images:
            raise ValueError("no image is listed")
        index = {category["id"]: k for k, category in enumerate(categories)}
        row = {image["id"]: i for i, image in enumerate(images)}
        sizes = [(whole(image["height"]), whole(image["width"])) for image in images]
        classes = tuple(category["name"] for category in categories)
        faults = [
            "" if _is_size(size) else f"{path}: image {image['id']}: {_size_fault(image)}"
            for image, size in zip(images, sizes, strict=True)
        ]
        objects: list[list[dict[str, Any]]] = [[] for _ in images]
        if pixels is None:
            pixels = bool(data["annotations"]) and all(one.get("segmentation") for one in data["annotations"])
        for one in file.each("annotations", data["annotations"]):
            i = row[one["image_id"]]
            kept = {
                "class": index.get(one["category_id"]),
                "crowd": bool(one.get("iscrowd", 0)),
                "bbox": one["bbox"],
                "area": one.get("area"),
                "segmentation": one.get("segmentation"),
            }
            objects[i].append(kept)
            if not faults[i] and (fault := _fault(one, kept, sizes[i], pixels, index)):
                faults[i] = f"{path}: annotation {one.get('id')} of image {one['image_id']}: {fault}"
        _once([str([one["id"], one["image_id"], one["bbox"]]) for one in data["annotations"] if "id" in one])
    known = [(size[0] or 0, size[1] or 0) if _is_size(size) else (0, 0) for size in sizes]
    return Instances(images, classes, known, objects, faults, pixels)


def _once(annotations: list[str]) -> None:
    """Raise a ValueError if an annotation occurs twice, as in a file that was joined with itself."""
    if len(set(annotations)) < len(annotations):
        twice = next(one for one, count in Counter(annotations).items() if count > 1)
        raise ValueError(f"two annotations have the id, image and box {twice}; remove one")


def _is_size(size: tuple[int | None, int | None]) -> bool:
    return all(side is not None and 0 < side <= LONGEST_SIDE for side in size)


def _size_fault(image: Mapping[str, Any]) -> str:
    seen = f"width {image['width']!r}, height {image['height']!r}"
    return f"{seen}; allowed are whole numbers, 1 to {LONGEST_SIDE}"


def _fault(one: Mapping[str, Any], kept: Mapping[str, Any], size: Any, pixels: bool, index: Mapping[Any, int]) -> str:
    """What is wrong with an annotation; "" if nothing."""
    if kept["class"] is None:
        return f"category_id {one['category_id']!r}; allowed are {', '.join(map(str, list(index)[:20]))}"
    if one.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {one['iscrowd']!r}; allowed are 0 and 1"
    if fault := box_fault(kept["bbox"], size):
        return fault
    if not pixels:
        return ""
    if not is_number(kept["area"]) or not 0 <= kept["area"] < math.inf:
        return f"area {kept['area']!r}; allowed are numbers from 0"
    return segmentation_fault(kept["segmentation"], size)


def box_fault(box: Any, size: tuple[int, int]) -> str:
    """What is wrong with a box in an image of `size`, (height, width); "" if nothing.

    A box may end half a pixel outside, since some are rounded; NaN is never in range.

    >>> box_fault([10, 5, 3.5, 2], (48, 80))
    ''
    """
    height, width = size
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return f"bbox {box!r}; allowed are four numbers, x y width height"
    x, y, w, h = box
    ends = ((x, w, width), (y, h, height))
    if all(-0.5 <= start <= side and 0 < n <= side + 1 and start + n <= side + 0.5 for start, n, side in ends):
        return ""
    return (
        f"bbox {box} (x y width height); allowed in {width} x {height} pixels: x and y from 0, width and height more "
        f"than 0, x + width up to {width}, y + height up to {height}"
    )


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str:
    """What is wrong with polygons or run lengths in an image of `size`, (height, width); "" if nothing."""
    if isinstance(segmentation, dict):
        return _runs_fault(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        return f"segmentation {segmentation!r}; {_SEGMENTATION}"
    height, width = size
    length = 0.0
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            shown = f"of {len(polygon)} values" if isinstance(polygon, list) else repr(polygon)
            return f"polygon {shown}; {_SEGMENTATION}"
        if not set(map(type, polygon)) <= {int, float}:
            return f"polygon {str(polygon)[:80]}; {_SEGMENTATION}"
        xs, ys = polygon[::2], polygon[1::2]
        # min and max ignore a NaN that is not first; a sum does not
        inside = min(xs) >= -1 and min(ys) >= -1 and max(xs) <= width + 1 and max(ys) <= height + 1
        inside = inside and math.isfinite(sum(polygon))
        if not inside:
            return (
                f"polygon with x {min(xs)} to {max(xs)}, y {min(ys)} to {max(ys)}; allowed in {width} x {height} "
                f"pixels: x from 0 to {width}, y from 0 to {height}"
            )
        if len(polygon) * max(size) > LONGEST_OUTLINE:
            length += _outline(xs, ys)
    return f"an outline of {length:.0f} pixels; allowed are {LONGEST_OUTLINE}" if length > LONGEST_OUTLINE else ""


def _outline(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Number of pixels on a polygon's outline."""
    x, y = np.array(xs, np.float64), np.array(ys, np.float64)
    return float((np.maximum(np.abs(x - np.roll(x, 1)), np.abs(y - np.roll(y, 1))) + 1).sum())


def _runs_fault(runs: Mapping[str, Any], size: tuple[int, int]) -> str:
    if runs.get("size") != list(size):
        return f"run lengths of the size {runs.get('size')!r}; allowed is the image's, [height, width] = {list(size)}"
    counts = runs.get("counts")
    try:
        lengths = unpacked(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        return f"counts {str(counts)[:40]!r}: {error}"
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        return f"counts {str(counts)[:80]}; allowed are whole numbers from 0, or a text that packs them"
    if (total := sum(lengths)) != size[0] * size[1]:
        return f"run lengths of {total} pixels; allowed is the image's {size[0] * size[1]}"
    return ""


def unpacked(text: str) -> list[int]:
    """The run lengths in COCO's packed text: 5 bits per character, low bits first.

    From the fourth number on, the text holds differences: each number minus the one two places earlier.

    Raises:
        ValueError: the text is not of this form.

    >>> unpacked("52203")
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift == 5 * _LONGEST_COUNT:
            raise ValueError(f"{character!r} is not allowed there; allowed are run lengths packed by COCO's code")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << shift - 4  # the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("it ends within a number; allowed are run lengths packed by COCO's code")
    return counts


def paint(objects: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8: crowds are void; the objects are painted over them as 1 + class, large ones first."""
    mask = np.zeros(size, np.uint8)
    for one in sorted(objects, key=lambda one: (not one["crowd"], -one["area"])):
        mask[decode(one["segmentation"], size)] = VOID if one["crowd"] else 1 + one["class"]
    return mask


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode polygons or run lengths to (H, W) bool.

    Raises:
        ValueError: they are not allowed in an image of `size`; nothing is decoded.
    """
    if fault := segmentation_fault(segmentation, size):
        raise ValueError(fault)
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        lengths = unpacked(counts) if isinstance(counts, str) else counts
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[::-1]).T
    from pycocotools import mask as coco

    with warnings.catch_warnings():  # numpy's warning about pycocotools' memory
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, *size))).astype(bool)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number; texts and booleans are not."""
    return type(value) in (int, float)
