"""Undefined values and how they count: the states of maps and of the network's predictions.

A map, or the network's prediction for an image (its logits), is `ok`, `constant` (all values are equal) or `nonfinite`.
The state is a column of each row; every evaluator applies these rules when rows are summarised:

* An image whose map is not `ok` counts at the metric's worst value, so that no method gains by having no map: a miss,
  no overlap, wrong at every pixel, a drop of 100 %. A baseline whose map is constant on purpose (the whole image) is
  exempt where the map is compared with the truth, and nowhere else.
* An image without a valid prediction counts at the worst value of every metric that uses predictions. For a network
  without any valid prediction the metric is not defined.
* Two maps without a similarity, because one of them is constant, have no natural worst value: such an image is left
  out, and a table names the methods that miss images and does not mark them as best.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from eigencam.evaluation.sums import Sums

SUMMARY_VERSIONS = {"states": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

State = Literal["ok", "constant", "nonfinite"]
DEGENERATE: tuple[State, ...] = ("constant", "nonfinite")
UNANSWERED = "not defined: the network has no usable answer for any image"
SHARED = (" maps", " answers")
"""Ending of those parts of a note that concern all metrics of a result."""


def no_map(rows: pd.DataFrame, column: str = "map_state", *, meant: bool = True) -> NDArray[np.bool_]:
    """(N,): the rows whose map is undefined.

    Args:
        rows: rows of an evaluator.
        column: column with the maps' states.
        meant: whether a map that is constant on purpose counts as defined; `constant_by_design` marks these rows.
    """
    degenerate = _is(rows, column, DEGENERATE)
    if meant and "constant_by_design" in rows:
        return degenerate & ~(rows["constant_by_design"].to_numpy(bool) & _is(rows, column, ("constant",)))
    return degenerate


def no_answer(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,): the rows of images without a valid prediction; all False if the rows have no such column."""
    return _is(rows, "answer_state", DEGENERATE)


def at_worst(rows: pd.DataFrame, column: str = "map_state", /, **worst: float) -> pd.DataFrame:
    """Return the rows, with the worst value for each row without a map.

    Args:
        rows: rows of an evaluator.
        column: column with the maps' states.
        worst: worst value of each column; it replaces every number in a column of lists. NaN remains NaN.
    """
    bad = no_map(rows, column)
    if not bad.any():
        return rows
    replaced = {}
    for name, value in worst.items():
        values = rows[name].tolist()
        for i in np.flatnonzero(bad):
            values[i] = np.where(np.isnan(own := np.asarray(values[i], np.float64)), np.nan, value)
            values[i] = values[i] if own.ndim else float(values[i])
        replaced[name] = pd.Series(values, rows.index)
    return rows.assign(**replaced)


def note(rows: pd.DataFrame) -> str:
    """The footnote on maps and predictions: `2 constant of 50 maps; 1 nonfinite of 50 answers`; empty if all are ok."""
    columns = {"map_state": "maps", "answer_state": "answers"}
    return "; ".join(part for column, what in columns.items() if (part := count(rows.get(column, ()), what)))


def noted(sums: "Sums") -> str:
    """The same footnote from sums of `flags`."""
    found = {"map_state": "maps", "answer_state": "answers"}
    parts = (counted(sums.total(column), sums.rows, what) for column, what in found.items() if column in sums)
    return "; ".join(part for part in parts if part)


def count(states: Iterable[str], what: str) -> str:
    """Count undefined maps or predictions: `2 constant, 1 nonfinite of 50 maps`; empty if there are none.

    >>> count(["ok", "constant", "nonfinite", "constant"], "maps")
    '2 constant, 1 nonfinite of 4 maps'
    """
    seen = list(states)
    return counted([seen.count(state) for state in DEGENERATE], len(seen), what)


def counted(degenerate: Iterable[int], n: int, what: str) -> str:
    """The same text, from the numbers of constant and of nonfinite ones among `n`."""
    parts = ", ".join(f"{number} {state}" for number, state in zip(degenerate, DEGENERATE, strict=True) if number)
    return f"{parts} of {n} {what}" if parts else ""


def flags(rows: pd.DataFrame, column: str = "map_state") -> NDArray[np.bool_]:
    """(N, 2): whether the state is constant, and whether it is nonfinite."""
    return np.stack([_is(rows, column, (kind,)) for kind in DEGENERATE], axis=1)


def _is(rows: pd.DataFrame, column: str, kinds: Iterable[str]) -> NDArray[np.bool_]:
    """(N,): whether the state is one of these; False everywhere if rows have no such column."""
    return rows[column].isin(list(kinds)).to_numpy(bool) if column in rows else np.zeros(len(rows), bool)
