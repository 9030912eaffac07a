"""Labels and boxes of a user's own images, in the common formats.

    labels    CSV `image,label`, or JSON `{"image": "label"}`
    boxes     CSV `image,x1,y1,x2,y2[,label]`, COCO's JSON of instances, or a folder of VOC's XML files

A file names an image by its path, or by the last parts of it, with or without the suffix
(`eigencam.datasets.names.match`). Boxes are converted to 0-based inclusive pixels here.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import BadTruthError
from eigencam.datasets.boxes import from_half_open, from_xywh
from eigencam.datasets.coco_annotations import read_instances
from eigencam.datasets.names import image_id, match, once
from eigencam.datasets.possible_boxes import possible
from eigencam.datasets.reading import FileError, Reading, decimal, files_in
from eigencam.datasets.voc_xml import of_another, read_objects

T = TypeVar("T")
Format = Literal["xyxy", "xywh"]
End = Literal["inclusive", "exclusive"]
CORNERS = {
    "xyxy": (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax")),
    "xywh": (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("xmin", "ymin", "width", "height")),
}
"""The header of the box columns in a CSV file, by their format."""
IMAGE_HEADS = ("image", "file", "filename", "file_name", "image_id", "path")
LABEL_HEADS = ("label", "class", "category")
_BOX_LINES = (
    "lines image,x1,y1,x2,y2 or image,x1,y1,x2,y2,label (image,x,y,w,h with box_format=xywh), with or without a "
    "header; an image without an object has empty numbers"
)


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (B, 4) float64, 0-based inclusive pixels.
        names: class name of each box; "" if the file does not say.
        difficult: (B,) bool.
        size: (height, width) that the boxes refer to; (0, 0) where the file does not say.
        coco: COCO's objects, which can be converted to a mask if they have a segmentation.
        fault: what is wrong with the annotation; "" if nothing.
    """

    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    names: tuple[str, ...] = ()
    difficult: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    size: tuple[int, int] = (0, 0)
    coco: tuple[dict[str, Any], ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """The annotations of a file or folder, by image.

    Attributes:
        what: noun for the annotations, in the plural.
        items: the annotations, by the image's name without the suffix.
        places: file and position of each, for messages.
        classes: class names in the file's own order; empty if it has none.
        pixels: whether the objects can be converted to a mask.
    """

    what: str
    items: dict[str, T]
    places: Mapping[str, object]
    classes: tuple[str, ...] = ()
    pixels: bool = False

    def by_id(self, ids: Sequence[str]) -> dict[str, T]:
        """Return the annotation of each image that has one.

        Raises:
            ValueError: two names mean the same image, or one is ambiguous.
        """
        return {one: self.items[key] for one, key in self._match(ids).items()}

    def strangers(self, ids: Sequence[str]) -> list[str]:
        """Return the positions of annotations of images that are not among `ids`."""
        return [str(self.places[key]) for key in sorted(self.items.keys() - set(self._match(ids).values()))]

    def _match(self, ids: Sequence[str]) -> dict[str, str]:
        return match(ids, self.items, self.places.__getitem__, self.what)


@dataclass(frozen=True, slots=True)
class BoxForm:
    """The format of a file's boxes.

    Attributes:
        format: corners, or the upper left corner with width and height.
        origin: number of the first pixel in the file, 0 or 1.
        end: whether x2 and y2 are the last pixel of the box or the next one; None for `xywh`.

    Raises:
        ValueError: a value is not allowed.
    """

    format: Format | None
    origin: int | None
    end: End | None

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(f"box_format={self.format}; allowed: xyxy (two corners), xywh (corner, width, height)")
        if self.origin not in (0, 1):
            raise ValueError(f"box_origin={self.origin}; allowed: 0 and 1, what the boxes call the first pixel")
        if self.format == "xyxy" and self.end not in get_args(End):
            raise ValueError(
                f"box_end={self.end}; allowed: inclusive (x2 is the last pixel of the box), exclusive (the next one)"
            )
        if self.format == "xywh" and self.end is not None:
            raise ValueError(f"box_end={self.end}; allowed with box_format=xywh is null: x2 follows from the width")

    def inclusive(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert boxes (B, 4) from the file's format to 0-based inclusive ones."""
        boxes = boxes - np.array([self.origin, self.origin, *((0, 0) if self.format == "xywh" else (self.origin,) * 2)])
        if self.format == "xywh":
            return from_xywh(boxes)
        return from_half_open(boxes) if self.end == "exclusive" else boxes


def read_labels(path: Path) -> Source[str]:
    """Read the label of each image.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it has another format, or names an image twice.
    """
    labels: dict[str, str] = {}
    places: dict[str, str] = {}
    with Reading(path, 'lines `image,label`, or JSON {"image": "label"}') as file:
        for name, label in _json_labels(file) if path.suffix.lower() == ".json" else _csv_labels(file):
            labels[once(places, image_id(name), file.place)] = label
        if not labels:
            raise ValueError("no image is listed")
    return Source("labels", labels, {name: f"{path}, {place}" for name, place in places.items()})


def _csv_labels(file: Reading) -> Iterator[tuple[str, str]]:
    for number, values in enumerate(file.table()):
        if len(values) != 2:
            raise ValueError(f"{len(values)} values")
        name, label = (value.strip() for value in values)
        if number or (name.lower() not in IMAGE_HEADS and label.lower() not in LABEL_HEADS):
            yield name, label


def _json_labels(file: Reading) -> Iterator[tuple[str, str]]:
    for name, label in dict.items(file.json()):
        file.place = repr(name)
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"{label!r}; allowed are the name of a class, or its number")
        yield name, str(label)


def read_annotations(path: Path, form: BoxForm | None, origin: int) -> Source[Objects]:
    """Read a CSV file of boxes, COCO's instances, or a folder of VOC's XML files.

    Args:
        path: file or folder.
        form: format of a CSV file's boxes.
        origin: number of the first pixel in VOC's files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        FileError: a file has another format.
    """
    if path.is_dir():
        return _read_voc(path, origin)
    if path.suffix.lower() == ".json" or path.name.lower().endswith(".json.gz"):
        return _read_coco(path)
    if form is None:
        raise ValueError(
            f"{path}: allowed are a CSV file (.csv, .txt), COCO's JSON and a folder of VOC's XML files; programs for "
            "annotation export these, too"
        )
    return _read_csv(path, form)


def _read_voc(folder: Path, origin: int) -> Source[Objects]:
    objects: dict[str, Objects] = {}
    places: dict[str, str] = {}
    files = list(files_in(folder, (".xml",), depth=-1))
    stems = {path.stem for path in files}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        places[name] = str(path)
        try:
            found = read_objects(path, origin)
            fault = of_another(path, found.file_name, stems)
            if "" in found.names:
                fault = f"{path}: object {found.names.index('') + 1} of {len(found.names)} has no name"
            objects[name] = Objects(found.boxes, found.names, found.difficult, found.size, fault=fault)
        except (FileError, BadTruthError) as error:
            objects[name] = Objects(fault=str(error))
    if not objects:
        raise FileNotFoundError(f"{folder}: no XML file in it; a file of boxes ends in .csv or .json")
    return Source("annotations", objects, places)


def _read_coco(path: Path) -> Source[Objects]:
    found = read_instances(path, order=lambda image: image["id"], pixels=None)
    objects: dict[str, Objects] = {}
    places: dict[str, str] = {}
    with Reading(path) as file:
        for i, image in enumerate(file.each("image", found.images)):
            own = found.objects[i]
            name = once(places, image_id(image["file_name"]), file.place)
            if found.faults[i]:
                objects[name] = Objects(fault=found.faults[i])
                continue
            objects[name] = Objects(
                from_xywh(np.array([one["bbox"] for one in own], np.float64).reshape(-1, 4)),
                tuple(found.classes[one["class"]] for one in own),
                np.array([one["crowd"] for one in own], bool),
                found.sizes[i],
                tuple(own),
            )
    places = {name: f"{path}, {place}" for name, place in places.items()}
    return Source("annotations", objects, places, found.classes, found.pixels)


class _Row(NamedTuple):
    """A line of a CSV file of boxes: its place, four numbers, the class, and the image's width and height, if given."""

    place: str
    corners: list[str]
    label: str
    size: list[str]


def _read_csv(path: Path, form: BoxForm) -> Source[Objects]:
    rows: dict[str, list[_Row]] = defaultdict(list)
    with Reading(path, _BOX_LINES) as file:
        columns, counts = {"image": [0], "corners": [1, 2, 3, 4], "label": [5], "size": []}, (5, 6)
        for number, values in enumerate(file.table()):
            if number == 0 and (found := _columns(values, form)):
                columns, counts = found, (len(values),)
                continue
            if len(values) not in counts:
                raise ValueError(f"{len(values)} values{' below a header' if len(counts) == 1 else ''}")
            (name,), corners, label, size = (
                [values[k].strip() for k in columns[what] if k < len(values)] for what in columns
            )
            rows[image_id(name)].append(_Row(file.place, corners, "".join(label), size))
        if not rows:
            raise ValueError("no image is listed")
    objects = {name: _objects_of(path, name, lines, form) for name, lines in rows.items()}
    return Source("annotations", objects, {name: f"{path}, {lines[0].place}" for name, lines in rows.items()})


def _columns(head: Sequence[str], form: BoxForm) -> dict[str, list[int]]:
    """The indices of the columns of image, box, label and image size; empty if this is not a header.

    Raises:
        ValueError: the header lacks image or box, or has one of these columns twice.
    """
    names = [value.strip().lower() for value in head]
    if not any(name in IMAGE_HEADS for name in names[:1]) and not {"x1", "x", "xmin"} & set(names):
        return {}
    image = next((name for name in IMAGE_HEADS if name in names), None)
    corners = next((heads for heads in CORNERS[str(form.format)] if set(heads) <= set(names)), None)
    if image is None or corners is None:
        wanted = " or ".join(",".join(heads) for heads in CORNERS[str(form.format)])
        raise ValueError(f"the columns {', '.join(head)}; box_format={form.format} needs image and {wanted}")
    label = [name for name in LABEL_HEADS if name in names][:1]
    # Width and height before the box are the image's, as TensorFlow's scripts write them.
    before = [name for name in names[: names.index(corners[0])] if name in ("width", "height")]
    size = ["width", "height"] if sorted(before) == ["height", "width"] else []
    used = {"image": [image], "corners": list(corners), "label": label, "size": size}
    if twice := [name for several in used.values() for name in several if names.count(name) > 1]:
        raise ValueError(f"two columns {twice[0]}; allowed is one")
    return {what: [names.index(name) for name in several] for what, several in used.items()}


def _objects_of(path: Path, name: str, rows: Sequence[_Row], form: BoxForm) -> Objects:
    """The objects in an image's lines, or the fault of the first wrong line."""
    numbers: list[list[float]] = []
    labels: list[str] = []
    for place, corners, label, size in rows:
        if size != rows[0].size or not all(side.isdecimal() and len(side) < 9 for side in size):
            said, first = (" x ".join(sides) for sides in (size, rows[0].size))
            return Objects(fault=f"{path}, {place}: {name}: {said} pixels, and {first} before; allowed is one size")
        if not any(corners):
            continue
        try:
            box = [decimal(value) for value in corners]
        except ValueError:
            return Objects(fault=f"{path}, {place}: {name}: box {corners}; allowed are four numbers")
        if fault := _unordered(box, form):
            return Objects(fault=f"{path}, {place}: {name}: box {box}: {fault}")
        numbers.append(box)
        labels.append(label)
    boxes = form.inclusive(np.array(numbers, np.float64).reshape(-1, 4))
    width, height = map(int, rows[0].size or (0, 0))
    return Objects(boxes, tuple(labels), np.zeros(len(boxes), bool), (height, width))


def _unordered(box: Sequence[float], form: BoxForm) -> str:
    """The fault of a box, in the file's own numbers, for any image size; "" if there is none."""
    if possible(form.inclusive(np.array([box])), 0, 0)[0]:
        return ""
    if form.format == "xywh":
        return f"allowed are x and y from {form.origin}, width and height more than 0"
    sign = "<" if form.end == "exclusive" else "<="
    hint = "; boxes x y width height are read with box_format=xywh" if box[2] < box[0] or box[3] < box[1] else ""
    return f"allowed are {form.origin} <= x1 {sign} x2 and {form.origin} <= y1 {sign} y2{hint}"
