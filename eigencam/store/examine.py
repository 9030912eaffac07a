"""One pass over the files of a result folder: what they say, and which of them are not what was written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eigencam.files import leftovers, visible
from eigencam.store.claim import CLAIM, Claim
from eigencam.store.schema import (
    CONFIG,
    IDENTITY,
    PARTS,
    ROWS,
    RUNS,
    SUMMARY,
    OldFormatError,
    Run,
    Summary,
    read_identity,
)
from eigencam.store.seal import DamagedError, file_digest, read_json, read_yaml

T = TypeVar("T")


@dataclass(slots=True)
class Examined:
    """What stands in a result folder, its parts left aside.

    Attributes:
        identity: None where it is not there, or damaged.
        summary: None where the result is not complete, or the summary or the rows that it names are damaged.
        runs: that worked on it, the first one first.
        claim: what is known of a result that came in a bundle.
        damaged: one error for each damaged file.
        old: where another version of this program wrote it.
    """

    identity: Mapping[str, Any] | None = None
    summary: Summary | None = None
    runs: tuple[Run, ...] = ()
    claim: Claim | None = None
    damaged: list[DamagedError] = field(default_factory=list)
    old: OldFormatError | None = None

    def _checked(self, read: Callable[[Path], T], path: Path) -> T | None:
        try:
            return read(path)
        except FileNotFoundError:  # it need not be there, or another process has just finished the result
            return None
        except DamagedError as error:
            self.damaged.append(error)
            return None


def examine(folder: Path, *, hashed: bool = True) -> Examined:
    """Read and check every file of a result once; nothing is moved.

    Args:
        folder: of the result.
        hashed: whether the rows' checksum is compared too, not their size alone.
    """
    found = Examined()
    try:
        found.identity = found._checked(read_identity, folder / IDENTITY)
    except OldFormatError as error:
        found.old = error
    found._checked(read_yaml, folder / CONFIG)
    found.summary = found._checked(lambda path: published(path.parent, hashed=hashed), folder / SUMMARY)
    found.claim = found._checked(Claim.read, folder / CLAIM)
    runs = [found._checked(Run.read, path) for path in visible(folder / RUNS, "*.json")]
    found.runs = tuple(sorted((run for run in runs if run), key=lambda run: run.started))
    for path in sorted(folder.glob("error*.json")):
        found._checked(read_error, path)
    return found


def published(folder: Path, *, hashed: bool = True) -> Summary:
    """Return the summary of a complete result, checked.

    Args:
        folder: of the result.
        hashed: whether the rows' checksum is compared too, not their size alone.

    Raises:
        FileNotFoundError: the result is not complete.
        DamagedError: the summary, or the rows that it names, are not what was written.
    """
    summary = Summary.read(folder / SUMMARY)
    if summary.result != folder.name.rsplit("-", 1)[-1]:
        raise DamagedError(folder / SUMMARY, f"it is the summary of a folder …-{summary.result}")
    if summary.rows is None and not summary.unsupported:
        raise DamagedError(folder / SUMMARY, "rows: nothing in the place of dict")
    if summary.rows is not None:
        path = folder / ROWS
        try:
            size = path.stat().st_size
            content = file_digest(path) if hashed and size == summary.rows.bytes else summary.rows.blake2b
        except FileNotFoundError:
            raise DamagedError(folder / SUMMARY, f"the {ROWS} that it names is not there") from None
        if size != summary.rows.bytes:
            raise DamagedError(path, f"{size} bytes; {summary.rows.bytes} were written")
        if content != summary.rows.blake2b:
            raise DamagedError(path, "its content does not match the checksum in the summary")
    return summary


def has_leftovers(folder: Path) -> bool:
    """Whether a complete result has what a process leaves behind that was killed while it finished it."""
    return (folder / PARTS).exists() or any(folder.glob("error*.json")) or any(map(leftovers, (folder, folder / RUNS)))


def read_error(path: Path) -> str:
    """Return why a run stopped. DamagedError where the file is not what was written."""
    return str(read_json(path).get("error", ""))
