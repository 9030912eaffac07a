"""Checks of a stored result: its seals, number of images, metrics, and the versions of its code.

    for fault in faults(stored): print(stored.folder, fault)

Needs no data, weights or torch. The metrics are recomputed from the rows and compared with the stored ones.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from eigencam.files import first_line
from eigencam.store.current import outdated
from eigencam.store.gather import KEY
from eigencam.store.reader import Stored
from eigencam.store.records import is_current, summed_up
from eigencam.store.schema import Summary, metric_of
from eigencam.store.seal import strict
from eigencam.store.trust import PACKAGED, Trust

RELATIVE = 1e-9
"""Allowed relative difference of recomputed metrics, since another machine may round sums differently."""


def faults(stored: Stored, trust: Trust = PACKAGED) -> Iterator[str]:
    """Yield a line for each fault of a result.

    Args:
        stored: as read, with the rows' checksum compared (`read_all(..., hashed=True)`).
        trust: which code may be built to recompute its metrics.
    """
    yield from (line for line in (stored.denied, stored.old, *stored.faults) if line)
    summary = stored.summary
    if summary is None:
        return
    for line in outdated(stored.identity):
        yield f"made by another version: {line}"
    if summary.unsupported:
        return
    try:
        rows = stored.rows()
    except (ValueError, OSError) as error:
        yield first_line(error)
        return
    yield from _counts(stored, summary, rows)
    yield from _metrics(stored, summary, rows, trust)


def _counts(stored: Stored, summary: Summary, rows: pd.DataFrame) -> Iterator[str]:
    """Check that each image occurs once, for the identity's target, and that a run claims each row."""
    images, left_out = set(rows["image"]), {*summary.bad_images, *summary.bad_truths}
    if len(images) != summary.n:
        yield f"n = {summary.n}, and its rows are of {len(images)} images"
    if twice := int(rows.duplicated(KEY).sum()):
        yield f"{twice} rows have the same image and class as another row"
    if both := images & left_out:
        yield f"image {min(both)} has a row, and is recorded as left out"
    there = stored.identity["dataset"].get("n")
    if type(there) is int and (found := len(images | left_out)) != there:
        yield f"{found} images are scored or left out, and the dataset has {there}"
    if summary.target != stored.identity["target"]:
        yield f"maps for the class: {summary.target}; the identity says {stored.identity['target']}"
    yield from _makers(stored, rows)


def _makers(stored: Stored, rows: pd.DataFrame) -> Iterator[str]:
    """Check that runs claim each row, and none that is not there."""
    stretches = sorted(stretch for run in stored.runs for stretch in run.rows)
    first = 0
    for start, last in stretches:
        if start > first:
            break
        first = max(first, last + 1)
    known = not stored.runs or (stretches and all(run.rows for run in stored.computing))
    if known and first < len(rows):
        yield f"row {first} (image {rows['image'].iloc[first]}): no file in runs/ says which run computed it"
    if (end := max((last + 1 for _, last in stretches), default=0)) > len(rows):
        yield f"a file in runs/ claims {end} rows, and there are {len(rows)}"


def _metrics(stored: Stored, summary: Summary, rows: pd.DataFrame, trust: Trust) -> Iterator[str]:
    """Compare the stored metrics with those of the rows."""
    try:
        evaluator = stored.evaluator(trust)
        current = is_current(summary, evaluator)
        told = summed_up(evaluator, rows)[0] if current else {}
    except Exception as error:  # untrusted code, or any error of it on foreign rows
        yield f"metrics not recomputed: {first_line(error)}"
        return
    if not current:
        yield "summarised by another version of this program; `eigencam summarize` recomputes its metrics"
        return
    made = {metric["name"]: metric_of(stored.folder, strict(metric)) for metric in told["metrics"]}
    kept = {metric["name"]: metric for metric in summary.metrics}
    for name in dict.fromkeys((*kept, *made)):
        yield from _differences(name, kept.get(name), made.get(name))
    if told["headline"] != summary.headline:
        yield f"headline {', '.join(summary.headline)}; its evaluator says {', '.join(told['headline'])}"


def _differences(name: str, kept: Mapping[str, Any] | None, made: Mapping[str, Any] | None) -> Iterator[str]:
    if kept is None or made is None:
        yield f"{name}: {'not stored' if kept is None else 'no longer computed from its rows'}"
        return
    for key, value in kept.items():
        if not _equal(value, made[key]):
            yield f"{name}: {key} {value} stored, {made[key]} from its rows"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a != a and b != b) or math.isclose(a, b, rel_tol=RELATIVE, abs_tol=1e-12)
    return a == b
