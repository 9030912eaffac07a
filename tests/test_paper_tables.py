"""Tables for papers: LaTeX that compiles, printed names, a sweep as one table, marks of significance."""

import re
import shutil
import subprocess
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stored import ENVIRONMENT, IDENTITY, rows

from eigencam.commands.main import main
from eigencam.configuring.printed_names import METHODS, printed
from eigencam.evaluation import escaping
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.table_cells import cell, decimals, parsed
from eigencam.evaluation.tables import Table, render
from eigencam.reporting.parsed_tables import read_stated
from eigencam.store.identity import describe
from eigencam.store.records import Result
from eigencam.store.summing import summed_up

LAYERS, THRESHOLDS = ("features.12", "features.5", "features.9"), (0.15, 0.2)
NAMES = ("eigencam", "gradcam", "gradcampp", "center_box")
N = 40
DOCUMENT = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n%s\n\\end{document}\n"


def stored(root: Path, method: str, layer: str, threshold: float, iou: Any) -> None:
    """A complete result, as a sweep leaves it."""
    node = {"_target_": "eigencam.evaluation.localization.Localization", "threshold": threshold}
    changes = {"evaluator": describe(node), "method": {"name": method, "version": 1}}
    network = {**IDENTITY["network"], "layer": layer}
    changes |= {"network": network, "dataset": {**IDENTITY["dataset"], "n": N}}
    made = Result(root, ("data", "net", method, "localization"), {**IDENTITY, **changes})
    made.open("a: 1\n", ENVIRONMENT)
    frame = rows(N).assign(iou=iou)
    told, _ = summed_up(Localization(threshold=threshold), frame)
    made.finish(frame, {"n": N, "target": "ground_truth", "baseline": method == "center_box", **told})
    made.close()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers x 2 thresholds x 4 methods: Grad-CAM is clearly the best, and later layers are better."""
    root, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(0)
    for layer, threshold, method in product(LAYERS, THRESHOLDS, NAMES):
        late = 0.02 * int(layer.rsplit(".", 1)[1])
        stored(root, method, layer, threshold, rng.uniform(0.2, 0.4, N) + late + 0.2 * (method == "gradcam"))
    return root


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    status = main(["table", *argv])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["table", *argv]) == 2
    return capsys.readouterr().err


def test_a_sweep_is_one_table_with_layers_in_network_order(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--results", str(sweep), "--pivot", "layer,threshold", "--metrics", "mean_iou")
    out = said(capsys, *command, "--format", "csv")
    lines = [line for line in out.splitlines() if line]
    heads = [f"layer features.{k}, threshold {t}" for k in (5, 9, 12) for t in THRESHOLDS]
    assert re.findall(r'"([^"]+)"', lines[0]) == heads
    assert [line.split(",")[1] for line in lines[1:]] == list(NAMES)  # one table, baselines last
    markdown = said(capsys, *command, "--format", "markdown")
    assert markdown.count("### ") == 1
    assert markdown.count("**") == 2 * 6  # Grad-CAM is the best of each column
    html = said(capsys, *command, "--format", "html")
    assert html.count('<th colspan="2">') == 3
    latex = said(capsys, *command, "--format", "latex")
    assert latex.count(r"\multicolumn{2}{c}{layer features.") == latex.count(r"\cmidrule") == 3
    turned = said(capsys, "--results", str(sweep), "--rows", "layer,threshold", "--columns", "method", "--metrics", "mean_iou", "--format", "csv")  # fmt: skip  # noqa: E501
    assert [line.split(",")[0] for line in turned.splitlines()[1:7]] == [f"features.{k}" for k in (5, 5, 9, 9, 12, 12)]
    assert turned.splitlines()[0] == "layer,threshold,eigencam,gradcam,gradcampp,center_box"


def test_lines_and_columns_of_one_s_own(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--results", str(sweep))
    only = ("--only", "layer=features.5", "threshold=0.2", "metric=mean_iou,gt_known_error", "method=gradcam,eigencam")
    out = said(capsys, *base, *only, "--rows", "metric", "--columns", "method", "--rename", "gradcam=Ours", "--format", "csv")  # fmt: skip  # noqa: E501
    assert out.splitlines()[0] == "metric,eigencam,Ours"
    assert [line.split(",")[0] for line in out.splitlines()[1:3]] == ["mean_iou", "gt_known_error"]
    together = refused(capsys, *base, "--only", "layer=features.5,features.9", "threshold=0.2")
    assert "several results in one cell (net, center_box, " in together
    assert "to --rows, --columns or --pivot" in together
    assert "features.5, features.9, features.12" in refused(capsys, *base, "--only", "layer=features.7")
    assert "no result has such a parameter" in refused(capsys, *base, "--pivot", "depth")
    assert "--rename gradcan: no such name" in refused(capsys, *base, "--rename", "gradcan=x")
    twice = ("--columns", "method", "--rows", "metric", "--rename", "gradcam=X", "eigencam=X", *only)
    assert "two columns are called X" in refused(capsys, *base, *twice)
    assert "named twice" in refused(capsys, *base, "--rows", "layer", "--pivot", "layer")
    assert "not with --paper" in refused(capsys, *base, "--paper", "cam2016", "--rows", "layer")


def test_intervals_decimals_second_best_and_marks(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--results", str(sweep), "--only", "layer=features.12", "threshold=0.2", "--metrics", "mean_iou")
    long = pd.read_csv(pd.io.common.StringIO(said(capsys, *base, "--format", "csv")))  # type: ignore[attr-defined]
    line = long[(long["method"] == "gradcam") & (long["metric"] == "mean_iou")].iloc[0]
    half = max(line["value"] - line["low"], line["high"] - line["value"])
    latex = said(capsys, *base, "--format", "latex", "--intervals", "pm", "--second", "--against", "eigencam")
    best = rf"Grad-CAM & \textbf{{{line['value']:.1f}}}$^{{*}}$ $\pm$ {half:.1f} \\ % net | gradcam"
    assert best in latex
    assert latex.count(r"\underline{") == 1
    assert "differs from Eigen-CAM" in latex
    assert "$^{*}$" not in re.findall(r"^Eigen-CAM &.*$", latex, re.MULTILINE)[0]
    plain = said(capsys, *base, "--intervals", "none", "--decimals", "3", "--format", "markdown")
    assert f"**{line['value']:.3f}**" in plain
    assert "[" not in plain
    assert "no such method" in refused(capsys, *base, "--against", "lime")


@pytest.mark.parametrize(
    ("low", "high", "digits"), [(40, 60, 0), (47.5, 52.5, 1), (49.5, 50.5, 2), (49.9999, 50.0001, 4), (50, 50, 1)]
)
def test_decimals_follow_the_width_of_the_interval(low: float, high: float, digits: int) -> None:
    lines = pd.DataFrame({"low": [low] * 3, "high": [high] * 3, "unit": "%"})
    assert decimals(lines, "interval") == digits
    assert decimals(lines, "unit") == 1
    assert decimals(lines, 3) == 3


@pytest.mark.parametrize("intervals", ["brackets", "pm", "none"])
def test_a_cell_is_read_as_it_was_printed(intervals: Any) -> None:
    parts = parsed(cell(57.46, 50.6, 64.1, 1, intervals, "*"))
    assert parts["value"] == "57.5"
    assert parts["marks"] == "*"
    assert (parts["low"], parts["half"]) == {"brackets": ("50.6", ""), "pm": ("", "6.9"), "none": ("", "")}[intervals]
    assert not parsed("scenes_vgg 57.5")
    assert cell(float("nan"), 1, 2, 1) == "-"


def test_names_are_printed_as_papers_print_them() -> None:
    assert printed("method", "gradcampp (layer=layer3)") == "Grad-CAM++ (layer=layer3)"
    assert printed("metric", "top1_loc_error") == "Top-1 loc. err."
    assert printed("metric", "gt_known_error_right") == "GT-known err., prediction right"
    assert printed("metric", "recall50_100") == "Recall@100, IoU 0.5"
    assert printed("metric", "max_box_acc_v2_70") == "MaxBoxAccV2, IoU 0.7"
    assert printed("metric", "my_number") == "My number"
    assert printed("network", "resnet50") == "ResNet-50"
    assert printed("method", "mine", {"mine": "Ours"}) == "Ours"
    assert printed("method", "gradcam", {"Grad-CAM": "GC"}) == "GC"
    options = {path.name.removesuffix(".yaml") for path in (files("eigencam.configs") / "method").iterdir()}
    assert set(METHODS) <= options
    assert len(set(METHODS.values())) == len(METHODS)


def test_a_figure_of_the_sweep(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--results", str(sweep), "--metrics", "mean_iou", "gt_known_error")
    said(capsys, *base, "--pivot", "layer,threshold", "--figure", str(tmp_path / "a.svg"))
    said(capsys, *base, "--pivot", "threshold", "--only", "layer=features.5", "--figure", str(tmp_path / "b.svg"))
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    at = [first.index(f">{text}<") for text in ("features.5", "features.9", "features.12")]
    assert at == sorted(at)
    assert all(text in first for text in ("Grad-CAM++", "Mean IoU %", "threshold 0.15", "threshold 0.2"))
    assert ">0.15<" in second
    assert "--pivot KEY names the axis" in refused(capsys, *base, "--figure", str(tmp_path / "c.svg"))
    assert "allowed: .pdf, .svg, .png" in refused(capsys, *base, "--pivot", "layer", "--figure", "c.gif")


def nasty() -> Table:
    """Names and notes with all of LaTeX's special characters."""
    names = [
        "50 % of a_b & c",
        "#1 ~ ^x^ {y} \\z $",
        "[first]",
        "*",
        "Müller ± 中文 „\u03b1“",
        '"quoted" <a|b>',
        "a--b",
    ]
    frame = pd.DataFrame({"network": "n & m_1", "method": names, "x %": ["57.5* [50.6, 64.1]"] * 6 + ["-"]})
    best = pd.DataFrame({"x %": [True] + [False] * 6})
    return Table("data, 3 images: é_b %", frame, best, [f"{name}: note" for name in names], span="network")


def balanced(text: str) -> bool:
    """Check that braces and environments close, and that there is only ASCII, commands and escaped characters."""
    body = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines())
    plain = re.sub(r"\\[&%$#_{}\\]", "", body)
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", body) for word in ("begin", "end"))
    known = {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
        "char",
        "ensuremath",
    }
    known |= {
        "begin",
        "end",
        "centering",
        "caption",
        "label",
        "medskip",
        "footnotesize",
        "scriptsize",
        "resizebox",
        "textwidth",
        "sloppy",
        "allowbreak",
    }
    known |= {"toprule", "midrule", "bottomrule", "cmidrule", "addlinespace", "multicolumn", "textit", "textbf", "underline", "pm", "alpha"}  # fmt: skip  # noqa: E501
    return (
        plain.count("{") == plain.count("}")
        and sorted(begun) == sorted(ended)
        and body.isascii()
        and set(re.findall(r"\\([A-Za-z]+)", body)) <= known
        and not re.search(r"[#^]", re.sub(r"\$\^\{\*+\}\$", "", re.sub(r"\\\^", "", plain)))
    )


@pytest.mark.full
def test_latex_is_whole_whatever_the_names_are(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ("--results", str(sweep))
    texts = {
        "nasty": render(nasty(), "latex"),
        "sweep": said(capsys, *results, "--pivot", "layer,threshold", "--metrics", "mean_iou", "--format", "latex"),
        "plain": said(capsys, *results, "--format", "latex", "--against", "eigencam", "--second"),
        "paper": said(capsys, *results, "--paper", "gradcam2017", "--format", "latex"),
    }
    for name, text in texts.items():
        assert balanced(text.replace("ü", "")), name
        rows = [line for line in text.splitlines() if re.search(r" \\\\( % .*)?$", line)]
        assert rows
    assert r"M\"{u}ller \ensuremath{\pm}" in texts["nasty"]
    labels = re.findall(r"\\label\{(.*)\}", texts["plain"])
    assert len(set(labels)) == len(labels) == 2
    if program := shutil.which("pdflatex") or shutil.which("tectonic"):
        (tmp_path / "all.tex").write_text(DOCUMENT % "\n\\clearpage\n".join(texts.values()))
        quiet = ["-interaction=nonstopmode", "-halt-on-error"] if program.endswith("pdflatex") else []
        done = subprocess.run([program, *quiet, "all.tex"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert (tmp_path / "all.pdf").stat().st_size > 10_000
        assert b"multiply defined" not in done.stdout


def grid(rows: int, columns: int, notes: list[str], networks: int = 1) -> Table:
    cells = {f"metric {k} %": ["57.5 [50.6, 64.1]"] * rows for k in range(columns)}
    names = [f"network_{k * networks // rows}" for k in range(rows)]
    frame = pd.DataFrame({"network": names, "method": [f"method_{k}" for k in range(rows)], **cells})
    best = pd.DataFrame(False, frame.index, frame.columns[2:])
    title = f"data val, 3 images: localization {rows} {columns} (maps for the class: predicted)"
    return Table(title, frame, best, notes, span="network")


@pytest.mark.parametrize(
    ("rows", "columns", "scaled"),
    [(5, 2, ""), (50, 2, r"{!}{0.7\textheight}"), (5, 12, r"{\textwidth}{!}"), (40, 20, r"{\textwidth}{!}")],
)
def test_a_large_table_is_scaled_to_the_page(rows: int, columns: int, scaled: str) -> None:
    text = render(grid(rows, columns, []), "latex")
    assert (rf"\resizebox*{scaled}{{%" in text) if scaled else "resizebox" not in text


def test_a_table_longer_than_a_page_is_set_in_parts_and_read_whole(tmp_path: Path) -> None:
    names = ", ".join(f"network_{k}/method_{k}" for k in range(150))
    tables = [
        grid(225, 4, [f"3 constant of 3 maps: {names}"], 5), grid(63, 9, ["in brackets: intervals"], 7), grid(63, 2, [])
    ]  # fmt: skip
    texts = [render(table, "latex") for table in tables]
    assert [text.count(r"\begin{table}") for text in texts] == [5, 2, 2]
    assert all(text.count(r"\caption{") == text.count(r"\label{") == 1 for text in texts)
    assert max(len(part.split(r"\midrule")[1].splitlines()) for part in "".join(texts).split(r"\end{table}")[:-1]) < 70
    before, table = texts[0].split(r"\begin{table}", 1)
    assert r"network\_\allowbreak{}149" in before
    assert "network_0/" not in table
    (tmp_path / "tables.tex").write_text("\n".join(["% command: eigencam run", *texts]))
    assert len(read_stated(tmp_path / "tables.tex").cells) == 225 * 4 + 63 * 9 + 63 * 2
    if program := shutil.which("pdflatex"):
        (tmp_path / "all.tex").write_text(DOCUMENT % "\n".join(texts))
        command = [program, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert b"Float too large" not in done.stdout
        assert rb"Overfull \hbox" not in done.stdout


def test_a_table_without_a_metric_is_a_comment(tmp_path: Path) -> None:
    note = "top1_cls_error %: network_0 50.0 [10.0, 90.0]"
    empty = Table(grid(3, 0, []).title, grid(3, 0, []).frame, pd.DataFrame(index=range(3)), [note], span="network")
    text = render(empty, "latex")
    assert all(line.startswith("% ") for line in text.splitlines())
    (tmp_path / "tables.tex").write_text(f"% command: eigencam run\n{text}")
    assert [cell.text for cell in read_stated(tmp_path / "tables.tex").cells] == ["50.0 [10.0, 90.0]"]


@pytest.mark.full
def test_latex_is_read_again_from_its_typeset_cells(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "layer=features.12", "threshold=0.2")
    said(capsys, "--results", str(sweep), *only, "--decimals", "1", "--out", str(tmp_path))
    cells = {kind: {c.place: c.text for c in read_stated(tmp_path / f"tables.{kind}").cells} for kind in ("md", "tex")}
    assert cells["md"] == cells["tex"]
    assert len(cells["md"]) >= 12
    text = (tmp_path / "tables.tex").read_text()
    changed = re.sub(r"(Grad-CAM & (?:\\textbf\{)?)(\d)", r"\g<1>9", text, count=1)
    (tmp_path / "tables.tex").write_text(changed)
    again = {c.place: c.text for c in read_stated(tmp_path / "tables.tex").cells}
    assert sum(again[place] != cells["tex"][place] for place in again) == 1
    said(capsys, "--results", str(sweep), "--pivot", "layer,threshold", "--out", str(tmp_path))
    with pytest.raises(ValueError, match=r"arranged by options; tables\.csv"):
        read_stated(tmp_path / "tables.md")
    assert len(read_stated(tmp_path / "tables.csv").cells) > 100


def test_a_narrow_terminal_drops_columns_with_a_word(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = said(capsys, "--results", str(sweep), "--pivot", "layer,threshold", "--metrics", "mean_iou")
    monkeypatch.setenv("COLUMNS", "80")
    narrow = said(capsys, "--results", str(sweep), "--pivot", "layer,threshold", "--metrics", "mean_iou")
    assert max(map(len, wide.splitlines())) > 80 >= max(map(len, narrow.splitlines()))
    assert "not shown, the terminal is 80 wide: layer features.5, threshold 0.2" in " ".join(narrow.split())


@pytest.mark.parametrize("character", ["é", "ß", "±", "\u03b1", "中", "\u2013", "\u00a0"])
def test_latex_of_letters_beyond_ascii_is_ascii(character: str) -> None:
    assert escaping.latex(character).isascii()
