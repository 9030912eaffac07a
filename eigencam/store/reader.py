"""Reading results: every command that shows, compares or continues results goes through this module.

    for stored in read_all(Path("results/runs")): print(stored.folder.name, stored.state)

Reading writes nothing and takes no lock, so it works on a folder of somebody else's and while a run is writing. A
damaged result has the state `damaged` and names the file; other results are not affected.
"""

import errno
import os
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from eigencam.evaluation.base import Curve
from eigencam.files import naming, one_line
from eigencam.store.canonical import canonical
from eigencam.store.claim import Claim
from eigencam.store.examine import examine, names_of, printable, read_error
from eigencam.store.identity import OBJECT
from eigencam.store.kept_curves import kept_curves
from eigencam.store.locks import is_held
from eigencam.store.parts import Parts
from eigencam.store.row_file import RowFile
from eigencam.store.schema import CONFIG, IDENTITY, NAMES, PARTS, ROWS, RUNS, SUMMARY, Run, Summary, network_label
from eigencam.store.seal import DamagedError, check_depth, file_digest, read_yaml
from eigencam.store.trust import PACKAGED, Trust, rebuilt

LARGEST_CONFIG = 2**20
"""Largest size of a config in characters."""

SETTLED_NS = 10**9
"""Nanoseconds within which a file system may give two changes the same time."""

MOST_KEPT = 10_000
"""Number of results that a process caches."""

State = Literal["done", "left out", "partial", "damaged", "old", "refused"]
_VERSIONED = ("version", "shared", "libraries", "library_version", "source", "own_source")
"""Keys of a description (`eigencam.store.identity.describe`) that hold versions of the code."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One result folder, as read.

    Attributes:
        folder: its path.
        names: dataset, network, method, evaluator.
        identity: the content that its hash is computed from; empty if it is damaged or of an old format.
        summary: None until the result is complete, and if the summary is damaged.
        runs: the runs that contributed, in the order of their start.
        claim: its origin if it came in a bundle.
        faults: a line for each damaged file among those checked.
        old: a line if another version of this program wrote it, else "".
        denied: a line if this user may not read it, else "".
    """

    folder: Path
    names: tuple[str, str, str, str]
    identity: Mapping[str, Any] = field(default_factory=dict)
    summary: Summary | None = None
    runs: tuple[Run, ...] = ()
    claim: Claim | None = None
    faults: tuple[str, ...] = ()
    old: str = ""
    denied: str = ""

    @property
    def state(self) -> State:
        """Its state; `running` says whether a process is writing it."""
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
    def network(self) -> str:
        """Name of the network, marked if its weights are random."""
        described = self.identity.get("network", {})
        return network_label(self.names[1], str(described.get("untrained", "")))

    @property
    def running(self) -> bool:
        """Whether a process holds the lock of the result, or of one of its shards."""
        return any(map(is_held, self.folder.glob(".lock*")))

    @property
    def updated(self) -> str:
        """Start of the last run that computed for it, `2026-03-01T12:00:00Z`; "" if not known."""
        return max((run.started for run in self.computing), default="")

    @property
    def computing(self) -> tuple[Run, ...]:
        """The runs that scored images for it; all runs if none records its rows, as in an unfinished result."""
        return tuple(run for run in self.runs if run.images) or self.runs

    @property
    def cost(self) -> float | None:
        """Time of the method alone in bare forward passes, from the last run that measured it."""
        return next((run.cost for run in reversed(self.runs) if run.cost is not None), None)

    @property
    def meaning(self) -> str:
        """The identity without versions: equal for results that are versions of one another."""
        return canonical([self.names[2:], unversioned(self.identity)])

    def rows(self) -> pd.DataFrame:
        """Return a complete result's rows in the dataset's order. Raises DamagedError if they fail their checksum."""
        return self.row_file().frame()

    def row_file(self) -> RowFile:
        """Return the file of these rows, to be read in blocks. Raises DamagedError if they fail their checksum."""
        path = self.folder / ROWS
        summary, seal = self.summary, self.summary.rows if self.summary else None
        if summary is None or seal is None:
            raise ValueError(f"{self.folder}: not complete; it has no sealed rows")
        if file_digest(path) != seal.blake2b:
            raise DamagedError(path, "its content does not match the checksum in the summary")
        return RowFile(path, summary.n)

    def curves(self) -> list[Curve] | None:
        """Return the curves kept beside its rows, or None. Raises DamagedError if they fail their seal."""
        return kept_curves(self.folder, self.summary) if self.summary else None

    def evaluator(self, trust: Trust = PACKAGED) -> Any:
        """Return the evaluator that made its rows. Raises UntrustedError if this command does not trust its code."""
        return rebuilt(self.identity["evaluator"], "evaluator", trust)

    def config(self) -> dict[str, Any]:
        """Return the resolved config of the last run that contributed: unchecked data.

        Raises:
            DamagedError: it has changed since it was written, or is no mapping.
        """
        import yaml

        path = self.folder / CONFIG
        text = read_yaml(path)
        if len(text) > LARGEST_CONFIG:
            raise DamagedError(path, f"{len(text)} characters; at most {LARGEST_CONFIG} were written")
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
                raise DamagedError(path, "an alias, which no run writes")
            content = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            if isinstance(error, DamagedError):
                raise
            raise DamagedError(path, f"no YAML ({type(error).__name__})") from None
        if not isinstance(content, dict):
            raise DamagedError(path, "no mapping")
        check_depth(path, content)
        if content.pop("tf32", False) is True:  # formerly a key of its own, now a value of `dtype`
            content["dtype"] = "tf32"
        return content

    def errors(self) -> list[str]:
        """Return the first line of the error of each failed shard."""
        found = []
        for path in sorted(self.folder.glob("error*.json")):
            try:
                found.append((read_error(path).splitlines() or [""])[0])
            except (DamagedError, FileNotFoundError):
                continue
        return found

    def parts(self) -> list[tuple[float, int]]:
        """Return (time written, rows) of the parts of an unfinished result."""
        return self.unfinished.counts()

    @property
    def unfinished(self) -> Parts:
        """The rows of finished batches of an unfinished result."""
        return Parts(self.folder / PARTS, self.folder.name.rsplit("-", 1)[-1])


def read_all(root: Path, folders: Container[str] | None = None, *, hashed: bool = False) -> list[Stored]:
    """Return every result below `root`, sorted by name.

    Args:
        root: folder of results.
        folders: names of the folders to read; None: all.
        hashed: whether to check the checksums of complete results' rows as well as their sizes.

    Raises:
        FileNotFoundError: there is no such folder.
        PermissionError: `root` may not be read; a result that may not be read has the state `refused`.
    """
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and is_result(e.name))
    wanted = [name for name in names if folders is None or name in folders]
    return [stored for name in wanted if (stored := read(root / name, hashed=hashed)) is not None]


def results_in(path: Path) -> list[Path]:
    """Return the result folders in a folder, sorted by name, or the folder itself if it is one.

    Raises:
        FileNotFoundError: there is no such folder.
        PermissionError: it may not be read.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if is_result(path.resolve().name):
        return [path]
    with naming(path):
        return sorted(folder for folder in path.iterdir() if is_result(folder.name) and folder.is_dir())


def is_result(name: str) -> bool:
    """Whether a folder's name has the form of a result's."""
    parts = name.rsplit("-", 1)
    return not name.startswith(".") and name.count("-") >= len(NAMES) and _is_hash(parts[-1])


def refuse_inside(path: Path, option: str) -> None:
    """Raise ValueError if a file or folder to be written lies inside a result, whose files only runs write."""
    place = path.resolve()
    for folder in (place, *place.parents):
        if is_result(folder.name) and any((folder / name).exists() for name in (IDENTITY, SUMMARY, PARTS)):
            raise ValueError(f"{option} {path}: inside the result {folder}; give a path outside of it")


def read(folder: Path, *, hashed: bool = False) -> Stored | None:
    """Return one result; None if the folder does not hold one yet, or no longer.

    A complete result is read again only if one of its files has changed since this process read it.
    """
    try:
        state = _state_of(folder)
        before, kept = _KEPT.get((folder, hashed), ((), None))
        if kept is not None and state == before:
            return kept
        found = _read(folder, hashed)
        if found is not None and found.summary is not None and _is_settled(state):
            if len(_KEPT) >= MOST_KEPT:
                _KEPT.clear()
            _KEPT[folder, hashed] = state, found
        return found
    except PermissionError as error:
        return Stored(folder, names_of(folder.name), denied=one_line(error))
    except OSError as error:  # a disk that fails
        return Stored(folder, names_of(folder.name), faults=(one_line(error),))


_KEPT: dict[tuple[Path, bool], tuple[tuple[object, ...], Stored]] = {}


def _state_of(folder: Path) -> tuple[object, ...]:
    """Name, size, time and inode of every file of a result, and the folder's permissions; () if it does not exist."""
    found = list[object]()
    for place in (folder, folder / RUNS):
        try:
            with os.scandir(place) as entries:
                stats = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.append(os.access(place, os.R_OK | os.X_OK))
        found += sorted((name, s.st_size, s.st_mtime_ns, s.st_ino, s.st_mode) for name, s in stats)
    return tuple(found)


def _is_settled(state: tuple[object, ...]) -> bool:
    """Whether the last change is old enough for a further change to have another time."""
    last = max((file[2] for file in state if isinstance(file, tuple)), default=0)
    return time.time_ns() - last > SETTLED_NS


def _read(folder: Path, hashed: bool) -> Stored | None:
    if not folder.is_dir():
        return None
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    if not any((folder / name).exists() for name in (IDENTITY, SUMMARY, ROWS, PARTS)):
        return None
    found = examine(folder, hashed=hashed)
    if found.old:
        return Stored(folder, names_of(folder.name), old=str(found.old))
    faults = [*map(str, found.damaged), *Parts(folder / PARTS, folder.name.rsplit("-", 1)[-1]).damage()]
    if found.identity is None:
        if not faults and not (folder / SUMMARY).exists():  # a run has just started it
            return None
        if not (folder / IDENTITY).exists():
            faults.append(f"{folder / IDENTITY}: damaged: it is missing")
        return Stored(folder, names_of(folder.name), faults=tuple(faults))
    names, summary = names_of(folder.name, found.identity), None if faults else found.summary
    return Stored(folder, names, found.identity, summary, found.runs, found.claim, tuple(faults))


def newest(results: Iterable[Stored]) -> tuple[list[Stored], list[Stored]]:
    """Return the latest version of each result, and the results that a later version supersedes."""
    by_meaning: dict[str, list[Stored]] = {}
    for stored in results:
        by_meaning.setdefault(stored.meaning, []).append(stored)
    latest = {max(same, key=lambda s: (_rank(s), s.updated, s.folder.name)).folder for same in by_meaning.values()}
    everything = [stored for same in by_meaning.values() for stored in same]
    everything.sort(key=lambda s: s.folder.name)
    return [s for s in everything if s.folder in latest], [s for s in everything if s.folder not in latest]


def _rank(stored: Stored) -> list[int]:
    """The versions of our code in it: higher ones are later, whatever the date of the result."""
    parts = [stored.identity.get(key) or {} for key in ("method", "evaluator", "network", "dataset")]
    return [part.get("version", 0) if isinstance(part.get("version", 0), int) else 0 for part in parts]


def unversioned(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without code versions; parameters and the dataset's own identity stay."""
    found = dict(identity)
    for part, inner in (("network", ("constructor", "preprocess")), ("dataset", ("reader",))):
        node = found.get(part)
        if isinstance(node, Mapping):
            found[part] = {key: _code_alone(value) if key in inner else value for key, value in node.items()}
    return found | {part: _code_alone(found[part]) for part in ("method", "evaluator") if part in found}


def _code_alone(described: Any) -> Any:
    """A description without versions, also for the objects among its parameters."""
    if not isinstance(described, Mapping):
        return described
    kept = {key: value for key, value in described.items() if key not in _VERSIONED}
    if isinstance(parameters := kept.get("parameters"), Mapping):
        kept["parameters"] = {
            key: {OBJECT: _code_alone(value[OBJECT])}
            if isinstance(value, Mapping) and set(value) == {OBJECT}
            else value
            for key, value in parameters.items()
        }
    return kept


def _is_hash(text: str) -> bool:
    return len(text) == 10 and all(character in "0123456789abcdef" for character in text)


def as_lines(stored: Iterable[Stored]) -> list[str]:
    """Return a printable line for each result that is damaged or of an old format."""
    return [printable(line) for one in stored for line in (one.denied, one.old, *one.faults) if line]
