"""The files with the ground truth of ILSVRC validation images, and a reader for each kind.

A source is recognised by its files' names below a root; its reader returns `Parsed`, keyed by image id. The
requirements common to all sources are checked in `ilsvrc_truth.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from eigencam.datasets import devkit
from eigencam.datasets.devkit import Synsets
from eigencam.datasets.names import by_stem, image_id, once
from eigencam.datasets.possible_boxes import LONGEST_SIDE
from eigencam.datasets.reading import FileError, Reading, decimal, integer
from eigencam.datasets.voc_xml import checked, of_another

VERSIONS = {"ilsvrc_sources": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

Source = Literal["text", "xml", "csv", "devkit"]
Box = tuple[float, float, float, float]

DATA_PLACES = (".", "ILSVRC")
"""Folders below the root that are searched for images, XML and class folders."""
PLACES = (
    *DATA_PLACES,
    "devkit/data",
    "devkit/evaluation",
    "ILSVRC2012_devkit_t12/data",
    "ILSVRC2014_devkit/data",
    "ILSVRC2014_devkit/evaluation",
    "metadata/ILSVRC/test",
)
"""Folders below the root that are searched for single files."""

_XML_PLACES = ("Annotations/CLS-LOC/val", "CLS-LOC/val", "bbox/val", "val", ".")
_CLASS_PLACES = ("Data/CLS-LOC/val", "Data/CLS-LOC/train", "CLS-LOC/val", "CLS-LOC/train", "val", "train", ".")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(slots=True)
class Parsed:
    """Result of a reader, by image id.

    Attributes:
        labels: index of the sorted WordNet ids.
        boxes: `x1 y1 x2 y2` of each object, 0-based inclusive pixels.
        sizes: (height, width); absent if the source does not give it.
        faults: faults in the images' ground truth; such an image may be absent from the other attributes.
    """

    labels: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def places(root: Path, below: Sequence[str] = PLACES) -> list[Path]:
    """The existing folders among those to search below `root`, or beside it if it is a file."""
    top = root if root.is_dir() else root.parent
    return [folder for place in below if (folder := top / place).is_dir()]


def data_places(root: Path, below: Sequence[str]) -> list[Path]:
    """The existing folders `below` the folders in `DATA_PLACES`, in order of preference."""
    return [folder for name in below for place in places(root, DATA_PLACES) if (folder := place / name).is_dir()]


def find(source: Source, root: Path) -> Sequence[Path | str]:
    """The files of a source in the usual folders below `root`; empty if there are none.

    If `root` is itself a file of the source, it is the only one; for `text`, the `localization.txt` beside it is used.
    """
    if root.is_dir():
        return _FINDERS[source](root)
    if _source_of(root.name.lower()) != source:
        return []
    return _find_text(root.parent) if source == "text" else [root]


def find_classes(root: Path) -> Synsets:
    """The data of the 1000 classes, from the usual folders below `root` and the folders above it."""
    folders = places(root)
    return devkit.find_synsets([*folders, *folders[0].resolve().parents[:4]], data_places(root, _CLASS_PLACES))


def read(source: Source, files: Sequence[Path | str], synsets: Synsets) -> Parsed:
    """Read a source's files.

    Raises:
        FileNotFoundError: a file that the source needs is missing.
        ValueError: a file has another format; the message has the file and, if possible, the line. A fault in the XML
            file of one image is recorded in `Parsed.faults` instead.
    """
    return _READERS[source](files, synsets)


def image_id_of(name: str) -> str:
    """The id in an image's file name or path: ILSVRC's names are unique across folders.

    >>> image_id_of("val/ILSVRC2012_val_00000001.JPEG")
    'ILSVRC2012_val_00000001'
    """
    return image_id(name.rsplit("/", 1)[-1])


def validation_id(k: int) -> str:
    """The id of validation image k = 1..50000, as the devkit's lists count them."""
    return f"ILSVRC2012_val_{k:08d}"


def _source_of(name: str) -> Source | None:
    if name.endswith(".csv"):
        return "csv"
    if name.endswith((".mat", "ground_truth.txt")):
        return "devkit"
    return "text" if name.endswith((".txt", ".txt.gz")) else None


def _find_one(*names: str) -> Callable[[Path], list[Path]]:
    return lambda root: [path] if (path := devkit.first_file(places(root), names)) else []


def _find_xml(root: Path) -> list[str]:
    found = (by_stem(folder, [(".xml",)], depth=1) for folder in data_places(root, _XML_PLACES))
    return [*next((files for files in found if files), {}).values()]


def _find_devkit(root: Path) -> list[Path]:
    return _find_one(devkit.BOXES)(root) + _find_one(devkit.GROUND_TRUTH)(root)


_find_text = _find_one("localization.txt", "localization.txt.gz")
_find_labels = _find_one("class_labels.txt", "class_labels.txt.gz")
_find_sizes = _find_one("image_sizes.txt", "image_sizes.txt.gz")
_FINDERS: Mapping[Source, Callable[[Path], Sequence[Path | str]]] = {
    "text": _find_text,
    "xml": _find_xml,
    "csv": _find_one("LOC_val_solution.csv"),
    "devkit": _find_devkit,
}


def _read_text(files: Sequence[Path | str], synsets: Synsets) -> Parsed:
    del synsets  # the labels are indices already
    listed, parsed = Path(files[0]), Parsed()
    folder = listed.parent
    labels = _find_labels(folder)
    if not labels:
        raise FileNotFoundError(
            f"{folder} has {listed.name} but no class_labels.txt (or .gz): it comes from the same place, "
            "metadata/ILSVRC/test of github.com/clovaai/wsolevaluation"
        )
    seen: dict[str, str] = {}
    with Reading(labels[0], "`image,index`") as file:
        for path, word in file.columns(",", 2):
            name, label = once(seen, image_id_of(path), file.place), decimal(word)
            if 0 <= label < devkit.N_CLASSES and label.is_integer():
                parsed.labels[name] = int(label)
                continue
            parsed.faults[name] = (
                f"{labels[0]}: {name} has the label {label:g}; indices of the sorted WordNet ids are "
                f"0..{devkit.N_CLASSES - 1} (1..{devkit.N_CLASSES} would be devkit ids, another order)"
            )
        if not seen:
            raise ValueError("no image is listed")
    with Reading(listed, "`image,x0,y0,x1,y1`") as file:
        for path, *words in file.columns(",", 5):
            x1, y1, x2, y2 = map(decimal, words)
            parsed.boxes.setdefault(image_id_of(path), []).append((x1, y1, x2, y2))
    for sizes in _find_sizes(folder):
        _read_sizes(sizes, parsed)
    return parsed


def _read_sizes(path: Path, parsed: Parsed) -> None:
    seen: dict[str, str] = {}
    with Reading(path, "`image,width,height`") as file:
        for image, *words in file.columns(",", 3):
            name, (width, height) = once(seen, image_id_of(image), file.place), map(decimal, words)
            if all(1 <= side <= LONGEST_SIDE and side.is_integer() for side in (width, height)):
                parsed.sizes[name] = (int(height), int(width))
            else:
                parsed.faults[name] = (
                    f"{path}: {name} has {width:g} x {height:g} pixels; allowed are whole numbers from 1 to 2**20"
                )
        if bare := [name for name in parsed.labels if name not in seen]:
            raise ValueError(f"no size for {len(bare)} of {len(parsed.labels)} images, e.g. {bare[0]}")


def _read_xml(files: Sequence[Path | str], synsets: Synsets) -> Parsed:
    parsed, index = Parsed(), _index_by_wnid(synsets, Path(files[0]).parent)
    paths = list(map(Path, files))
    stems = {path.stem for path in paths}
    for path in paths:
        try:
            with Reading(path, "an annotation with size, and in each object a name and a bndbox") as file:
                root = file.xml()
                objects = checked(root)
                wnids = [found.findtext("name", "") for found in objects]
                corners = [
                    [decimal(found.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS] for found in objects
                ]
                height, width = (integer(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
        except FileError as error:
            parsed.faults[path.stem] = str(error)
            continue
        if fault := of_another(path, root.findtext("filename", "").strip(), stems):
            parsed.faults[path.stem] = fault
            continue
        _add(parsed, path.stem, wnids, corners, index, str(path))
        parsed.sizes[path.stem] = (height, width)
    return parsed


def _read_csv(files: Sequence[Path | str], synsets: Synsets) -> Parsed:
    path = Path(files[0])
    parsed, index = Parsed(), _index_by_wnid(synsets, path)
    with Reading(path, "`ImageId,PredictionString`, below it `id,wnid x1 y1 x2 y2 ...`") as file:
        rows = file.table()
        if (header := next(rows, [])) != ["ImageId", "PredictionString"]:
            raise ValueError(f"the header is {header}")
        seen: dict[str, str] = {}
        for row in rows:
            words = row[1].split() if len(row) == 2 else []
            if not words or len(words) % 5:
                raise ValueError(f"{row}")
            corners = [[decimal(word) for word in words[k + 1 : k + 5]] for k in range(0, len(words), 5)]
            name = once(seen, image_id_of(row[0]), file.place)
            _add(parsed, name, words[::5], corners, index, f"{path}, {file.place}")
    return parsed


def _read_devkit(files: Sequence[Path | str], synsets: Synsets) -> Parsed:
    parsed, index, labels = Parsed(), synsets.index_by_devkit_id(), None
    for path in map(Path, files):
        if path.suffix == ".mat":
            ids, boxes = devkit.read_boxes(path)
            parsed.boxes = {validation_id(k): [tuple(box) for box in rows.tolist()] for k, rows in enumerate(boxes, 1)}
        else:
            ids = devkit.read_ground_truth(path)
        if labels is not None and not np.array_equal(labels, ids):
            raise ValueError(f"{files[0]} ({len(labels)} labels) and {path} ({len(ids)}) contradict each other")
        labels = ids
        parsed.labels = {validation_id(k): int(index[devkit_id]) for k, devkit_id in enumerate(ids, 1)}
    return parsed


_READERS: Mapping[Source, Callable[[Sequence[Path | str], Synsets], Parsed]] = {
    "text": _read_text,
    "xml": _read_xml,
    "csv": _read_csv,
    "devkit": _read_devkit,
}


def _index_by_wnid(synsets: Synsets, path: Path) -> dict[str, int]:
    if synsets.wnids is None:
        raise ValueError(
            f"{path} names classes by WordNet id, and the list that numbers all {devkit.N_CLASSES} is missing: "
            f"neither {', '.join((*devkit.MAPPINGS, *devkit.METAS))} nor {devkit.N_CLASSES} class folders. "
            "LOC_synset_mapping.txt comes with Kaggle's imagenet-object-localization-challenge, meta.mat with "
            "image-net.org's ILSVRC2012_devkit_t12.tar.gz: put either into the data's root"
        )
    return {wnid: k for k, wnid in enumerate(synsets.wnids)}


def _add(
    parsed: Parsed, name: str, wnids: list[str], corners: list[list[float]], index: Mapping[str, int], where: str
) -> None:
    if len(set(wnids)) != 1:
        parsed.faults[name] = f"{where}: {name} has the classes {sorted(set(wnids))}; exactly one is expected"
    elif wnids[0] not in index:
        parsed.faults[name] = f"{where}: {wnids[0]!r} is none of the {len(index)} classes (n01440764 and so on)"
    else:
        parsed.labels[name] = index[wnids[0]]
        parsed.boxes[name] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in corners]
