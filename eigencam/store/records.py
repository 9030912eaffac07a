"""Writing results: one folder for each (dataset, network, method, evaluator), keyed by what changes a number.

`schema` lists the files. Several processes (the shards of a run) may fill one result at a time, on machines that share
the folder. Each holds the lock of its shard. The process that finds all images done takes the lock of finishing, which
ends with its process. Every file is written next to its destination and renamed, so a killed run leaves complete files
only. Existing rows are not computed again. Batch size, device, worker count and shard are not part of the identity.

A result is published in this order, each synced to the disk before the next: rows, summary, the folder's file names.
"""

import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from eigencam.evaluation.base import Row
from eigencam.files import first_line, remove_leftovers, unique_name
from eigencam.store.canonical import checksum, plain
from eigencam.store.contradictions import intact
from eigencam.store.examine import examine, has_leftovers, published
from eigencam.store.finish import Gathered, Plan, gather
from eigencam.store.image_positions import Positions
from eigencam.store.locks import HeldError, Lock, take
from eigencam.store.ordered_rows import RUN, MisplacedError
from eigencam.store.parts import Parts, set_aside, while_merged
from eigencam.store.row_file import RowFile, frame_of, read_rows
from eigencam.store.schema import CONFIG, DAMAGED, IDENTITY, PARTS, ROWS, RUNS, SUMMARY, Bad, Summary
from eigencam.store.seal import DamagedError, read_json, write_json, write_yaml
from eigencam.store.shards import Shard
from eigencam.store.summing import is_outdated, keep_curves, publish, sum_up_again

STAGED = "rows.staged"
"""Name of the file with all rows, among the parts, until the result is published."""


@dataclass(slots=True)
class Result:
    """One result folder, as a run writes it.

    Attributes:
        root: folder of all results.
        names: dataset, network, method, evaluator: the readable part of the folder's name.
        identity: JSON-ready content that the hash is computed from.
        alone: whether no other process writes it, so that file locks are not needed.
        repaired: a line per damaged file that was set aside since `open`.
    """

    root: Path
    names: tuple[str, str, str, str]
    identity: Mapping[str, Any]
    alone: bool = False
    repaired: list[str] = field(default_factory=list)
    _buffer: list[Row] = field(default_factory=list)
    _bad: dict[Bad, dict[str, str]] = field(default_factory=dict)
    _lock: Lock | None = None
    _shard: Shard = field(default_factory=Shard)
    _run: str = ""
    _environment: dict[str, Any] = field(default_factory=dict)
    _plan: Plan | None = None
    _parts: Parts | None = None

    @property
    def folder(self) -> Path:
        """`<root>/<dataset>-<network>-<method>-<evaluator>-<hash>`."""
        return self.root / "-".join([*self.names, checksum(self.identity)])

    @property
    def summary(self) -> Summary | None:
        """The content of `metrics.json`; None until every image is scored and summarised, and if it is damaged."""
        try:
            return published(self.folder)
        except (FileNotFoundError, DamagedError):
            return None

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do: no file is damaged or missing, and no killed process left anything behind."""
        found = examine(self.folder)
        return bool(found.identity and found.summary) and not found.damaged and not has_leftovers(self.folder)

    @property
    def complete(self) -> bool:
        """Whether every image has been scored and summarised; False for a method that was left out."""
        summary = self.summary
        return summary is not None and not summary.unsupported

    def open(
        self,
        config: str,
        environment: Mapping[str, Any] | None,
        shard: Shard | None = None,
        plan: Plan | None = None,
    ) -> None:
        """Make the folder, take the shard's lock, set aside damaged files, and record the run.

        Args:
            config: the resolved config, as YAML.
            environment: result of `environment`; None for a caller that computes no rows and is not recorded.
            shard: the shard that this process computes.
            plan: what is known of the result before its first row.

        Raises:
            HeldError: another process is writing this shard of the result.
            ValueError: the folder is a link.
        """
        self._shard, self._plan = shard or Shard(), plan
        for _ in range(3):
            if self._has_begun(config):
                break
            self.close()
        else:
            raise HeldError(f"{self.folder}: another process removes it again and again")
        try:
            if environment is not None:
                self._note_run(environment)
        except BaseException:
            self.close()
            raise

    def _has_begun(self, config: str) -> bool:
        """Take the lock and begin; False if `eigencam prune` removed the folder in between."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._drop_links()
        try:
            self._lock = take(self.folder / f".lock{self._shard.suffix}", needed=not self.alone)
        except HeldError:
            raise HeldError(f"{self.folder}: another run is writing this result; wait for it, or stop it") from None
        try:
            with self.finishing():
                if held := self._lock.stands():
                    self._begin(config)
            return held
        except FileNotFoundError:
            if self._lock.stands():
                self.close()
                raise
            return False
        except BaseException:
            self.close()
            raise

    def _begin(self, config: str) -> None:
        """Set aside damaged files, and write what is known beforehand; this process holds both locks."""
        for folder in (self.folder, self.folder / PARTS, self.folder / RUNS):
            remove_leftovers(folder)
        self._set_aside()
        if self.summary:
            self.settle()
        write_json(self.folder / IDENTITY, plain(self.identity))
        write_yaml(self.folder / CONFIG, config)
        if self._plan and not self.summary:
            self.parts.write_plan(self._plan.stored())

    def _note_run(self, environment: Mapping[str, Any]) -> None:
        now = time.gmtime()
        self._run = f"{time.strftime('%Y%m%dT%H%M%S', now)}-{unique_name()}{self._shard.suffix}"
        self._environment = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
            "host": socket.gethostname(),
            "rows_before": sum(rows for _, rows in self.parts.counts()),
            **environment,
        }
        self._change_run(self._run, {})

    def close(self) -> None:
        """Release the lock; rows not yet written are lost."""
        if self._lock:
            self._lock.release()
            self._lock = None

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let one process at a time do the shared work: setting aside damaged files, finishing the result."""
        with take(self.folder / ".lock-finish", wait=True, needed=not self.alone):
            yield

    def lacking(self, positions: Positions) -> NDArray[np.bool_]:
        """(n,): which of a dataset's images have no row on disk; damaged parts are set aside."""

        def read(files: list[Path]) -> NDArray[np.bool_]:
            lacking = np.ones(len(positions), bool)
            for images in self.parts.images(files):
                place = positions.of(images)
                lacking[place[place >= 0]] = False
            return lacking

        return while_merged(self._files, read)

    def _files(self) -> list[Path]:
        files, said = intact(self.parts)
        self.repaired += said
        return files

    def bad(self) -> dict[Bad, dict[str, str]]:
        """Return the images that were left out, by id, with the reason, as recorded on disk."""
        found, said = self.parts.bad()
        self.repaired += said
        return found

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows until the next `flush`."""
        self._buffer += rows

    def add_bad(self, kind: Bad, image: str, reason: str) -> None:
        """Record, until the next `flush`, that an image was left out."""
        self._bad.setdefault(kind, {})[image] = reason

    def flush(self) -> None:
        """Write the kept rows as one part, and the images that were left out."""
        if self._bad:
            self.parts.write_bad(self._bad)
            self._bad.clear()
        if self._buffer:
            rows = pd.DataFrame(self._buffer)
            self.parts.write(self._plan.placed(rows).assign(**{RUN: self._run}) if self._plan else rows)
            self._buffer.clear()

    def rows(self) -> pd.DataFrame:
        """Return all rows on disk; in the dataset's order once complete, before that from the parts."""
        if self.complete:
            return read_rows(self.folder / ROWS)
        tables, said = self.parts.tables()
        self.repaired += said
        return frame_of(tables)

    def gathered(self) -> Gathered | None:
        """Return everything that the complete result is made from; None if images are missing. Only within `finishing`.

        Raises:
            ValueError: every image was left out.
            FileNotFoundError: no run has recorded the number of images.
        """
        plan, positions = (self._plan.stored(), self._plan.positions) if self._plan else (self.parts.plan(), None)
        bad, target, staged = self.bad(), str(self.identity["target"]), self.folder / PARTS / STAGED
        while True:
            try:
                return while_merged(self._files, lambda files: gather(files, bad, plan, target, staged, positions))
            except MisplacedError as error:
                if self._plan is None:
                    raise
                try:
                    rows = self._plan.placed(read_rows(error.path))
                except ValueError as fault:  # an image that the dataset does not have
                    self.repaired += set_aside(DamagedError(error.path, first_line(fault)))
                    continue
                self.parts.replace([error.path], pa.Table.from_pandas(rows, preserve_index=False))
            except pa.ArrowException as error:
                raise ValueError(f"{self.folder / PARTS}: parts of different columns: {first_line(error)}") from None

    def publish(self, gathered: Gathered, summary: Mapping[str, Any]) -> None:
        """Publish the gathered rows with their summary from `summed_up`; each run's file lists the rows it computed."""
        for name, rows in gathered.made_by.items():
            self._change_run(name, {"rows": rows})
        self.finish(gathered.rows.path, {**gathered.facts, **summary})

    def finish(self, rows: pd.DataFrame | Path, summary: Mapping[str, Any]) -> None:
        """Publish all rows and the summary, and remove the parts.

        Args:
            rows: rows of every image, in the dataset's order, or the file that holds them.
            summary: the fields of `Summary` except names and seals, including those of `summed_up`.
        """
        publish(self.folder, self._summary(summary), rows)
        self.settle()

    def sum_up_again(self, evaluator: Any) -> None:
        """Recompute the summary, and the kept curves, from the stored rows if other versions of the code made them."""
        if (summary := self.summary) and not summary.unsupported and is_outdated(self.folder, summary, evaluator):
            with self.finishing():
                sum_up_again(self.folder, summary, evaluator, RowFile(self.folder / ROWS, summary.n))

    def keep_curves(self, evaluator: Any) -> None:
        """Write the curves of the published rows. Only within `finishing`."""
        if summary := self.summary:
            keep_curves(self.folder, summary, evaluator, RowFile(self.folder / ROWS, summary.n))

    def measured(self, what: Mapping[str, Any]) -> None:
        """Record what this run measured, in the run's file; not part of the result. Only within `finishing`."""
        self._environment |= what
        self._change_run(self._run, self._environment)

    def leave_out(self, reason: str) -> None:
        """Complete the result of a method that cannot run on the network; the reason names files without our folder."""
        reason = reason.replace(f"{self.folder.parent}{os.sep}", "")
        publish(self.folder, self._summary({"n": 0, "unsupported": reason}))
        self.settle()

    def fail(self, error: BaseException) -> None:
        """Record why the run stopped; the next run continues from the existing rows."""
        text = "".join(traceback.format_exception(error))
        write_json(self.folder / f"error{self._shard.suffix}.json", {"error": str(error), "traceback": text})

    def succeed(self) -> None:
        """Remove the record of why an earlier run of this shard stopped."""
        (self.folder / f"error{self._shard.suffix}.json").unlink(missing_ok=True)

    @property
    def parts(self) -> Parts:
        """The rows of finished batches."""
        if self._parts is None:
            self._parts = Parts(self.folder / PARTS, checksum(self.identity), self._shard.name)
        return self._parts

    def _summary(self, content: Mapping[str, Any]) -> Summary:
        return Summary(*self.names, result=checksum(self.identity), **content)

    def _change_run(self, name: str, what: Mapping[str, Any]) -> None:
        """Add to a run's file; if it is missing or damaged, it is made again, but only for this run."""
        path = self.folder / RUNS / f"{name}.json"
        try:
            before = read_json(path)
        except (FileNotFoundError, DamagedError):
            before = self._environment if name == self._run else None
        if before is not None:
            write_json(path, {**before, **what})

    def settle(self) -> None:
        """Remove the files of an unfinished result."""
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        for path in self.folder.glob("error*.json"):
            path.unlink(missing_ok=True)

    def _drop_links(self) -> None:
        """Remove links in place of folders, so that all writing, moving and removing stays inside the result."""
        if self.folder.is_symlink():
            raise ValueError(f"{self.folder}: a link, and a run does not write through links: remove it")
        for path in (self.folder / name for name in (PARTS, RUNS, DAMAGED)):
            if path.is_symlink():
                path.unlink()
                self.repaired.append(f"{path}: a link to another folder; removed")

    def _set_aside(self) -> None:
        """Move every damaged file out of the way; its content is computed or written again."""
        found = examine(self.folder)
        old = [DamagedError(self.folder / IDENTITY, f"format {found.old.version}")] if found.old else []
        for error in [*old, *found.damaged]:
            self.repaired += set_aside(error)
            if error.path.name == SUMMARY:  # rows without an intact summary cannot be trusted
                (self.folder / ROWS).unlink(missing_ok=True)
            if error.path.name == ROWS:
                (self.folder / SUMMARY).unlink(missing_ok=True)
        if not (self.folder / SUMMARY).exists():
            (self.folder / ROWS).unlink(missing_ok=True)  # a run was killed between rows and summary
