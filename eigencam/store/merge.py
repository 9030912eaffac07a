"""Merge the results of several folders into one, without data, weights or torch.

They may be shards of machines without a common disk, results of processes that each wrote a folder of their own, or
results of other methods.

    merged = merge([Path("a"), Path("b")], Path("whole"))

The rows of a result are the union of its rows in all folders. If all images are present, the result is summarised and
has the bytes of one that a single run made. Two different rows for the same image contradict each other: the result is
refused, with the names of both folders, or of both parts of one folder. A claimed result (`eigencam.store.claim`) is
also refused if its numbers are not those of its rows. The sources are only read.
"""

import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eigencam.files import first_line, replacing, sync_folder, visible, write_bytes
from eigencam.store.bounded_parquet import read_batches
from eigencam.store.bundle import MAPS
from eigencam.store.canonical import checksum
from eigencam.store.claim import CLAIM
from eigencam.store.contradictions import contradictions
from eigencam.store.examine import examine
from eigencam.store.finish import first_difference
from eigencam.store.image_positions import hashes
from eigencam.store.parts import Parts, while_merged
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.records import Result
from eigencam.store.row_file import frame_of
from eigencam.store.schema import CONFIG, CURVES, PARTS, ROWS, RUNS, SUMMARY, Bad, Run, Summary
from eigencam.store.seal import DamagedError, read_bytes, read_yaml
from eigencam.store.summing import summed_up
from eigencam.store.trust import PACKAGED, Trust, rebuilt
from eigencam.store.verify import check

HELD = 2**19
"""Number of rows of all sources that are compared at a time."""


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
        stored: the result, as read.
        files: the files with its rows.
        rows: number of its rows.
        bad: images that were left out, with the reasons.
        plan: see `eigencam.store.parts.Parts.plan`; None where there is none.
    """

    stored: Stored
    files: Sequence[Path]
    rows: int
    bad: Mapping[Bad, Mapping[str, str]]
    plan: Mapping[str, Any] | None = None

    @property
    def summary(self) -> Summary | None:
        return self.stored.summary

    def sieved(self, part: int, parts: int) -> pd.DataFrame:
        """The rows of the images in part `part` of `parts`."""
        found = []
        for path in self.files:
            with suppress(FileNotFoundError):  # its shard has merged it into another part
                for batch in read_batches(path):
                    chosen = hashes(batch.column("image").to_pylist()) % parts == part
                    found.append(pa.Table.from_batches([batch]).filter(pa.array(chosen)))
        return frame_of(found)


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
    found = [source for folder in folders if (source := _read(folder, merged.faults, trust))]
    if not found:
        return
    first, target = found[0].stored, into / found[0].stored.folder.name
    complete = [source for source in found if source.summary]
    whole = next((source for source in complete if source.stored.claim is None), next(iter(complete), None))
    images = _agreed(found, whole)
    result = Result(into, first.names, first.identity, alone=True)
    result.open(_config(found), None)
    try:
        _copy_runs(found, target)
        if whole is None:
            _copy_parts(found, target)
            _finish(result, images, trust, merged)
        else:
            if not whole.stored.folder.samefile(target):
                with result.finishing():
                    _copy_complete(whole.stored, target)
                    result.settle()
            _settle_claim(complete, target)
    finally:
        result.close()
    merged.complete += result.summary is not None


def _read(folder: Path, faults: list[str], trust: Trust) -> _Source | None:
    """Read one result; damaged files are reported, and the rest is used.

    A claimed result whose numbers are not those of its rows is refused.
    """
    stored = read(folder, hashed=True)
    if stored is None:
        return None
    faults += [line for line in (*stored.faults, stored.old, stored.denied) if line]
    if not stored.identity:
        return None
    if stored.faults and (sealed := examine(folder).summary) and sealed.names == stored.names:
        stored = replace(stored, summary=sealed, faults=())  # damaged files hold no rows
    if stored.claim and not stored.claim.confirmed and (wrong := check(stored, trust)[0]):
        faults += [f"{folder}: {line}" for line in wrong]
        return None
    if (summary := stored.summary) is not None:
        files = [] if summary.unsupported else [stored.row_file().path]
        bad: dict[Bad, Mapping[str, str]] = {"bad_images": summary.bad_images, "bad_truths": summary.bad_truths}
        return _Source(stored, files, _rows_of(files), bad)
    parts = Parts(folder / PARTS, checksum(stored.identity))

    def agreeing(files: list[Path]) -> tuple[list[Path], int]:
        for contradiction in contradictions(parts, files):
            raise ContradictionError(str(contradiction))
        return files, _rows_of(files)

    files, rows = while_merged(lambda: parts.checked()[0], agreeing)
    left_out, _ = parts.read_bad()
    try:
        plan = parts.plan()
    except (FileNotFoundError, DamagedError):  # a DamagedError is already among the faults
        plan = None
    return _Source(stored, files, rows, left_out, plan)


def _rows_of(files: Iterable[Path]) -> int:
    count = 0
    for path in files:
        with suppress(FileNotFoundError):  # its shard has merged it into another part
            count += pq.read_metadata(path).num_rows
    return count


def _agreed(sources: Sequence[_Source], whole: _Source | None) -> int:
    """Number of images that the sources have rows for. Raises ContradictionError if two of them disagree.

    The rows are compared for a part of the images at a time, so that memory does not depend on their number.
    """
    if whole is not None and whole.summary and len(sources) == 1:
        return whole.summary.n
    for source in sources:
        if whole is not None and whole is not source:
            _check_supported(whole, source)
    images, parts = 0, 1 + sum(source.rows for source in sources) // HELD
    for part in range(parts):
        frames = [source.sieved(part, parts) for source in sources]
        of_whole = next(
            (set(rows["image"]) for source, rows in zip(sources, frames, strict=True) if source is whole), set()
        )
        known: set[str] = set()
        for k, (source, rows) in enumerate(zip(sources, frames, strict=True)):
            own = set(rows["image"])
            if whole is not None and whole is not source:
                _check_complete(whole, source, of_whole, own)
            for other, before in zip(sources[:k], frames, strict=False) if known & own else ():
                if what := first_difference(before, rows):
                    raise _contradiction(other, source, what)
            known |= own
        images += len(known)
    return images


def _check_supported(whole: _Source, other: _Source) -> None:
    """Raise ContradictionError if a method that could not run in a complete result has run elsewhere."""
    summary, second = whole.summary, other.summary
    if summary and summary.unsupported and (other.rows or second) and not (second and second.unsupported):
        raise _contradiction(whole, other, "the method could not run in the first")


def _check_complete(whole: _Source, other: _Source, of_whole: set[str], of_other: set[str]) -> None:
    """Raise ContradictionError if a complete result left out an image that the other has, or vice versa."""
    if extra := of_other - of_whole:
        raise _contradiction(whole, other, f"image {min(extra)} was left out in the first")
    if other.summary and (extra := of_whole - of_other):
        raise _contradiction(whole, other, f"image {min(extra)} was left out in the second")


def _contradiction(one: _Source, other: _Source, what: str) -> ContradictionError:
    return ContradictionError(f"{one.stored.folder} and {other.stored.folder} contradict each other: {what}")


def _config(sources: Sequence[_Source]) -> str:
    """The config of the last run; "" if none can be read."""
    for source in sorted(sources, key=lambda source: source.stored.updated, reverse=True):
        try:
            return read_yaml(source.stored.folder / CONFIG)
        except (DamagedError, FileNotFoundError):
            continue
    return ""


def _copy_runs(sources: Iterable[_Source], target: Path) -> None:
    """Copy the files of all runs; a file that lists the run's rows is not replaced by one that does not."""
    for source in sources:
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
    for name in (*maps, ROWS, CURVES, SUMMARY):
        if (path := stored.folder / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target / name, sync=True)
    sync_folder(target)


def _copy(path: Path, place: Path, *, sync: bool = False) -> None:
    """Copy a file of any size."""
    with replacing(place, sync=sync, follow=False) as beside:
        shutil.copyfile(path, beside)


def _settle_claim(complete: Sequence[_Source], target: Path) -> None:
    """Keep the claim of the most checked source, unless the result was computed here."""
    claims = [source.stored.claim for source in complete]
    if (found := [claim for claim in claims if claim]) == claims:
        max(found, key=lambda claim: bool(claim.again)).write(target)
    else:
        (target / CLAIM).unlink(missing_ok=True)


def _copy_parts(sources: Sequence[_Source], target: Path) -> None:
    """Copy the parts of all sources, with names in the order of the sources.

    If several have a row, the first one is taken when the result is finished.
    """
    parts = Parts(target / PARTS, checksum(sources[0].stored.identity), "merged")
    if plan := next((source.plan for source in sources if source.plan), None):
        parts.write_plan(plan)
    known = {path.stem.rsplit("-", 1)[-1] for path in parts.folder.glob("*.parquet")}
    for k, source in enumerate(sources):
        if any(source.bad.values()):
            parts.write_bad(source.bad)
        for path in source.files:
            if (checksum_of_part := path.stem.rsplit("-", 1)[-1]) not in known:
                known.add(checksum_of_part)
                with suppress(FileNotFoundError):  # its shard has merged it into another part
                    _copy(path, parts.folder / f"merged{k:04d}-{checksum_of_part}.parquet")


def _finish(result: Result, images: int, trust: Trust, merged: Merged) -> None:
    """Summarise the result if all images are present."""
    with result.finishing():
        try:
            gathered = result.gathered()
        except FileNotFoundError:
            raise ValueError("no run recorded the number of images; a run completes the result") from None
        if gathered is None:
            merged.unfinished.append(f"{result.folder}: {images} images so far")
            return
        evaluator = rebuilt(result.identity["evaluator"], "evaluator", trust)
        result.publish(gathered, summed_up(evaluator, gathered.rows)[0])
        result.keep_curves(evaluator)
