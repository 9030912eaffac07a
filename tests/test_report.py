"""`eigencam report`: the content of the page and the figures, without a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dataset_files import write_coco, write_cub
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf
from stored import restated

from eigencam.commands.main import main
from eigencam.evaluation import escaping, statistics
from eigencam.evaluation.base import Curve
from eigencam.reporting import curves, gallery, report
from eigencam.store.schema import Summary

RUN = ["dataset.count=24", "workers=0", "device=cpu", "batch_size=24", "timing=false"]
VOID = {"meta", "link", "img", "input", "br", "hr", "circle", "line", "path"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "runs"
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from eigencam.running.run import run

    GlobalHydra.instance().clear()
    chosen = ["method=[eigencam,gradcam,center_box,random]", "evaluator=[localization,segmentation]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", [*RUN[:-1], *chosen, f"paths.results={root}"]), say=lambda _line: None)
    return root


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    path = results.parent / "page.html"
    assert main(["report", "--results", str(results), "--out", str(path), "--images", "10"]) == 0
    return path


class Reader(HTMLParser):
    """Record open tags, and faults in their nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "a":
            self.links.append(given["href"] or "")
        self.outside += [v or "" for k, v in attrs if k in ("src", "href", "data", "action") and not _inside(v or "")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} at {self.getpos()}")


def _inside(address: str) -> bool:
    return address.startswith(("#", "data:"))


def parsed(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_is_whole_and_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    reader = parsed(text)
    assert reader.faults == []
    assert reader.open == []
    assert reader.outside == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert "url(" not in text
    assert "@import" not in text
    assert page.stat().st_size < 1e6


def test_the_numbers_are_those_of_the_results(page: Path, results: Path) -> None:
    text = page.read_text()
    for path in results.glob("*-localization-*/metrics.json"):
        (iou,) = [m for m in json.loads(path.read_text())["metrics"] if m["name"] == "mean_iou"]
        assert f"<b>{iou['value']:.1f}</b>" in text
        assert (iou["low"], iou["high"]) == (None, None)
    assert "no interval below 30 images" in text
    assert "scenes test: n = 24" in text
    commit = json.loads(next(results.glob("*/runs/*.json")).read_text())["git_commit"]
    assert commit[:12] in text


def test_scores_of_the_gallery_are_those_of_the_rows(page: Path, results: Path) -> None:
    shown = data_of(page.read_text())["sets"]["scenes test"]
    names = [m["name"] for m in shown["metrics"]]
    assert names[shown["main"]] == "localization mean_iou"
    assert names[shown["hit"]] == "localization gt_known_error"
    rows = pd.read_parquet(next(results.glob("*-eigencam-localization-*/rows.parquet"))).set_index("image")
    assert len(shown["images"]) == 10
    for image in shown["images"]:
        method = image["networks"]["scenes_resnet"]["methods"]["eigencam"]
        row = rows.loc[image["id"]]
        assert method["scores"][shown["main"]] == pytest.approx(100 * row["iou"], abs=0.006)
        assert method["scores"][shown["hit"]] == 100 * (row["iou"] < 0.5)
        assert method["boxes"] == [pytest.approx(row[["x1", "y1", "x2", "y2"]].tolist(), abs=0.06)]
        assert image["networks"]["scenes_resnet"]["right"] == (row["top5"][0] == row["label"])
        assert image["src"].startswith("data:image/webp;base64,")


@pytest.mark.full
def test_names_cannot_break_out_of_the_page(results: Path, tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="alert(1)">&amp;\u2028'
    copy = tmp_path / "runs"
    shutil.copytree(results, copy)
    for folder in list(copy.glob("*-eigencam-*")):
        (metric, *others) = Summary.read(folder / "metrics.json").metrics
        restated(folder, lambda _identity: None, metrics=({**metric, "note": evil}, *others))
    out = tmp_path / "page.html"
    assert main(["report", "--results", str(copy), "--out", str(out), "--no-images", "--title", evil]) == 0
    text = out.read_text()
    assert "<img src=x" not in text
    assert parsed(text).faults == []
    assert data_of(text)["sets"] == {}
    packed = escaping.script({"a": evil})
    assert not set("<>&\u2028") & set(packed)
    assert json.loads(packed) == {"a": evil}


@pytest.mark.full
def test_the_budget_drops_images_and_says_so(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", "--results", str(results), "--out", str(out), "--images", "10"]
    assert main([*arguments, "--max-mb", "0.1"]) == 0
    assert out.stat().st_size <= 100_000
    data = data_of(out.read_text())
    left = len(data["sets"]["scenes test"]["images"])
    assert 0 < left < 10
    assert data["dropped"] == 10 - left
    assert f"{10 - left} of 10 images left out" in capsys.readouterr().out
    assert main([*arguments, "--max-mb", "0.01"]) == 2
    assert "the page without images has" in capsys.readouterr().err


@pytest.mark.full
def test_what_is_not_there_any_more_is_said_and_the_numbers_stay(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", "--results", str(results), "--out", str(out), "--images", "4"]
    assert main([*arguments, "dataset.count=20"]) == 0
    assert "no images of scenes_resnet: the dataset is no longer that of the results" in capsys.readouterr().out
    assert "the dataset is no longer that of the results" in out.read_text()
    assert data_of(out.read_text())["sets"] == {}
    assert main([*arguments, "model.weights=/nowhere.pth"]) == 0
    assert "/nowhere.pth: no such file" in capsys.readouterr().out
    assert main([*arguments, "nonsense"]) == 2
    assert main([*arguments[:-1], "-1"]) == 2
    assert main(["report", "--results", str(tmp_path / "nowhere")]) == 2


@pytest.mark.full
def test_a_method_that_is_not_trusted_takes_no_other_s_images(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_energy.py").write_text(
        "def my_energy(forward, targets):\n    return forward.activations().sum(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    copy, out = tmp_path / "runs", tmp_path / "page.html"
    shutil.copytree(results, copy)
    own = "+method.my_energy={_target_: my_energy.my_energy, _partial_: true}"
    assert main(["run", *RUN, "method=[eigencam]", own, "evaluator=[localization]", f"paths.results={copy}"]) == 0
    arguments = ["report", "--results", str(copy), "--out", str(out), "--images", "2"]
    shown: list[set[str]] = []
    for trusted in ([], ["--trust", "my_energy"]):
        capsys.readouterr()
        assert main([*arguments, *trusted]) == 0
        said = capsys.readouterr().out
        assert ("no images of my_energy: config.yaml: _target_=my_energy.my_energy is not trusted" in said) != bool(
            trusted
        )
        image = data_of(out.read_text())["sets"]["scenes test"]["images"][0]
        shown.append(set(image["networks"]["scenes_resnet"]["methods"]))
    assert shown == [{"eigencam", "gradcam", "center_box", "random"}, {*shown[0], "my_energy"}]


@pytest.mark.full
def test_datasets_that_have_moved_are_found_by_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"cub": write_cub(tmp_path / "cub"), "coco": write_coco(tmp_path / "coco")}
    runs, out = tmp_path / "runs", tmp_path / "page.html"
    for name, folder in old.items():
        chosen = [f"dataset={name}", f"paths.{name}={folder}", "method=[eigencam]", "evaluator=[localization]"]
        assert main(["run", *RUN[1:], *chosen, "target=predicted", f"paths.results={runs}"]) == 0
    now = {name: folder.rename(tmp_path / f"{name} of today") for name, folder in old.items()}
    arguments = ["report", "--results", str(runs), "--out", str(out)]
    assert main(arguments) == 0
    assert data_of(out.read_text())["sets"] == {}
    assert main([*arguments, *(f"paths.{name}={folder}" for name, folder in now.items())]) == 0
    assert len(data_of(out.read_text())["sets"]) == 2


def test_a_folder_of_a_class_space_s_name_moves_alone() -> None:
    said = {"paths": {"coco": "coco"}, "dataset": {"root": "coco", "list": "coco/a.txt"}, "model": {"classes": "coco"}}
    made = gallery._changed(OmegaConf.create(said), ["paths.coco=/now"])
    assert made.dataset == {"root": "/now", "list": "/now/a.txt"}
    assert made.model.classes == "coco"
    with pytest.raises(ValueError, match=r"paths=3; allowed: paths.NAME=FOLDER"):
        gallery._changed(OmegaConf.create(said), ["paths=3"])


@pytest.mark.full
@pytest.mark.parametrize("kind", curves.KINDS)
def test_figures_are_the_same_bytes_each_time(results: Path, tmp_path: Path, kind: str) -> None:
    arguments = ["report", "--results", str(results), "--out", str(tmp_path / "p.html"), "--no-images"]
    for folder in ("a", "b"):
        assert main([*arguments, "--figures", str(tmp_path / folder), "--figure-format", kind]) == 0
    first = sorted((tmp_path / "a").iterdir())
    assert [p.name for p in first] == [
        f"scenes_test-scenes_resnet-{name}.{kind}"
        for name in (
            "localization-localized_against_overlap",
            "segmentation-foreground_IoU_against_threshold",
            "segmentation-precision_against_recall",
        )
    ]
    assert all(p.read_bytes() == (tmp_path / "b" / p.name).read_bytes() for p in first)


def test_items_are_won_lost_and_spread() -> None:
    index = pd.MultiIndex.from_tuples([(f"p{k}", 0) for k in range(20)], names=["image", "label"])
    scores = gallery.Scores(better={"loc mean_iou": "higher", "loc box_error": "lower"})
    a, b = np.linspace(0, 100, 20), np.full(20, 50.0)
    for method, values in (("a", a), ("b", b)):
        hits = pd.Series(np.where(values < 50, 100.0, 0.0), index)
        scores.graded["net", method] = {"loc mean_iou": pd.Series(values, index), "loc box_error": hits}
    scores.right["net"] = pd.Series([k != 7 for k in range(20)], index)
    scores.hits["loc box_error"] = "method"
    assert (scores.main, scores.hit) == ("loc mean_iou", "loc box_error")
    chosen = [image for image, _ in gallery.choose(scores, 5)]
    # The largest win and loss of `a` (which are the loss and win of `b`), the first of the even spread, the wrong one.
    assert chosen[:4] == ["p19", "p0", "p2", "p7"]
    assert len(set(chosen)) == 5
    assert len(gallery.choose(scores, 100)) == 20
    known = gallery.Scores(items=index.tolist())
    assert [image for image, _ in gallery.choose(known, 4)] == ["p2", "p7", "p12", "p17"]
    assert gallery.choose(gallery.Scores(), 5) == []


def test_rows_that_an_evaluator_leaves_out_have_no_score() -> None:
    rows = pd.DataFrame({"image": list("abcd"), "label": 0, "iou": [0.1, np.nan, 0.3, np.nan], "x": 1.0})
    told = statistics.mean("mean_iou", [0.1, 0.3])
    [metric] = statistics.of_rows([told], rows["iou"].notna())
    np.testing.assert_allclose(gallery.of_images(metric, rows), [10, np.nan, 30, np.nan])  # type: ignore[arg-type]
    assert gallery.of_images(told, rows) is None  # the page does not say which two were left out
    assert gallery.of_images(statistics.undefined("m", 0, ""), rows) is None


def test_a_table_cell_knows_its_number_and_where_it_lies() -> None:
    cells = report._spans([report._cell(text) for text in ("20.0 [10.0, 30.0]", "-", "60.0 [50.0, 110.0]", "1.00")])
    assert [c.order for c in cells] == [20, None, 60, 1]
    assert [c.span for c in cells] == [(0, 10, 20), None, (40, 50, 100), None]
    assert [c.interval for c in cells] == ["[10.0, 30.0]", "", "[50.0, 110.0]", ""]


def test_a_thinned_line_is_nowhere_off_by_more_than_said() -> None:
    x = np.linspace(0, 300, 256)
    line = np.stack([x, 80 + 60 * np.sin(x / 40)], axis=1)
    thin = curves.thinned(line)
    assert 5 < len(thin) < 80
    assert np.abs(np.interp(x, thin[:, 0], thin[:, 1]) - line[:, 1]).max() < 0.5
    flat = np.stack([x, np.full_like(x, 3)], axis=1)
    assert curves.thinned(flat).tolist() == [[0, 3], [300, 3]]
    one = np.zeros((1, 2))
    assert curves.thinned(one).tolist() == [[0, 0]]


def test_a_plot_reaches_above_its_lines_and_logs_its_boxes() -> None:
    xs = np.array([1.0, 10, 100])
    curve = Curve("n", "boxes", "recall %", xs, np.array([1.0, 20, 41]), log=True)
    plot = curves.Plot("d", "n", "e", "n", {"m": curve})
    assert curves.top(plot) == 60
    np.testing.assert_allclose(curves.place(curve, xs, curve.ys, (200, 60), 60), [[0, 59], [100, 40], [200, 19]])
    assert report._ticks(curve) == [1, 10, 100]


def test_ticks_are_those_of_matplotlib() -> None:
    rng = np.random.default_rng(0)
    ends = [(0.0, 1.0), (0.0, 100.0), (3.4, 96.5), (0.5, 1.0), *rng.uniform(0, 200, (200, 2)).tolist()]
    for low, high in map(sorted, ends):
        theirs = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        inside = [tick for tick in theirs if low - 1e-9 <= tick <= high + 1e-9]
        curve = Curve("a", "x", "y", np.array([low, high]), np.zeros(2))
        assert report._ticks(curve) == pytest.approx(inside, abs=1e-9)
    assert report._ticks(Curve("a", "x", "y", np.full(2, 0.3), np.zeros(2))) == [0.3]
    flat = Curve("n", "x", "y", np.array([0.0, 1]), np.zeros(2))
    assert curves.top(curves.Plot("d", "n", "e", "n", {"m": flat})) == 20


def test_methods_have_styles_of_their_own() -> None:
    names = [f"m{k:02}" for k in range(25)]
    long = pd.DataFrame({"method": [*names, "random", "center"], "baseline": [False] * 25 + [True] * 2})
    look = curves.styles(long)
    assert len({(s.colour, s.dash) for s in look.values()}) == 27
    assert look["random"].colour == look["center"].colour == curves.GREY
