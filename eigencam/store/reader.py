"""Reading results: everybody who shows, compares or continues results goes through here.

    for stored in read_all(Path("results/runs")): print(stored.folder.name, stored.state)

Reading writes nothing and takes no lock, so it works on a folder of somebody else's and while a run is writing. A
damaged result has the state `damaged` and says which file it is; it costs no other result anything.
"""

import errno
import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from eigencam.files import one_line
from eigencam.locks import is_held
from eigencam.store.canonical import canonical
from eigencam.store.parts import Parts
from eigencam.store.records import damage, published, read_error
from eigencam.store.schema import (
    CONFIG,
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
from eigencam.store.seal import DamagedError, file_digest, read_yaml
from eigencam.store.trust import PACKAGED, Trust, rebuilt

State = Literal["done", "left out", "partial", "damaged", "old", "refused"]
_VERSIONED = ("version", "shared", "libraries", "library_version", "source", "own_source")


@dataclass(frozen=True, slots=True)
class Stored:
    """One result folder, as it was read.

    Attributes:
        folder: its path.
        names: dataset, network, method, evaluator.
        identity: what its hash is of; empty where it is damaged or of an old format.
        summary: None until it is complete, and where it is damaged.
        runs: that worked on it, the first one first.
        faults: a line for each damaged file that was looked at.
        old: a line where another version of this program wrote it, else "".
        denied: a line where this user may not read it, else "".
    """

    folder: Path
    names: tuple[str, str, str, str]
    identity: Mapping[str, Any] = field(default_factory=dict)
    summary: Summary | None = None
    runs: tuple[Run, ...] = ()
    faults: tuple[str, ...] = ()
    old: str = ""
    denied: str = ""

    @property
    def state(self) -> State:
        """What there is of it; whether a process is writing it, `running` says."""
        if self.denied:
            return "refused"
        if self.old:
            return "old"
        if self.faults:
            return "damaged"
        if self.summary is None:
            return "partial"
        return "left out" if self.summary.unsupported else "done"

    @property
    def running(self) -> bool:
        """Whether a process holds the lock of the result, or of one of its shards."""
        return any(map(is_held, self.folder.glob(".lock*")))

    @property
    def updated(self) -> str:
        """When the last run that worked on it began, `2026-03-01T12:00:00Z`; "" where that is not known."""
        return max((run.started for run in self.runs), default="")

    @property
    def cost(self) -> float | None:
        """Time of the method alone, in bare forward passes, as the last run that measured it found it."""
        return next((run.cost for run in reversed(self.runs) if run.cost is not None), None)

    @property
    def meaning(self) -> str:
        """The identity without versions: results that agree in it are versions of one another."""
        return canonical([self.names[2:], _unversioned(self.identity)])

    def rows(self) -> pd.DataFrame:
        """Return the rows of a complete result, in the dataset's order. DamagedError where they are not sealed."""
        path = self.folder / ROWS
        seal = self.summary.rows if self.summary else None
        if seal is None:
            raise ValueError(f"{self.folder}: not complete; it has no rows that a summary names")
        if file_digest(path) != seal.blake2b:
            raise DamagedError(path, "its content does not match the checksum in the summary")
        return pd.read_parquet(path)

    def evaluator(self, trust: Trust = PACKAGED) -> Any:
        """Return the evaluator that made its rows. UntrustedError where this command does not trust its code."""
        return rebuilt(self.identity["evaluator"], "evaluator", trust)

    def config(self) -> dict[str, Any]:
        """Return the resolved config of the last run that worked on it: data that nothing has checked yet.

        Raises:
            DamagedError: it is not what was written, or no mapping.
        """
        import yaml

        path = self.folder / CONFIG
        try:
            content = yaml.safe_load(read_yaml(path))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            if isinstance(error, DamagedError):
                raise
            raise DamagedError(path, f"no YAML ({type(error).__name__})") from None
        if not isinstance(content, dict):
            raise DamagedError(path, "no mapping")
        return content

    def errors(self) -> list[str]:
        """Return the first line of why each shard of it failed."""
        found = []
        for path in sorted(self.folder.glob("error*.json")):
            try:
                found.append((read_error(path).splitlines() or [""])[0])
            except (DamagedError, FileNotFoundError):
                continue
        return found

    def parts(self) -> list[tuple[float, int]]:
        """Return (time written, rows) of the parts of an unfinished result."""
        return Parts(self.folder / PARTS, self.folder.name.rsplit("-", 1)[-1]).counts()


def read_all(root: Path, folders: Container[str] | None = None, *, hashed: bool = False) -> list[Stored]:
    """Return every result below `root`, by name.

    Args:
        root: folder of results.
        folders: names of those that are wanted; None: all.
        hashed: whether rows and parts are compared with their checksums too, not with their sizes alone.

    Raises:
        FileNotFoundError: there is no such folder.
        PermissionError: `root` may not be read; a result that may not be has the state `refused`.
    """
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and is_result(e.name))
    wanted = [name for name in names if folders is None or name in folders]
    return [stored for name in wanted if (stored := read(root / name, hashed=hashed)) is not None]


def is_result(name: str) -> bool:
    """Whether a folder's name is of the form that results have."""
    parts = name.rsplit("-", 1)
    return not name.startswith(".") and name.count("-") >= len(NAMES) and _is_hash(parts[-1])


def read(folder: Path, *, hashed: bool = False) -> Stored | None:
    """Return one result; None where the folder holds none yet, or none any more."""
    try:
        return _read(folder, hashed)
    except PermissionError as error:
        return Stored(folder, _names(folder.name), denied=one_line(error))


def _read(folder: Path, hashed: bool) -> Stored | None:
    if not folder.is_dir():
        return None
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    if not any((folder / name).exists() for name in (IDENTITY, SUMMARY, ROWS, PARTS)):
        return None
    guessed = _names(folder.name)
    try:
        identity = read_identity(folder / IDENTITY)
    except OldFormatError as error:
        return Stored(folder, guessed, old=str(error))
    except FileNotFoundError:
        fault = f"{folder / IDENTITY}: damaged: it is not there"
        return Stored(folder, guessed, faults=(fault,)) if (folder / SUMMARY).exists() else None
    except DamagedError as error:
        return Stored(folder, guessed, faults=(str(error), *_damage(folder, hashed, but=IDENTITY)))
    names = _names(folder.name, identity)
    faults = _damage(folder, hashed)
    summary = None
    try:
        summary = None if faults else published(folder, hashed=hashed)
    except FileNotFoundError:
        pass
    except DamagedError as error:
        faults = (str(error),)
    if summary is not None and summary.names != names:
        faults, summary = (f"{folder / SUMMARY}: damaged: it is of {'-'.join(summary.names)}",), None
    return Stored(folder, names, identity, summary, _runs(folder), faults)


def newest(results: Iterable[Stored]) -> tuple[list[Stored], list[Stored]]:
    """Return the latest version of each result, and those that a later one supersedes."""
    by_meaning: dict[str, list[Stored]] = {}
    for stored in results:
        by_meaning.setdefault(stored.meaning, []).append(stored)
    latest = {max(same, key=lambda s: (_rank(s), s.updated, s.folder.name)).folder for same in by_meaning.values()}
    everything = [stored for same in by_meaning.values() for stored in same]
    everything.sort(key=lambda s: s.folder.name)
    return [s for s in everything if s.folder in latest], [s for s in everything if s.folder not in latest]


def _rank(stored: Stored) -> list[int]:
    """The versions of our code in it: a higher one is later, whenever the result was made."""
    parts = [stored.identity.get(key) or {} for key in ("method", "evaluator", "network", "dataset")]
    return [part.get("version", 0) if isinstance(part.get("version", 0), int) else 0 for part in parts]


def _unversioned(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _unversioned(value) for key, value in node.items() if key not in _VERSIONED}
    return [_unversioned(item) for item in node] if isinstance(node, list) else node


def _damage(folder: Path, hashed: bool, but: str = "") -> tuple[str, ...]:
    """A line for each damaged file."""
    found = [str(error) for error in damage(folder, hashed=hashed) if error.path.name != but]
    if hashed:
        found += Parts(folder / PARTS, folder.name.rsplit("-", 1)[-1]).damage()
    return tuple(dict.fromkeys(found))


def _runs(folder: Path) -> tuple[Run, ...]:
    found = []
    for path in sorted((folder / RUNS).glob("*.json")):
        try:
            found.append(Run.read(path))
        except (DamagedError, FileNotFoundError):
            continue
    return tuple(sorted(found, key=lambda run: run.started))


def _names(name: str, identity: Mapping[str, Any] | None = None) -> tuple[str, str, str, str]:
    """The four names in a folder's name; dataset and network may have dashes where the identity says so."""
    text = name.rsplit("-", 1)[0]
    if identity is not None:
        dataset, network = str(identity["dataset"]["name"]), str(identity["network"]["name"])
        rest = text.removeprefix(f"{dataset}-{network}-").rsplit("-", 1)
        if len(rest) == 2:
            return dataset, network, rest[0], rest[1]
    parts = text.split("-", len(NAMES) - 1)
    return (*parts, *[""] * (len(NAMES) - len(parts)))  # type: ignore[return-value]


def _is_hash(text: str) -> bool:
    return len(text) == 10 and all(character in "0123456789abcdef" for character in text)


def as_lines(stored: Iterable[Stored]) -> list[str]:
    """Return a line for each result that is damaged or of an old format, for people."""
    return [line for one in stored for line in (one.denied, one.old, *one.faults) if line]
