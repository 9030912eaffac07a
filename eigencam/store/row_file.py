"""The rows of a result as a Parquet file: written compressed, read whole or in blocks."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.files import regular
from eigencam.store.bounded_parquet import BombError, read_batches, read_table
from eigencam.store.ordered_rows import ROW_GROUP
from eigencam.store.seal import DamagedError

_KEY = ("image", "label")


def read_rows(path: Path) -> pd.DataFrame:
    """Return the rows of a Parquet file. Raises DamagedError if it has none, even with a valid checksum."""
    try:
        rows = read_table(regular(path)).to_pandas()
    except (FileNotFoundError, PermissionError):
        raise
    except BombError as error:
        raise DamagedError(path, str(error)) from None
    except Exception as error:  # any error of Arrow and pandas
        raise DamagedError(path, f"no rows ({type(error).__name__})") from None
    if not isinstance(rows.index, pd.RangeIndex) or not {"image", "label"} <= set(rows.columns):
        raise DamagedError(path, "no rows of images")
    return rows


@dataclass(frozen=True, slots=True)
class RowFile:
    """The rows of a complete result, read in blocks.

    Attributes:
        path: the Parquet file.
        images: number of images that it has rows for.
    """

    path: Path
    images: int

    def blocks(self, beside: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield all rows in their order. Raises DamagedError if the file has none, even with a valid checksum.

        Args:
            beside: columns to read in addition to image and label, if they are present; None: all.
        """
        try:
            for batch in read_batches(regular(self.path), None if beside is None else [*_KEY, *beside]):
                rows = batch.to_pandas(use_threads=False)  # a batch is small
                if not set(_KEY) <= set(rows.columns):
                    raise DamagedError(self.path, "no rows of images")
                yield rows
        except (FileNotFoundError, PermissionError, DamagedError):
            raise
        except BombError as error:
            raise DamagedError(self.path, str(error)) from None
        except pa.ArrowException as error:
            raise DamagedError(self.path, f"no rows ({type(error).__name__})") from None

    def frame(self) -> pd.DataFrame:
        """Return all rows at once."""
        return read_rows(self.path)


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of several tables; a column that is empty in one takes its type from another."""
    return pa.concat_tables(tables, promote_options="permissive")


def as_bytes(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    return buffer.getvalue()


def frame_of(tables: list[pa.Table]) -> pd.DataFrame:
    """Return the rows of several tables as a frame; without tables, an empty one with the column `image`."""
    return joined(tables).to_pandas() if tables else pd.DataFrame({"image": []})


def images_of(tables: Iterable[pa.Table]) -> set[str]:
    """Return the ids of the images that tables have rows for."""
    found: set[str] = set()
    for table in tables:
        found.update(_texts(table["image"]))
    return found


def _texts(column: Any) -> Iterator[str]:
    return (str(value) for value in column.to_pylist())
