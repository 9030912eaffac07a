"""The ground truth of the ILSVRC validation images, from any of four sources, read to the same arrays.

======== =============================================================================== ============ =====
source   files                                                                           labels       sizes
======== =============================================================================== ============ =====
`text`   wsolevaluation's `localization.txt`, `class_labels.txt`, `image_sizes.txt` (.gz) indices      yes
`xml`    `ILSVRC2012_val_00000001.xml` and so on, in one folder or in class folders       WordNet ids  yes
`csv`    Kaggle's `LOC_val_solution.csv`                                                  WordNet ids  no
`devkit` `cache_groundtruth.mat`, `ILSVRC2012_validation_ground_truth.txt` (labels only)  devkit ids   no
======== =============================================================================== ============ =====

The first available source is read, in this order. Those with image sizes come first, since sizes show whether the
images on disk are the annotated ones. Labels become indices of the 1000 sorted WordNet ids; WordNet ids need the list
of all 1000, devkit ids the permutation (`devkit.py`). Boxes are used unchanged: all sources count pixels from 0 and
inclusively, and their boxes are identical.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eigencam.datasets import ilsvrc_sources as sources
from eigencam.datasets.annotation_cache import kept
from eigencam.datasets.base import BadTruthError, Truth, checksum
from eigencam.datasets.devkit import Synsets
from eigencam.datasets.ilsvrc_sources import Parsed, Source
from eigencam.datasets.possible_boxes import possible
from eigencam.datasets.reading import expand

VERSIONS = {"ilsvrc_truth": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

_MANY = 1000  # from this number of files on, their content is cached

HOW_TO_GET = (
    "One of these is needed: ILSVRC2012_bbox_val_v3.tgz with ILSVRC2012_devkit_t12.tar.gz from image-net.org (free "
    "account); Annotations or LOC_val_solution.csv with LOC_synset_mapping.txt from Kaggle's "
    "imagenet-object-localization-challenge; metadata/ILSVRC/test of github.com/clovaai/wsolevaluation"
)


@dataclass(frozen=True, slots=True)
class IlsvrcTruth:
    """Labels, boxes and sizes of N images; as read, rows are sorted by id.

    Attributes:
        ids: e.g. `ILSVRC2012_val_00000001`.
        labels: (N,) int64, index (0..999) of the sorted WordNet ids; all boxes of an image have this label.
        boxes: (B, 4) float64, `x1 y1 x2 y2`, 0-based inclusive pixels; grouped by image, and sorted.
        offsets: (N + 1,) int64, image `i` has `boxes[offsets[i]:offsets[i + 1]]`.
        sizes: (N, 2) int64, (height, width) in pixels; (0, 0) if the source does not say.
        synsets: WordNet ids, names and devkit ids of the classes, as far as found.
        source: which source was read.
        resized: ids of the resized images; their boxes were scaled and rounded, so they may end one pixel outside.
        faults: faults in the images' ground truth, by id; such an image has the label -1 and no boxes.
    """

    ids: list[str]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    synsets: Synsets
    source: Source
    resized: frozenset[str] = frozenset()
    faults: Mapping[str, str] = field(default_factory=dict)

    def owner(self) -> NDArray[np.int64]:
        """(B,) int64: the row that each box belongs to."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))

    def boxes_of(self, i: int) -> NDArray[np.float64]:
        """(b, 4) float64: the boxes of row `i`."""
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]

    def truth(self, i: int, size: tuple[int, int] | None = None, file: str = "", may_be_resized: bool = True) -> Truth:
        """The ground truth of row `i`.

        Args:
            i: row.
            size: (height, width) of the image; by default the source's. If that is (0, 0), boxes can be scored, but not
                maps.
            file: the image's file, for messages.
            may_be_resized: false if the image is known to be an original; overrides `resized`.

        Raises:
            BadTruthError: it is invalid.
        """
        name, boxes, label = self.ids[i], self.boxes_of(i), int(self.labels[i])
        if fault := self.faults.get(name):
            raise BadTruthError(fault)
        height, width = size or self.sizes[i].tolist()
        labels = np.full(len(boxes), label, np.int64)
        return Truth(
            name, (height, width), label, boxes, labels, source=file, rounded=may_be_resized and name in self.resized
        )

    def of_image(self, i: int, size: tuple[int, int], file: str, one_size: tuple[int, int] | None) -> Truth:
        """The ground truth of row `i`, checked against its image.

        Args:
            i: row.
            size: (height, width) of the image.
            file: the image's file, for messages.
            one_size: the size that most images have, if most were resized to one; else None.

        Raises:
            BadTruthError: it is invalid, or the size differs from that of its boxes.
        """
        (height, width), boxes = self.sizes[i].tolist(), self.boxes_of(i)
        if (height and size != (height, width)) or (boxes[:, 2] > size[1]).any() or (boxes[:, 3] > size[0]).any():
            noted = f"{width} x {height} pixels" if height else f"boxes up to {boxes[:, 2].max()}, {boxes[:, 3].max()}"
            raise BadTruthError(
                f"{file} has {size[1]} x {size[0]} pixels, its truth ({self.source}) has {noted}: "
                "use the original images, or truth whose boxes were resized with them"
            )
        # Without sizes in the source, resized images are recognised by the one size that most of them have.
        return self.truth(i, size, file, bool(height) or size == one_size)

    def select(self, rows: Sequence[int] | NDArray[np.integer]) -> "IlsvrcTruth":
        """The rows asked for, in the order of `rows`."""
        rows = np.asarray(rows, np.int64)
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        boxes = self.boxes[np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)]
        ids = [self.ids[i] for i in rows]
        return replace(self, ids=ids, labels=self.labels[rows], boxes=boxes, offsets=offsets, sizes=self.sizes[rows])


def read_truth(root: Path | str, source: Source | None = None, keep_faults: bool = False) -> IlsvrcTruth:
    """Read the ground truth from a folder in any of the usual layouts, from a folder of XML files, or from one file.

    Args:
        root: data folder (`ilsvrc_sources.PLACES` below it are searched) or one of the files in the table above.
        source: which source to read; by default the first available one, in the order text, xml, csv, devkit.
        keep_faults: record faults of single images in `faults`.

    Raises:
        FileNotFoundError: there is no source, or not the requested one.
        BadTruthError: without `keep_faults`: a label cannot be turned into an index, or a box is impossible.
        ValueError: a file has another format.
    """
    root, order = expand(root), get_args(Source)
    if source is not None and source not in order:
        raise ValueError(f"source={source!r}: allowed are {', '.join(order)}, or none for the first that is there")
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist. {HOW_TO_GET}")
    for name in (source,) if source else order:
        if files := sources.find(name, root):
            synsets = sources.find_classes(root)
            truth = _assemble(_table(name, files, synsets, root), synsets, name, root)
            if truth.faults and not keep_faults:
                raise BadTruthError(next(iter(truth.faults.values())))
            return truth
    known = ", ".join(name for name in order if sources.find(name, root))
    raise FileNotFoundError(
        f"no ILSVRC truth{f' of source {source!r}' if source else ''} in {root}{known and f' (there is: {known})'}; "
        f"looked in {', '.join(map(str, sources.places(root)))}. {HOW_TO_GET}"
    )


def folders(root: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the folders that are named: one, a list, or a text with the separator of the system's paths (`A:B`).

    Raises:
        ValueError: no folder is named.
    """
    several = root.split(os.pathsep) if isinstance(root, str) else [root] if isinstance(root, Path) else root
    found = [expand(one) for one in several if one]
    if not found:
        raise ValueError("root: no folder is named")
    return found


def read_truths(root: str | Path | Sequence[str | Path], source: Source | None = None) -> IlsvrcTruth:
    """Read the ground truth of one folder, or of several joined; faults of single images are recorded in `faults`."""
    return merge([read_truth(one, source, keep_faults=True) for one in folders(root)])


def merge(truths: Sequence[IlsvrcTruth]) -> IlsvrcTruth:
    """Join several into one, rows sorted by id. Raises `ValueError` if an image is in two of them."""
    ids = [name for truth in truths for name in truth.ids]
    if twice := sorted(name for name, n in Counter(ids).items() if n > 1):
        raise ValueError(f"{len(twice)} images are in two of the roots, e.g. {twice[:3]}: leave one root out")
    counts = np.concatenate([np.diff(truth.offsets) for truth in truths])
    together = IlsvrcTruth(
        ids,
        np.concatenate([truth.labels for truth in truths]),
        np.concatenate([truth.boxes for truth in truths]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate([truth.sizes for truth in truths]),
        truths[0].synsets,
        truths[0].source,
        frozenset[str]().union(*(truth.resized for truth in truths)),
        {name: fault for truth in truths for name, fault in truth.faults.items()},
    )
    return together.select(sorted(range(len(ids)), key=ids.__getitem__))


def check_agree(a: IlsvrcTruth, b: IlsvrcTruth) -> None:
    """Raise `ValueError`, naming the first image, unless both have the same values for the same images.

    Sizes are compared if both have them; names of classes are not compared.
    """
    pair = f"{a.source} and {b.source}"
    if a.ids != b.ids:
        odd = sorted(set(a.ids) ^ set(b.ids))
        raise ValueError(f"{pair} list different images: {len(odd)} are in one only, e.g. {odd[:3]}")
    known = (a.sizes > 0).all(1) & (b.sizes > 0).all(1)
    for what, differs in (
        ("label", a.labels != b.labels),
        ("size", known & (a.sizes != b.sizes).any(1)),
        ("number of boxes", np.diff(a.offsets) != np.diff(b.offsets)),
    ):
        if differs.any():
            raise ValueError(f"{pair} differ in the {what} of {differs.sum()} images, e.g. {a.ids[differs.argmax()]}")
    if (unequal := (a.boxes != b.boxes).any(1)).any():
        i = int(unequal.argmax())
        raise ValueError(
            f"{pair} differ in {unequal.sum()} boxes, e.g. {a.ids[a.owner()[i]]}: {a.boxes[i].tolist()} and "
            f"{b.boxes[i].tolist()}"
        )


def _table(source: Source, files: Sequence[Path | str], synsets: Synsets, root: Path) -> pa.Table:
    """A row for each image; cached if there are many files and none has changed."""
    if len(files) < _MANY:
        return _as_table(sources.read(source, files, synsets), root)
    name = f"ilsvrc-{source}-{checksum(synsets.wnids or ())}"
    return kept(name, files, lambda: _as_table(sources.read(source, files, synsets), root), version=3)


def _as_table(parsed: Parsed, root: Path) -> pa.Table:
    if unlabelled := sorted(parsed.boxes.keys() - parsed.labels.keys() - parsed.faults.keys()):
        raise ValueError(f"{root}: {len(unlabelled)} images have boxes but no label, e.g. {unlabelled[:3]}")
    ids = sorted(parsed.labels.keys() | parsed.faults.keys())
    boxes = [sorted(parsed.boxes.get(name, ())) for name in ids]
    sizes = [parsed.sizes.get(name, (0, 0)) for name in ids]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array([parsed.labels.get(name, -1) for name in ids], pa.int64()),
            "boxes": pa.array([[side for box in several for side in box] for several in boxes], pa.list_(pa.float64())),
            "height": pa.array([height for height, _ in sizes], pa.int64()),
            "width": pa.array([width for _, width in sizes], pa.int64()),
            "fault": pa.array([parsed.faults.get(name) for name in ids], pa.string()),
        }
    )


def _assemble(table: pa.Table, synsets: Synsets, source: Source, root: Path) -> IlsvrcTruth:
    ids, faults = (table.column(name).to_pylist() for name in ("id", "fault"))
    boxes: Any = table.column("boxes").combine_chunks()
    counts = boxes.value_lengths().to_numpy() // 4
    truth = IlsvrcTruth(
        ids,
        table.column("label").to_numpy(),
        boxes.flatten().to_numpy().reshape(-1, 4),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.stack([table.column(side).to_numpy() for side in ("height", "width")], axis=1),
        synsets,
        source,
    )
    truth = replace(truth, resized=frozenset(ids) if _were_resized(truth) else frozenset())
    known = {name: fault for name, fault in zip(ids, faults, strict=True) if fault is not None}
    return replace(truth, faults={**_box_faults(truth, root), **known})


def _were_resized(truth: IlsvrcTruth) -> bool:
    """Whether the images were resized to one size. Their boxes are rounded, but not counted from 1: some begin at 0."""
    return len(np.unique(truth.sizes, axis=0)) == 1 and bool((truth.boxes[:, :2] == 0).any())


def _box_faults(truth: IlsvrcTruth, root: Path) -> dict[str, str]:
    owner = truth.owner()
    height, width = truth.sizes[owner].T
    wrong = np.flatnonzero(~possible(truth.boxes, height, width, float(bool(truth.resized))))
    return {
        truth.ids[owner[i]]: f"{root}: {len(wrong)} boxes are impossible, e.g. {truth.boxes[i].tolist()} of "
        f"{truth.ids[owner[i]]}, an image of {width[i] or '?'} x {height[i] or '?'} pixels; `x1 y1 x2 y2`, inclusive "
        "pixels from 0, is expected"
        for i in wrong.tolist()
    }
