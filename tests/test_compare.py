"""`eigencam compare`: the numbers equal those computed from the rows by hand, for every form of a method."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored import reseal, rows_of

from eigencam.commands import main as cli
from eigencam.configuring import method_names
from eigencam.evaluation.paired import mcnemar, sign_flips

SMALL = ["dataset.count=12", "workers=0", "device=cpu", "batch_size=12"]
MINE = "def mine(forward, targets):\n    return forward.activations().clamp(min=0).square().sum(1)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eigencam.running.batch_pass.TIMED_BATCHES", 0)
    return tmp_path


def compare(*arguments: str) -> int:
    return cli.main(["compare", *arguments, *SMALL, "--results", "runs"])


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert compare(*arguments, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "eigencam", "gradcam", "random", "--evaluator", "localization")
    assert {c["reference"] for c in found["comparisons"]} == {"eigencam"}
    rows = {m: pd.read_parquet(next(here.glob(f"runs/*-{m}-*/rows.parquet"))) for m in ("eigencam", "random")}
    a, b = (rows[m]["iou"].to_numpy() for m in ("eigencam", "random"))
    (iou,) = [c for c in found["comparisons"] if (c["metric"], c["method"]) == ("mean_iou", "random")]
    assert iou["value"] == pytest.approx((b - a).mean())
    assert iou["p"] == pytest.approx(sign_flips(b - a))
    assert iou["n"] == 12
    (error,) = [c for c in found["comparisons"] if (c["metric"], c["method"]) == ("gt_known_error", "random")]
    worse, better = ((b < 0.5) & (a >= 0.5)).sum(), ((b >= 0.5) & (a < 0.5)).sum()
    assert (error["larger"], error["smaller"]) == (worse, better)
    assert error["p"] == pytest.approx(mcnemar(int(worse), int(better)))
    assert all(c["holm"] >= c["p"] for c in found["comparisons"])


@pytest.mark.full
def test_a_method_that_fails_is_left_out_and_the_others_are_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "raising.py").write_text("def raising(forward, targets):\n    raise RuntimeError('why')\n")
    capsys.readouterr()
    asked = ["eigencam", "raising.py", "gradcam", "--evaluator", "localization", "--format", "json"]
    assert compare(*asked) == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert {line["method"] for line in found["comparisons"]} == {"gradcam"}
    assert [note for note in found["notes"] if "failed, left out: method raising: RuntimeError: why" in note]
    assert "RuntimeError: why" in said.err
    assert "Traceback" not in said.err


@pytest.mark.full
def test_rows_that_one_of_the_two_has_no_value_in_count_for_neither(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--evaluator", "randomization", "--metrics", "rank_last", "target=each"]
    (found,) = as_json(capsys, "eigencam", "gradcam", *asked)["comparisons"]
    rows = {m: pd.read_parquet(next(here.glob(f"runs/*-{m}-*/rows.parquet"))) for m in ("eigencam", "gradcam")}
    a, b = (np.stack(rows[m]["rank"].tolist())[:, -1] for m in ("eigencam", "gradcam"))
    both = ~np.isnan(a + b)
    assert not both.all()  # some maps of Grad-CAM are constant
    assert not np.isnan(a).any()
    assert (found["a"], found["b"]) == pytest.approx((a[both].mean(), b[both].mean()))
    assert found["n"] == rows["eigencam"].loc[both, "image"].nunique()


@pytest.mark.full
def test_the_classes_of_an_image_are_compared_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "eigencam", "gradcam", "--evaluator", "localization", "target=each")
    a, b = (
        pd.read_parquet(next(here.glob(f"runs/*-{m}-*/rows.parquet"))).set_index(["image", "label"])
        for m in ("eigencam", "gradcam")
    )
    change = b["iou"] - a["iou"]
    assert len(change) > 12
    by_metric = {c["metric"]: c for c in found["comparisons"]}
    iou, error = by_metric["mean_iou"], by_metric["gt_known_error"]
    assert (iou["n"], error["n"], error["test"]) == (12, 12, "sign flips")
    assert iou["value"] == pytest.approx(change.mean())
    assert iou["p"] == pytest.approx(sign_flips(change.groupby("image").sum()))
    wrong = (b["iou"] < 0.5).astype(float) - (a["iou"] < 0.5)
    assert error["p"] == pytest.approx(sign_flips(wrong.groupby("image").sum()))


@pytest.mark.full
def test_nothing_is_run_with_no_run_and_nothing_twice(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare("eigencam", "gradcam", "--no-run", "--evaluator", "localization") == 2
    assert "without --no-run" in capsys.readouterr().err
    assert compare("eigencam", "gradcam", "--evaluator", "localization") == 0
    monkeypatch.setattr("eigencam.running.batch_pass.compute_maps", None)
    assert compare("eigencam", "gradcam", "--no-run", "--evaluator", "localization") == 0
    assert compare("gradcam", "eigencam", "--evaluator", "localization") == 0
    capsys.readouterr()
    code = """
import sys
from eigencam.commands.main import main

assert main(sys.argv[1:]) == 0
assert "torch" not in sys.modules
"""
    asked = ["compare", "eigencam", "gradcam", "--no-run", "--evaluator", "localization", *SMALL, "--results", "runs"]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert compare("eigencam", "gradcam", "--no-run", "--evaluator", "localization", "target=predicted") == 2
    assert "without --no-run" in capsys.readouterr().err


@pytest.mark.full
def test_only_images_that_both_have_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ("eigencam", "gradcam", "--evaluator", "localization,segmentation")
    assert compare(*pair) == 0
    for folder in here.glob("runs/*-gradcam-*"):
        reseal(folder, rows_of(folder).iloc[3:].iloc[::-1])
    found = as_json(capsys, *pair, "--no-run")
    assert {c["n"] for c in found["comparisons"]} == {9}
    rows = [pd.read_parquet(next(here.glob(f"runs/*-{m}-loc*/rows.parquet"))).set_index("image") for m in pair[:2]]
    change = (rows[1]["iou"] - rows[0]["iou"]).dropna()
    (iou,) = [c for c in found["comparisons"] if c["metric"] == "mean_iou"]
    assert iou["value"] == pytest.approx(change.mean())


@pytest.mark.full
def test_a_method_may_come_as_a_file_a_config_or_a_dotted_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(MINE)
    (here / "listed.yaml").write_text("listed:\n  _target_: mine.mine\n  _partial_: true\n")
    found = as_json(capsys, "eigencam", "mine.py", "listed.yaml", "--evaluator", "localization")
    by_method = {m: [c["value"] for c in found["comparisons"] if c["method"] == m] for m in ("mine", "listed")}
    assert by_method["mine"] == by_method["listed"]
    assert any(by_method["mine"])
    identity = json.loads(next(here.glob("runs/*-mine-*/identity.json")).read_text())
    assert (identity["method"]["target"], len(identity["method"]["source"])) == ("mine.mine", 64)
    assert method_names.node("mine.mine") == {"mine": {"_target_": "mine.mine", "_partial_": True}}


def test_an_option_is_one_also_beside_a_folder_of_its_name(here: Path) -> None:
    (here / "eigencam").mkdir()
    (here / "out/maps").mkdir(parents=True)
    np.save(here / "out/maps/a.npy", np.ones((2, 2)))
    options, nodes, order = method_names.split(["eigencam", "torchcam/gradcam", "out/maps"])
    assert (options, list(nodes), order) == (
        ["eigencam", "torchcam/gradcam"],
        ["maps"],
        ["eigencam", "gradcam", "maps"],
    )


def test_a_file_with_the_name_of_another_module_is_refused(here: Path) -> None:
    (here / "random.py").write_text("def random(forward, targets):\n    return None\n")
    with pytest.raises(ValueError, match="another module is called random"):
        method_names.node("random.py")


@pytest.mark.full
def test_a_file_without_the_method_tells_what_it_has(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "file_of_norm.py").write_text("def norm(forward, targets):\n    return forward.activations().sum(1)\n")
    assert compare("eigencam", "file_of_norm.py") == 2
    expected = "method file_of_norm.py: no file_of_norm in it; it has norm: file_of_norm.py:norm"
    assert capfd.readouterr().err == f"eigencam: {expected}\n"
    assert compare("eigencam", "nowhere_at_all.norm") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.full
def test_pairs_without_a_common_image_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("eigencam", "gradcam", "random", "--evaluator", "localization") == 0
    for folder in here.glob("runs/*-gradcam-*"):
        rows = rows_of(folder)
        reseal(folder, rows.assign(image=rows["image"] + "x"))
    found = as_json(capsys, "eigencam", "gradcam", "random", "--no-run", "--evaluator", "localization")
    assert {c["method"] for c in found["comparisons"]} == {"random"}
    assert found["notes"] == ["localization: eigencam and gradcam have no image in common"]


@pytest.mark.full
def test_a_method_may_come_as_maps_or_boxes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("eigencam", "whole_picture", "--evaluator", "localization") == 0
    rows = pd.read_parquet(next(here.glob("runs/*-eigencam-*/rows.parquet")))
    (here / "theirs").mkdir()
    results = []
    for i, row in enumerate(rows.to_dict("records")):
        np.save(here / f"theirs/{row['image']}.npy", np.ones((4, 4)))
        xywh = [row["x1"], row["y1"], row["x2"] - row["x1"] + 1, row["y2"] - row["y1"] + 1]
        results.append({"image_id": row["image"], "category_id": i, "bbox": xywh, "score": 1.0})
    (here / "theirs.json").write_text(json.dumps(results))
    (here / "kit.txt").write_text(
        "".join(f"1 {r['x1']} {r['y1']} {r['x2']} {r['y2']}\n" for r in rows.to_dict("records"))
    )
    found = as_json(capsys, "eigencam", "./theirs.json", "kit.txt", "--evaluator", "localization")
    # Boxes that are Eigen-CAM's own are not different from it.
    assert {c["method"] for c in found["comparisons"]} == {"theirs", "kit"}
    assert all(c["value"] == pytest.approx(0) and c["p"] == 1 for c in found["comparisons"])
    found = as_json(capsys, "whole_picture", "theirs/", "--evaluator", "localization")
    assert all(c["n"] == 12 for c in found["comparisons"])


@pytest.mark.full
def test_ranks_images_and_all_formats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["eigencam", "gradcam", "random"]
    models = ["--model", "scenes_resnet,scenes_vgg", "--evaluator", "localization"]
    assert compare(*methods, *models, "--all-pairs", "--out", "out") == 0
    written = {p.name for p in (here / "out").iterdir()}
    assert {f"compare.{s}" for s in ("md", "tex", "csv", "html", "json")} < written
    assert {f"ranks-localization-mean_iou.{s}" for s in ("svg", "pdf", "png")} < written
    content = json.loads((here / "out/compare.json").read_text())
    assert len({(c["reference"], c["method"]) for c in content["comparisons"]}) == 3
    assert all(r["blocks"] == 2 for r in content["ranks"])
    shown = pd.read_csv(here / "out/compare.csv", comment="#", nrows=len(content["comparisons"]))
    assert list(shown["metric"]) == [c["metric"] for c in content["comparisons"]]
    for style in ("markdown", "latex", "csv", "html"):
        assert compare(*methods, *models, "--no-run", "--format", style) == 0
        assert "mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eigencam"], "two methods or more"),
        (["eigencam", "eigencam"], "named twice: eigencam"),
        (["eigencam", "nowhere.py"], "nowhere.py: no such file"),
        (["eigencam", "no.module.mine"], "method no.module.mine:"),
        (["eigencam", "no_maps/"], "method no_maps/: no such folder"),
        (["eigencam", "gradcan"], "method is one of"),
        (
            ["eigencam", "gradcam", "--dataset", "voc2012_seg", "dataset.size=8"],
            "keys of dataset: _target_, root, year",
        ),
        (["eigencam", "gradcam", "--metrics", "mean_iou,nothing"], "--metrics nothing: unknown; allowed: all, "),
        (
            ["eigencam", "gradcam", "--metrics", "top1_cls_error", "model.classes=own", "target=predicted"],
            "not defined",
        ),
    ],
)
def test_faults_are_told(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert compare(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.full
def test_what_is_not_defined_for_one_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ("eigencam", "gradcam", "target=predicted", "--model", "scenes_vgg")
    found = as_json(capsys, *pair, "--evaluator", "localization", "--metrics", "all", "model.weights=null")
    assert any("gt_known_error of gradcam not defined" in note for note in found["notes"])
    assert "box_error" in {c["metric"] for c in found["comparisons"]}
