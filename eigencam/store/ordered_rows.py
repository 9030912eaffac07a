"""The rows of many parts in the dataset's order, one window of positions at a time.

A part's rows are roughly in the order of their images, so each of its row groups covers a short range of positions. For
a window, only the groups that may have rows in it are read. The memory needed does not depend on the number of
images.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eigencam.store.bounded_parquet import read_batches
from eigencam.store.image_positions import Positions

POSITION, RUN, FITTED = "_position", "_run", "_fitted"
"""Columns of parts: the image's position in the dataset, the run, whether the classifier was fitted on the image."""

WINDOW = 2**13
"""Number of positions in a window."""

ROW_GROUP = 2**14
"""Number of rows in a row group, which a reader holds in memory."""


class MisplacedError(ValueError):
    """A part whose rows lack the positions of their images, or have wrong ones."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: rows of an older version of this program, without the images' order; a run completes them"
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class Group:
    """A row group of a part, and the first and last position of its rows."""

    path: Path
    number: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Windows:
    """The rows of parts.

    Attributes:
        groups: row groups of the parts, in order.
        schema: schema of all columns of the parts.
        seen: (n,) which of the dataset's images have rows.
        fitted: (n,) which of them the network's classifier was fitted on.
        named: which of the requested images have rows, by id.
    """

    groups: tuple[Group, ...]
    schema: pa.Schema
    seen: NDArray[np.bool_]
    fitted: NDArray[np.bool_]
    named: frozenset[str]

    @classmethod
    def of(
        cls, files: Sequence[Path], images: int, positions: Positions | None = None, asked: Iterable[str] = ()
    ) -> "Windows":
        """Scan the parts.

        Args:
            files: the parts, already checked.
            images: number of images in the dataset.
            positions: positions of the images, if known; the rows' positions are compared with them.
            asked: ids for `named`.

        Raises:
            MisplacedError: rows do not say which image they belong to.
        """
        asked, named, groups = frozenset(asked), set[str](), list[Group]()
        seen, fitted = np.zeros(images, bool), np.zeros(images, bool)
        schemas: list[pa.Schema] = []
        for path in files:
            about = pq.ParquetFile(path)
            schemas.append(about.schema_arrow.remove_metadata())
            for number in range(about.num_row_groups):
                first, last = images, -1
                for batch in read_batches(path, ["image", POSITION, FITTED], [number]):
                    ids = batch.column("image").to_pylist()
                    place = places(path, batch, images)
                    if positions is not None and (place != positions.of(ids)).any():
                        raise MisplacedError(path)
                    seen[place] = True
                    if FITTED in batch.schema.names:
                        fitted[place[batch.column(FITTED).to_numpy(zero_copy_only=False).astype(bool)]] = True
                    named |= asked.intersection(ids)
                    first, last = min(first, int(place.min(initial=first))), max(last, int(place.max(initial=last)))
                groups.append(Group(path, number, first, last))
        schema = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
        return cls(tuple(groups), schema, seen, fitted, frozenset(named))

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows, once each, sorted by position and label."""
        for start in range(0, len(self.seen), WINDOW):
            within = [g for g in self.groups if g.last >= start and g.first < start + WINDOW]
            found = [table for g in within for table in self._read(g, start)]
            if found:
                table = pa.concat_tables(found)
                place, label = (table[name].to_numpy() for name in (POSITION, "label"))
                order = np.lexsort((label, place))
                place, label = place[order], label[order]
                again = (place[1:] == place[:-1]) & (label[1:] == label[:-1])
                yield table.take(pa.array(order[np.append(True, ~again)]))

    def _read(self, group: Group, start: int) -> Iterator[pa.Table]:
        for batch in read_batches(group.path, None, [group.number]):
            place = batch.column(POSITION).to_numpy(zero_copy_only=False)
            kept = batch.filter(pa.array((place >= start) & (place < start + WINDOW)))
            if kept.num_rows:
                columns = {
                    field.name: kept.column(field.name).cast(field.type)
                    if field.name in kept.schema.names
                    else pa.nulls(kept.num_rows, field.type)
                    for field in self.schema
                }
                yield pa.table(columns, schema=self.schema)


def places(path: Path, batch: pa.RecordBatch, images: int) -> NDArray[np.int64]:
    """Return the positions of a batch's images, 0 to `images` - 1. Raises MisplacedError if one is missing or wrong."""
    if POSITION not in batch.schema.names or batch.column(POSITION).null_count:
        raise MisplacedError(path)
    place = batch.column(POSITION).to_numpy(zero_copy_only=False)
    if place.dtype.kind != "i" or place.min(initial=0) < 0 or place.max(initial=0) >= images:
        raise MisplacedError(path)
    return place.astype(np.int64)


def write_rows(tables: Iterable[pa.Table], path: Path) -> dict[str, list[list[int]]]:
    """Write rows without the columns that only parts have, in row groups of `ROW_GROUP`.

    Returns:
        For each run, the ranges of rows that it computed, as (first, last).
    """
    made_by: dict[str, list[list[int]]] = {}
    writer: pq.ParquetWriter | None = None
    schema, count = pa.schema([]), 0
    try:
        for table in of_size(tables, ROW_GROUP):
            if RUN in table.column_names:
                _note_stretches(made_by, table[RUN].to_pandas().to_numpy(object), count)
            count += len(table)
            table = table.drop_columns([n for n in (POSITION, RUN, FITTED) if n in table.column_names])
            if writer is None:
                schema = _as_of_pandas(table)
                writer = pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()
    return made_by


def _as_of_pandas(table: pa.Table) -> pa.Schema:
    """The schema that pandas would give the table, so that the same rows have the same bytes whoever wrote them."""
    like = pa.Table.from_pandas(table.to_pandas(), preserve_index=False).schema
    fields = [table.schema.field(own.name) if "null" in str(own.type) else own for own in like]
    return pa.schema(fields, like.metadata)


def of_size(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Split the rows into tables of `size` rows; the last one may be shorter."""
    waiting: list[pa.Table] = []
    have = 0
    for table in tables:
        waiting, have = [*waiting, table], have + len(table)
        while have >= size:
            rows = pa.concat_tables(waiting)
            yield rows.slice(0, size)
            waiting, have = [rows.slice(size)], have - size
    if have:
        yield pa.concat_tables(waiting)


def _note_stretches(made_by: dict[str, list[list[int]]], runs: NDArray[Any], start: int) -> None:
    """Add the ranges of rows, numbered from `start`, to those of the runs that computed them."""
    edges = np.flatnonzero(np.append(True, runs[1:] != runs[:-1])).tolist()
    for first, end in zip(edges, [*edges[1:], len(runs)], strict=True):
        if isinstance(run := runs[first], str):
            known = made_by.setdefault(run, [])
            if known and known[-1][1] == start + first - 1:
                known[-1][1] = start + end - 1
            else:
                known.append([start + first, start + end - 1])
