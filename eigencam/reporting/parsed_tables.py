r"""Tables that this program wrote, read back from Markdown, CSV or LaTeX: commands, titles, cells with numbers.

    read_stated(Path("results/scenes/tables.md")).cells[0].text      # "57.5 [50.6, 64.1]"

A file may come from anybody: it is read as texts of bounded size.
"""

import csv
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from eigencam.datasets.reading import Reading

LARGEST = 16 * 2**20
"""Largest size of a table in bytes."""

NUMBERS = ("value", "low", "high", "n", "pictures", "left_out", "bad_truths")
"""Columns of a long CSV that are compared."""

ARRANGED = "arranged by: "
"""Beginning of the header line that lists the options by which rows and columns were arranged."""

_TITLE = re.compile(
    r"(?P<data>.+), (?P<n>\d+) (?:pictures|images): (?P<evaluator>.+) \(maps for the class: (?P<target>\w+)"
    r"(?:, (?P<dtype>\w+))?\)"
)
_NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_CELL = re.compile(rf"(?P<value>{_NUMBER})\**(?: \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\]| ± {_NUMBER})?")
_NOTE = re.compile(r"(?P<metric>\S+)(?: %)?: (?P<rest>.+)")
_NOTED = re.compile(rf"(?P<network>\S+) (?P<cell>{_CELL.pattern})")
_LATEX_LINE = re.compile(r"(?P<cells>.*[^\\]?) \\\\(?: % (?P<names>.*))?")
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_LATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textquotedbl{}": '"',
    r"\char34{}": '"',
    **{f"\\{character}": character for character in "&%$#_{}"},
}
_LATEX_TOKEN = re.compile("|".join(map(re.escape, _LATEX)))


@dataclass(frozen=True, slots=True)
class StatedCell:
    """One number, or the text in its place.

    Attributes:
        data: dataset and its part, `voc2007 Main test`; for a paper's table its title and the line's names.
        evaluator: as named in tables, like `network` and `method`; "" for a paper's table.
        target: the class that maps are for.
        dtype: of the network.
        network: "" if a number is the same for all networks and methods.
        method: "" if a number is the same for every method of the network.
        column: the metric; in a CSV file with its key, `mean_iou value`; in a paper's table its column.
        text: as printed.
        images: number of images of the table; 0 if it does not say.
    """

    data: str
    evaluator: str
    target: str
    dtype: str
    network: str
    method: str
    column: str
    text: str
    images: int = 0

    @property
    def place(self) -> str:
        """The position of the cell, for messages."""
        return ": ".join(filter(None, (self.data, self.evaluator, f"{self.network}/{self.method}", self.column)))


@dataclass(slots=True)
class Stated:
    """The content of a file.

    Attributes:
        commands: that made it, from its header.
        cells: all of its numbers.
        paper: whether its tables have published numbers beside ours.
    """

    commands: list[str] = field(default_factory=list)
    cells: list[StatedCell] = field(default_factory=list)
    paper: bool = False


def read_stated(path: Path) -> Stated:
    """Read a table.

    Raises:
        ValueError: it is not a table that this program wrote, is too large, or was arranged by options.
        FileNotFoundError: there is no such file.
    """
    expected = "a table that `eigencam table --out` wrote: .md, .csv or .tex"
    with Reading(path, expected) as file:
        if file.regular().stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST >> 20} MiB")
        text = file.text()
        reader = {".md": _markdown, ".csv": _csv, ".tex": _latex}.get(path.suffix)
        stated = reader(text) if reader else Stated()
        if path.suffix != ".csv" and ARRANGED in text.partition("\n\n")[0]:
            raise ValueError("its lines and columns were arranged by options; tables.csv beside it has every number")
        if not stated.cells:
            raise ValueError("no table of numbers in it")
        if not stated.commands:
            raise ValueError("no `command: eigencam ...` in its header")
    return stated


def numbers(text: str) -> list[tuple[float, int]]:
    """Return the numbers of a cell, each with its number of decimals; empty if it is not a number.

    >>> numbers("57.5 [50.6, 64.1]"), numbers("-")
    ([(57.5, 1), (50.6, 1), (64.1, 1)], [])
    >>> numbers("1.2e-05")
    [(1.2e-05, 6)]
    """
    found = _CELL.fullmatch(text)
    texts = [found[name] for name in ("value", "low", "high") if found[name]] if found else []
    written = [Decimal(one.replace(",", "")) for one in texts]
    return [(float(one), max(0, -int(one.as_tuple().exponent))) for one in written]


def _commands(parts: Sequence[str]) -> list[str]:
    return [part.strip().removeprefix("command: ") for part in parts if part.strip().startswith("command: ")]


def _markdown(text: str) -> Stated:
    header = _COMMENT.match(text.lstrip())
    stated = Stated(_commands([html.unescape(part) for part in header[1].split(" | ")] if header else []))
    title, heads = "", list[str]()
    for line in text.splitlines():
        if line.startswith("### "):
            title, heads = _plain(line.removeprefix("### ")), []
        elif line.startswith("|"):
            cells = [_plain(cell) for cell in _split(line.strip().strip("|"))]
            if not heads:
                heads = cells
            elif not all(set(cell) <= set(":-") and cell for cell in cells):
                _add(stated, title, heads, cells)
        elif line.startswith("- "):
            _add_note(stated, title, _plain(line.removeprefix("- ")))
    return stated


def _split(line: str) -> list[str]:
    """The cells of a line of a Markdown table; a `|` after a backslash is not a separator."""
    cells, cell, k = [], "", 0
    while k < len(line):
        if line[k] == "\\" and k + 1 < len(line):
            cell += line[k : k + 2]
            k += 2
            continue
        if line[k] == "|":
            cells.append(cell)
            cell = ""
        else:
            cell += line[k]
        k += 1
    return [*cells, cell]


def _plain(cell: str) -> str:
    """Text without Markdown's bold and backslashes."""
    text = cell.strip()
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        text = text[2:-2]
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", text)


def _latex(text: str) -> Stated:
    """Read LaTeX: cells as typeset, and their meaning from the comments with the stored names."""
    stated = Stated(_commands([line.removeprefix("% ") for line in text.splitlines() if line.startswith("% ")]))
    title, heads, rows = "", list[str](), False
    for line in text.splitlines():
        if line.startswith("% table: "):
            title = line.removeprefix("% table: ")
        elif line.startswith("% columns: "):
            heads = _split_comment(line.removeprefix("% columns: "))
        elif line.startswith("% note: "):
            _add_note(stated, title, line.removeprefix("% note: "))
        elif line.startswith(r"\caption{"):
            title = title or _unlatex(line.removeprefix(r"\caption{").removesuffix("}"))
        elif line in (r"\toprule", r"\midrule"):
            rows = line == r"\midrule"
        elif line == r"\end{table}":
            title, heads = "", []
        elif found := _LATEX_LINE.fullmatch(line):
            cells = [_unlatex(cell) for cell in re.split(r"(?<!\\) & ", found["cells"])]
            names = _split_comment(found["names"]) if found["names"] else []
            if rows:  # the numbers are the last cells; a line need not typeset all of its names
                _add(stated, title, heads, [*names, *cells[len(cells) - len(heads) + len(names) :]])
            elif not heads:
                heads = cells
    return stated


def _split_comment(text: str) -> list[str]:
    return [html.unescape(part) for part in text.split(" | ")]


def _unlatex(cell: str) -> str:
    """Text without LaTeX's escapes."""
    text = re.sub(r"\$\^\{(\*+)\}\$", r"\1", cell.strip())
    text = re.sub(r"\{\\scriptsize (\[.*\])\}", r"\1", text).replace(r" $\pm$ ", " ± ")
    text = re.sub(r"^\\(?:textbf|underline)\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r"\1", text)
    text = re.sub(r"^\{([\[*])\}", r"\1", text).replace("-{}-", "--")
    return _LATEX_TOKEN.sub(lambda found: _LATEX[found[0]], text)


def _csv(text: str) -> Stated:
    lines = text.splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    stated = Stated(_commands(comments))
    for line in csv.DictReader([line for line in lines if not line.startswith("# ")]):
        known = {str(key): _unquoted(str(value or "")) for key, value in line.items()}
        if not {"dataset", "network", "method", "evaluator", "metric", "value"} <= set(known):
            raise ValueError("no columns dataset, network, method, evaluator, metric and value")
        data = f"{known['dataset']} {known.get('part', '')}".strip()
        names = (known["evaluator"], known.get("target", ""), known.get("dtype", ""), known["network"], known["method"])
        images = int(known["pictures"]) if known.get("pictures", "").isdecimal() else 0
        for column in NUMBERS if known["metric"] else ():
            if column in known:
                stated.cells.append(StatedCell(data, *names, f"{known['metric']} {column}", known[column], images))
    return stated


def _unquoted(text: str) -> str:
    """A field without the apostrophe that keeps a spreadsheet from evaluating it."""
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@") else text


def _add(stated: Stated, title: str, heads: Sequence[str], cells: Sequence[str]) -> None:
    """Add the numbers of one line of a table."""
    line = dict(zip(heads, cells, strict=False))
    if "ours of" in line:
        stated.paper = True
        network, _, method = line["ours of"].partition(", ")
        columns = [name for name in heads if name.endswith(" ours") or name == "n"] if network else []
        where = ": ".join(filter(None, (title, " ".join(filter(None, (line["network"], line["method"]))))))
        for name in columns:
            stated.cells.append(StatedCell(where, "", "", "", network, method, name, line[name]))
        return
    about = _TITLE.fullmatch(title)
    if not about or not {"network", "method"} <= set(line):
        return
    names = (about["data"], about["evaluator"], about["target"], about["dtype"] or "float32")
    for name in heads[2:]:
        if name != "cost":
            column = name.removesuffix(" %")
            cell = StatedCell(*names, line["network"], line["method"], column, line.get(name, ""), int(about["n"]))
            stated.cells.append(cell)


def _add_note(stated: Stated, title: str, note: str) -> None:
    """Add the numbers of a footnote: those that are the same for every method of a network."""
    about, found = _TITLE.fullmatch(title), _NOTE.fullmatch(note)
    if not about or not found:
        return
    pieces = [_NOTED.fullmatch(piece) for piece in found["rest"].split("; ")]
    names = (about["data"], about["evaluator"], about["target"], about["dtype"] or "float32")
    for piece in pieces if all(pieces) else ():
        if piece:
            cell = StatedCell(*names, piece["network"], "", found["metric"], piece["cell"], int(about["n"]))
            stated.cells.append(cell)
