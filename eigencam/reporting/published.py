"""The papers' numbers: those read for this project, anchors from the truth alone, and the user's own readings.

`results/published/published.csv` has the numbers with their sources. `anchors.csv` has published baselines that
`scripts/anchors.py` computes without image or network. A cell of a paper's table that could not be read is empty. A
person who has the paper can fill it in: a CSV with the columns of `READING`, one line per cell, checked strictly by
`read_readings` and stored where the person says. Tables show such a number as read by that person.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from eigencam.datasets.reading import Reading
from eigencam.evaluation import escaping
from eigencam.files import write_text

PLACE = ("paper", "table", "dataset", "model", "method", "metric")
READING = (*PLACE, "value", "unit", "reader", "source")
UNITS = {"%": 100.0, "fraction": 1.0}
"""Units that a reading may have, with the largest value of each."""
LONGEST = 200
"""Maximum number of characters of a reader's name or a source."""

CellKey = tuple[str, str, str, str, str, str]


class PublishedCell(NamedTuple):
    """A cell of a published table: its keys in `published.csv`, and its names in a table."""

    place: CellKey
    column: str
    title: str


def folder() -> Traversable:
    """Return the folder of the published numbers and the layouts."""
    return files("eigencam.published")


def papers() -> list[str]:
    """Return the papers that have a layout."""
    return sorted(item.name.removesuffix(".yaml") for item in folder().iterdir() if item.name.endswith(".yaml"))


def numbers() -> pd.DataFrame:
    """Return the published numbers: paper, table, dataset, model, method, metric, value, unit, source, note."""
    return _packaged("published.csv")


def anchors() -> pd.DataFrame:
    """Return published baselines from the truth alone: paper, table, dataset, method, metric, value, n, rule."""
    return _packaged("anchors.csv")


def _packaged(name: str) -> pd.DataFrame:
    with (folder() / name).open() as file:
        return pd.read_csv(file, comment="#")


def read_readings(path: Path, cells: Sequence[PublishedCell], published: pd.DataFrame) -> pd.DataFrame:
    """Return a person's readings of empty cells; lines without a value are left out.

    Args:
        path: a CSV with the columns `READING`.
        cells: of the papers' tables.
        published: from `numbers`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a reading of an empty cell; the error names file, line, value seen and values allowed.
    """
    known = {cell.place for cell in cells}
    ours = {tuple(map(str, line[:6])): line[6] for line in published[[*PLACE, "value"]].itertuples(index=False)}
    made: dict[CellKey, dict[str, object]] = {}
    with Reading(
        path, f"a CSV with the columns {','.join(READING)}, as `eigencam published --template` writes it"
    ) as file:
        lines = csv.reader(io.StringIO(file.text()), strict=True)
        file.place = "line 1"
        if (header := next(lines, [])) != list(READING):
            raise ValueError(f"columns {','.join(header)[:LONGEST]}; allowed are {','.join(READING)}")
        for line in lines:
            file.place = f"line {lines.line_num}"
            if not line:
                continue
            if len(line) != len(READING):
                raise ValueError(f"{len(line)} fields; allowed are {len(READING)}: {','.join(READING)}")
            found: dict[str, str] = dict(zip(READING, (cell.strip() for cell in line), strict=True))
            place: CellKey = tuple(found[name] for name in PLACE)  # type: ignore[assignment]
            if place in ours:
                raise ValueError(f"{', '.join(place)}: {ours[place]:g} is in published.csv; allowed are empty cells")
            if place not in known:
                raise ValueError(f"{', '.join(place)}: no cell of a paper's table; `eigencam published` lists them")
            if place in made:
                raise ValueError(f"{', '.join(place)}: a second time; allowed is one line for each cell")
            if found["value"]:
                made[place] = _reading(found)
    return pd.DataFrame(made.values(), columns=list(READING))


def _reading(cells: Mapping[str, str]) -> dict[str, object]:
    """One line with its value as a number. ValueError for an invalid field."""
    unit = cells["unit"]
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r}; allowed are {' and '.join(UNITS)}")
    try:
        value = float(cells["value"]) if set(cells["value"]) <= set("0123456789.-") else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= UNITS[unit]:
        raise ValueError(
            f"value {cells['value']!r} with the unit {unit}; allowed is a number from 0 to {UNITS[unit]:g}"
        )
    for name in ("reader", "source"):
        text = cells[name]
        if not text or len(text) > LONGEST or not text.isprintable() or text[0] in "=+-@'":
            raise ValueError(
                f"{name} {text[:40]!r}; allowed is printable text of 1 to {LONGEST} characters that begins with "
                "none of = + - @ '"
            )
    return {**cells, "value": value}


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Merge readings. ValueError if a cell was read differently."""
    both = pd.concat([old, new], ignore_index=True).drop_duplicates()
    if len(twice := both[both.duplicated(list(PLACE), keep=False)]):
        first, second = twice.sort_values(list(PLACE), kind="stable").to_dict("records")[:2]
        raise ValueError(
            f"{', '.join(str(first[name]) for name in PLACE)}: {first['value']:g} as {first['reader']} read it in "
            f"{first['source']}, {second['value']:g} as {second['reader']} did in {second['source']}; take one line out"
        )
    return both


def write_readings(path: Path, lines: Iterable[Sequence[object]]) -> None:
    """Write a CSV with the columns `READING`."""
    write_text(path, escaping.csv_table([READING, *lines]))
