"""Untrusted Parquet files, read within bounds: a few kilobytes may unpack to more than a machine's memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FREE = 256 * 2**20
"""Number of bytes that any file may unpack to."""

RATIO = 1000
"""Further bytes that a file may unpack to, per byte of its size; rows of a run need about ten."""

BATCH = 16384
"""Number of rows that are unpacked at a time."""


SMALL = 2**20
"""Size in bytes up to which a file is read as a whole and by one thread, which takes half the time."""


class BombError(ValueError):
    """A file that unpacks to more than its size allows."""


def read_table(source: Path | pa.Buffer, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a Parquet file, all at once; see `read_batches`."""
    about = _opened(source).schema_arrow
    fields = [field for field in about if columns is None or field.name in columns]
    return pa.Table.from_batches(read_batches(source, columns), pa.schema(fields, about.metadata))


def read_batches(
    source: Path | pa.Buffer, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, a batch at a time.

    Texts are checked as a dictionary with indices before they are expanded, so a long text that every row repeats
    costs nothing until then.

    Args:
        source: a file, or its content.
        columns: the columns to read; None: all.
        groups: indices of the row groups to read; None: all.

    Raises:
        BombError: it unpacks to more than `FREE` bytes plus `RATIO` times its own size.
        Exception: Arrow's error for a file that is not Parquet.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.size
    if isinstance(source, Path) and size <= SMALL:
        source = pa.py_buffer(source.read_bytes())
    most = FREE + RATIO * size
    plain = _opened(source)
    about = plain.metadata
    unpacked = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    if max(unpacked, about.num_rows * max(1, about.num_columns)) > most:
        raise BombError(f"{size} bytes that claim to unpack to more than {most}")
    leaves = [plain.schema.column(k) for k in range(len(plain.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
    wanted = plain.schema_arrow.names if columns is None else [n for n in plain.schema_arrow.names if n in columns]
    schema = pa.schema([plain.schema_arrow.field(name) for name in wanted], plain.schema_arrow.metadata)
    total = 0
    file = _opened(source, texts, about) if texts else plain
    for batch in file.iter_batches(BATCH, row_groups=groups, columns=wanted, use_threads=size > SMALL):
        total += sum(map(_bytes, batch.columns))
        if total > most:
            raise BombError(f"{size} bytes that unpack to more than {most}")
        arrays = [_written_out(batch.column(name)).cast(schema.field(name).type) for name in wanted]
        yield pa.record_batch(arrays, schema)


def _opened(
    source: Path | pa.Buffer, dictionaries: Sequence[str] = (), metadata: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    file: Any = source if isinstance(source, Path) else pa.BufferReader(source)
    # Arrow would otherwise keep what it has read of every row group until the last batch.
    return pq.ParquetFile(file, read_dictionary=list(dictionaries), metadata=metadata, pre_buffer=False)


def _bytes(array: Any) -> int:
    """Size of an array in bytes once it is expanded."""
    if not pa.types.is_dictionary(array.type):
        return array.nbytes
    compute: Any = pc  # its functions are created at import
    lengths = compute.binary_length(array.dictionary).cast(pa.int64())
    return 8 * len(array) + (compute.sum(lengths.take(array.indices)).as_py() or 0)


def _written_out(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
