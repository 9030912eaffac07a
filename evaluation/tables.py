"""Tables of numbers as text, Markdown, LaTeX, CSV or HTML."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from textwrap import wrap
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from eigencam import moved
from eigencam.evaluation import escaping
from eigencam.evaluation.latex import latex
from eigencam.evaluation.table_cells import Style, Table
from eigencam.evaluation.table_layout import tables

__all__ = ["COLUMNS", "FORMATS", "Format", "Style", "Table", "listed", "render", "tables", "wrapped"]

Format = Literal["terminal", "markdown", "latex", "csv", "html"]
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "latex", "csv", "html")

COLUMNS = ("dataset", "network", "method", "evaluator")


def render(table: Table, style: Format) -> str:
    """Return a table as text, footnotes included; names are escaped by the format's rules."""
    return _WRITERS[style](table)


def terminal_width() -> int | None:
    """Return the width of the terminal in characters (`COLUMNS`, or its own); None if the output is not a terminal."""
    import os

    if not os.environ.get("COLUMNS", "").isdecimal() and not sys.stdout.isatty():
        return None
    return max(20, shutil.get_terminal_size().columns)


def wrapped(text: str) -> str:
    """Return a text whose long lines are continued, indented, on the next line of the terminal."""
    width = terminal_width()
    if width is None:
        return text
    long = [line for line in text.splitlines() for line in _wrapped(line, width)]
    return "\n".join(long)


def _wrapped(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    return wrap(line, width, subsequent_indent=f"{indent}    ", drop_whitespace=True) or [line]


SHORTEST = 16
"""Smallest width to which the cells of a list's last column are cut, in characters."""


def listed(lines: Iterable[Sequence[object]], heads: Sequence[str]) -> str:
    """Return a list as text. In a narrow terminal its last columns are cut, or left out and named in a note.

    Args:
        lines: one cell per heading; texts are aligned on the left, numbers on the right.
        heads: the headings.
    """
    lines = list(map(list, lines))
    sides = [
        "left" if not lines or any(isinstance(line[k], str) for line in lines) else "right" for k in range(len(heads))
    ]
    cells = [[escaping.one_line(cell) for cell in line] for line in lines]
    width, kept = terminal_width(), len(heads)
    sizes = [max(len(head) + 2, *(len(line[k]) for line in cells), 0) for k, head in enumerate(heads)]
    while width is not None and kept > 1 and sum(sizes[:kept]) + 2 * (kept - 1) > width:
        room = width - sum(sizes[: kept - 1]) - 2 * (kept - 1)
        if room >= max(SHORTEST, len(heads[kept - 1])):
            cells = [[*line[: kept - 1], _cut(line[kept - 1], room)] for line in cells]
            break
        kept -= 1
    shown = [line[:kept] for line in cells]
    text = tabulate(shown, heads[:kept], "simple", disable_numparse=True, colalign=sides[:kept] if cells else None)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    hidden = f"not shown, the terminal is {width} wide: {', '.join(filter(None, heads[kept:]))}"
    return f"{text}\n{wrapped(hidden)}" if kept < len(heads) else text


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"


def _terminal(table: Table) -> str:
    table, width = _narrowed(table), terminal_width()
    lines = [wrapped(escaping.one_line(table.title)), "", *([_simple(table)] if _has_metrics(table) else [])]
    for note in map(escaping.one_line, table.notes):
        lines += [f"  {note}"] if width is None else wrap(note, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([*lines, ""])


def _narrowed(table: Table) -> Table:
    """The table as it fits into the terminal, and a note on what is left out.

    First, its columns `across` become lines, and its `minor` columns are left out. Then the last columns are left out
    and, after them, the intervals; in a table with `minor` columns, first the intervals. The first metric is kept.
    """
    width = terminal_width()
    if width is None or _width(replace(table, across=())) <= width:
        return replace(table, across=())
    names = list(table.frame.columns)
    shown = [name for name in names if name not in (*table.across, *table.minor)]
    least = next((k + 1 for k, name in enumerate(shown) if name in table.best), 1)
    last = shown[least:][::-1]
    hidden = list[str]()
    for step in [*table.minor, _INTERVALS, *last] if table.minor else [*last, _INTERVALS]:
        if _width(table) <= width:
            break
        hidden.append(step)
        table = (
            _without_intervals(table) if step == _INTERVALS else replace(table, frame=table.frame.drop(columns=step))
        )
    if not hidden:
        return table
    hidden.sort(key=[*names, _INTERVALS].index)
    word = f"not shown, the terminal is {width} wide: {', '.join(hidden)}; --metrics and --format choose"
    return replace(table, notes=[*table.notes, word])


_INTERVALS = "intervals"


def _without_intervals(table: Table) -> Table:
    return replace(table, frame=table.frame.map(lambda cell: str(cell).partition(" [")[0]))


def _width(table: Table) -> int:
    return max(map(len, _simple(table).splitlines()), default=0)


def _simple(table: Table) -> str:
    across = [name for name in table.across if name in table.frame]
    shown = table.frame.drop(columns=across).map(escaping.one_line).rename(columns=escaping.one_line)
    if "network" in shown and shown.columns[0] == "network":
        shown = shown.assign(network=shown["network"].mask(shown["network"].duplicated(), ""))
    text = tabulate(shown.to_dict("list"), headers="keys", tablefmt="simple", disable_numparse=True)
    if not across:
        return text
    head, rule, *lines = text.splitlines()
    blocks = [head, rule]
    heads = [escaping.one_line(", ".join(map(str, values))) for values in table.frame[across].itertuples(index=False)]
    for name, block in groupby(zip(heads, lines, strict=True), lambda pair: pair[0]):
        blocks += [f"-- {name}", *(line for _, line in block)]
    return "\n".join(blocks)


def _markdown(table: Table) -> str:
    heads = [escaping.markdown(name) for name in table.frame.columns]
    lines = _lines(table, escaping.markdown, "**{}**", "<u>{}</u>")
    sides = ["right" if number else "left" for number in _numeric(table.frame)]
    text = tabulate(lines, headers=heads, tablefmt="pipe", disable_numparse=True, colalign=sides)
    notes = [f"- {escaping.markdown(note, starts_line=True)}" for note in table.notes]
    title = f"### {escaping.markdown(table.title)}"
    return "\n".join([title, "", *([text, ""] if _has_metrics(table) else []), *notes, ""])


def _html(table: Table) -> str:
    lines = [
        "".join(f"<td>{cell}</td>" for cell in line) for line in _lines(table, escaping.html, "<b>{}</b>", "<u>{}</u>")
    ]
    rows = "\n".join(f"<tr>{cells}</tr>" for cells in lines)
    heads = "\n".join(f"<tr>{''.join(level)}</tr>" for level in _html_heads(table))
    body = f"<table>\n<thead>{heads}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
    notes = "".join(f"<li>{escaping.html(note)}</li>" for note in table.notes)
    return f"<h2>{escaping.html(table.title)}</h2>\n{body if _has_metrics(table) else ''}<ul>{notes}</ul>\n"


def _html_heads(table: Table) -> Iterator[list[str]]:
    """The cells of each line of headings; a heading over several columns occurs once."""
    levels = max(map(len, table.headings))
    for k in range(levels):
        line = []
        for _, same in groupby(table.headings, lambda head, k=k: head[: k + 1]):
            head, *others = same
            if len(head) > k:
                across = f' colspan="{len(others) + 1}"' if others and len(head) > k + 1 else ""
                down = f' rowspan="{levels - k}"' if len(head) == k + 1 and k + 1 < levels else ""
                line.append(f"<th{across}{down}>{escaping.html(head[k])}</th>")
        yield line


def _csv(table: Table) -> str:
    return escaping.csv_table([table.frame.columns, *table.frame.itertuples(index=False)])


_WRITERS: Mapping[Format, Callable[[Table], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": latex,
    "csv": _csv,
    "html": _html,
}


def _lines(table: Table, escape: Callable[[object], str], bold: str, underlined: str) -> list[list[str]]:
    """The escaped cells, the best in bold and, if marked, the second best underlined."""
    columns = []
    for name in table.frame.columns:
        cells = [escape(cell) for cell in table.frame[name]]
        for frame, form in ((table.best, bold), (table.second, underlined)):
            if frame is not None and name in frame:
                cells = [form.format(cell) if mark else cell for cell, mark in zip(cells, frame[name], strict=True)]
        columns.append(cells)
    return [list(line) for line in zip(*columns, strict=True)]


def _numeric(frame: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers, apart from empty cells."""
    filled = [[cell for cell in frame[name].astype(str) if cell] for name in frame.columns]
    return [bool(cells) and all(map(escaping.is_number, cells)) for cells in filled]


def _has_metrics(table: Table) -> bool:
    """Whether any metric is defined."""
    return table.best.shape[1] > 0


def __getattr__(name: str) -> Any:
    """Names that have moved from here; see `eigencam.moved`."""
    return moved.attribute(__name__, name)
