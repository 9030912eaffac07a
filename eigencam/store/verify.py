"""Checks of a stored result: its seals, number of images, metrics, and the versions of its code.

    for fault in faults(stored): print(stored.folder, fault)

Needs no data, weights or torch. The metrics are recomputed from the rows and compared with the stored ones.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.evaluation.base import Curve
from eigencam.evaluation.curves import drawn, draws_blocks
from eigencam.files import first_line
from eigencam.store.contradictions import contradictions
from eigencam.store.image_positions import hashes
from eigencam.store.outdated import outdated
from eigencam.store.parts import while_merged
from eigencam.store.reader import Stored
from eigencam.store.row_file import RowFile
from eigencam.store.schema import CURVES, Summary, metric_of
from eigencam.store.seal import strict
from eigencam.store.summing import is_current, summed_up
from eigencam.store.trust import PACKAGED, Trust

_ODD = np.uint64(0x9E3779B97F4A7C15)

RELATIVE = 1e-9
"""Allowed relative difference of recomputed metrics, since another machine may round sums differently."""


def faults(stored: Stored, trust: Trust = PACKAGED) -> Iterator[str]:
    """Yield a line for each fault of a result.

    Args:
        stored: the result, read with its rows' checksum compared (`read_all(..., hashed=True)`).
        trust: which code may be used to recompute its metrics.
    """
    yield from (line for line in (stored.denied, stored.old, *stored.faults) if line)
    summary = stored.summary
    if summary is None:
        if not stored.denied:
            parts = stored.unfinished
            yield from while_merged(lambda: parts.checked()[0], lambda files: [*map(str, contradictions(parts, files))])
        return
    for line in outdated(stored.identity):
        yield f"made by another version: {line}"
    wrong, unchecked = check(stored, trust)
    yield from wrong
    if unchecked:
        yield unchecked


def check(stored: Stored, trust: Trust = PACKAGED) -> tuple[list[str], str]:
    """Compare a result's numbers with its rows, and its rows with the runs that claim them.

    Args:
        stored: the result, read with its rows' checksum compared.
        trust: which code may be used to recompute its metrics.

    Returns:
        A line for each contradiction; and why the metrics were not recomputed, "" if they were, or if there are none to
        recompute or the rows cannot be read.
    """
    summary = stored.summary
    if summary is None or summary.unsupported:
        return [], ""
    try:
        rows = stored.row_file()
        counts = list(_counts(stored, summary, rows))
    except (ValueError, OSError) as error:
        return [first_line(error)], ""
    metrics, unchecked = _metrics(stored, summary, rows, trust)
    return [*counts, *metrics], unchecked


def _counts(stored: Stored, summary: Summary, rows: RowFile) -> Iterator[str]:
    """Check the number of images, that each (image, class) has one row, the target, and the runs' claims of rows."""
    left_out, both = {*summary.bad_images, *summary.bad_truths}, set[str]()
    for block in rows.blocks([]) if left_out else ():
        both |= left_out.intersection(block["image"])
    images, twice = counted(rows)
    if images != summary.n:
        yield f"n = {summary.n}, and its rows are of {images} images"
    if twice:
        yield f"{twice} rows have the same image and class as an earlier row"
    if both:
        yield f"image {min(both)} has a row, and is recorded as left out"
    declared = stored.identity["dataset"].get("n")
    if type(declared) is int and (found := images + len(left_out - both)) != declared:
        yield f"{found} images are scored or left out, and the dataset has {declared}"
    if summary.target != stored.identity["target"]:
        yield f"maps for the class: {summary.target}; the identity says {stored.identity['target']}"
    yield from _makers(stored, rows)


def _makers(stored: Stored, rows: RowFile) -> Iterator[str]:
    """Check that runs claim each row, and no row that does not exist."""
    stretches = sorted(stretch for run in stored.runs for stretch in run.rows)
    first = 0
    for start, last in stretches:
        if start > first:
            break
        first = max(first, last + 1)
    image, count = "", 0
    for block in rows.blocks([]):
        if count <= first < count + len(block):
            image = block["image"].iloc[first - count]
        count += len(block)
    known = not stored.runs or (stretches and all(run.rows for run in stored.computing))
    if known and first < count:
        yield f"row {first} (image {image}): no file in runs/ says which run computed it"
    if (end := max((last + 1 for _, last in stretches), default=0)) > count:
        yield f"a file in runs/ claims rows up to number {end}, and there are {count}"


def counted(rows: RowFile) -> tuple[int, int]:
    """Return the number of images in the rows, and the number of rows with the image and class of an earlier row.

    Only 64 bits for each image and row, a hash, are held in memory. If two hashes agree, the ids are compared.
    """
    images, keys = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for block in rows.blocks([]):
        image, key = _hashed(block)
        ids = block["image"].to_numpy(object)
        images.append(image[np.append(True, ids[1:] != ids[:-1])])
        keys.append(key)
    own, again = np.unique(np.concatenate(images)), _repeated(keys)
    if not len(again) and len(own) == sum(map(len, images)):
        return len(own), 0
    doubtful, named = _repeated(images), set[str]()
    pairs = Counter[tuple[str, int]]()
    for block in rows.blocks([]):
        image, key = _hashed(block)
        named.update(block["image"][np.isin(image, doubtful)])
        chosen = block[np.isin(key, again)]
        pairs.update(zip(chosen["image"], chosen["label"], strict=True))
    return len(own) - len(doubtful) + len(named), sum(pairs.values()) - len(pairs)


def _hashed(block: pd.DataFrame) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """64 bits of the image, and of image and class, of each row."""
    image = hashes(block["image"].tolist()).view(np.uint64)
    return image, image * _ODD + hashes(block["label"].tolist()).view(np.uint64)


def _repeated(values: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The values that occur more than once."""
    every = np.sort(np.concatenate(values))
    return np.unique(every[1:][every[1:] == every[:-1]])


def _metrics(stored: Stored, summary: Summary, rows: RowFile, trust: Trust) -> tuple[list[str], str]:
    """Return the differences between the stored metrics and those of the rows, and why these were not recomputed."""
    try:
        evaluator = stored.evaluator(trust)
        current = is_current(summary, evaluator)
        recomputed = summed_up(evaluator, rows)[0] if current else {}
    except Exception as error:  # its code is not trusted, or it may raise anything on rows that it did not make
        return [], f"metrics not recomputed: {first_line(error)}"
    if not current:
        return [], "summarised by another version of this program; `eigencam summarize` recomputes its metrics"
    made = {metric["name"]: metric_of(stored.folder, strict(metric)) for metric in recomputed["metrics"]}
    kept = {metric["name"]: metric for metric in summary.metrics}
    lines = [
        line for name in dict.fromkeys((*kept, *made)) for line in _differences(name, kept.get(name), made.get(name))
    ]
    if recomputed["headline"] != summary.headline:
        lines.append(f"headline {', '.join(summary.headline)}; its evaluator says {', '.join(recomputed['headline'])}")
    return [*lines, *_curves(stored, evaluator, rows)], ""


def _curves(stored: Stored, evaluator: Any, rows: RowFile) -> Iterator[str]:
    """Compare the curves that are kept, if any, with those of the rows."""
    try:
        if (kept := stored.curves()) is None:
            return
        made = drawn(evaluator, rows) if kept or draws_blocks(evaluator) else []
    except Exception as error:  # damage, or any error of its evaluator on foreign rows
        yield f"curves not compared: {first_line(error)}"
        return
    if len(kept) != len(made):
        yield f"{CURVES}: {len(kept)} curves, {len(made)} from its rows"
    for one, other in zip(kept, made, strict=False):
        if not _same_curve(one, other):
            yield f"{CURVES}: {one.name}: differs from the curve of its rows"


def _same_curve(one: Curve, other: Curve) -> bool:
    words = all(getattr(one, key) == getattr(other, key) for key in ("name", "x", "y", "log"))
    lines = (one.xs, one.ys, one.mark or ()), (other.xs, other.ys, other.mark or ())
    return words and all(
        len(a) == len(b) and np.allclose(a, b, rtol=RELATIVE, atol=1e-12) for a, b in zip(*lines, strict=True)
    )


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
