"""Names with a format's special characters, through every writer."""

import csv
import html
import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import config

from eigencam.commands.main import main
from eigencam.evaluation import escaping, ranks
from eigencam.evaluation.base import Curve
from eigencam.evaluation.tables import FORMATS, Table, render
from eigencam.reporting.curves import Plot, Style, save_all
from eigencam.reporting.table_files import write
from eigencam.running.run import run


@pytest.fixture(scope="module")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One method, one evaluator, 3 scenes."""
    root = tmp_path_factory.mktemp("results")
    run(config(root, "dataset.count=3", "method=[random]", "evaluator=[localization]"))
    return root


HOSTILE = [
    "--><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp; \"quoted\" 'single'",
    "a|b\nc\r\nd\x0be\x85f\u2028g",
    r"\input{/etc/passwd} \\ 100% $x^2_i$ #1 ~ {} & --",
    "[0pt] of a row",
    "*starred* _under_ `code` ~~gone~~ [link](javascript:alert(1)) ![i](x)",
    "=1+2",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\x1b[2J\x1b]0;title\x07",
    "a\u202eb",
    "nan",
    "1e5",
    "007",
]
NUMBERS = ["-5.0 [-7.1, -3.0]", "+0.5 [-0.1, +1.1]", "-", "-3", "1,079", "57.50"]


def hostile_table() -> Table:
    """A table with every name as title, column, cell and note."""
    frame = pd.DataFrame({"network": HOSTILE, "method": HOSTILE[::-1], **dict.fromkeys(HOSTILE, HOSTILE)})
    frame["numbers"] = (NUMBERS * len(HOSTILE))[: len(HOSTILE)]
    best = pd.DataFrame(True, index=frame.index, columns=HOSTILE)
    return Table("  ".join(HOSTILE), frame, best, [*HOSTILE, "# head", "- item", "1. first", "==="])


class Page(HTMLParser):
    """The elements of a page, its comments, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.comments: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and self.tags[-1] in ("td", "th", "b"):
            self.cells[-1] += data.strip("\n")

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def test_html_shows_every_name_and_has_no_element_of_theirs() -> None:
    table = hostile_table()
    page = Page(render(table, "html"))
    assert set(page.tags) == {"h2", "table", "thead", "tbody", "tr", "th", "td", "b", "ul", "li"}
    cells = [*table.frame.columns, *table.frame.to_numpy().ravel()]
    assert page.cells == [escaping.one_line(cell) for cell in cells]


def test_html_of_a_table_without_metrics_is_escaped_too() -> None:
    frame = pd.DataFrame({"network": ["<b>"], "method": ["m"]})
    text = render(Table("<i>", frame, pd.DataFrame(index=frame.index), ["<u>"]), "html")
    assert set(Page(text).tags) == {"h2", "ul", "li"}


def test_markdown_keeps_its_lines_and_columns() -> None:
    table = hostile_table()
    text = render(table, "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == len(table.frame) + 2
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {len(table.frame.columns) + 1}
    assert not re.search(r"(?<!\\)<", text)
    assert r"- \# head" in text
    assert r"- 1\. first" in text
    assert "(javascript" not in re.sub(r"\\\]\(javascript", "", text)
    assert "| 57.50" in text  # numbers are text: none is rounded or shifted
    assert " 007 " in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("eigencam_centered", "eigencam_centered"),
        ("__init__", r"\_\_init\_\_"),
        ("3 * 4 ~ 12", r"3 \* 4 \~ 12"),
        ("localization (threshold=0.1)", "localization (threshold=0.1)"),
        ("57.5 [50.6, 64.1]", "57.5 [50.6, 64.1]"),
        ("AT&T &copy;", r"AT&T \&copy;"),
        ("n < 5", r"n \< 5"),
    ],
)
def test_markdown_leaves_alone_what_means_itself(text: str, escaped: str) -> None:
    assert escaping.markdown(text) == escaped


def unescaped_latex(text: str) -> str:
    """What a column's text prints."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<"}
    words |= {"textgreater": ">", "textbar": "|", "char34": '"'}
    text = text.replace("-{}-", "--")
    text = re.sub(r"^\{([\[*])\}", r"\1", text)
    return re.sub(r"\\(\w+)\{\}|\\([&%$#_{}])", lambda m: words[m[1]] if m[1] else m[2], text)


def test_latex_has_only_its_own_commands() -> None:
    table = hostile_table()
    text = render(table, "latex")
    lines = text.splitlines()
    notes = [f"% note: {escaping.one_line(n)}" for n in table.notes]
    assert [line for line in lines if line.startswith("%")][2:] == notes
    assert text.isascii() or not all(map(str.isascii, table.frame.to_numpy().ravel()))
    rows = [line.removesuffix(r" \\") for line in lines if line.endswith(r" \\")]
    for row, cells in zip(rows, [table.frame.columns, *table.frame.to_numpy()], strict=True):
        made = re.split(r"(?<!\\) & ", row)
        plain = [re.sub(r"^\\textbf\{(.*?)\}($| \{)", r"\1\2", cell) for cell in made]
        plain = [re.sub(r" \{\\scriptsize (\[.*\])\}$", r" \1", cell) for cell in plain]
        assert [unescaped_latex(cell) for cell in plain] == [escaping.one_line(cell) for cell in cells]
        assert row[0] not in "[*"
    spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert spec
    assert len(spec[1]) == len(table.frame.columns)


def test_csv_has_no_formulas_and_comes_back_as_it_was() -> None:
    table = hostile_table()
    text = render(table, "csv")
    read = list(csv.reader(io.StringIO(text)))
    assert len(read) == len(table.frame) + 1
    for line, cells in zip(read, [table.frame.columns, *table.frame.to_numpy()], strict=True):
        for made, cell in zip(line, cells, strict=True):
            assert made[:1] not in ("=", "@", "\t", "\r")
            assert made[:1] not in ("+", "-") or cell in NUMBERS
            assert made.removeprefix("'") == cell
    again = pd.read_csv(io.StringIO("# header\n" + text), comment="#", dtype=str, keep_default_na=False)
    assert len(again) == len(table.frame)
    assert list(again["numbers"]) == list(table.frame["numbers"])


def test_numbers_of_a_csv_file() -> None:
    assert escaping.csv_table([["a", "b"], [-1.5, None], [float("nan"), 3], [True, "-5.0 [-7.1, -3.0]"]]) == (
        'a,b\n-1.5,\n,3\nTrue,"-5.0 [-7.1, -3.0]"\n'
    )


def test_what_has_no_utf8_form_is_shown_as_its_code() -> None:
    for escape in (escaping.one_line, escaping.html, escaping.comment, escaping.csv, escaping.figure):
        assert escape("a\udcff") == "a\\udcff"


def test_terminals_are_not_steered() -> None:
    text = render(hostile_table(), "terminal")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", text)
    assert " 1e5 " in text
    assert " 007 " in text


def test_headers_of_files_stay_in_their_comments(tmp_path: Path) -> None:
    header = [f"command: eigencam run x={name}" for name in HOSTILE] + ["printed by: eigencam table"]
    csv_file, markdown, tex, page = sorted(write(tmp_path, "tables", [hostile_table()], header))
    assert [path.suffix for path in (csv_file, markdown, tex, page)] == [".csv", ".html", ".md", ".tex"]
    markdown, tex, page = tmp_path / "tables.md", tmp_path / "tables.tex", tmp_path / "tables.html"
    first = markdown.read_text().splitlines()[0]
    assert first.startswith("<!-- ")
    assert first.endswith(" -->")
    assert first.count("-->") == 1
    parts = first.removeprefix("<!-- ").removesuffix(" -->").split(" | ")
    assert [html.unescape(part) for part in parts] == [escaping.one_line(line) for line in header]
    parsed = Page(page.read_text())
    assert len(parsed.comments) == 1
    assert "script" not in parsed.tags
    assert "img" not in parsed.tags
    for path, mark in ((csv_file, "# "), (tex, "% ")):
        assert path.read_text().splitlines()[: len(header)] == [mark + escaping.one_line(line) for line in header]


def test_json_in_a_script_is_only_data() -> None:
    packed = escaping.script(dict.fromkeys(HOSTILE, HOSTILE))
    assert not set("<>&\u2028\u2029") & set(packed)
    assert json.loads(packed) == dict.fromkeys(HOSTILE, HOSTILE)


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_figures_show_names_as_they_are(tmp_path: Path, kind: str) -> None:
    names = [name for name in HOSTILE if name.isascii()] + ["_hidden", "$a", r"$\undefined$", "%s", "../../up"]
    curve = Curve("../up", "$x$ <i>", r"$\bad$", np.array([0.0, 1.0]), np.array([10.0, 90.0]))
    look = {name: Style("#000000", "") for name in names}
    plot = Plot("data/../../x", "net", "$e$", "../c", dict.fromkeys(names, curve))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        (path,) = save_all([plot], look, tmp_path, kind)
        found = ranks.Ranking("$m$ <b>", tuple(names), tuple(float(k) for k in range(len(names))), 3, 0.1, 2.0)
        drawn = ranks.draw(found, tmp_path / f"ranks.{kind}")
    assert path.parent == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([path.name, drawn.name])
    if kind == "svg":
        for text in (path.read_text(), drawn.read_text()):
            assert "<script" not in text
            shown = [html.unescape(found) for found in re.findall(r"<text[^>]*>(.*?)</text>", text)]
            for name in names:
                assert any(escaping.one_line(name).strip() in line for line in shown), name


@pytest.mark.parametrize("style", FORMATS)
def test_every_writer_ends_with_a_line(style: str) -> None:
    assert render(hostile_table(), style).endswith("\n")  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["table", "report"])
def test_a_write_that_fails_leaves_the_old_files(
    command: str,
    small_results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "tables" if command == "table" else tmp_path / "report.html"
    argv = [command, "--results", str(small_results), "--out", str(out)]
    argv += ["--no-images"] if command == "report" else []
    assert main(argv) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error
    assert "no space left" in error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
