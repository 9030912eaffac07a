"""VOC's XML format of an image's objects, for any classes."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import BadTruthError
from eigencam.datasets.names import image_id
from eigencam.datasets.possible_boxes import possible
from eigencam.datasets.reading import Reading, decimal, integer

_TAGS = ("object", "size")
_ONCE = ("size", "size/width", "size/height")
_ONCE_IN_OBJECT = ("name", "difficult")


@dataclass(frozen=True, slots=True)
class VocObjects:
    """One XML file.

    Attributes:
        size: (height, width) in pixels.
        boxes: (B, 4) float64, `x1 y1 x2 y2`, 0-based inclusive pixels.
        names: class name of each object.
        difficult: (B,) bool.
        file_name: the image's file name, as the annotation gives it; "" if it does not.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    difficult: NDArray[np.bool_]
    file_name: str = ""


def checked(root: ET.Element) -> list[ET.Element]:
    """The objects of an annotation, without their parts, such as heads, which have boxes too.

    Raises:
        ValueError: the root is no annotation, a tag is in capitals, or a size, a name or a flag occurs twice.
    """
    if root.tag != "annotation":
        raise ValueError(f"<{root.tag}> at the top; allowed is <annotation>")
    if odd := [one.tag for one in root if one.tag not in _TAGS and one.tag.lower() in _TAGS]:
        raise ValueError(f"<{odd[0]}>; allowed is <{odd[0].lower()}>")
    objects = root.findall("object")
    for parent, paths in ((root, _ONCE), *((one, _ONCE_IN_OBJECT) for one in objects)):
        if twice := [path for path in paths if len(parent.findall(path)) > 1]:
            raise ValueError(f"{len(parent.findall(twice[0]))} times {twice[0]} in <{parent.tag}>; allowed is one")
    return objects


def of_another(path: Path | str, file_name: str, stems: Container[str]) -> str:
    """What is wrong with an annotation that names another image; "" if nothing.

    A name that belongs to no image is ignored: it comes from a copy, or is a placeholder (`%s`).

    Args:
        path: the annotation, named after its image.
        file_name: the image's file name, as the annotation gives it.
        stems: names of all images, without folder and suffix.
    """
    own = Path(path).stem
    if file_name in ("", own):
        return ""
    named = image_id(re.split(r"[/\\]", file_name)[-1])
    if named == own or named not in stems:
        return ""
    return f"{path}: its <filename> is {file_name}, another image; allowed is its own name, or none"


def read_objects(path: Path, origin: int = 1) -> VocObjects:
    """Read one of VOC's XML files. Parts of a person (`head`, `hand`, `foot`) are not objects.

    Args:
        path: the file.
        origin: number of the first pixel in the file.

    Raises:
        FileError: the file is not such an annotation.
        BadTruthError: a box is impossible, an object has two, or a value of `difficult` is neither 0 nor 1.
    """
    with Reading(path, "a VOC annotation") as file:
        root = file.xml()
        objects = checked(root)
        names = tuple(found.findtext("name", "").strip() for found in objects)
        several = [len(found.findall("bndbox")) for found in objects]
        corners = [
            [decimal(found.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")] for found in objects
        ]
        flags = [found.findtext("difficult", "0").strip() for found in objects]
        height, width = (integer(root.findtext(f"size/{side}", "")) for side in ("height", "width"))
        file_name = root.findtext("filename", "").strip()
    if max(several, default=0) > 1:
        k = several.index(max(several))
        raise BadTruthError(f"{path}: {several[k]} boxes of object {k + 1} of {len(objects)}; allowed is one")
    boxes = np.array(corners, np.float64).reshape(-1, 4) - origin
    inside = possible(boxes, height, width)
    if not inside.all():
        wrong = corners[k := int(inside.argmin())]
        counted = "; files that count from 0 are read with dataset.origin=0" if origin and 0 in wrong[:2] else ""
        right, lower = width - 1 + origin, height - 1 + origin
        raise BadTruthError(
            f"{path}: impossible box {wrong} (xmin, ymin, xmax, ymax) of object {k + 1} of {len(boxes)}; allowed in "
            f"{width} x {height} pixels: {origin} <= xmin <= xmax <= {right}, {origin} <= ymin <= ymax <= {lower}"
            f"{counted}"
        )
    if odd := [flag for flag in flags if flag not in ("0", "1")]:
        raise BadTruthError(f"{path}: difficult {odd[0]!r}; allowed are 0 and 1")
    return VocObjects((height, width), boxes, names, np.array([flag == "1" for flag in flags], bool), file_name)
