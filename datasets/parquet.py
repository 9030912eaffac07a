"""Image datasets in Parquet files, as the Hugging Face hub serves them.

    Parquet("imagenet-1k/data", split="validation")             # validation-00000-of-00014.parquet, ...
    Parquet("ILSVRC/imagenet-1k", split="validation", revision="49e2ee26f3810fb5a7536bbf732a7b07389a47b5")
    Parquet("imagenet-1k/data", split="validation", truth="metadata/ILSVRC/test")    # boxes from wsolevaluation's lists

One column has the encoded images, as `{bytes, path}` of the library `datasets` or as bytes; others have the label and,
if any, boxes. Files are read in place, a few rows at a time: nothing is unpacked to a second copy, and only ids,
labels and boxes are held in memory. From the hub, only the files of one split are downloaded, at a given revision.

An image's id is its path without folder and suffix (and without the `_n01440764` that imagenet-1k appends) or, if
any image has no path, file and row. The order is that of the files' names and of their rows.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.datasets.annotation_cache import Names
from eigencam.datasets.base import BadImageError, checksum
from eigencam.datasets.folder_truth import BoxForm, End, Format
from eigencam.datasets.names import image_id, repeated, unique
from eigencam.datasets.packed import Packed, with_truth
from eigencam.datasets.parquet_columns import Table, class_names, read_boxes
from eigencam.datasets.parquet_files import find_files
from eigencam.datasets.reading import FileError, Reading

ROWS = 16
"""Number of rows that are read at once."""

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
                if not _has_bytes(kind := found.schema_arrow.field(column).type):
                    raise ValueError(f"column {column!r} of {kind}; allowed are bytes, or a struct of bytes and path")
                parts = map(found.metadata.row_group, range(found.num_row_groups))
                groups += [(k, g, part.num_rows, part.total_byte_size) for g, part in enumerate(parts)]
        self._groups = np.array(groups, np.int64).reshape(-1, 4)
        self._starts = np.concatenate([[0], np.cumsum(self._groups[:, 2])])
        self._reset()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, i: int) -> bytes:
        """Return the file content of image `i`. Raises `BadImageError` if there is none, or it cannot be read."""
        try:
            content = self._content(i)
        except FileError as error:
            self._reset()
            raise BadImageError(self.place(i), error.reason) from error
        if not isinstance(content, bytes):
            raise BadImageError(self.place(i), "no bytes of an image")
        return content

    def _content(self, i: int) -> object:
        group = int(np.searchsorted(self._starts, i, "right")) - 1
        row = i - int(self._starts[group])
        if os.getpid() != self._process or group != self._group or row < self._first:
            self._open(group)
        while row >= self._first + self._count:
            self._next(i)
        value = self._batch[row - self._first]
        return value.get("bytes") if isinstance(value, dict) else value

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
                raise ValueError(f"the row of image {i} is missing")
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


def _has_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is that of encoded images."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


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
    allow_missing: bool = False,
) -> Packed:
    """Find the files of a split, on disk or on the hub, and read ids, labels and boxes.

    Args:
        path: a folder of Parquet files, one such file, or a dataset of the hub, `owner/name`.
        split: how a file, or a folder of its path, is named, alone or followed by `-`, `_` or `.`; `""` for all files.
        revision: commit of the hub's dataset, 40 hexadecimal digits, so that the files never change.
        image: column of the images.
        label: column of the labels, or null.
        boxes: column of the boxes, for each image a list of four numbers per box; null for none. A nested field is
            written `objects.bbox`.
        box_labels: column of their labels.
        box_format: format of `boxes`: `xyxy` or `xywh`.
        box_origin: number of the first pixel in `boxes`, 0 or 1.
        box_end: for `xyxy`: whether x2 is the last pixel of the box, `inclusive`, or the next one, `exclusive`.
        truth: folder, or folders `A:B`, of ILSVRC's ground truth in any form, such as wsolevaluation's lists; joined by
            the ids.
        classes: names in the order of the labels; by default those in the files.
        class_space: the network's name for the same classes: `imagenet`, ...; default: `name`.
        name: short name of the dataset.
        allow_missing: use the files that are there, even if by their names (`-of-00014`) there should be more.

    Raises:
        FileNotFoundError: there is nothing, files are missing, or they cannot be downloaded.
        ValueError: an option or a file is wrong.
    """
    files = find_files(path, split, revision, allow_missing)
    if box_labels and not boxes:
        raise ValueError(f"box_labels={box_labels} without boxes: name their column by dataset.boxes")
    store = Rows(files, image)
    if not len(store):
        raise ValueError(f"{files[0]}: no row in it")
    form = BoxForm(box_format, box_origin, box_end) if boxes else None
    tables = [Table(path, image, label, boxes, box_labels) for path in files]
    ids = _ids(tables)
    names = class_names(tables, classes)
    labels = np.concatenate([table.numbers(table.labels, names) for table in tables])
    found = read_boxes(tables, form, names) if form else None
    made = Packed(name, class_space or name, names, ids, store, labels, found)
    return made if truth is None else with_truth(made, truth, class_space)


read_parquet.version = 1  # type: ignore[attr-defined]


def _ids(tables: Sequence[Table]) -> Names:
    """The images' ids: from their paths if all have one, else file and row."""
    if all(table.paths is not None and all(table.paths.to_pylist()) for table in tables):
        ids = Names(_id(path) for table in tables for path in table.paths.to_pylist())  # type: ignore[union-attr]
    else:
        ids = Names(f"{table.path.stem}/{row}" for table in tables for row in range(table.rows))
    if repeated(ids):
        unique(list(ids), [f"{table.path}, row {row}" for table in tables for row in range(table.rows)])
    return ids


def _id(path: str) -> str:
    name = image_id(path).rsplit("/", 1)[-1]
    return found[1] if (found := _WNID.fullmatch(name)) else name
