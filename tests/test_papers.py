"""The papers' tables: layouts fit the published numbers and the configs; cells, differences and marks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from stored import restated

from eigencam.commands.main import main
from eigencam.configuring.compose import compose as composed
from eigencam.configuring.overrides import of_fit
from eigencam.evaluation.tables import FORMATS, render
from eigencam.fitting.wsol import NAMES
from eigencam.reporting.collect import collect
from eigencam.reporting.paper_layouts import Layout, LayoutColumn, layouts
from eigencam.reporting.paper_tables import paper_table, shown_beside
from eigencam.reporting.published import numbers, papers
from eigencam.running.run import run

ALL = [layout for paper in papers() for layout in layouts(paper)]


def ids(layout: Layout) -> str:
    return f"{layout.paper}-{layout.name}-{layout.dataset}"


def test_every_published_number_is_in_a_table() -> None:
    shown = {
        (layout.paper, layout.name, layout.dataset, column.published)
        for layout in ALL
        for column in layout.metrics.values()
    }
    published = numbers()
    there = set(published[["paper", "table", "dataset", "metric"]].itertuples(index=False, name=None))
    left = {key for key in there - shown if key[0] in papers()}
    # The Eigen-CAM paper states three gains in its text, not in a table; average drop in deletion has no evaluator.
    assert {key[:2] for key in left} <= {("eigencam2021", "claim"), ("shapleycam2025", "faithfulness")}
    assert {key[3] for key in left if key[0] == "shapleycam2025"} == {"average_drop_in_deletion"}
    # For these tables we have no network, dataset or method; timm's numbers are top-1 accuracies that runs are compared
    # with.
    assert set(published["paper"]) - set(papers()) == {"promptcam2025", "tcam2023", "timm2026", "tscam2021"}


@pytest.mark.parametrize("layout", ALL, ids=ids)
def test_a_layout_fits_the_numbers_and_its_experiment(layout: Layout) -> None:
    published = numbers()
    of = published[(published["paper"] == layout.paper) & (published["table"] == layout.name)]
    of = of[of["dataset"] == layout.dataset]
    assert set(of["model"]) <= set(layout.models)
    assert {model for model, _ in layout.rows} <= set(layout.models)
    assert len(of) or layout.rows
    assert of[["model", "method", "metric"]].duplicated().sum() == 0
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [f"experiment={layout.experiment}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    assert config.target == layout.ours["target"]
    assert config.dataset["_target_"]
    assert {column.evaluator for column in layout.metrics.values()} <= set(config.evaluator)
    networks = {name for about in layout.models.values() for name in about["networks"]}
    assert networks == {"any"} or networks.intersection(str(config.hydra.sweeper.params.model).split(","))
    methods = {layout.methods.get(m, m) for m in [*of["method"], *(m for _, m in layout.rows)]}
    assert methods.intersection(config.method)


LAYOUT = Layout(
    paper="p2020",
    address="https://example.org/p2020",
    name="localization",
    title="errors",
    dataset="ilsvrc_val",
    experiment="paper/p2020",
    ours={"dataset": "ilsvrc", "target": "ground_truth"},
    metrics={
        "top-1": LayoutColumn("loc", "localization", "top1_loc_error"),
        "cls": LayoutColumn("c", "localization", "cls"),
    },
    models={
        "GoogLeNet": {"networks": ["googlenet"], "differs": ""},
        "NIN": {"networks": [], "differs": "no weights"},
        "VGG": {"networks": ["vgg16"], "differs": "other weights"},
    },
    settings=("paths.ilsvrc=FOLDER",),
    images=50000,
    methods={"backprop": "gradient"},
    runs=("gradient", "cam"),
    rows=(("VGG", "cam"),),
    differs=("another box rule",),
)
SHARED = {"paper": "p2020", "table": "localization", "dataset": "ilsvrc_val"}
PUBLISHED = pd.DataFrame(
    [
        {**SHARED, "model": "GoogLeNet", "method": "backprop", "metric": "loc", "value": 0.6, "unit": "fraction"},
        {**SHARED, "model": "NIN", "method": "backprop", "metric": "loc", "value": 65.47, "unit": "%"},
        {**SHARED, "dataset": "other", "model": "X", "method": "backprop", "metric": "loc", "value": 1.0, "unit": "%"},
    ]
)


def result(network: str, method: str, value: float, n: int = 99, **changes: object) -> dict[str, object]:
    line = {"dataset_name": "ilsvrc", "target": "ground_truth", "evaluator_name": "localization", "part": "val"}
    line |= {"metric": "top1_loc_error", "network": network, "network_name": network, "method": method}
    line |= {"method_name": method.split(" ")[0], "value": value, "low": 60.0, "high": 63.0, "n": n, "pictures": n}
    return {**line, **changes}


def test_published_ours_difference_n_and_marks() -> None:
    long = pd.DataFrame(
        [
            result("googlenet", "gradient (layer=x)", 61.5),
            result("resnet50", "cam", 40.0, 80477, low=np.nan, pictures=50000),  # n may be objects
            result("googlenet", "gradient (layer=x)", 1.0, evaluator_name="localization_cam"),
            result("googlenet", "gradient (layer=x)", 2.0, target="predicted"),
            result("vgg16", "cam", np.nan),
        ]
    )
    table = paper_table(LAYOUT, PUBLISHED, long)
    lines = {(line["network"], line["method"]): line for line in table.frame.to_dict("records")}
    assert list(lines) == [("GoogLeNet", "backprop"), ("NIN", "backprop"), ("VGG", "cam"), ("", "")]
    first = lines["GoogLeNet", "backprop"]
    assert [first[f"top-1 {what}"] for what in ("published", "ours", "diff.")] == [
        "60.00",
        "61.50 [60.0, 63.0]",
        "+1.50",
    ]
    assert (first["ours of"], first["n"], first["differs"]) == ("googlenet, gradient (layer=x)", "99", "1, 2")
    assert [lines["NIN", "backprop"][k] for k in ("top-1 published", "top-1 ours", "n", "differs")] == [
        "65.47",
        "",
        "",
        "3",
    ]
    assert [lines["VGG", "cam"][k] for k in ("top-1 published", "top-1 ours", "differs")] == ["", "", "4, 5"]
    assert [lines["", ""][k] for k in ("top-1 ours", "ours of", "differs")] == ["40.00", "resnet50, cam", "2"]
    assert first["cls published"] == first["cls ours"] == ""
    notes = "\n".join(table.notes)
    assert "1: n: the paper has 50,000\n2: another box rule\n3: network: no weights\n4: network: other weights" in notes
    assert "5: not run yet: eigencam run experiment=paper/p2020 paths.ilsvrc=FOLDER model=vgg16" in notes
    assert "not readable in any source" in notes


def test_of_several_numbers_that_of_most_images_is_shown() -> None:
    long = pd.DataFrame([result("googlenet", "gradient", 1.0, 9), result("googlenet", "gradient", 2.0, 10)])
    for lines in (long, long[::-1]):
        table = paper_table(LAYOUT, PUBLISHED, lines)
        assert table.frame.loc[0, "n"] == "10"
        assert list(shown_beside(LAYOUT, lines)["value"]) == [2.0]
    assert shown_beside(LAYOUT, pd.DataFrame()).empty


def test_the_experiment_s_own_evaluator_comes_first_and_another_is_marked() -> None:
    own = result("googlenet", "gradient", 1.0, 9, parameters="")
    other = result("googlenet", "gradient", 2.0, 10, parameters="threshold=0.3")
    assert list(shown_beside(LAYOUT, pd.DataFrame([other, own]))["value"]) == [1.0]
    notes = {p: paper_table(LAYOUT, PUBLISHED, pd.DataFrame([line])).notes for p, line in ((0, own), (1, other))}
    assert not any("evaluator:" in note for note in notes[0])
    assert "2: evaluator: threshold=0.3" in notes[1]


def test_a_method_that_no_experiment_runs_is_not_promised() -> None:
    table = paper_table(replace(LAYOUT, runs=("cam",)), PUBLISHED, pd.DataFrame())
    assert "1: method: none of ours" in table.notes
    [stl, _] = layouts("stl2016")
    frame = paper_table(stl, numbers(), pd.DataFrame())
    marks = dict(zip(frame.frame["method"], frame.frame["differs"], strict=True))
    texts = dict(note.split(": ", 1) for note in frame.notes if note[0].isdigit())
    said = {method: [texts[mark] for mark in marks[method].split(", ")][-1] for method in marks}
    assert said["bing"] == said["mcg"] == "method: none of ours"
    assert said["stl_wl"].startswith("not run yet: eigencam run experiment=paper/stl2016_voc07")


def test_without_results_every_line_says_what_would_make_it() -> None:
    table = paper_table(LAYOUT, PUBLISHED, pd.DataFrame())
    assert (table.frame["top-1 ours"] == "").all()
    assert list(table.frame["differs"]) == ["1", "2", "3, 4"]
    assert "1: not run yet: eigencam run experiment=paper/p2020 paths.ilsvrc=FOLDER model=googlenet" in table.notes


def test_a_table_without_any_published_value_says_so() -> None:
    table = paper_table(LAYOUT, PUBLISHED[:0], pd.DataFrame())
    assert (table.frame["top-1 published"] == "").all()
    assert "the published values could not be read in any source: their cells are empty" in table.notes


@pytest.mark.parametrize("paper", papers())
def test_every_paper_prints_in_every_format(
    paper: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    out, none = tmp_path_factory.mktemp(paper), tmp_path_factory.mktemp("none")
    for style in FORMATS:
        assert main(["table", "--paper", paper, "--results", str(none), "--format", style, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"experiment=paper/{paper}" in printed
    assert {path.name for path in out.iterdir()} == {f"{paper}.{end}" for end in ("csv", "md", "tex", "html")}


@pytest.mark.full
def test_names_are_told_apart_among_what_a_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["workers=0", "device=cpu", "timing=false", "target=ground_truth", f"paths.results={tmp_path}"]
    shared = [*some, "method=[center_box]", "dataset.count=4"]
    for changes in (["evaluator=[localization]"], ["evaluator=[energy]", "model.preprocess.size=96"]):
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            config = compose("run", [*shared, *changes])
        run(config, say=lambda _line: None)
    for folder in list(tmp_path.glob("*-*-*-*-*")):  # as if the scenes were ILSVRC
        restated(folder, lambda identity: identity["dataset"].update(name="ilsvrc"), dataset="ilsvrc")
    networks = set(collect(tmp_path)["network"])
    assert len(networks) == 2
    assert main(["table", "--paper", "gradcam2017", "--results", str(tmp_path)]) == 0
    assert "scenes_resnet, center_box" in capsys.readouterr().out
    for folder in list(tmp_path.glob("*-localization-*")):
        restated(folder, lambda identity: identity["evaluator"].update(parameters={"threshold": 0.2}))
    assert main(["table", "--paper", "gradcam2017", "--results", str(tmp_path)]) == 0
    assert "evaluator: threshold=0.2" in capsys.readouterr().out
    assert main(["table", "--paper", "gradcampp2018", "--results", str(tmp_path)]) == 0  # both lack an evaluator
    assert "center_box" not in capsys.readouterr().out


def test_html_is_escaped() -> None:
    text = render(paper_table(LAYOUT, PUBLISHED, pd.DataFrame([result("<b>", "cam", 1.0)])), "html")
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_an_unknown_paper_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--paper", "nobody"]) == 2
    assert "cam2016" in capsys.readouterr().err
    assert main(["table", "--paper", "cam2016", "--win", "--metrics", "win_50"]) == 2
    assert "--win, --metrics: not with --paper" in capsys.readouterr().err


TRAINED = {
    "fit": "eigencam fit fit=wsol dataset=cub",
    "methods": {
        "has": {"fitted": "HaS", "map": "cam", "settings": {"VGG": "model=wsol_vgg16 model.args.classes=200 fit.lr=1"}}
    },
}


def test_networks_that_the_paper_trains_have_a_command_where_their_setting_is_known() -> None:
    layout = replace(LAYOUT, training=TRAINED, rows=(("VGG", "has"), ("NIN", "has")))
    table = paper_table(layout, PUBLISHED, pd.DataFrame())
    marks = {(line["network"], line["method"]): line["differs"] for line in table.frame.to_dict("records")}
    notes = dict(note.split(": ", 1) for note in table.notes if note[0].isdigit())
    assert notes[marks["NIN", "has"]] == "setting not published"
    assert notes[marks["VGG", "has"]] == (
        "not run yet: eigencam fit fit=wsol dataset=cub model=wsol_vgg16 model.args.classes=200 fit.lr=1; "
        f"{layout.command} model=wsol_vgg16 model.args.classes=200 method=[cam] model.head=FILE"
    )


def test_only_a_network_trained_so_stands_beside_the_paper_s() -> None:
    layout = replace(LAYOUT, training=TRAINED, rows=(("VGG", "has"),))
    for fitted, beside in (("HaS", True), ("CAM", False), ("", False)):
        long = pd.DataFrame([result("wsol_vgg16", "cam", 1.0, 9, fitted=fitted)])
        frame = paper_table(layout, PUBLISHED, long).frame
        line = frame[(frame["network"] == "VGG") & (frame["method"] == "has")].iloc[0]
        assert (line["ours of"] != "") == beside
        assert (frame["ours of"] != "").sum() == 1


def test_every_published_row_has_a_command_or_says_that_its_setting_is_not_published() -> None:
    known = 0
    for layout in layouts("wsolevaluation2020"):
        lines = paper_table(layout, numbers(), pd.DataFrame())
        notes = dict(note.split(": ", 1) for note in lines.notes if note[0].isdigit())
        for line in lines.frame.to_dict("records"):
            if line["network"] in ("", "any"):
                continue
            (said,) = (notes[mark] for mark in line["differs"].split(", "))
            known += said.startswith("not run yet: eigencam fit fit=wsol ")
            assert said == "setting not published" or said.startswith("not run yet: eigencam fit fit=wsol ")
    assert known == 3 + 18 + 1


def test_the_commands_that_train_what_a_paper_trained_compose() -> None:
    for layout in layouts("wsolevaluation2020"):
        for method, about in layout.training["methods"].items():
            for settings in list(about["settings"].values())[:1]:
                words = f"{layout.training['fit']} {settings}".split()[2:]
                assert composed("fit", of_fit(words)).fit.method == method
                assert NAMES[method] == about["fitted"]
