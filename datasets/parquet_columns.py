"""Labels and boxes in the columns of Parquet files, and the names of the classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eigencam.datasets.class_names import MOST_CLASSES, ONLY_CLASS, numbered, occurring
from eigencam.datasets.completeness import some
from eigencam.datasets.folder_truth import BoxForm
from eigencam.datasets.names import unique
from eigencam.datasets.packed import Boxes
from eigencam.datasets.reading import Reading

_compute: Any = pyarrow.compute  # its functions are made when it is imported


class Table:
    """The small columns of one file.

    Attributes:
        paths: (n,) the images' paths; None if they have none.
        labels: (n,) numbers or texts; None if there is no such column.
        boxes: lists of lists of numbers; None if there is no such column.
        box_labels: lists of numbers or texts; None if there is no such column.
        classes: class names that the file gives.
        rows: number of rows.
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
            columns = [column if _is_field(schema, column) else column.split(".")[0] for column in wanted]
            table = pq.ParquetFile(path).read([*([f"{image}.path"] if named else []), *columns])
            self.rows = table.num_rows if wanted or named else pq.read_metadata(path).num_rows
            self.paths = _part(table, f"{image}.path") if named else None
            self.labels, self.boxes, self.box_labels = (
                _part(table, column) if column else None for column in (label, boxes, box_labels)
            )
            self.classes = _named_classes(schema, label or box_labels or "")
            of_boxes = _named_classes(schema, box_labels or "")
            if self.classes and of_boxes not in ((), self.classes):
                raise ValueError(f"column {label!r} has other classes than {box_labels!r}; allowed are the same")

    def flat_box_labels(self) -> Any:
        """The labels of all boxes, (B,); None if there is no such column."""
        if self.box_labels is None:
            return None
        with Reading(self.path, "a list of labels for each image, one for each box"):
            if not _is_list(self.box_labels.type):
                raise ValueError(f"a column of {self.box_labels.type}")
            return _decoded(self.box_labels.flatten())

    def numbers(self, column: Any, names: Sequence[str]) -> NDArray[np.int32]:
        """Labels as numbers, -1 for none; a number that is not a class stays outside the range of the classes.

        Raises:
            ValueError: a name is not a class.
        """
        if column is None:
            return np.full(self.rows, -1, np.int32)
        if _is_text(column.type):
            index: dict[str | None, int] = {None: -1} | {name: k for k, name in enumerate(names)}
            if unknown := sorted(set(column.unique().to_pylist()) - index.keys()):
                raise ValueError(f"{self.path}: label {unknown[0]!r}; the classes are {some(names, 20)}")
            return np.array([index[name] for name in column.to_pylist()], np.int32)
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        low = 0 if pa.types.is_unsigned_integer(column.type) else -2
        numbers = values.clip(low, np.iinfo(np.int32).max).astype(np.int32)
        numbers[column.is_null().to_numpy(zero_copy_only=False)] = -1
        return numbers


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_field(schema: pa.Schema, dotted: str) -> bool:
    """Whether a name is that of a column, or of a field of a struct column."""
    first, *inner = dotted.split(".")
    kind = schema.field(first).type
    return not inner or (pa.types.is_struct(kind) and kind.get_field_index(inner[0]) >= 0)


def _decoded(column: Any) -> Any:
    """A column with its values in place of codes, if it has a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _part(table: pa.Table, dotted: str) -> Any:
    """A column, or a field of a nested column, which is a struct or a list of structs."""
    first, *inner = dotted.split(".")
    found: Any = table.column(first).combine_chunks()
    found = pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
    for name in inner:
        kind = found.type.value_type if _is_list(found.type) else found.type
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise ValueError(f"no part {name!r} in column {dotted!r}, which is {found.type}")
        if _is_list(found.type):
            lengths = found.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            found = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), _compute.struct_field(found.flatten(), name)
            )
        else:
            found = _compute.struct_field(found, name)
    return _decoded(found)


def _named_classes(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The class names that the library `datasets` writes into a file; empty if there are none."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None or not column:
        return ()
    feature: Any = json.loads(noted)["info"]["features"]
    for name in column.split("."):
        while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        feature = feature.get(name, {}) if isinstance(feature, dict) else {}
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list | None):
        raise ValueError(f"the class names of {column!r} are {names!r}; allowed is a list")
    return tuple(map(str, names)) if names else ()


def class_names(tables: Sequence[Table], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes: those given, those in the files, or those that occur.

    Raises:
        ValueError: files name different classes or one class twice, or the labels are neither all whole numbers nor all
            names.
    """
    named = [table for table in tables if table.classes]
    if other := next((table.path for table in named if table.classes != named[0].classes), None):
        raise ValueError(f"{other}: other class names than in {named[0].path}; allowed are the same in all files")
    names = tuple(map(str, given)) if given else named[0].classes if named else ()
    columns = _columns_of_labels(tables)
    if not names and any(columns):
        names = _occurring(columns[0] or columns[1])
    elif not names and tables[0].boxes is not None:
        names = (ONLY_CLASS,)
    unique([name.strip() for name in names], range(len(names)), "classes")
    return names


def _columns_of_labels(tables: Sequence[Table]) -> tuple[list[Any], list[Any]]:
    """The label columns of images and of boxes. Raises a ValueError unless they have one type and no label is empty."""
    columns: tuple[list[Any], list[Any]] = [], []
    for table in tables:
        for found, column in zip(columns, (table.labels, table.flat_box_labels()), strict=True):
            if column is None:
                continue
            found.append(column)
            if (kind := column.type) != found[0].type:
                raise ValueError(f"{table.path}: labels of type {kind}; in {tables[0].path} they are {found[0].type}")
            if not _is_text(kind) and not pa.types.is_integer(kind):
                raise ValueError(f"{table.path}: labels of type {kind}; allowed are whole numbers and names")
            if _is_text(kind) and any(name is not None and not name.strip() for name in column.unique().to_pylist()):
                raise ValueError(f"{table.path}: an empty text as a label; allowed are names, and null for none")
    if len({_is_text(found[0].type) for found in columns if found}) > 1:
        raise ValueError(f"{tables[0].path}: images have numbers as labels and boxes have names, or the reverse")
    return columns


def _occurring(columns: Sequence[Any]) -> tuple[str, ...]:
    """The classes that occur in columns of labels."""
    if _is_text(columns[0].type):
        return occurring({name for column in columns for name in column.unique().to_pylist()} - {None})
    counted = (column.filter(_compute.less(column, MOST_CLASSES)) for column in columns)
    return numbered(max((_compute.max(one).as_py() for one in counted if len(one) > one.null_count), default=0))


def read_boxes(tables: Sequence[Table], form: BoxForm, names: tuple[str, ...]) -> Boxes:
    """Return the boxes of all images, converted from the format `form`, and their labels.

    Raises:
        FileError: a column is not a list of boxes, or an image's labels and boxes differ in number.
    """
    counts, boxes, labels = [], [], []
    bare = 0 if names == (ONLY_CLASS,) and all(table.labels is None for table in tables) else -1
    for table in tables:
        with Reading(table.path, "lists of boxes, four numbers each") as file:
            lists: Any = table.boxes
            if not _is_list(lists.type) or not _is_list(lists.type.value_type):
                raise ValueError(f"a column of {lists.type}")
            inner = lists.flatten()
            each = inner.value_lengths().to_numpy(zero_copy_only=False)
            if inner.null_count or not (each == 4).all():
                raise ValueError("a box that is not of four numbers")
            numbers = inner.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
            count = _lengths(lists)
            boxes.append(form.inclusive(numbers.reshape(-1, 4)))
            counts.append(count)
            if table.box_labels is None:
                labels.append(np.full(len(each), bare, np.int32))
                continue
            own, flat = _lengths(table.box_labels), table.flat_box_labels()
            if (differs := own != count).any():
                row = int(differs.argmax())
                file.place = f"row {row}"
                raise ValueError(f"{count[row]} boxes and {own[row]} labels of boxes")
            if flat.null_count:
                raise ValueError("a box without a label, null, among others")
            labels.append(table.numbers(flat, names))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Boxes(np.concatenate(boxes), np.concatenate(labels), offsets)


def _lengths(lists: Any) -> NDArray[np.int64]:
    """The length of each list, (N,); 0 for null."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
