"""A folder of the user's images, optionally with labels, boxes and masks; the user writes no Python class.

    Folder("photos")                                            # images alone; target=predicted
    Folder("photos", labels="folders")                          # photos/cat/1.jpg
    Folder("photos", boxes="boxes.csv", box_format="xywh", box_origin=0)
    Folder("photos", boxes="instances.json")                    # COCO's; its segmentations are the masks
    Folder("photos", boxes="xml", origin=1, masks="masks", mask_values="palette")       # VOC's
    Folder("photos", labels="labels.csv", masks="masks", mask_values={"object": 255})

If images have labels, the target objects are those of the label's class. Otherwise all objects are target objects, and
the label is the class with the largest area (`eigencam.datasets.main_class`). `eigencam.datasets.folder_truth`
describes how files name images, and `eigencam.datasets.folder_masks` describes masks.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.annotation_cache import FileIds, Files, Names
from eigencam.datasets.base import LAST_CLASS, BadTruthError, Truth, checksum
from eigencam.datasets.class_names import ONLY_CLASS, occurring
from eigencam.datasets.coco_annotations import paint
from eigencam.datasets.completeness import some
from eigencam.datasets.decoding import image_size
from eigencam.datasets.folder_masks import MaskValues
from eigencam.datasets.folder_truth import BoxForm, End, Format, Objects, Source, read_annotations, read_labels
from eigencam.datasets.image_per_file import ImageFiles
from eigencam.datasets.main_class import main_class
from eigencam.datasets.names import SUFFIXES, image_id, repeated, unique
from eigencam.datasets.reading import beginning, expand, files_in, paths_in, read_lines

Foreground = Literal["label", "any"]
FOLDERS = "folders"
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


class Folder(ImageFiles):
    """The images of a folder and its subfolders, with annotations from files; an `eigencam.datasets.base.Dataset`.

    Attributes:
        files: the images' files.
        faults: faults in the images' ground truth that the annotation files reveal, by id; `truth` raises them.
    """

    version = 1

    def __init__(
        self,
        root: str | Path,
        labels: str | Path | None = None,
        boxes: str | Path | None = None,
        masks: str | Path | None = None,
        classes: str | Path | Sequence[str] | None = None,
        class_space: str | None = None,
        box_format: Format | None = None,
        box_origin: int | None = None,
        box_end: End | None = None,
        origin: int = 1,
        mask_values: str | Mapping[str, object] | None = None,
        foreground: Foreground | None = None,
        allow_missing: bool = False,
        name: str = "folder",
    ) -> None:
        """Find the images and read labels and boxes.

        Args:
            root: folder of the images.
            labels: `folders`, where the first folder below `root` is the class; or a CSV or JSON file.
            boxes: a CSV file, COCO's JSON of instances, or a folder of VOC's XML files.
            masks: folder of masks, each with the name of its image.
            classes: names in the order of the network's outputs: a list, or a text file with one per line. A label may
                be only the first word of a name. By default the categories of COCO's file, else the classes that
                occur: whole numbers from 0 up to the largest, or names sorted.
            class_space: the network's name for the same classes: `imagenet`, ...; default: `name`.
            box_format: format of a CSV file's boxes: `xyxy` or `xywh`.
            box_origin: number of the first pixel in a CSV file, 0 or 1.
            box_end: for `xyxy` in a CSV file: whether x2 is the last pixel of the box, `inclusive`, or the next one,
                `exclusive`.
            origin: number of the first pixel in VOC's XML files.
            mask_values: the meaning of a mask's values; `palette`: 0, 1 + class and 255, as VOC's.
            foreground: the target objects: those of class `label`, or `any`; by default `label` if there are labels.
            allow_missing: use only the images that all the files annotate.
            name: short name of the dataset.

        Raises:
            FileNotFoundError: a folder or a file is missing, or some images have no label, box or mask.
            ValueError: an option or a file is wrong.
        """
        top, mask_folder = expand(root), expand(masks) if masks else None
        if foreground not in (None, *get_args(Foreground)):
            raise ValueError(f"foreground={foreground}; allowed: {', '.join(get_args(Foreground))}")
        self.name, self.class_space = name, class_space or name
        self.foreground: Foreground = foreground or ("label" if labels else "any")
        self._mask_values = _mask_values(mask_folder, mask_values)
        self.files = _images(top, mask_folder)
        self.ids: Sequence[str] = FileIds(self.files, top)
        if repeated(self.ids):
            unique(list(self.ids), self.files)
        annotations = _annotations(boxes, box_format, box_origin, box_end, origin)
        listed = read_labels(expand(labels)) if labels not in (None, FOLDERS) else None
        found = {"label": listed, "annotation": annotations, "mask": _masks(mask_folder)}
        sources: dict[str, Source[Any]] = {what: one for what, one in found.items() if one is not None}
        known: dict[str, Mapping[str, Any]] = {what: one.by_id(self.ids) for what, one in sources.items()}
        if labels == FOLDERS:
            known["label"] = _first_folders(self.ids, top)
        kept = _kept(self.ids, known, top, allow_missing)
        if not allow_missing:
            _refuse_strangers(sources, self.ids, top)
        if len(kept) < len(self.ids):
            self.files = Files(self.files[i] for i in kept)
            self.ids = FileIds(self.files, top)
        named = Names(known["label"][one] for one in self.ids) if "label" in known else ()
        self._objects: list[Objects] = [known["annotation"][one] for one in self.ids] if annotations else []
        self._masks: list[Path] = [known["mask"][one] for one in self.ids] if "mask" in known else []
        self._painted = annotations is not None and annotations.pixels and not self._masks
        self.classes = _classes(classes, named, self._objects, annotations, self._mask_values)
        by_name = self._painted or bool(self._mask_values and not self._mask_values.has_object)
        if by_name and len(self.classes) > LAST_CLASS + 1:
            raise ValueError(f"{len(self.classes)} classes; a mask of bytes has room for {LAST_CLASS + 1}")
        self.faults: dict[str, str] = {}
        self._number(named)

    def truth(self, i: int) -> Truth:
        """Return the ground truth of image `i`.

        Raises:
            BadTruthError: it is invalid, or refers to an image of another size.
            BadImageError: the image has no readable header, or the mask cannot be decoded.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        objects = self._objects[i] if self._objects else Objects()
        labels, label = self._box_labels[i] if self._objects else np.zeros(0, np.int64), int(self._labels[i])
        size = image_size(self.files[i])
        if any(objects.size) and objects.size != size:
            said, seen = (f"{w} x {h}" for h, w in (objects.size, size))
            raise BadTruthError(
                f"{self.files[i]} has {seen} pixels, its objects are for {said}: use the original image"
            )
        mask, source = None, self.files[i]
        if self._masks and self._mask_values:
            source = self._masks[i]
            mask = self._mask_values.read(source, self.classes, label if label >= 0 else self._only)
        elif self._painted:
            mask = paint(_with_classes(objects, labels), size)
        boxes, crowds = objects.boxes, objects.difficult
        truth = Truth(self.ids[i], size, label, boxes, labels, crowds, mask, self.foreground, str(source))
        if label >= 0:
            return truth
        return replace(truth, label=main_class(len(self.classes), boxes, labels, crowds, mask))

    def identity(self) -> dict[str, object]:
        """Number of images, classes, and checksums of truth, masks and image files."""
        truth: list[Iterable[object]] = [self.ids, self._labels.tolist()]
        if self._objects:
            truth.append([o.boxes.tolist(), o.difficult.tolist(), o.size] for o in self._objects)
            truth.append(one.tolist() for one in self._box_labels)
        facts: dict[str, object] = {
            "name": self.name,
            "class_space": self.class_space,
            "classes": checksum(self.classes),
            "foreground": self.foreground,
            "n": len(self.ids),
            "truth": checksum(zip(*truth, strict=True)),
            "pictures": self.file_sizes(),
        }
        if self._masks and self._mask_values:
            facts["masks"] = checksum(hashlib.sha256(path.read_bytes()).hexdigest() for path in self._masks)
            facts["mask_values"] = self._mask_values.as_written
        elif self._painted:
            facts["masks"] = checksum([one["segmentation"] for one in o.coco] for o in self._objects)
        return facts

    def _number(self, named: Sequence[str]) -> None:
        """Turn class names into labels; record images whose annotation or label is wrong."""
        index = {name: k for k, name in enumerate(self.classes)}
        index |= {name.split()[0]: k for name, k in index.items() if name.split()[0] not in index}
        index |= {str(k): k for k in range(len(self.classes)) if str(k) not in index}
        self._only = 0 if len(self.classes) == 1 else -1
        labels = (index.get(name, -1) for name in named) if named else itertools.repeat(-1, len(self.ids))
        self._labels: NDArray[np.int32] = np.fromiter(labels, np.int32, len(self.ids))
        if named:
            for i in np.flatnonzero(self._labels < 0).tolist():
                self._note(i, named[i])
        self._box_labels: list[NDArray[np.int64]] = []
        for i, objects in enumerate(self._objects):
            default = int(self._labels[i]) if self._labels[i] >= 0 else self._only
            own = [index.get(name, -1) if name else default for name in objects.names]
            self._box_labels.append(np.array([max(k, 0) for k in own], np.int64))
            if objects.fault:
                self.faults[self.ids[i]] = objects.fault
            elif -1 in own:
                self._note(i, objects.names[own.index(-1)])

    def _note(self, i: int, name: str) -> None:
        """Record that an image's class does not exist."""
        shown = f"{some(self.classes, 20)}{', ...' if len(self.classes) > 20 else ''}"
        if name == str(len(self.classes)):
            shown += ", from 0; labels that count from 1 are one too high"
        shown = shown or "names, or whole numbers from 0"
        self.faults[self.ids[i]] = f"{self.files[i]}: class {name!r}; the classes are {shown} (dataset.classes)"


class FirstFolders(Mapping[str, str]):
    """The first folder of an id, for every id that has one."""

    def __getitem__(self, one: str) -> str:
        folder, slash, _ = one.partition("/")
        if not slash:
            raise KeyError(one)
        return folder

    def __iter__(self) -> Iterator[str]:
        raise TypeError("ids are not listed")

    def __len__(self) -> int:
        raise TypeError("ids are not counted")


def _first_folders(ids: Sequence[str], top: Path) -> FirstFolders:
    """The first folder of each id. Raises a ValueError if all are splits, not classes."""
    if ids and all(one.partition("/")[0].lower() in SPLITS for one in ids):
        raise ValueError(f"labels={FOLDERS}: the folders in {top} are splits, not classes; name one by dataset.root")
    return FirstFolders()


def _with_classes(objects: Objects, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [one | {"class": int(label)} for one, label in zip(objects.coco, labels, strict=True)]


def _images(top: Path, masks: Path | None) -> Files:
    """The image files below a folder, without those of the masks."""
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder")
    found, start = paths_in(top, SUFFIXES, depth=-1), beginning(masks) if masks else None
    files = Files(path for path in found if start is None or not path.startswith(start))
    if not files:
        raise FileNotFoundError(f"{top}: no image in it; files that end in {', '.join(SUFFIXES)} are images")
    return files


def _mask_values(folder: Path | None, values: str | Mapping[str, object] | None) -> MaskValues | None:
    if folder is None:
        if values is not None:
            raise ValueError(f"mask_values={values} without masks: name their folder by dataset.masks")
        return None
    return MaskValues(values or "")


def _annotations(
    boxes: str | Path | None, form: Format | None, first: int | None, end: End | None, origin: int
) -> Source[Objects] | None:
    lines = boxes is not None and str(boxes).lower().endswith((".csv", ".txt", ".csv.gz", ".txt.gz"))
    if not lines and (form, first, end) != (None, None, None):
        raise ValueError(
            f"box_format, box_origin and box_end are for boxes in a CSV file; allowed with boxes={boxes}: null"
        )
    if origin not in (0, 1):
        raise ValueError(f"origin={origin}; allowed are 0 and 1")
    return read_annotations(expand(boxes), BoxForm(form, first, end) if lines else None, origin) if boxes else None


def _masks(folder: Path | None) -> Source[Path] | None:
    if folder is None:
        return None
    files = list(files_in(folder, SUFFIXES, depth=-1))
    if not files:
        raise FileNotFoundError(f"{folder}: no mask in it")
    names = unique([image_id(path.relative_to(folder).as_posix()) for path in files], files, "masks")
    items = dict(zip(names, files, strict=True))
    return Source("masks", items, items)


def _kept(ids: Sequence[str], known: Mapping[str, Mapping[str, Any]], top: Path, allow_missing: bool) -> list[int]:
    """The positions of the images that all files annotate.

    Raises:
        FileNotFoundError: an image is not annotated by all files and `allow_missing` is false, or no image is.
    """
    kept = [i for i, one in enumerate(ids) if all(one in members for members in known.values())]
    if len(kept) == len(ids) or (allow_missing and kept):
        return kept
    lacks = {what: [one for one in ids if one not in members] for what, members in known.items()}
    counts = "; ".join(f"{len(names)} have no {what}, e.g. {some(names)}" for what, names in lacks.items() if names)
    proceed = f"; dataset.allow_missing=true evaluates the {len(kept)} that have all" if kept else ""
    raise FileNotFoundError(f"of the {len(ids)} images in {top} {counts}{proceed}")


def _refuse_strangers(sources: Mapping[str, Source[Any]], ids: Sequence[str], top: Path) -> None:
    """Raise FileNotFoundError if a file annotates images that do not exist."""
    for what, source in sources.items():
        if strange := source.strangers(ids):
            raise FileNotFoundError(
                f"{len(strange)} of {len(source.items)} {source.what} are of images that are not in {top}, e.g. "
                f"{some(strange)}; dataset.allow_missing=true evaluates the images that have a {what}"
            )


def _classes(
    given: str | Path | Sequence[str] | None,
    labels: Iterable[str],
    objects: Sequence[Objects],
    annotations: Source[Objects] | None,
    masks: MaskValues | None,
) -> tuple[str, ...]:
    """The names of the classes: those given, those of the file, or those that occur."""
    if given is not None:
        named = read_lines(expand(given), "a class on each line") if isinstance(given, str | Path) else list(given)
        return tuple(unique([str(name) for name in named], range(len(named)), "classes"))
    if annotations and annotations.classes:
        return annotations.classes
    names = {*labels, *(name for one in objects for name in one.names), *(masks.names if masks else ())} - {""}
    if not names:
        return (ONLY_CLASS,)
    return occurring(names)
