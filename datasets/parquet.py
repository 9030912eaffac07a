"""Image datasets in Parquet files, as the Hugging Face hub serves them.

    Parquet("imagenet-1k/data", split="validation")             # validation-00000-of-00014.parquet, ...
    Parquet("ILSVRC/imagenet-1k", split="validation", revision="49e2ee26f3810fb5a7536bbf732a7b07389a47b5")
    Parquet("imagenet-1k/data", split="validation", truth="metadata/ILSVRC/test")    # boxes from wsolevaluation's lists

One column has the encoded images, as `{bytes, path}` of the library `datasets` or as bytes; others have the label and,
if any, boxes. Files are read in place, a few rows at a time: nothing is unpacked to a second copy, and only ids and
labels are held in memory. From the hub, only the files of one split are downloaded, at a given revision.

An image's id is its path without folder and suffix (and without the `_n01440764` that imagenet-1k appends) or, if it
has no path, file and row. The order is that of the files' names and of their rows.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eigencam.datasets.annotation_cache import Names
from eigencam.datasets.base import checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.folder_truth import BoxForm, End, Format
from eigencam.datasets.names import image_id, repeated, unique
from eigencam.datasets.packed import Boxes, Packed, with_truth
from eigencam.datasets.reading import FileError, Reading, expand, files_in

ROWS = 16
"""Number of rows that are read at once."""

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WNID = re.compile(r"(ILSVRC2012_\w+?_\d{8})_n\d{8}")


class Rows:
    """Rows of Parquet files, by their number; an `eigencam.datasets.packed.Store`.

    Rows are decoded in order from the beginning of a row group, so reading forwards is cheap and reading backwards is
    not. Each process reads independently.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        """Read the files' footers; `column` has the images."""
        self.files, self.column = list(files), column
        groups: list[tuple[int, int, int, int]] = []
        for k, path in enumerate(self.files):
            with Reading(path, "a Parquet file with a column of images") as file:
                found = pq.ParquetFile(file.regular())
                if column not in found.schema_arrow.names:
                    raise ValueError(f"no column {column!r}; there are {', '.join(found.schema_arrow.names)}")
                parts = map(found.metadata.row_group, range(found.num_row_groups))
                groups += [(k, g, part.num_rows, part.total_byte_size) for g, part in enumerate(parts)]
        self._groups = np.array(groups, np.int64).reshape(-1, 4)
        self._starts = np.concatenate([[0], np.cumsum(self._groups[:, 2])])
        self._reset()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, i: int) -> bytes:
        """Return the file content of image `i`."""
        group = int(np.searchsorted(self._starts, i, "right")) - 1
        row = i - int(self._starts[group])
        if os.getpid() != self._process or group != self._group or row < self._first:
            self._open(group)
        while row >= self._first + self._count:
            self._next(i)
        value = self._batch[row - self._first]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise FileError(self.files[int(self._groups[group, 0])], f"row {i}", "no bytes of an image")
        return content

    def place(self, i: int) -> str:
        """Return file and row of image `i`."""
        group = int(np.searchsorted(self._starts, i, "right")) - 1
        k = int(self._groups[group, 0])
        first = int(np.flatnonzero(self._groups[:, 0] == k)[0])
        return f"{self.files[k]}, row {i - int(self._starts[first])}"

    def identity(self) -> dict[str, object]:
        """Return a checksum of the sizes of the row groups."""
        return {"pictures": checksum(self._groups[:, 3].tolist())}

    def _open(self, group: int) -> None:
        k, number = self._groups[group, :2].tolist()
        with Reading(self.files[k], "a Parquet file"):
            file = pq.ParquetFile(self.files[k], memory_map=True)
            self._batches = file.iter_batches(ROWS, row_groups=[number], columns=[self.column], use_threads=False)
        self._process, self._group, self._first, self._count, self._batch = os.getpid(), group, 0, 0, []

    def _next(self, i: int) -> None:
        with Reading(self.files[int(self._groups[self._group, 0])], "a Parquet file"):
            self._first += self._count
            batch = next(self._batches, None)
            if batch is None or not batch.num_rows:
                raise ValueError(f"row {i} is missing")
            self._batch, self._count = batch.column(0).to_pylist(), batch.num_rows

    def _reset(self) -> None:
        self._process = self._group = -1
        self._first = self._count = 0
        self._batch: list[Any] = []
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("files", "column", "_groups", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def read_parquet(
    path: str | Path,
    split: str = "validation",
    revision: str | None = None,
    image: str = "image",
    label: str | None = "label",
    boxes: str | None = None,
    box_labels: str | None = None,
    box_format: Format | None = None,
    box_origin: int | None = None,
    box_end: End | None = None,
    truth: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_space: str | None = None,
    name: str = "hf",
) -> Packed:
    """Find the files of a split, on disk or on the hub, and read ids, labels and boxes.

    Args:
        path: a folder of Parquet files, one such file, or a dataset of the hub, `owner/name`.
        split: files whose name, or whose folder's name, begins with it; `""` for all.
        revision: commit of the hub's dataset, 40 hexadecimal digits, so that the files never change.
        image: column of the images.
        label: column of the labels, or null.
        boxes: column of each image's boxes, a list of four numbers each; a nested field as `objects.bbox`.
        box_labels: column of their labels.
        box_format: of `boxes`: `xyxy` or `xywh`.
        box_origin: of `boxes`: number of the first pixel in the boxes, 0 or 1.
        box_end: of `boxes` with `xyxy`: whether x2 is the last pixel, `inclusive`, or the next one, `exclusive`.
        truth: folder, or folders `A:B`, of ILSVRC's ground truth in any form, as wsolevaluation's lists; joined by the
            ids.
        classes: names in the order of the labels; by default those in the files.
        class_space: the network's name for the same classes: `imagenet`, ...; default: `name`.
        name: short name of the dataset.

    Raises:
        FileNotFoundError: there is nothing, or it cannot be downloaded.
        ValueError: an option or a file is wrong.
    """
    files = _files(path, split, revision)
    store = Rows(files, image)
    if not len(store):
        raise ValueError(f"{files[0]}: no row in it")
    form = BoxForm(box_format, box_origin, box_end) if boxes else None
    tables = [_Table(path, image, label, boxes, box_labels) for path in files]
    ids = _ids(tables)
    names = tuple(classes) if classes else tables[0].classes
    labels, names = _numbers([table.labels for table in tables], names, files)
    found = _boxes(tables, form, names) if form else None
    made = Packed(name, class_space or name, names, ids, store, labels, found)
    return made if truth is None else with_truth(made, truth, class_space)


read_parquet.version = 1  # type: ignore[attr-defined]


class _Table:
    """The small columns of one file.

    Attributes:
        paths: (n,) of the images; None if they have none.
        labels: (n,) numbers or texts; None if there is no such column.
        boxes: lists of lists of numbers; None likewise.
        box_labels: lists of numbers or texts; None likewise.
        classes: from the file.
    """

    def __init__(self, path: Path, image: str, label: str | None, boxes: str | None, box_labels: str | None) -> None:
        self.path = path
        with Reading(path, "a Parquet file") as file:
            schema = pq.read_schema(file.regular())
            wanted = [column for column in (label, boxes, box_labels) if column]
            heads = {column.split(".")[0] for column in wanted}
            if missing := sorted(heads - set(schema.names)):
                raise ValueError(f"no column {missing[0]!r}; there are {', '.join(schema.names)}")
            kind = schema.field(image).type
            named = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
            table = pq.ParquetFile(path).read([*([f"{image}.path"] if named else []), *wanted])
            self.rows = table.num_rows if wanted or named else pq.read_metadata(path).num_rows
            self.paths = _part(table, f"{image}.path") if named else None
            self.labels, self.boxes, self.box_labels = (
                _part(table, column) if column else None for column in (label, boxes, box_labels)
            )
            self.classes = _named_classes(schema, label or box_labels or "")


def _part(table: pa.Table, dotted: str) -> pa.Array:
    """A column, or a field of a nested one."""
    first, *inner = dotted.split(".")
    found: Any = table.column(first).combine_chunks()
    found = pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
    for name in inner:
        if not pa.types.is_struct(found.type) or found.type.get_field_index(name) < 0:
            raise ValueError(f"no part {name!r} in column {dotted!r}, which is {found.type}")
        found = found.field(name)
    return found


def _named_classes(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The class names that the library `datasets` writes into a file; empty if there are none."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None or not column:
        return ()
    feature: Any = json.loads(noted)["info"]["features"]
    for name in column.split("."):
        feature = feature.get(name, {}) if isinstance(feature, dict) else {}
        while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if names else ()


def _ids(tables: Sequence[_Table]) -> Names:
    """The images' ids: their paths if all have one."""
    if all(table.paths is not None and not table.paths.null_count for table in tables):
        ids = Names(_id(path) for table in tables for path in table.paths.to_pylist())  # type: ignore[union-attr]
    else:
        ids = Names(f"{table.path.stem}/{row}" for table in tables for row in range(table.rows))
    if repeated(ids):
        unique(list(ids), [f"{table.path}, row {row}" for table in tables for row in range(table.rows)])
    return ids


def _id(path: str) -> str:
    name = image_id(path).rsplit("/", 1)[-1]
    return found[1] if (found := _WNID.fullmatch(name)) else name


def _numbers(
    columns: Sequence[Any], names: tuple[str, ...], files: Sequence[Path]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels as numbers, -1 for none, and the names of the classes.

    Raises:
        ValueError: labels are neither whole numbers nor names, or a name is not a class.
    """
    if any(column is None for column in columns):
        return np.full(sum(pq.read_metadata(path).num_rows for path in files), -1, np.int32), names
    kinds = [column.type for column in columns]
    if other := next((k for k, kind in enumerate(kinds) if kind != kinds[0]), 0):
        raise ValueError(f"{files[other]}: labels of type {kinds[other]}; in {files[0]} they are {kinds[0]}")
    whole = pa.chunked_array(columns)
    if pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type):
        occurring = sorted(set(whole.unique().to_pylist()) - {None})
        names = names or tuple(occurring)
        if unknown := sorted(set(occurring) - set(names)):
            raise ValueError(f"{files[0].parent}: label {unknown[0]!r}; the classes are {some(names, 20)}")
        index = {None: -1} | {name: k for k, name in enumerate(names)}
        whole = pa.chunked_array([pa.array([index[name] for name in whole.to_pylist()], pa.int32())])
    elif not pa.types.is_integer(whole.type):
        raise ValueError(f"{files[0]}: labels of type {whole.type}; allowed are whole numbers and names")
    labels = np.asarray(whole.fill_null(-1).to_numpy(), np.int64).clip(-2, 2**31 - 1).astype(np.int32)
    return labels, names or tuple(map(str, range(int(labels.max(initial=0)) + 1)))


def _boxes(tables: Sequence[_Table], form: BoxForm, names: tuple[str, ...]) -> Boxes:
    counts, boxes, labels = [], [], []
    for table in tables:
        with Reading(table.path, "lists of boxes, four numbers each"):
            lists: Any = table.boxes
            if not pa.types.is_nested(lists.type) or not pa.types.is_nested(lists.type.value_type):
                raise ValueError(f"a column of {lists.type}")
            inner = lists.flatten()
            each = inner.value_lengths().to_numpy(zero_copy_only=False)
            if inner.null_count or not (each == 4).all():
                raise ValueError("a box that is not of four numbers")
            numbers = inner.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
            count = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            boxes.append(form.inclusive(numbers.reshape(-1, 4)))
            counts.append(count.astype(np.int64))
            if table.box_labels is None:
                labels.append(np.full(len(each), -1, np.int32))
                continue
            own: Any = table.box_labels
            found, _ = _numbers([own.flatten()], names, [table.path])
            if len(found) != len(each):
                raise ValueError(f"{len(each)} boxes and {len(found)} labels of boxes")
            labels.append(found)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Boxes(np.concatenate(boxes), np.concatenate(labels), offsets)


def _files(path: str | Path, split: str, revision: str | None) -> list[Path]:
    """The Parquet files of a split, sorted."""
    top = expand(path)
    if not top.exists() and _HUB.fullmatch(str(path)):
        top = _downloaded(str(path), split, revision)
    elif revision is not None:
        raise ValueError(f"revision={revision}: it is of a dataset of the hub, and {path} is on disk; allowed: null")
    if top.is_file():
        return [top]
    every = list(files_in(top, (".parquet",), depth=-1))
    files = [file for file in every if _of_split(file.relative_to(top), split)]
    if not files:
        others = f"; there are {some([file.relative_to(top) for file in every])}" if every else ""
        raise FileNotFoundError(f"{top}: no Parquet file of the split {split!r} in it{others}")
    return sorted(files)


def _of_split(path: Path, split: str) -> bool:
    """Whether a file, or a folder of its path, is named after the split: `validation-00000-of-00014.parquet`."""
    return not split or any(part == split or re.match(rf"{re.escape(split)}[-_.]", part) for part in path.parts)


def _downloaded(name: str, split: str, revision: str | None) -> Path:
    """The folder of a hub dataset, with the files of one split."""
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ValueError(
            f"revision={revision}; allowed with {name}, which is no folder here, is a commit of the hub's dataset, 40 "
            "hexadecimal digits (its page, Files and versions, History)"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError("datasets of the hub need huggingface_hub: pip install 'eigencam-bench[hub]'") from error
    patterns = [f"*{split}[-_.]*parquet", f"*{split}/*.parquet"] if split else ["*.parquet"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # network, hub or disk may raise anything
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{name} at {revision} could not be downloaded: {reason}. Its Parquet files may also lie in a folder that "
            "dataset.path names; gated datasets need `hf auth login`"
        ) from error
