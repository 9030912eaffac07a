"""Tables, status and the command line, on results of a small run."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from stored import ENVIRONMENT

from eigencam.commands.main import SUBCOMMANDS, main
from eigencam.evaluation.footnotes import _origins
from eigencam.evaluation.paired import Difference
from eigencam.evaluation.tables import Table, listed, render, tables, wrapped
from eigencam.reporting import comparison_tables
from eigencam.reporting.collect import _tell_apart, collect
from eigencam.reporting.comparison import Compared, Setting
from eigencam.running.run import run
from eigencam.store.records import Result
from eigencam.store.seal import read_json


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, four methods, three evaluators, 10 scenes."""
    root = tmp_path_factory.mktemp("results")
    for model in ("scenes_vgg", "scenes_resnet"):
        overrides = [f"model={model}", "dataset.count=10", "workers=0", f"paths.results={root}", "device=cpu"]
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            run(compose("run", [*overrides, "method=[cam,eigencam,gradcam,whole_picture]", "on_unsupported=skip"]))
    return root


def test_collect_gives_a_line_for_each_metric_with_what_it_needs_to_be_read(results: Path) -> None:
    long = collect(results)
    assert set(long["network"]) == {"scenes_vgg", "scenes_resnet"}
    assert len(long[["network", "method", "evaluator"]].drop_duplicates()) == 2 * 4 * 3
    line = long[
        (long["network"] == "scenes_vgg") & (long["method"] == "gradcam") & (long["metric"] == "gt_known_error")
    ]
    assert len(line) == 1
    assert line["n"].item() == 10
    assert line["threshold"].item() == "0.15 max"
    assert line["low"].item() < line["value"].item() < line["high"].item()
    assert set(collect(results, network=["scenes_vgg"])["network"]) == {"scenes_vgg"}


def test_a_table_has_baselines_last_the_best_marked_and_says_what_was_not_run(results: Path) -> None:
    table = next(t for t in tables(collect(results)) if "localization" in t.title)
    assert table.title == "scenes test, 10 images: localization (maps for the class: ground_truth)"
    assert list(table.frame["method"]) == ["cam", "eigencam", "gradcam", "whole_picture"] * 2
    column = "gt_known_error %"
    for _, part in table.frame.groupby("network"):
        values = part[part[column] != "-"][column].str.split().str[0].astype(float)
        assert list(values.index[values == values.min()]) == list(
            table.best.index[table.best[column] & (table.best.index.isin(part.index))]
        )
    assert "box_error %" not in table.frame  # equal to gt_known_error here
    notes = "\n".join(table.notes)
    assert "not run, CAM needs global average pooling" in notes
    assert "10 constant of 10 maps: scenes_resnet/whole_picture, scenes_vgg/whole_picture" in notes
    assert "top1_cls_error %: scenes_resnet" in notes
    assert "n = 10, threshold 0.15 max" in notes


@pytest.mark.parametrize(
    ("style", "parts"),
    [
        ("terminal", ["network"]),
        ("markdown", ["| network", "**"]),
        ("latex", [r"\toprule", r"\textbf{", r"gt\_known\_error \%"]),
        ("html", ["<table", "<b>"]),
    ],
)
def test_rendering(results: Path, style: str, parts: list[str]) -> None:
    text = "\n".join(render(table, style) for table in tables(collect(results)))  # type: ignore[arg-type]
    for part in [*parts, "localization", "segmentation", "proposals"]:
        assert part in text


def test_results_of_one_name_are_told_apart_by_what_differs(results: Path, tmp_path: Path) -> None:
    for threshold in (0.1, 0.3):
        overrides = ["dataset.count=4", "workers=0", f"paths.results={tmp_path}", "method=[gradcam]", "device=cpu"]
        overrides += ["evaluator=[localization]", f"evaluator.localization.threshold={threshold}"]
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            run(compose("run", overrides))
    long = collect(tmp_path)
    assert set(long["evaluator"]) == {"localization (threshold=0.1)", "localization (threshold=0.3)"}
    assert set(long["evaluator_name"]) == {"localization"}
    assert len(tables(long)) == 2


def test_long_parameters_tell_apart_too(tmp_path: Path) -> None:
    for mean in ("[0.5000001,0.5,0.5]", "[0.5000001,0.5,0.4]"):
        overrides = ["dataset.count=3", "workers=0", f"paths.results={tmp_path}", "method=[random]", "device=cpu"]
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            run(compose("run", [*overrides, "evaluator=[proposals]", f"model.preprocess.mean={mean}"]))
    assert len(set(collect(tmp_path)["network"])) == 2
    assert len(tables(collect(tmp_path))[0].frame) == 2
    three = [
        {
            "dataset": "d",
            "group": "g",
            "network": "n",
            "method": "m",
            "evaluator": "e",
            "unsupported": "",
            "identity": {"method": {}, "evaluator": {}, "network": {"classes": classes, "sha256": classes * 20}},
        }
        for classes in ("imagenet", "voc", "coco")
    ]
    _tell_apart(three)  # a checksum that does not distinguish results is left out
    assert [r["network"] for r in three] == ["n (classes=imagenet)", "n (classes=voc)", "n (classes=coco)"]


@pytest.mark.parametrize(("files", "names"), [("a", ["m", "m"]), ("ab", ["m (file=a)", "m (file=b)", "m"])])
def test_what_could_not_run_is_no_variant(files: str, names: list[str]) -> None:
    def made(network: str, file: str | None, unsupported: str) -> dict[str, Any]:
        identity = {"method": {"parameters": {"file": file}}, "evaluator": {}, "network": {"name": network}}
        of = {"dataset": "d", "group": "g", "network": network, "method": "m", "evaluator": "e"}
        return {**of, "unsupported": unsupported, "identity": identity}

    results = [*(made(file, file, "") for file in files), made("none", None, "no fitted weights")]
    _tell_apart(results)
    assert [result["method"] for result in results] == names


def test_results_that_were_all_left_out_make_a_table_that_says_so(tmp_path: Path) -> None:
    overrides = ["model=scenes_vgg", "dataset.count=3", "workers=0", f"paths.results={tmp_path}", "method=[cam]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", [*overrides, "on_unsupported=skip", "device=cpu", "evaluator=[localization]"]))
    (table,) = tables(collect(tmp_path))
    assert "not run, CAM needs" in render(table, "terminal")


def test_the_command_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        out, err = capsys.readouterr()
        return status, out, err

    assert call("table", "--results", str(results), "--out", str(tmp_path))[0] == 0
    csv = pd.read_csv(tmp_path / "tables.csv", comment="#")
    assert len(csv) == len(collect(results))
    assert (tmp_path / "tables.md").read_text().startswith("<!-- command: ")
    assert r"\toprule" in (tmp_path / "tables.tex").read_text()
    status, out, _ = call("table", "--results", str(results), "--format", "csv", "--method", "gradcam")
    assert status == 0
    assert out.splitlines()[0].startswith("dataset,part,pictures,network,method")
    status, _, err = call("table", "--results", str(results), "--method", "gradcan")
    assert status == 2
    assert "gradcan: no results" in err
    assert "eigencam, gradcam" in err
    assert "no result has the metrics iou" in call("table", "--results", str(results), "--metrics", "iou")[2]
    assert "no complete results there" in call("table", "--results", str(tmp_path / "none"))[2]
    assert "56.51" in call("table", "--results", str(results), "--paper", "gradcam2017")[1]

    status, out, _ = call("status", "--results", str(results))
    assert status == 0
    assert "left out" in out
    status, out, _ = call("status", "--results", str(results), "--json")
    states = json.loads(out)
    assert {s["state"] for s in states} == {"done", "left out"}
    assert {s["method"] for s in states} == {"cam", "eigencam", "gradcam", "whole_picture"}


def test_status_shows_partial_and_failed_results(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = read_json(next(results.glob("*gradcam-localization*/identity.json")))
    for method in ("gradcam", "random"):
        unfinished = Result(tmp_path, ("scenes", identity["network"]["name"], method, "localization"), identity)
        unfinished.open("", ENVIRONMENT)
        if method == "random":
            unfinished.add([{"image": "a"}, {"image": "b"}])
            unfinished.flush()
        else:
            unfinished.fail(ValueError("boom\nmore"))
        unfinished.close()
    assert main(["status", "--results", str(tmp_path), "--json"]) == 1
    states = {s["method"]: s for s in json.loads(capsys.readouterr().out)}
    assert (states["random"]["state"], states["random"]["rows"]) == ("partial", 2)
    assert (states["gradcam"]["state"], states["gradcam"]["error"]) == ("failed", "boom")


def test_help_everywhere_and_wrong_words_name_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], *([name, "--help"] for name in SUBCOMMANDS if name not in ("run", "fit"))):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 0
        assert "usage: eigencam" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tabel"])
    assert "choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("eigencam 0.")
    with pytest.raises(SystemExit):
        main(["table", "--metrik", "iou"])
    error = capsys.readouterr().err
    assert "unrecognized arguments: --metrik" in error
    assert "[--metrics NAME" in error


def test_a_footnote_on_origins_names_what_differs_and_stays_short() -> None:
    packages = [tuple((f"p{k:02d}", "2" if k < 10 and m > 14 else "1") for k in range(60)) for m in range(30)]
    lines = {"network": "net", "method": [f"m{m:02d}" for m in range(30)], "folder": [str(m) for m in range(30)]}
    part = pd.DataFrame({**lines, "commits": [("a" * 40 if m else "b" * 40,) for m in range(30)], "packages": packages})
    commits, versions = _origins(part)
    assert commits == (
        "made by different commits: bbbbbbbbbb (net/m00), aaaaaaaaaa (net/m01, net/m02, net/m03, net/m04, and 25 more)"
    )
    assert versions == (
        "made with different versions, and 6 more packages: p00 1, p01 1, p02 1, p03 1 (net/m00, net/m01, net/m02, "
        "net/m03, and 11 more); p00 2, p01 2, p02 2, p03 2 (net/m15, net/m16, net/m17, net/m18, and 11 more)"
    )
    assert _origins(part.iloc[1:2]) == []


@pytest.mark.parametrize("width", [80, 60, 45])
def test_a_list_fits_into_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = ("dataset", "network", "method", "rows", "error")
    lines = [("folder", "efficientnet_lite0", "gradcampp", 48, "a long reason, " * 8), ("voc", "vgg16", "cam", 7, "")]
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = listed(lines, heads)
    assert len(whole.splitlines()[2]) > 120
    monkeypatch.setenv("COLUMNS", str(width))
    shown = listed(lines, heads)
    assert max(map(len, shown.splitlines())) <= width
    assert ("…" in shown) == (width == 80)
    assert ("not shown, the terminal is" in shown) == (width < 80)
    assert re.search(r" 48\b.*\n.*  7\b", shown) or width == 45  # numbers are aligned on the right
    assert listed([], heads).splitlines()[0].split() == list(heads)[: len(listed([], heads).splitlines()[0].split())]


def test_a_terminal_too_narrow_for_an_interval_shows_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"top1 %": ["75.0 [61.2, 85.1]"], "mean_iou %": ["57.5 [50.5, 63.9]"]}
    frame = pd.DataFrame({"network": ["efficientnet_lite0"], "method": ["gradcam"], **cells})
    table = Table("data", frame, pd.DataFrame(False, frame.index, list(cells)), [])
    for width, number in ((60, "75.0 [61.2, 85.1]"), (44, "75.0")):
        monkeypatch.setenv("COLUMNS", str(width))
        text = render(table, "terminal")
        assert max(map(len, text.splitlines())) <= width
        assert text.splitlines()[4].endswith(number)
        assert "mean_iou %" in text.partition("not shown")[2]
    assert "intervals" in text


def test_a_long_line_is_continued_with_an_indent(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"  command: {'eigencam run ' * 10}\n\nnext"
    monkeypatch.delenv("COLUMNS", raising=False)
    assert wrapped(text) == text
    monkeypatch.setenv("COLUMNS", "60")
    lines = wrapped(text).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1].startswith("      ")
    assert lines[-2:] == ["", "next"]


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_comparison_fits_into_the_terminal_with_its_differences(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    difference = Difference(0.55, 0.45, -0.1, -0.246, 0.124, 326, 3, 4, 0.0123, "mcnemar", 0.05)
    places = [
        Setting("voc2012", network, evaluator, "predicted", network)
        for network in ("efficientnet_lite0", "mobilenet_v2_tf")
        for evaluator in ("localization", "segmentation")
    ]
    lines = [
        Compared(place, "gt_known_error", "lower", "%", "eigencam", method, difference, 0.0456)
        for place in places
        for method in ("gradcampp", "eigencam_centered")
    ]
    monkeypatch.setenv("COLUMNS", str(width))
    shown = render(comparison_tables.table(lines, []), "terminal")
    assert max(map(len, shown.splitlines())) <= width
    assert [line for line in shown.splitlines() if line.startswith("-- ")] == [
        f"-- {place.network}, {place.evaluator}" for place in places
    ]
    assert shown.count("-10.0 [-24.6, +12.4]" if width > 60 else "-10.0") == 8
    assert shown.count("0.046") == 8
    left_out = " ".join(shown.partition("wide: ")[2].partition(";")[0].split()).split(", ")
    assert {"reference", "can show", "p"} <= set(left_out)
    assert ("n" in left_out) == ("intervals" in left_out) == (width == 60)
    monkeypatch.setenv("COLUMNS", "200")
    assert "not shown" not in (whole := render(comparison_tables.table(lines, []), "terminal"))
    assert whole.count("efficientnet_lite0  localization") == 1
