"""Rows of finished batches on disk, while a run is in progress.

A part is a Parquet file whose name ends with the checksum of its bytes and which names its result. A truncated, damaged
or foreign part is thus recognised and set aside, and its rows are computed again. Parts are not synced to the disk.

    parts/3of16-5d41402abc4b2a76b9719d911017c592.parquet      rows of shard 3/16
    parts/bad-8277e0910d750195b448797616e091ad.json           images that were left out
    parts/plan.json                                           what else finishing the result needs; see `finish`

A shard's parts are merged geometrically: a new part absorbs the last one as long as that has at most twice its rows,
so there are about log2(rows) parts. Parts of more than 262,144 rows are not merged any more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.files import visible, write_bytes
from eigencam.store.bounded_parquet import BombError, read_batches, read_table
from eigencam.store.row_file import as_bytes, joined
from eigencam.store.schema import DAMAGED, PARTS, RUNS, Bad
from eigencam.store.seal import DamagedError, digest, file_digest, read_bytes, read_json, write_json

T = TypeVar("T")

PLAN = "plan.json"
LARGEST_PART = 8 * 2**30
"""Largest size of a part in bytes."""

LARGEST_MERGED = 2**18
"""Number of rows above which a part is not merged with others, since merging holds them in memory."""

_OWNER = b"eigencam.result"
"""Key of a part's metadata: the checksum of the result's identity."""


class Parts:
    """The parts of one result, as one process sees them.

    Args:
        folder: folder `parts` of the result.
        owner: checksum of the result's identity.
        shard: prefix of the parts that this process writes, e.g. `3of16`.
    """

    def __init__(self, folder: Path, owner: str, shard: str = "1of1") -> None:
        self.folder, self.owner, self.shard = folder, owner, shard
        self._written: list[tuple[int, Path]] | None = None

    def write(self, frame: pd.DataFrame) -> None:
        """Add rows, merged with the last parts that have at most twice as many."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        own = self._parts_of_shard()
        absorbed: list[Path] = []
        while own and own[-1][0] <= min(2 * len(table), LARGEST_MERGED):
            path = own.pop()[1]
            try:
                table = joined([self._read(path), table])
            except (DamagedError, FileNotFoundError):  # `tables` sets it aside
                continue
            absorbed.append(path)
        path = self._write(table)
        own.append((len(table), path))
        for old in absorbed:
            if old != path:
                old.unlink(missing_ok=True)

    def replace(self, parts: Iterable[Path], table: pa.Table) -> None:
        """Replace some parts by one with these rows, which were read from them; without rows, remove the parts."""
        for old in set(parts) - ({self._write(table)} if len(table) else set[Path]()):
            old.unlink(missing_ok=True)

    def _write(self, table: pa.Table) -> Path:
        content = as_bytes(table, {_OWNER: self.owner.encode()})
        path = self.folder / f"{self.shard}-{digest(content)}.parquet"
        write_bytes(path, content, follow=False)
        return path

    def write_bad(self, bad: Mapping[Bad, Mapping[str, str]]) -> None:
        """Add images that were left out, with the reasons."""
        content: dict[str, Any] = {kind: dict(reasons) for kind, reasons in bad.items()}
        names = "\n".join(name for reasons in bad.values() for name in reasons)
        write_json(self.folder / f"bad-{digest(names.encode())}.json", content)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write what finishing the result needs besides rows (`eigencam.store.finish.Plan.stored`)."""
        write_json(self.folder / PLAN, plan)

    def plan(self) -> dict[str, Any]:
        """Return what finishing the result needs besides rows.

        Raises:
            FileNotFoundError: no run has written it.
            DamagedError: it has changed since it was written.
        """
        path = self.folder / PLAN
        content = read_json(path)
        images, baseline = content.get("images"), content.get("baseline")
        if type(images) is not int or images < 1 or type(baseline) is not bool:
            raise DamagedError(path, "`images` has to be a number above 0, `baseline` a boolean")
        return content

    def tables(self, columns: list[str] | None = None) -> tuple[list[pa.Table], list[str]]:
        """Return the tables of the parts, and a line for each part that was damaged and set aside."""
        found, errors = self.read(columns)
        return list(found.values()), [line for error in errors for line in set_aside(error)]

    def read(self, columns: list[str] | None = None) -> tuple[dict[Path, pa.Table], list[DamagedError]]:
        """Return the tables of the parts by file, and an error per damaged part; nothing is moved."""
        found, errors = {}, []
        for path in visible(self.folder, "*.parquet"):
            try:
                found[path] = self._read(path, columns)
            except FileNotFoundError:  # merged by its shard, or the result was just finished by another
                continue
            except DamagedError as error:
                errors.append(error)
        return found, errors

    def checked(self) -> tuple[list[Path], list[DamagedError]]:
        """Return the intact parts, and what is damaged; nothing is moved."""
        found, errors = list[Path](), list[DamagedError]()
        for path in visible(self.folder, "*.parquet"):
            try:
                self._check(path)
                found.append(path)
            except FileNotFoundError:  # merged by its shard, or the result was just finished by another
                continue
            except DamagedError as error:
                errors.append(error)
        return found, errors

    def images(self, files: Iterable[Path]) -> Iterator[list[str]]:
        """Yield the ids of the images that parts have rows for, in blocks."""
        for path in files:
            for batch in read_batches(path, ["image"]):
                yield [str(value) for value in batch.column("image").to_pylist()]

    def _check(self, path: Path) -> None:
        """Raise DamagedError if a part has changed since it was written; only its footer is held in memory."""
        if path.stat().st_size > LARGEST_PART or file_digest(path) != path.stem.rsplit("-", 1)[-1]:
            raise DamagedError(path, "its content does not match the checksum in its name")
        try:
            schema = pq.read_schema(path)
            next(read_batches(path, ["image"]), None)
        except BombError as error:
            raise DamagedError(path, str(error)) from None
        except Exception as error:  # a valid checksum but not our rows: any error of Arrow
            raise DamagedError(path, f"no Parquet file ({type(error).__name__})") from None
        if (schema.metadata or {}).get(_OWNER) != self.owner.encode() or "image" not in schema.names:
            raise DamagedError(path, "it holds rows of another result")

    def bad(self) -> tuple[dict[Bad, dict[str, str]], list[str]]:
        """Return the images that were left out, with the reasons; and lines as `tables` does."""
        found, errors = self.read_bad()
        return found, [line for error in errors for line in set_aside(error)]

    def read_bad(self) -> tuple[dict[Bad, dict[str, str]], list[DamagedError]]:
        """Return the images that were left out, with the reasons, and an error per damaged file; nothing is moved."""
        found: dict[Bad, dict[str, str]] = {kind: {} for kind in get_args(Bad)}
        errors = []
        for path in sorted(self.folder.glob("bad-*.json")):
            try:
                content = read_json(path)
                for kind, reasons in found.items():
                    noted = content.get(kind, {})
                    if not isinstance(noted, dict):
                        raise DamagedError(path, f"{kind}: no mapping")
                    reasons |= {str(k): str(v) for k, v in noted.items()}
            except FileNotFoundError:
                continue
            except DamagedError as error:
                errors.append(error)
        return found, errors

    def damage(self) -> Iterator[str]:
        """Yield a line for each damaged part; nothing is moved."""
        for path in visible(self.folder, "*") if self.folder.is_dir() else ():
            try:
                if path.suffix == ".parquet":
                    self._read(path, ["image"])
                elif path.suffix == ".json":
                    read_json(path)
            except FileNotFoundError:
                continue
            except DamagedError as error:
                yield str(error)

    def counts(self) -> list[tuple[float, int]]:
        """Return (time written, rows) of each part, sorted by time; unreadable parts are skipped."""
        found = []
        for path in visible(self.folder, "*.parquet"):
            try:
                found.append((path.stat().st_mtime, len(self._read(path, ["image"]))))
            except (OSError, DamagedError):
                continue
        return sorted(found)

    def _parts_of_shard(self) -> list[tuple[int, Path]]:
        """The parts of this shard, the largest first."""
        if self._written is None:
            self._written = []
            for path in self.folder.glob(f"{self.shard}-*.parquet"):
                try:
                    self._written.append((len(self._read(path, ["image"])), path))
                except (DamagedError, FileNotFoundError):
                    continue
            self._written.sort(key=lambda part: -part[0])
        return self._written

    def _read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        content = read_bytes(path, LARGEST_PART)
        if digest(content) != path.stem.rsplit("-", 1)[-1]:
            raise DamagedError(path, "its content does not match the checksum in its name")
        try:
            table = read_table(pa.py_buffer(content), columns)
        except BombError as error:
            raise DamagedError(path, str(error)) from None
        except Exception as error:  # a valid checksum but not our rows: any error of Arrow
            raise DamagedError(path, f"no Parquet file ({type(error).__name__})") from None
        if (table.schema.metadata or {}).get(_OWNER) != self.owner.encode() or "image" not in table.column_names:
            raise DamagedError(path, "it holds rows of another result")
        return table


def while_merged(files: Callable[[], list[Path]], read: Callable[[list[Path]], T]) -> T:
    """Return what `read` makes of the parts; again with the parts that are there then if a shard merges some meanwhile.

    Raises:
        FileNotFoundError: `read` misses something else than a part.
    """
    while True:
        found = files()
        try:
            return read(found)
        except FileNotFoundError:
            if all(path.exists() for path in found):
                raise


def set_aside(error: DamagedError) -> list[str]:
    """Move a damaged file into `damaged/` of its result, and return the line that reports it."""
    path = error.path
    root = path.parent.parent if path.parent.name in (PARTS, RUNS) else path.parent
    place = root / DAMAGED
    try:
        place.mkdir(exist_ok=True)
        k = 0
        while (target := place / (f"{path.name}.{k}" if k else path.name)).exists():
            k += 1
        path.rename(target)
    except FileNotFoundError:  # another process has just moved it
        return []
    return [f"{error}; set aside in {place}, and computed again"]
