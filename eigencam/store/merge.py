"""Merge the results of several folders into one, without data, weights or torch.

They may be shards of machines without a common disk, results of processes that each wrote a folder of their own, or
results of other methods.

    merged = merge([Path("a"), Path("b")], Path("whole"))

The rows of a result are the union of its rows in all folders. If all images are present, the result is summarised and
has the bytes of one that a single run made. Two different rows for the same image contradict each other: the result is
refused, with the names of both folders. The sources are only read.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from eigencam.files import first_line, sync_folder, visible, write_bytes
from eigencam.store.bundle import MAPS
from eigencam.store.canonical import checksum
from eigencam.store.claim import CLAIM
from eigencam.store.examine import examine
from eigencam.store.gather import first_difference
from eigencam.store.parts import Parts, frame_of, images_of, joined
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.records import Result, summed_up
from eigencam.store.schema import CONFIG, PARTS, ROWS, RUNS, SUMMARY, Bad, Run, Summary
from eigencam.store.seal import DamagedError, read_bytes, read_yaml
from eigencam.store.trust import PACKAGED, Trust, rebuilt


class ContradictionError(ValueError):
    """Two folders contradict each other about an image of a result."""


@dataclass(slots=True)
class Merged:
    """The outcome of a merge.

    Attributes:
        complete: number of results that are complete.
        unfinished: a line for each result with missing images.
        faults: a line for each contradiction, damaged file, and result that could not be summarised.
    """

    complete: int = 0
    unfinished: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    """One result in one folder: a complete one, or parts.

    Attributes:
        stored: as it was read.
        table: its rows; empty for a complete result with the same rows as another one.
        bad: images that were left out.
        plan: see `eigencam.store.parts.Parts.plan`; None if there is none.
        parts: the files that the rows were read from.
    """

    stored: Stored
    table: pa.Table
    bad: Mapping[Bad, Mapping[str, str]]
    plan: Mapping[str, Any] | None = None
    parts: frozenset[Path] = frozenset()

    @property
    def summary(self) -> Summary | None:
        return self.stored.summary

    @property
    def images(self) -> set[str]:
        return images_of([self.table])


def merge(sources: Sequence[Path], into: Path, trust: Trust = PACKAGED, only: Container[str] | None = None) -> Merged:
    """Merge all results of some folders into one folder.

    Args:
        sources: folders of results, or single results.
        into: folder of results, made if it is missing; results in it are merged, too.
        trust: which code may be built to summarise results.
        only: names of the result folders to merge; None: all.

    Raises:
        FileNotFoundError: a source does not exist, or has no results.
    """
    by_name: dict[str, list[Path]] = {}
    for source in [*([into] if into.is_dir() else []), *sources]:
        folders = results_in(source)
        if not folders and source != into:
            raise FileNotFoundError(f"{source}: no results there; `eigencam run` makes them")
        for folder in folders:
            known = by_name.setdefault(folder.name, [])
            if not any(folder.samefile(other) for other in known):
                known.append(folder)
    merged = Merged()
    for name, folders in sorted(by_name.items()):
        if only is not None and name not in only:
            continue
        try:
            _merge_one(folders, into, trust, merged)
        except ValueError as error:
            merged.faults.append(f"{name}: {first_line(error)}")
    return merged


def _merge_one(folders: Sequence[Path], into: Path, trust: Trust, merged: Merged) -> None:
    """Merge the sources of one result."""
    found = [source for folder in folders if (source := _read(folder, merged.faults))]
    if not found:
        return
    first, target = found[0].stored, into / found[0].stored.folder.name
    complete = [source for source in found if source.summary]
    whole = next((source for source in complete if source.stored.claim is None), next(iter(complete), None))
    table = _united(found, whole)
    result = Result(into, first.names, first.identity, alone=True)
    result.open(_config(found), None)
    try:
        _copy_runs(found, target)
        if whole is None:
            _write_parts(found, table, target)
            _finish(result, table, trust, merged)
        else:
            if not whole.stored.folder.samefile(target):
                with result.finishing():
                    _copy_complete(whole.stored, target)
                    result.settle()
            _settle_claim(complete, target)
    finally:
        result.close()
    merged.complete += result.summary is not None


def _read(folder: Path, faults: list[str]) -> _Source | None:
    """Read one result; damaged files are reported, and the rest is used."""
    stored = read(folder, hashed=True)
    if stored is None:
        return None
    faults += [line for line in (*stored.faults, stored.old, stored.denied) if line]
    if not stored.identity:
        return None
    if stored.faults and (sealed := examine(folder).summary) and sealed.names == stored.names:
        stored = replace(stored, summary=sealed, faults=())  # damaged files hold no rows
    if (summary := stored.summary) is not None:
        rows = frame_of([]) if summary.unsupported else stored.rows()
        table = pa.Table.from_pandas(rows, preserve_index=False)
        return _Source(stored, table, {"bad_images": summary.bad_images, "bad_truths": summary.bad_truths})
    parts = Parts(folder / PARTS, checksum(stored.identity))
    found, _ = parts.read()
    bad, _ = parts.read_bad()
    try:
        plan = parts.plan()
    except (FileNotFoundError, DamagedError):  # a DamagedError is already among the faults
        plan = None
    table = joined(found.values()) if found else pa.table({"image": pa.array([], pa.string())})
    return _Source(stored, table, bad, plan, frozenset(found))


def _united(found: Sequence[_Source], whole: _Source | None) -> pa.Table:
    """The rows of all sources. ContradictionError if two of them disagree."""
    for source in found:
        if whole is not None and whole is not source:
            _check_complete(whole, source)
    united: list[pa.Table] = []
    known: set[str] = set()
    for k, source in enumerate(found):
        rows = source.table.to_pandas()
        both = known & set(rows["image"])
        for other in found[:k] if both else ():
            if what := first_difference(other.table.to_pandas(), rows):
                raise _contradiction(other, source, what)
        new = ~rows["image"].isin(known).to_numpy(bool)
        united.append(source.table.filter(pa.array(new)))
        known |= set(rows["image"])
    return joined([table for table in united if len(table)] or united[:1])


def _check_complete(whole: _Source, other: _Source) -> None:
    """Raise ContradictionError if a complete result left out an image that the other has, or vice versa."""
    summary, second = whole.summary, other.summary
    if summary and summary.unsupported and (len(other.table) or second) and not (second and second.unsupported):
        raise _contradiction(whole, other, "the method could not run in the first")
    if extra := other.images - whole.images:
        raise _contradiction(whole, other, f"image {min(extra)} was left out in the first")
    if second and (extra := whole.images - other.images):
        raise _contradiction(whole, other, f"image {min(extra)} was left out in the second")


def _contradiction(one: _Source, other: _Source, what: str) -> ContradictionError:
    return ContradictionError(f"{one.stored.folder} and {other.stored.folder} contradict each other: {what}")


def _config(found: Sequence[_Source]) -> str:
    """The config of the last run; "" if none can be read."""
    for source in sorted(found, key=lambda source: source.stored.updated, reverse=True):
        try:
            return read_yaml(source.stored.folder / CONFIG)
        except (DamagedError, FileNotFoundError):
            continue
    return ""


def _copy_runs(found: Iterable[_Source], target: Path) -> None:
    """Copy the files of all runs; a file that lists the run's rows is not replaced by one that does not."""
    for source in found:
        for path in visible(source.stored.folder / RUNS, "*.json"):
            place = target / RUNS / path.name
            try:
                new = Run.read(path)
                if place.exists() and (path.samefile(place) or (Run.read(place).rows and not new.rows)):
                    continue
            except DamagedError:  # already reported
                continue
            write_bytes(place, read_bytes(path, path.stat().st_size), follow=False)


def _copy_complete(stored: Stored, target: Path) -> None:
    """Publish a complete result unchanged."""
    maps = sorted(path.relative_to(stored.folder) for path in (stored.folder / MAPS).rglob("*.npy"))
    for name in (*maps, ROWS, SUMMARY):
        if (path := stored.folder / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target / name, path.read_bytes(), sync=True, follow=False)
    sync_folder(target)


def _settle_claim(complete: Sequence[_Source], target: Path) -> None:
    """Keep the claim of the most checked source, unless the result was computed here."""
    claims = [source.stored.claim for source in complete]
    if (found := [claim for claim in claims if claim]) == claims:
        max(found, key=lambda claim: bool(claim.again)).write(target)
    else:
        (target / CLAIM).unlink(missing_ok=True)


def _write_parts(found: Sequence[_Source], table: pa.Table, target: Path) -> None:
    """Write the rows of all sources as one part, replacing existing parts."""
    parts = Parts(target / PARTS, checksum(found[0].stored.identity), "merged")
    if plan := next((source.plan for source in found if source.plan), None):
        parts.write_plan(plan)
    for source in found:
        if any(source.bad.values()):
            parts.write_bad(source.bad)
    if len(table):
        parts.replace((path for source in found for path in source.parts if path.parent == parts.folder), table)


def _finish(result: Result, table: pa.Table, trust: Trust, merged: Merged) -> None:
    """Summarise the result if all images are present."""
    with result.finishing():
        try:
            gathered = result.gathered()
        except FileNotFoundError:
            raise ValueError("no run recorded the number of images; a run completes the result") from None
        if gathered is None:
            merged.unfinished.append(f"{result.folder}: {len(images_of([table]))} images so far")
            return
        evaluator = rebuilt(result.identity["evaluator"], "evaluator", trust)
        result.publish(gathered, summed_up(evaluator, gathered.rows)[0])
