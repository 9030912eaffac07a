"""Results on disk: one folder for each (dataset, network, method, evaluator), keyed by what changes a number.

    <results>/<dataset>-<network>-<method>-<evaluator>-<hash>/
        identity.json      what the hash is of
        config.yaml        the whole resolved config of the last run that worked on it
        env.json           for each such run: git commit, package versions, device, checksums, command
        parts/*.parquet    rows of finished batches, while the run goes on
        rows.parquet       one row per picture (with `target=each`: per picture and class), in the dataset's order
        metrics.json       the summary; written last, so its presence means: complete
        error.json         the first line and the traceback of a failed run, until a later run succeeds

Every file is written beside its place and renamed into it, so a killed run leaves whole files only. Rows that are
there are not computed again. Batch size, device and worker count are not identity.
"""

import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.evaluation.base import Metric, Row
from eigencam.identity import canonical, checksum


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
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
    _lock: filelock.FileLock | None = None

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

    def open(self, config: str, environment: Mapping[str, Any]) -> None:
        """Make the folder and take its lock.

        Raises:
            ValueError: another process is writing this result.
        """
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"{self.folder}: another run is writing this result; wait for it, or stop it") from None
        self._lock = lock
        # A run that stopped between rows.parquet and metrics.json: the parts are the truth, and may still grow.
        (self.folder / "rows.parquet").unlink(missing_ok=True)
        sessions = self.folder / "env.json"
        before = json.loads(sessions.read_text()) if sessions.is_file() else []
        identity = json.dumps(json.loads(canonical(self.identity)), indent=1)
        write_text(self.folder / "identity.json", identity + "\n")
        write_text(self.folder / "config.yaml", config)
        write_text(sessions, json.dumps([*before, environment], indent=1, sort_keys=True) + "\n")

    def close(self) -> None:
        """Release the lock; rows not yet written are lost."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def done(self) -> set[str]:
        """Ids of the pictures whose rows are on disk. A part that cannot be read is removed and computed again."""
        ids: set[str] = set()
        for path in sorted((self.folder / "parts").glob("*.parquet")):
            try:
                ids.update(pq.read_table(path, columns=["image"])["image"].to_pylist())
            except (pa.ArrowException, OSError):
                path.unlink()
        return ids

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows until the next `flush`."""
        self._buffer += rows

    def flush(self) -> None:
        """Write the kept rows as one part."""
        if not self._buffer:
            return
        name = hashlib.sha256(self._buffer[0]["image"].encode()).hexdigest()[:16]
        _write_parquet(pd.DataFrame(self._buffer), self.folder / "parts" / f"{name}.parquet")
        self._buffer.clear()

    def rows(self) -> pd.DataFrame:
        """All rows on disk, in the dataset's order once complete."""
        if (self.folder / "rows.parquet").is_file():
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
        self._close_with({**summary, "metrics": [asdict(m) for m in metrics]})
        shutil.rmtree(self.folder / "parts")

    def measured(self, what: Mapping[str, Any]) -> None:
        """Note what was measured in this session beside its environment; it is no part of the result."""
        sessions = json.loads((self.folder / "env.json").read_text())
        sessions[-1] |= what
        write_text(self.folder / "env.json", json.dumps(sessions, indent=1, sort_keys=True) + "\n")

    def leave_out(self, reason: str) -> None:
        """Complete the result of a method that cannot run on the network."""
        self._close_with({"n": 0, "unsupported": reason, "metrics": []})
        shutil.rmtree(self.folder / "parts")

    def fail(self, error: BaseException) -> None:
        """Note why the run stopped; the next run goes on from the rows that are there."""
        text = "".join(traceback.format_exception(error))
        write_text(self.folder / "error.json", json.dumps({"error": str(error), "traceback": text}, indent=1) + "\n")

    def _close_with(self, content: Mapping[str, Any]) -> None:
        names = dict(zip(("dataset", "network", "method", "evaluator"), self.names, strict=True))
        write_text(
            self.folder / "metrics.json", json.dumps(_strict({**names, **content}), indent=1, allow_nan=False) + "\n"
        )
        (self.folder / "error.json").unlink(missing_ok=True)


def _strict(value: Any) -> Any:
    """The same with null for NaN and lists for tuples: what every JSON reader takes."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_parquet(beside, index=False, compression="zstd")
    beside.replace(path)
