"""One pass over the files of a result folder: their content, and which of them have changed since they were written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eigencam.files import leftovers, visible
from eigencam.store.claim import CLAIM, Claim
from eigencam.store.schema import (
    CONFIG,
    CURVES,
    IDENTITY,
    NAMES,
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
    """The content of a result folder, without its parts.

    Attributes:
        identity: None if it is missing or damaged.
        summary: None if the result is not complete, or the summary or its rows are damaged.
        runs: the runs that contributed, in the order of their start.
        claim: the origin of a result that came in a bundle.
        damaged: one error per damaged file.
        old: set if another version of this program wrote the result.
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
        except FileNotFoundError:  # it may be absent, or another process has just finished the result
            return None
        except DamagedError as error:
            self.damaged.append(error)
            return None


def examine(folder: Path, *, hashed: bool = True) -> Examined:
    """Read and check every file of a result once; nothing is moved.

    Args:
        folder: folder of the result.
        hashed: whether to check the rows' checksum as well as their size, and the seal of the curves.
    """
    found = Examined()
    try:
        found.identity = found._checked(read_identity, folder / IDENTITY)
    except OldFormatError as error:
        found.old = error
    found._checked(read_yaml, folder / CONFIG)
    found.summary = found._checked(lambda path: published(path.parent, hashed=hashed), folder / SUMMARY)
    if found.identity and found.summary and (what := _of_another(folder.name, found.identity, found.summary)):
        found.damaged.append(DamagedError(folder / SUMMARY, what))
        found.summary = None
    if hashed:
        found._checked(read_json, folder / CURVES)
    found.claim = found._checked(Claim.read, folder / CLAIM)
    runs = [found._checked(Run.read, path) for path in visible(folder / RUNS, "*.json")]
    found.runs = tuple(sorted((run for run in runs if run), key=lambda run: run.started))
    for path in sorted(folder.glob("error*.json")):
        found._checked(read_error, path)
    return found


def published(folder: Path, *, hashed: bool = True) -> Summary:
    """Return the summary of a complete result, checked.

    Args:
        folder: folder of the result.
        hashed: whether to check the rows' checksum as well as their size.

    Raises:
        FileNotFoundError: the result is not complete.
        DamagedError: the summary, or its rows, have changed since they were written.
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
            raise DamagedError(folder / SUMMARY, f"its {ROWS} is missing") from None
        if size != summary.rows.bytes:
            raise DamagedError(path, f"{size} bytes; {summary.rows.bytes} were written")
        if content != summary.rows.blake2b:
            raise DamagedError(path, "its content does not match the checksum in the summary")
    return summary


def _of_another(name: str, identity: Mapping[str, Any], summary: Summary) -> str:
    """Why a summary cannot be that of an identity; "" if it can."""
    if summary.names != names_of(name, identity):
        return f"it belongs to {'-'.join(summary.names)}"
    images = identity["dataset"].get("n")
    if type(images) is int and summary.n > images:
        return f"n = {summary.n}, and the dataset has {images} images"
    return ""


def has_leftovers(folder: Path) -> bool:
    """Whether a complete result still has files of a process that was killed while it finished it."""
    return (folder / PARTS).exists() or any(folder.glob("error*.json")) or any(map(leftovers, (folder, folder / RUNS)))


def read_error(path: Path) -> str:
    """Return the reason why a run stopped. Raises DamagedError if the file has changed since it was written."""
    return str(read_json(path).get("error", ""))


def names_of(name: str, identity: Mapping[str, Any] | None = None) -> tuple[str, str, str, str]:
    """Return the four names in a folder's name; dataset and network may contain dashes if the identity says so."""
    text = printable(name).rsplit("-", 1)[0]
    if identity is not None:
        dataset, network = str(identity["dataset"]["name"]), str(identity["network"]["name"])
        rest = text.removeprefix(f"{dataset}-{network}-").rsplit("-", 1)
        if len(rest) == 2:
            return dataset, network, rest[0], rest[1]
    parts = text.split("-", len(NAMES) - 1)
    return (*parts, *[""] * (len(NAMES) - len(parts)))  # type: ignore[return-value]


def printable(text: str) -> str:
    r"""Return the text with `\udcff` for bytes that are not UTF-8: a folder's name may contain any."""
    return text.encode(errors="backslashreplace").decode()
