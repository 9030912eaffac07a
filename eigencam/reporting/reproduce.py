"""Reproducing tables: the commands in a table's header are run into a fresh folder, and every cell is compared.

    verdicts = compared(stated, root, reasons)

A cell is `same` if the new number, printed like the old one, is the same text; `same within rounding` if value and
interval differ by at most one unit of the last printed digit; otherwise `different`; or `not run`, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eigencam.files import first_line
from eigencam.reporting.collect import collect, selected
from eigencam.reporting.paper_layouts import layouts
from eigencam.reporting.paper_tables import beside, paper_table
from eigencam.reporting.parsed_tables import Stated, StatedCell
from eigencam.reporting.parsed_tables import numbers as numbers_in
from eigencam.reporting.published import numbers
from eigencam.running.foreign_commands import Foreign

SAME, ROUNDING, DIFFERENT, NOT_RUN = "same", "same within rounding", "different", "not run"
DIGITS = 6
"""Significant digits of numbers in a long CSV file."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one cell.

    Attributes:
        kind: one of the four.
        why: the new number, or why there is none.
    """

    kind: str
    why: str = ""


@dataclass(slots=True)
class Ran:
    """The outcome of running a table's commands.

    Attributes:
        jobs: those that finished.
        reasons: why others did not, by `network on dataset`, or by the command if it could not be composed.
    """

    jobs: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def rerun(commands: Sequence[str], foreign: Foreign, limit: int | None, say: Callable[[str], None]) -> Ran:
    """Run the jobs of a table's commands, one after another; one that fails does not stop the others.

    Args:
        commands: from the header.
        foreign: what this command line grants them.
        limit: maximum number of images per dataset.
        say: called with the few lines meant for a person.
    """
    ran = Ran()
    for line in commands:
        try:
            todo = list(foreign.jobs(line))
        except Exception as error:  # refused, or any error of Hydra
            ran.reasons[line] = first_line(error)
            continue
        for name, _, config in todo:
            try:
                _run(name, config, limit, say)
                ran.jobs += 1
            except Exception as error:  # missing data or weights, a method that raises
                ran.reasons[f"{config.model.name} on {_name_of(config)}"] = first_line(error)
    return ran


def _run(name: str, config: Any, limit: int | None, say: Callable[[str], None]) -> None:
    """Run one job on at most `limit` images."""
    from eigencam.fitting.job import fit
    from eigencam.running.prepare import build_dataset
    from eigencam.running.run import run
    from eigencam.running.run_config import DataConfig, typed

    if name == "fit":
        fit(config, say=say)
        return
    if limit is not None and config.get("limit") is None:
        found = typed(config, DataConfig, [])
        if found is not None and len(build_dataset(found).ids) > limit:
            config.limit = limit
    run(config, say=say)


def _name_of(config: Any) -> str:
    """The dataset's name, as far as it follows from the config."""
    node = config.dataset
    year = node.get("year")
    return str(node.get("name") or (f"voc{year}" if year else str(node.get("_target_", "")).rsplit(".", 1)[-1].lower()))


def compared(stated: Stated, root: Path, ran: Ran) -> dict[StatedCell, Verdict]:
    """Return the verdict on every cell.

    Args:
        stated: the table.
        root: folder of the new results.
        ran: the outcome of running its commands.
    """
    found = _paper(stated, root) if stated.paper else _tables(stated, root)
    return {cell: found.get(cell) or Verdict(NOT_RUN, _reason(cell, ran)) for cell in stated.cells}


def _reason(cell: StatedCell, ran: Ran) -> str:
    """Why a cell has no new number."""
    data = cell.data.split(" ")[0]
    for where, reason in ran.reasons.items():
        network, _, dataset = where.partition(" on ")
        if (network == cell.network and dataset in (data, "", cell.data)) or " on " not in where:
            return reason
    return next(iter(ran.reasons.values()), "no command in the table's header computes it")


def _tables(stated: Stated, root: Path) -> dict[StatedCell, Verdict]:
    """The cells of ordinary tables for which there is a new result."""
    try:
        long = collect(root)
    except FileNotFoundError:
        return {}
    data = (long["dataset"] + " " + long["part"]).str.strip()
    keys = zip(data, *(long[c] for c in ("evaluator", "target", "dtype", "network", "method", "metric")), strict=True)
    lines = dict(zip(keys, long.to_dict("records"), strict=True))
    found = {}
    for cell in stated.cells:
        metric, _, column = cell.column.partition(" ")
        methods = [cell.method] if cell.method else list(dict.fromkeys(long["method"]))
        where = (cell.data, cell.evaluator, cell.target, cell.dtype, cell.network)
        present = [lines[(*where, method, metric)] for method in methods if (*where, method, metric) in lines]
        if present:
            found[cell] = _verdict(cell, present[0], column)
        elif long["unsupported"].ne("").any() and not numbers_in(cell.text):
            found[cell] = _unsupported(cell, long)
    return {cell: verdict for cell, verdict in found.items() if verdict}


def _unsupported(cell: StatedCell, long: pd.DataFrame) -> Verdict | None:
    """A cell without a number is the same if the method still cannot run."""
    same = (long["network"] == cell.network) & (long["method"] == cell.method) & (long["evaluator"] == cell.evaluator)
    return Verdict(SAME) if (same & (long["unsupported"] != "")).any() else None


def _verdict(cell: StatedCell, line: Mapping[Any, Any], column: str) -> Verdict:
    """Compare a cell with the new result's line: one `column` of a CSV file; for "", value and interval together."""
    if line["pictures"] < cell.images:
        return Verdict(NOT_RUN, f"{line['pictures']} of {cell.images} images were scored")
    if column:
        return _of_digits(cell.text, line.get(column))
    new = [line[name] for name in ("value", "low", "high")]
    old = numbers_in(cell.text)
    if not old:
        return Verdict(SAME) if np.isnan(new[0]) else Verdict(DIFFERENT, f"{new[0]:.6g} now")
    new = new[: len(old)]
    shown = " ".join(f"{number:.{digits}f}" for number, (_, digits) in zip(new, old, strict=True))
    if shown == " ".join(f"{number:.{digits}f}" for number, digits in old):
        return Verdict(SAME)
    near = all(abs(round(a, d) - b) <= 1.000001 * 10.0**-d for a, (b, d) in zip(new, old, strict=True))
    return Verdict(ROUNDING if near else DIFFERENT, f"{shown} now")


def _of_digits(text: str, now: Any) -> Verdict:
    """Compare a number with `DIGITS` significant digits."""
    if now is None or (isinstance(now, float) and np.isnan(now)):
        return Verdict(SAME) if not text else Verdict(DIFFERENT, "not defined now")
    shown = f"{now:.{DIGITS}g}" if isinstance(now, float) else str(now)
    if shown == text:
        return Verdict(SAME)
    try:
        old = float(text)
    except ValueError:
        return Verdict(DIFFERENT, f"{shown} now")
    unit = 10.0 ** (np.floor(np.log10(abs(old))) - DIGITS + 1) if old else 10.0**-DIGITS
    whole = isinstance(now, int)
    return Verdict(ROUNDING if not whole and abs(now - old) <= 1.000001 * unit else DIFFERENT, f"{shown} now")


def _paper(stated: Stated, root: Path) -> dict[StatedCell, Verdict]:
    """The cells of a paper's tables for which there is a new result."""
    try:
        results = selected(root)
    except FileNotFoundError:
        return {}
    cells: dict[tuple[str, str, str], str] = {}
    for name in {cell.data.partition(": ")[0] for cell in stated.cells}:
        for layout in layouts(name):
            table = paper_table(layout, numbers(), beside(root, layout, results))
            for line in table.frame.to_dict("records"):
                where = " ".join(filter(None, (line["network"], line["method"])))
                for column, text in line.items():
                    cells[table.title, f"{where}|{line['ours of']}", str(column)] = str(text)
    found = {}
    before = {(cell.data, cell.network, cell.method): cell.text for cell in stated.cells if cell.column == "n"}
    for cell in stated.cells:
        title = next((title for title, *_ in cells if cell.data.startswith(title)), "")
        where = f"{cell.data.removeprefix(title).removeprefix(': ')}|{cell.network}, {cell.method}"
        text = cells.get((title, where, cell.column))
        if text and _total(n := cells[title, where, "n"]) < _total(
            stated_n := before[cell.data, cell.network, cell.method]
        ):
            found[cell] = Verdict(NOT_RUN, f"n is {n} of {stated_n}")
        elif text:
            found[cell] = _of_text(cell.text, text)
    return found


def _total(n: str) -> int:
    """The largest of the numbers of images in a line, `1,079/326`."""
    return max((int(one.replace(",", "")) for one in n.split("/") if one.replace(",", "").isdecimal()), default=0)


def _of_text(old: str, now: str) -> Verdict:
    """Compare two printed cells."""
    if old == now:
        return Verdict(SAME)
    pairs = list(zip(numbers_in(old), numbers_in(now), strict=False))
    near = pairs and len(numbers_in(old)) == len(numbers_in(now)) and old.count("[") == now.count("[")
    close = near and all(abs(a - b) <= 1.000001 * 10.0**-digits and digits for (a, digits), (b, _) in pairs)
    return Verdict(ROUNDING if close else DIFFERENT, f"{now} now")
