"""Results on disk: one folder for each (dataset, network, method, evaluator), keyed by what changes a number.

    <results>/<dataset>-<network>-<method>-<evaluator>-<hash>/
        identity.json      what the hash is of
        config.yaml        the whole resolved config of the last run that worked on it
        env.json           for each such run: git commit, package versions, device, checksums, command
        parts/*.parquet    rows of finished batches, while the run goes on
        parts/bad-*.json   pictures that could not be decoded, and why, while the run goes on
        rows.parquet       one row per picture (with `target=each`: per picture and class), in the dataset's order
        metrics.json       the summary; written last, so its presence means: complete
        error.json         the first line and the traceback of a failed run, until a later run succeeds; a shard's is
                           error-3of16.json

Several processes may fill one result at a time, on machines that share the folder: the shards of a run. Each holds the
lock of its shard; whichever finds all pictures done takes the lock of finishing, which ends with its process. Every
file is written beside its place and renamed into it, so a killed run leaves whole files only. Rows that are there are
not computed again. Batch size, device, worker count and shard are not identity.
"""

import hashlib
import json
import os
import shutil
import socket
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.evaluation.base import Metric, Row
from eigencam.identity import canonical, checksum

S = TypeVar("S", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `k` of `of`, from 1 on, of a run's batches.

    >>> Shard.parse("3/16").pick(range(32))
    range(4, 6)
    """

    k: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """ValueError for what is not `k/n` with 1 <= k <= n."""
        k, slash, of = text.partition("/")
        if not (slash and k.isdecimal() and of.isdecimal() and 1 <= int(k) <= int(of)):
            raise ValueError(f"shard={text}; allowed: 1/1, or k/n with 1 <= k <= n, as 3/16")
        return cls(int(k), int(of))

    def pick(self, batches: S) -> S:
        """A contiguous part."""
        n = len(batches)
        return batches[n * (self.k - 1) // self.of : n * self.k // self.of]  # type: ignore[return-value]

    @property
    def suffix(self) -> str:
        """Of its files' names; "" for the whole."""
        return f"-{self.k}of{self.of}" if self.of > 1 else ""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    beside = path.with_name(f".{path.name}.{_unique()}")
    beside.write_text(text)
    beside.replace(path)


@dataclass(slots=True)
class Result:
    """One result folder.

    Attributes:
        root: folder of all results.
        names: dataset, network, method, evaluator: the readable part of the folder's name.
        identity: JSON-ready content that the hash is of.
    """

    root: Path
    names: tuple[str, str, str, str]
    identity: Mapping[str, Any]
    _buffer: list[Row] = field(default_factory=list)
    _bad: dict[str, str] = field(default_factory=dict)
    _lock: filelock.BaseFileLock | None = None
    _shard: Shard = field(default_factory=Shard)
    _session: int = 0

    @property
    def folder(self) -> Path:
        """`<root>/<dataset>-<network>-<method>-<evaluator>-<hash>`."""
        return self.root / "-".join([*self.names, checksum(self.identity)])

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `metrics.json` says; None until every picture has been scored and summed up."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def complete(self) -> bool:
        """Whether every picture has been scored and summed up; a method that was left out has not been run."""
        summary = self.summary
        return summary is not None and not summary.get("unsupported")

    def open(self, config: str, environment: Mapping[str, Any], shard: Shard | None = None) -> None:
        """Make the folder and take the shard's lock.

        Raises:
            ValueError: another process is writing this shard of the result.
        """
        self._shard = shard or Shard()
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / f".lock{self._shard.suffix}")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"{self.folder}: another run is writing this result; wait for it, or stop it") from None
        self._lock = lock
        identity = json.dumps(json.loads(canonical(self.identity)), indent=1)
        with self.finishing():
            before = self._sessions()
            self._session = len(before)
            write_text(self.folder / "identity.json", identity + "\n")
            write_text(self.folder / "config.yaml", config)
            self._write_sessions([*before, dict(environment)])

    def close(self) -> None:
        """Release the lock; rows not yet written are lost."""
        if self._lock:
            self._lock.release()
            self._lock = None

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """One process at a time does what all share: it notes its session, or finishes the result."""
        with filelock.FileLock(self.folder / ".lock-finish"):
            yield

    def _sessions(self) -> list[dict[str, Any]]:
        path = self.folder / "env.json"
        return json.loads(path.read_text()) if path.is_file() else []

    def _write_sessions(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        write_text(self.folder / "env.json", json.dumps(sessions, indent=1, sort_keys=True) + "\n")

    def done(self) -> set[str]:
        """Ids of the pictures whose rows are on disk. A part that cannot be read is removed and computed again."""
        ids: set[str] = set()
        for path in sorted((self.folder / "parts").glob("*.parquet")):
            try:
                ids.update(pq.read_table(path, columns=["image"])["image"].to_pylist())
            except FileNotFoundError:  # another shard has just finished the result
                continue
            except (pa.ArrowException, OSError):
                path.unlink(missing_ok=True)
        return ids

    def bad(self) -> dict[str, str]:
        """Pictures that could not be decoded, by id, with the reason, as far as is noted on disk."""
        found: dict[str, str] = {}
        for path in sorted((self.folder / "parts").glob("bad-*.json")):
            found |= json.loads(path.read_text())
        return found

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows until the next `flush`."""
        self._buffer += rows

    def add_bad(self, image: str, reason: str) -> None:
        """Keep, until the next `flush`, that a picture could not be decoded."""
        self._bad[image] = reason

    def flush(self) -> None:
        """Write the kept rows as one part, and what could not be decoded."""
        parts = self.folder / "parts"
        if self._bad or self._buffer:
            parts.mkdir(exist_ok=True)  # a run cut into other shards may just have finished the result
        if self._bad:
            write_text(parts / f"bad-{_hash(self._bad)}.json", json.dumps(self._bad))
            self._bad.clear()
        if self._buffer:
            name = _hash(row["image"] for row in self._buffer)
            _write_parquet(pd.DataFrame(self._buffer), parts / f"{name}.parquet")
            self._buffer.clear()

    def rows(self) -> pd.DataFrame:
        """All rows on disk, in the dataset's order once complete; until then the parts are the truth."""
        if self.complete:
            return pd.read_parquet(self.folder / "rows.parquet")
        parts = sorted((self.folder / "parts").glob("*.parquet"))
        return (
            pd.concat([pd.read_parquet(p) for p in parts], ignore_index=True) if parts else pd.DataFrame({"image": []})
        )

    def finish(self, rows: pd.DataFrame, summary: Mapping[str, Any], metrics: Sequence[Metric]) -> None:
        """Write all rows as `rows.parquet`, then the summary, and drop the parts.

        Args:
            rows: of every picture, in the dataset's order.
            summary: what goes into `metrics.json` beside the metrics.
            metrics: the evaluator's.
        """
        _write_parquet(rows, self.folder / "rows.parquet")
        self._close_with({**summary, "metrics": [m.stored() for m in metrics]})
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def measured(self, what: Mapping[str, Any]) -> None:
        """Note what was measured in this session beside its environment; it is no part of the result."""
        with self.finishing():
            sessions = self._sessions()
            sessions[self._session] |= what
            self._write_sessions(sessions)

    def leave_out(self, reason: str) -> None:
        """Complete the result of a method that cannot run on the network."""
        self._close_with({"n": 0, "unsupported": reason, "metrics": []})
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def fail(self, error: BaseException) -> None:
        """Note why the run stopped; the next run goes on from the rows that are there."""
        text = "".join(traceback.format_exception(error))
        path = self.folder / f"error{self._shard.suffix}.json"
        write_text(path, json.dumps({"error": str(error), "traceback": text}, indent=1) + "\n")

    def succeed(self) -> None:
        """Forget why an earlier run of this shard stopped."""
        (self.folder / f"error{self._shard.suffix}.json").unlink(missing_ok=True)

    def _close_with(self, content: Mapping[str, Any]) -> None:
        names = dict(zip(("dataset", "network", "method", "evaluator"), self.names, strict=True))
        write_text(
            self.folder / "metrics.json", json.dumps(_strict({**names, **content}), indent=1, allow_nan=False) + "\n"
        )
        for path in self.folder.glob("error*.json"):
            path.unlink(missing_ok=True)


def _hash(images: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(images).encode()).hexdigest()[:16]


def _unique() -> str:
    """Of this process on this machine: several write into one folder."""
    return f"{socket.gethostname()}.{os.getpid()}"


def _strict(value: Any) -> Any:
    """The same with null for NaN and lists for tuples: what every JSON reader takes."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    beside = path.with_name(f".{path.name}.{_unique()}")
    frame.to_parquet(beside, index=False, compression="zstd")
    beside.replace(path)
