"""The papers' numbers: empty cells, a user's readings, anchors from the truth alone, and the source of each number."""

import csv
import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from eigencam.commands.main import main
from eigencam.datasets.base import Truth
from eigencam.evaluation.pointing import Pointing
from eigencam.reporting.paper_layouts import layouts
from eigencam.reporting.paper_tables import empty_cells, every_cell, paper_table
from eigencam.reporting.published import READING, anchors, numbers, papers

ROOT = Path(__file__).parents[1]
CELL = ("eigencam2021", "localization", "ilsvrc_val", "vgg16", "eigencam", "loc_error_top1")
GOOD = (*CELL, "57.1", "%", "A. Person", "Table 2, p. 7")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def written(path: Path, *lines: tuple[str, ...], header: tuple[str, ...] = READING) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def changed(**changes: str) -> tuple[str, ...]:
    return tuple(changes.get(name, old) for name, old in zip(READING, GOOD, strict=True))


def test_the_overview_has_every_paper_with_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == papers()
    assert all(line.split()[-1].startswith("https://") for line in lines[2:])


def test_the_cells_are_those_that_a_table_leaves_empty() -> None:
    published = numbers()
    for paper in papers():
        for layout in layouts(paper):
            frame = paper_table(layout, published, pd.DataFrame()).frame
            columns = [f"{title} published" for title in layout.metrics]
            assert int((frame[columns] == "").to_numpy().sum()) == len(empty_cells(layout, published))


@pytest.mark.full
def test_a_person_s_values_are_checked_kept_and_shown_with_the_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template, kept = tmp_path / "to read.csv", tmp_path / "kept.csv"
    assert main(["published", "--paper", "eigencam2021", "--template", str(template)]) == 0
    lines = list(csv.reader(template.read_text().splitlines()))
    assert len(lines) == 1 + 140
    assert main(["published", "--paper", "eigencam2021", "--template", str(template)]) == 2  # not written over
    assert main(["published", "--fill", str(template)]) == 2
    assert "no value is filled in" in capsys.readouterr().err
    written(template, *(GOOD if tuple(line[:6]) == CELL else tuple(line) for line in lines[1:]))
    assert main(["published", "--fill", str(template), "--into", str(kept)]) == 0
    other = changed(method="gradcam", value="0.5", unit="fraction", reader="B")
    assert main(["published", "--fill", str(written(template, other)), "--into", str(kept)]) == 0
    assert len(kept.read_text().splitlines()) == 3
    none = str(tmp_path / "none")
    assert main(["table", "--paper", "eigencam2021", "--readings", str(kept), "--results", none]) == 0
    shown = capsys.readouterr().out
    assert "57.10 (r1)" in shown
    assert "50.00 (r2)" in shown
    assert "r1: read by A. Person in Table 2, p. 7, not by this project" in shown
    assert main(["table", "--paper", "eigencam2021", "--results", none]) == 0
    assert "57.10" not in capsys.readouterr().out
    different = written(template, changed(value="57.2"))
    before = kept.read_text()
    assert main(["published", "--fill", str(different), "--into", str(kept)]) == 2
    assert "57.1 as A. Person read it" in capsys.readouterr().err
    assert kept.read_text() == before


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([changed(value="nan")], "value 'nan'"),
        ([changed(value="1e1")], "value '1e1'"),
        ([changed(value="-1")], "from 0 to 100"),
        ([changed(value="100.1")], "from 0 to 100"),
        ([changed(value="57", unit="fraction")], "from 0 to 1"),
        ([changed(unit="percent")], "unit 'percent'"),
        ([changed(reader="")], "reader ''"),
        ([changed(source="=1+1")], "source '=1+1'"),
        ([changed(reader="a\x1b[2Jb")], "reader 'a\\x1b[2Jb'"),
        ([changed(source="x" * 201)], "200 characters"),
        ([changed(method="nobody")], "no cell of a paper's table"),
        ([changed(paper="../x")], "no cell of a paper's table"),
        ([GOOD, GOOD], "line 3: eigencam2021, localization"),
        ([GOOD[:-1]], "9 fields"),
        (
            [("torchray2019", "pointing", "voc07_test", "vgg16", "center", "pointing_all", *GOOD[6:])],
            "69.6 is in publish",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_reading_of_an_empty_cell_is_refused_with_its_line(
    lines: list[tuple[str, ...]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "read.csv", *lines)
    assert main(["published", "--fill", str(path), "--into", str(tmp_path / "kept.csv")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(path) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "kept.csv").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("published --template x.csv", "--paper"),
        ("published --into x.csv", "--fill"),
        ("published --paper nobody", "eigencam2021"),
        ("published --fill missing.csv", "missing.csv"),
        ("table --readings x.csv", "--paper"),
    ],
)
def test_options_that_do_not_go_together(argv: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(argv)) == 2
    assert said in capsys.readouterr().err


def test_other_columns_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--fill", str(written(tmp_path / "a.csv", GOOD, header=READING[::-1]))]) == 2
    assert "line 1" in capsys.readouterr().err


def test_every_anchor_stands_first_beside_the_number_that_was_published() -> None:
    published, found = numbers(), anchors()
    known = {cell.place for cell in every_cell(published)}
    assert len(found) == 7
    for anchor in found.itertuples(index=False):
        assert any((p, t, d, meth, met) == anchor[:5] for p, t, d, _, meth, met in known)
    for paper, dataset in found[["paper", "dataset"]].drop_duplicates().itertuples(index=False):
        [layout] = [one for one in layouts(paper) if one.dataset == dataset]
        table = paper_table(layout, published, pd.DataFrame(), found)
        of = found[(found["paper"] == paper) & (found["dataset"] == dataset)]
        rules = list(dict.fromkeys(of["rule"]))
        first = table.frame.head(len(rules))
        assert (first["network"] == "any").all()
        assert (first["ours of"] == "").all()
        assert all(
            f"{k}: ours: {rule}; from the truth alone" in "\n".join(table.notes) for k, rule in enumerate(rules, 1)
        )
        for rule, line in zip(rules, first.to_dict("records"), strict=True):
            for anchor in of[of["rule"] == rule].to_dict("records"):
                [title] = [k for k, column in layout.metrics.items() if column.published == anchor["metric"]]
                assert line[f"{title} ours"] == f"{anchor['value']:.2f}"
                assert line[f"{title} published"]


def test_the_anchors_agree_with_what_was_published_to_its_decimal() -> None:
    found, published = anchors(), numbers()
    own = found[~found["rule"].str.startswith("MaxBoxAccV2")]
    assert len(own) == 5
    for anchor in own.itertuples(index=False):
        here = (published[["paper", "table", "dataset", "method", "metric"]] == list(anchor[:5])).all(axis=1)
        assert {f"{value:.1f}" for value in published[here]["value"]} == {f"{anchor.value:.1f}"}
    assert dict(zip(own["dataset"], own["n"], strict=True)) == {
        "ilsvrc_val": 50000, "cub_test": 5794, "voc07_test": 2230
    }  # fmt: skip


def test_the_scripts_s_centre_by_hand() -> None:
    made = script("anchors")
    # A hit needs a centred square of 160 px in one image, and the second of two boxes in the other.
    good, small = [32.0, 32.0, 191.0, 191.0], [0.0, 0.0, 9.0, 9.0]
    truths = [
        Truth("a", (224, 224), 0, np.array([good]), np.zeros(1, np.int64)),
        Truth("b", (224, 224), 0, np.array([small, good]), np.zeros(2, np.int64)),
    ]
    values = [anchor.value for anchor in made.centres(truths, "ilsvrc_val")]
    assert values == [100.0, 50.0]
    assert [a.paper for a in made.centres(truths, "cub_test")] == [
        "wsolevaluation2020",
        "wsolevaluation2020",
        "fcam2022",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_points_between_pixels_hit_as_torchray_s_disc_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        height, width = rng.integers(40, 90, 2)
        x1, y1 = rng.integers(0, width - 2), rng.integers(0, height - 2)
        x2, y2 = rng.integers(x1 + 1, width), rng.integers(y1 + 1, height)
        truth = Truth("a", (height, width), 0, np.array([[x1, y1, x2, y2]], float), np.zeros(1, np.int64))
        mask = np.zeros((height, width), bool)
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
        v, u = np.mgrid[:height, :width]
        inside = (u - width / 2) ** 2 + (v - height / 2) ** 2 < 15**2
        row = Pointing().row_of_points([width / 2], [height / 2], truth)
        assert row["hit"] == float((mask & inside).any())


def test_every_row_says_what_must_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    made = script("check_published")
    assert made.main(["--csv"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [int(line["row"]) for line in lines] == list(range(1, len(numbers()) + 1))
    assert all(line["source"] and line["read"] for line in lines)
    assert made.main(["--paper", "wsolevaluation2020", "--dataset", "cub_test", "--method", "cutmix", "--csv"]) == 0
    said = [line["read"].split(" (")[0] for line in csv.DictReader(capsys.readouterr().out.splitlines())]
    assert said == ["-1.4", "+0.8", "-0.2"]  # as in the image of the table
    assert made.main(["--rows", "52-53", "1", "--csv"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["row", "1", "52", "53"]
    for wrong in (["--paper", "nobody"], ["--rows", "0"], ["--rows", "5-2"], ["--rows", "x"]):
        with pytest.raises(SystemExit):
            made.main(wrong)
