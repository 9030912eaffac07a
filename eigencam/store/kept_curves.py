"""The curves of a complete result, kept in a file of their own, so that a report reads no rows.

    curves.json     checksums of the identity and of the rows, versions of the summary, curves

The file is made from the rows whenever they are summarised, and is optional: it counts only if its seal is intact and
it names the identity, the rows and the summary versions of the result that it is in. Otherwise the curves come from the
rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.evaluation.base import Curve
from eigencam.store.schema import CURVES, LARGEST_NUMBER, Summary
from eigencam.store.seal import DamagedError, read_json, write_json

MOST_CURVES, MOST_POINTS = 100, 10_000
"""Largest number of curves of a result, and of points of a curve; with more, no curves are kept."""

LONGEST_TEXT = 200
"""Largest number of characters of a curve's name and axes."""


def write_curves(folder: Path, summary: Summary, curves: Sequence[Curve]) -> None:
    """Write the curves of a result's rows; nothing if `kept_curves` would refuse them.

    Args:
        folder: folder of the result.
        summary: summary of the result, as published.
        curves: drawn from all of its rows.
    """
    stored = [_stored(curve) for curve in curves]
    if len(stored) <= MOST_CURVES and not any(map(_fault, stored)):
        write_json(folder / CURVES, {**_key(summary), "curves": stored})


def kept_curves(folder: Path, summary: Summary) -> list[Curve] | None:
    """Return the kept curves of a complete result; None if there are none for its rows and this summary.

    Raises:
        DamagedError: the file has changed since it was written, or something in it is not a curve.
    """
    path = folder / CURVES
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    if any(content.get(key) != value for key, value in _key(summary).items()):
        return None
    curves = content.get("curves")
    if not isinstance(curves, list) or len(curves) > MOST_CURVES:
        raise DamagedError(path, "no list of curves")
    for curve in curves:
        if fault := _fault(curve):
            raise DamagedError(path, f"curves: {fault}")
    return [_curve(curve) for curve in curves]


def _key(summary: Summary) -> dict[str, Any]:
    """The rows and the summary that the curves belong to."""
    return {
        "result": summary.result,
        "rows": summary.rows.blake2b if summary.rows else "",
        "summary_versions": summary.summary_versions,
    }


def _stored(curve: Curve) -> dict[str, Any]:
    mark = list(map(float, curve.mark)) if curve.mark else None
    lines = {"xs": np.asarray(curve.xs, np.float64).tolist(), "ys": np.asarray(curve.ys, np.float64).tolist()}
    return {"name": curve.name, "x": curve.x, "y": curve.y, **lines, "mark": mark, "log": bool(curve.log)}


def _fault(curve: object) -> str:
    """Why an object cannot be a stored curve; "" if it can."""
    if not isinstance(curve, Mapping) or type(curve.get("log")) is not bool:
        return "an entry that is no curve"
    if any(not isinstance(curve.get(key), str) or len(curve[key]) > LONGEST_TEXT for key in ("name", "x", "y")):
        return f"a name or an axis that is no text of at most {LONGEST_TEXT} characters"
    xs, ys = (_numbers(curve.get(key)) for key in ("xs", "ys"))
    if xs is None or ys is None or len(xs) != len(ys) or (curve["log"] and xs.min() <= 0):
        return f"{curve['name']}: xs and ys are not points"
    mark = curve.get("mark")
    if mark is not None and ((point := _numbers(mark)) is None or len(point) != 2 or (curve["log"] and point[0] <= 0)):
        return f"{curve['name']}: its mark is no point"
    return ""


def _numbers(values: object) -> NDArray[np.float64] | None:
    """(K,) the numbers of a list, 1 to `MOST_POINTS` and none too large to store; None for anything else."""
    if not isinstance(values, list) or not 0 < len(values) <= MOST_POINTS or {*map(type, values)} - {int, float}:
        return None
    try:
        found = np.array(values, np.float64)
    except OverflowError:  # an integer of over 300 digits
        return None
    return found if (np.abs(found) <= LARGEST_NUMBER).all() else None


def _curve(stored: Mapping[str, Any]) -> Curve:
    xs, ys = (np.array(stored[key], np.float64) for key in ("xs", "ys"))
    mark = (float(stored["mark"][0]), float(stored["mark"][1])) if stored["mark"] else None
    return Curve(stored["name"], stored["x"], stored["y"], xs, ys, mark, stored["log"])
