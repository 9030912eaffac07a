"""What is not as a stored result says: its seals, its number of images, its metrics, the versions of its code.

    for fault in faults(stored): print(stored.folder, fault)

Needs neither data nor weights nor torch. The metrics are made again from the rows and compared with those stored.
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
"""Relative difference of metrics made again: sums may be rounded otherwise by another machine."""


def faults(stored: Stored, trust: Trust = PACKAGED) -> Iterator[str]:
    """Yield a line for each thing that is not as the result says.

    Args:
        stored: as it was read, the rows' checksum compared (`read_all(..., hashed=True)`).
        trust: what may be built to make its metrics again.
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
    """Whether all images are there once, and a run says that it made each row."""
    images, left_out = set(rows["image"]), {*summary.bad_images, *summary.bad_truths}
    if len(images) != summary.n:
        yield f"n = {summary.n}, and its rows are of {len(images)} images"
    if twice := int(rows.duplicated(KEY).sum()):
        yield f"{twice} rows are of an image and class that another row is of"
    if both := images & left_out:
        yield f"image {min(both)} has a row, and is noted as left out"
    there = stored.identity["dataset"].get("n")
    if type(there) is int and (found := len(images | left_out)) != there:
        yield f"{found} images are scored or left out, and the dataset has {there}"
    stretches = sorted(stretch for run in stored.runs for stretch in run.rows)
    first = 0
    for start, last in stretches:
        if start > first:
            break
        first = max(first, last + 1)
    if stretches and first < len(rows) and all(run.rows for run in stored.computing):
        yield f"row {first} (image {rows['image'].iloc[first]}): no file in runs/ says what made it"


def _metrics(stored: Stored, summary: Summary, rows: pd.DataFrame, trust: Trust) -> Iterator[str]:
    """Whether the stored metrics are those of the rows."""
    try:
        evaluator = stored.evaluator(trust)
        current = is_current(summary, evaluator)
        told = summed_up(evaluator, rows)[0] if current else {}
    except Exception as error:  # code that is not trusted, or whatever it makes of rows from elsewhere
        yield f"metrics not made again: {first_line(error)}"
        return
    if not current:
        yield "summed up by another version of this program; `eigencam summarize` makes its metrics again"
        return
    made = {metric["name"]: metric_of(stored.folder, strict(metric)) for metric in told["metrics"]}
    kept = {metric["name"]: metric for metric in summary.metrics}
    for name in dict.fromkeys((*kept, *made)):
        yield from _differences(name, kept.get(name), made.get(name))
    if told["headline"] != summary.headline:
        yield f"headline {', '.join(summary.headline)}; its evaluator says {', '.join(told['headline'])}"


def _differences(name: str, kept: Mapping[str, Any] | None, made: Mapping[str, Any] | None) -> Iterator[str]:
    if kept is None or made is None:
        yield f"{name}: {'not stored' if kept is None else 'not made of its rows any more'}"
        return
    for key, value in kept.items():
        if not _equal(value, made[key]):
            yield f"{name}: {key} {value} stored, {made[key]} from its rows"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a != a and b != b) or math.isclose(a, b, rel_tol=RELATIVE, abs_tol=1e-12)
    return a == b
