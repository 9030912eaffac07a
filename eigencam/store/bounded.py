"""Parquet files of anybody, read within bounds: a few kilobytes may unpack to more than a machine's memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FREE = 256 * 2**20
"""Bytes that any file may unpack to."""

RATIO = 1000
"""Bytes that it may have besides for each of its own; rows of a run have about ten."""

BATCH = 16384
"""Rows that are unpacked at a time."""


class BombError(ValueError):
    """A file that unpacks to more than its size lets expect."""


def read_table(source: Path | pa.Buffer, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a Parquet file, all at once; see `read_batches`."""
    about = _opened(source).schema_arrow
    fields = [field for field in about if columns is None or field.name in columns]
    return pa.Table.from_batches(read_batches(source, columns), pa.schema(fields, about.metadata))


def read_batches(
    source: Path | pa.Buffer, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, a batch at a time.

    Texts are looked at as a dictionary and its indices before they are written out, so that a long one that every row
    has costs nothing until then.

    Args:
        source: a file, or its content.
        columns: that are wanted; None: all.
        groups: numbers of the row groups that are wanted; None: all.

    Raises:
        BombError: it unpacks to more than `FREE` bytes and `RATIO` times its own size.
        Exception: whatever Arrow says of what is no Parquet file.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.size
    most = FREE + RATIO * size
    plain = _opened(source)
    about = plain.metadata
    unpacked = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    if max(unpacked, about.num_rows * max(1, about.num_columns)) > most:
        raise BombError(f"{size} bytes that say to unpack to more than {most}")
    leaves = [plain.schema.column(k) for k in range(len(plain.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
    wanted = plain.schema_arrow.names if columns is None else [n for n in plain.schema_arrow.names if n in columns]
    schema = pa.schema([plain.schema_arrow.field(name) for name in wanted], plain.schema_arrow.metadata)
    total = 0
    for batch in _opened(source, texts).iter_batches(BATCH, row_groups=groups, columns=wanted):
        total += sum(map(_bytes, batch.columns))
        if total > most:
            raise BombError(f"{size} bytes that unpack to more than {most}")
        arrays = [_written_out(batch.column(name)).cast(schema.field(name).type) for name in wanted]
        yield pa.record_batch(arrays, schema)


def _opened(source: Path | pa.Buffer, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    file: Any = source if isinstance(source, Path) else pa.BufferReader(source)
    return pq.ParquetFile(file, read_dictionary=list(dictionaries))


def _bytes(array: Any) -> int:
    """How many bytes an array has once it is written out."""
    if not pa.types.is_dictionary(array.type):
        return array.nbytes
    compute: Any = pc  # its functions are made when it is loaded
    lengths = compute.binary_length(array.dictionary).cast(pa.int64())
    return 8 * len(array) + (compute.sum(lengths.take(array.indices)).as_py() or 0)


def _written_out(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
