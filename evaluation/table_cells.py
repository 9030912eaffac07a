"""A table as data, and the rules for printing its cells and names.

A cell is text in one form, whatever the file format: `57.5 [50.6, 64.1]`, `57.5 ± 6.8` or `57.5`, with marks of
significance after the number: `57.5* [50.6, 64.1]`. The writers (`eigencam.evaluation.tables`) read it with `parsed`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

Intervals = Literal["brackets", "pm", "none"]
INTERVALS: tuple[Intervals, ...] = ("brackets", "pm", "none")
Decimals = int | Literal["unit", "interval"]
"""Decimals of a metric: a fixed number, by its unit, or as many as give half an interval two digits."""

Names = Callable[[str, str], str]
"""Function that prints a name, given its kind (`method`, `metric`, …) and its stored form."""

MOST_DECIMALS = 4

_NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?"
_CELL = re.compile(
    rf"(?P<value>{_NUMBER}|-)(?P<marks>\**)(?: \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\]| ± (?P<half>{_NUMBER}))?"
)


def stored_name(_kind: str, name: str) -> str:
    """Return a name as it is stored."""
    return name


@dataclass(frozen=True, slots=True)
class Style:
    """How tables are arranged and printed.

    Attributes:
        rows: keys of a table's lines, columns of the long frame.
        columns: keys of a table's columns; if `metric` is in neither, each metric has a table of its own.
        intervals: how a 95 % interval is printed.
        decimals: decimals of numbers.
        second: whether the second best is marked, too.
        names: how names are printed.
        paper: whether titles and units are printed as in a paper.
        orders: for each key whose values are not in alphabetical order, the values in order.
        marks: marks of significance by (folder, metric); see `reference`.
        reference: the method that marks refer to; "" without marks.
    """

    rows: tuple[str, ...] = ("network", "method")
    columns: tuple[str, ...] = ("metric",)
    intervals: Intervals = "brackets"
    decimals: Decimals = "unit"
    second: bool = False
    names: Names = stored_name
    paper: bool = False
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    marks: Mapping[tuple[str, str], str] = field(default_factory=dict)
    reference: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that distinguish the cells of one table."""
        return (*self.rows, *self.columns)

    def heading(self, key: str, value: str) -> str:
        """Return a key's value as a column heading; a parameter's value is preceded by the parameter's name."""
        shown = self.names(key, value)
        return shown if key in KINDS else f"{self.key(key)} {shown}"

    def key(self, key: str) -> str:
        """Return a key as the heading of the column of its values."""
        return (
            self.names("heading", key)
            if key in (*KINDS, "cost")
            else self.names("parameter", key.removeprefix(PARAMETER))
        )


KINDS = ("dataset", "network", "method", "evaluator", "metric", "target")
"""Keys whose values need no explanation; all others are parameters."""

PARAMETER = "parameters."


def column_of(key: str) -> str:
    """Return the column of the long frame with a key's values: `threshold` is renamed, since metrics have one, too."""
    return key if key in KINDS else PARAMETER + key


@dataclass(frozen=True, slots=True)
class Table:
    """One table: usually the results of one evaluator on one dataset.

    Attributes:
        title: dataset, images, evaluator, requested class.
        frame: one line per (network, method), one column per metric, cells of text.
        best: same shape as `frame`'s metric columns: which cells are best for their network.
        notes: footnotes.
        second: as `best`: which cells are second best.
        heads: for each column of `frame` its headings from top to bottom; None: its name.
        span: the first column of `frame` if LaTeX prints its values as lines across the table; "" otherwise.
        provenance: the `notes` on where results come from, which LaTeX keeps in comments.
        stored: the same table with stored names, if `frame` has printed ones.
        across: columns whose values a narrow terminal prints as lines across the table.
        minor: columns that a narrow terminal leaves out first, in this order.
    """

    title: str
    frame: pd.DataFrame
    best: pd.DataFrame
    notes: list[str]
    second: pd.DataFrame | None = None
    heads: list[tuple[str, ...]] | None = None
    span: str = ""
    provenance: tuple[str, ...] = ()
    stored: "Table | None" = None
    across: tuple[str, ...] = ()
    minor: tuple[str, ...] = ()

    @property
    def headings(self) -> list[tuple[str, ...]]:
        """The headings of each column of `frame`, from top to bottom."""
        return self.heads or [(str(name),) for name in self.frame.columns]


def cell(value: float, low: float, high: float, digits: int, intervals: Intervals = "brackets", marks: str = "") -> str:
    """Return a number with its marks and interval; a dash without a number.

    For an interval that is not symmetric, ± is followed by the longer half, so it is never too short.

    >>> cell(57.5, 50.6, 64.1, 1), cell(57.5, 50.6, 64.1, 1, "pm", "*")
    ('57.5 [50.6, 64.1]', '57.5* ± 6.9')
    """
    if np.isnan(value):
        return "-"
    shown = f"{value:.{digits}f}{marks}"
    if np.isnan(low) or intervals == "none":
        return shown
    if intervals == "pm":
        return f"{shown} ± {max(value - low, high - value):.{digits}f}"
    return f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def parsed(text: str) -> Mapping[str, str]:
    """Return the parts `value`, `marks`, `low`, `high`, `half` of a cell, "" for absent ones; {} for other text."""
    found = _CELL.fullmatch(text)
    return {key: part or "" for key, part in found.groupdict().items()} if found else {}


def decimals(lines: pd.DataFrame, wanted: Decimals) -> int:
    """Return the number of decimals for one metric.

    Args:
        lines: the metric's lines, with `low`, `high` and `unit`.
        wanted: the rule. With `interval`, half of the median interval has two digits: 5.2, 0.43 or 12.
    """
    if isinstance(wanted, int):
        return wanted
    by_unit = 1 if (lines["unit"] == "%").any() else 2
    half = ((lines["high"] - lines["low"]) / 2).median()
    if wanted == "unit" or not half > 0:
        return by_unit
    return int(np.clip(1 - np.floor(np.log10(half) + 1e-9), 0, MOST_DECIMALS))
