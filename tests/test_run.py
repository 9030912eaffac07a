"""The run loop: nothing is computed twice, faults are reported first, a killed run ends like an undisturbed one."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import BASE, config, tables

from eigencam.datasets.base import BadImageError
from eigencam.evaluation.tables import tables as eigencam_tables
from eigencam.reporting.collect import collect
from eigencam.running import run as run_module
from eigencam.running.run import run
from eigencam.store.records import Result


@pytest.mark.full
def test_a_methods_cost_is_measured_and_shown(tmp_path: Path) -> None:
    run(config(tmp_path, "method=[eigencam,gradcam]", "evaluator=[localization]"))
    environment = json.loads(next(tmp_path.glob("*/runs/*.json")).read_text())
    assert environment["batches"] == 2
    assert environment["cost"] > 1
    (table,) = eigencam_tables(collect(tmp_path))
    assert (table.frame["cost"].astype(float) >= 1).all()


@pytest.mark.full
def test_a_run_writes_rows_in_order_with_config_and_environment(tmp_path: Path) -> None:
    job = run(config(tmp_path))
    assert len(job.results) == 8 * 3
    for result in job.results.values():
        rows = result.rows()
        assert list(rows["image"]) == job.dataset.ids
        assert {p.name for p in result.folder.iterdir()} - {".lock", ".lock-finish"} == {
            "config.yaml", "curves.json", "runs", "identity.json", "metrics.json", "rows.parquet",
        }  # fmt: skip
        (file,) = (result.folder / "runs").iterdir()
        environment = json.loads(file.read_text())
        assert torch.__version__.startswith(environment["packages"]["torch"])
        assert json.loads((result.folder / "metrics.json").read_text())["n"] == 20


@pytest.mark.parametrize(("flush_s", "due"), [(10.0, 35.5), (60.0, 70.5), (0.0, 10.5)])
def test_writing_rows_takes_a_fiftieth_of_the_time_at_most(
    monkeypatch: pytest.MonkeyPatch, flush_s: float, due: float
) -> None:
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock))
    work: Any = SimpleNamespace(flush=lambda: None, job=SimpleNamespace(config=SimpleNamespace(flush_s=flush_s)))
    assert run_module._flushed(work) == due


def test_a_second_run_computes_nothing_and_one_more_method_only_that(tmp_path: Path, passes: list[list[str]]) -> None:
    run(config(tmp_path, "method=[eigencam,gradcam]"))
    assert passes == [["eigencam", "gradcam"]] * 3
    before = tables(tmp_path)
    passes.clear()
    run(config(tmp_path, "method=[eigencam,gradcam]", "batch_size=5", "workers=1"))
    assert not passes
    run(config(tmp_path, "method=[eigencam,gradcam,cam]"))
    assert passes == [["cam"]] * 3
    passes.clear()
    run(config(tmp_path, "method=[eigencam,gradcam,cam]", "evaluator=[localization,localization_cam]"))
    assert passes == [["eigencam", "gradcam", "cam"]] * 3
    assert before.items() <= tables(tmp_path).items()


@pytest.mark.full
def test_what_changes_a_number_is_identity_and_defaults_are_not_special(
    tmp_path: Path, passes: list[list[str]]
) -> None:
    run(config(tmp_path, "method=[eigencam]", "evaluator=[localization]"))
    passes.clear()
    run(config(tmp_path, "method=[eigencam]", "evaluator=[localization]", "~method.eigencam.clip"))
    assert not passes
    for change in (
        "method.eigencam.clip=true",
        "evaluator.localization.threshold=0.3",
        "model.layer=layer2",
        "model.preprocess.size=96",
        "+dataset.seed=1",
        "target=predicted",
        "dtype=bfloat16",
        "channels_last=true",
    ):
        passes.clear()
        run(config(tmp_path, "method=[eigencam]", "evaluator=[localization]", change))
        assert passes, change


@pytest.mark.full
def test_batch_size_changes_no_number_beyond_rounding(tmp_path: Path) -> None:
    runs = [run(config(tmp_path / str(size), f"batch_size={size}")) for size in (1, 20)]
    for key, result in runs[0].results.items():
        one, other = result.rows(), runs[1].results[key].rows()
        for column in ("iou", "fg_iou", "best"):
            if column in one:
                left = np.concatenate([np.atleast_1d(v) for v in one[column]]).astype(float)
                right = np.concatenate([np.atleast_1d(v) for v in other[column]]).astype(float)
                np.testing.assert_allclose(left, right, atol=0.02)


@pytest.mark.full
def test_channels_last_gives_the_same_maps_but_for_rounding(tmp_path: Path) -> None:
    options = ["dataset.count=6", "method=[eigencam,cam,gradcampp]", "evaluator=[localization]"]
    runs = [run(config(tmp_path / kind, *options, f"channels_last={kind}")) for kind in ("true", "false")]
    for key, result in runs[0].results.items():
        np.testing.assert_allclose(result.rows()["iou"], runs[1].results[key].rows()["iou"], atol=0.02)


@pytest.mark.full
def test_without_timing_no_cost_is_noted(tmp_path: Path) -> None:
    run(config(tmp_path, "dataset.count=6", "method=[cam]", "evaluator=[localization]", "timing=false"))
    environment = json.loads(next(tmp_path.glob("*/runs/*.json")).read_text())
    assert "cost" not in environment


def test_faults_are_told_all_at_once_before_anything_is_computed(tmp_path: Path) -> None:
    overrides = ["+methdo=1", "dtype=float8", "batch_size=0", "target=top1", "device=tpu"]
    with pytest.raises(ValueError, match="methdo: unknown key; allowed: batch_size") as caught:
        run(config(tmp_path, *overrides))
    text = str(caught.value)
    for part in (
        "dtype=float8; allowed: float32",
        "batch_size=0",
        "target=top1; allowed: ground_truth, predicted",
        "tpu",
    ):
        assert part in text
    overrides = ["+method.cam.kk=2", "method.eigencam.sign=up", "evaluator.localization.iou=2", "dataset.count=0"]
    with pytest.raises(ValueError, match=r"method\.cam\.kk: unknown; .* takes: layer") as caught:
        run(config(tmp_path, *overrides, "model.weights=/nowhere.pth", "+model.lair=3"))
    text = str(caught.value)
    for part in (
        "sign='up'; allowed: sum",
        "iou 2",
        "count=0",
        "/nowhere.pth: no such file",
        "model.lair: unknown key",
    ):
        assert part in text
    with pytest.raises(ValueError, match=r"method\.gradcam\.layer.*near matches: layer3"):
        run(config(tmp_path, "+method.gradcam.layer=layer9"))
    assert not list(tmp_path.glob("*/parts"))


@pytest.mark.full
def test_a_method_that_cannot_run_says_why_before_the_run_or_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method\.cam: CAM needs global average pooling.*on_unsupported=skip"):
        run(config(tmp_path, "model=scenes_vgg"))
    said: list[str] = []
    options = ["model=scenes_vgg", "on_unsupported=skip", "method=[cam,lcam_fm,random]"]
    job = run(config(tmp_path, *options), say=said.append)
    assert job.unsupported.keys() == {"cam", "lcam_fm"}
    assert any("cam left out: CAM needs" in line for line in said)
    summary = json.loads((job.results["cam", "localization"].folder / "metrics.json").read_text())
    assert "global average pooling" in summary["unsupported"]
    summary = json.loads((job.results["lcam_fm", "localization"].folder / "metrics.json").read_text())
    assert summary["unsupported"].startswith("no fitted weights (fitted/lcam_fm-scenes_vgg.safetensors, eigencam:")
    with pytest.raises(ValueError, match="has no classifier"):
        run(config(tmp_path, "model.classes=null"))


@pytest.mark.full
def test_classes_of_another_kind_need_the_predicted_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"target=ground_truth: .*\(scenes\) are not those of .*\(imagenet\).*gradcam"):
        run(config(tmp_path, "model.classes=imagenet", "method=[eigencam,gradcam]"))
    job = run(config(tmp_path, "model.classes=imagenet", "method=[eigencam,gradcam]", "target=predicted"))
    rows = job.results["gradcam", "localization"].rows()
    assert (rows["target"] == -1).all()
    assert all(len(top) == 0 for top in rows["top5"])


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    """A tiny ILSVRC tree: 6 images, one of them truncated."""
    root = tmp_path / "ILSVRC"
    (root / "val").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["ImageId,PredictionString"]
    for k in range(1, 7):
        name = f"ILSVRC2012_val_{k:08d}"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(root / "val" / f"{name}.JPEG", quality=95)
        lines.append(f"{name},n{k - 1:08d} 10 10 60 50 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    wnids = [f"n{k:08d} thing {k}" for k in range(1000)]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(wnids) + "\n")
    broken = root / "val" / "ILSVRC2012_val_00000003.JPEG"
    broken.write_bytes(broken.read_bytes()[:1500])
    return root


@pytest.mark.full
def test_a_broken_image_is_named_counted_and_left_out_or_stops_the_run(tmp_path: Path, ilsvrc: Path) -> None:
    overrides = [
        "dataset=ilsvrc",
        "dataset.count=null",
        f"paths.ilsvrc={ilsvrc}",
        "target=predicted",
        "batch_size=2",
    ]
    overrides += ["method=[eigencam,random]", "evaluator=[localization]"]
    said: list[str] = []
    job = run(config(tmp_path / "r", *overrides), say=said.append)
    assert any("ILSVRC2012_val_00000003.JPEG" in line for line in said)
    result = job.results["eigencam", "localization"]
    summary = json.loads((result.folder / "metrics.json").read_text())
    assert summary["n"] == 5
    assert list(summary["bad_images"]) == ["ILSVRC2012_val_00000003"]
    assert [image[-1] for image in result.rows()["image"]] == ["1", "2", "4", "5", "6"]
    with pytest.raises(ValueError, match=r"lack images that could not be decoded:\n.*00000003"):
        run(config(tmp_path / "r", *overrides, "on_bad_image=fail"))
    with pytest.raises(BadImageError, match="00000003"):
        run(config(tmp_path / "s", *overrides, "on_bad_image=fail"))
    failed = next((tmp_path / "s").glob("*eigencam*"))
    assert "00000003" in json.loads((failed / "error.json").read_text())["error"]
    run(config(tmp_path / "s", *overrides))
    assert not (failed / "error.json").exists()


def test_two_runs_do_not_write_the_same_result(tmp_path: Path) -> None:
    job = run(config(tmp_path, "method=[random]", "evaluator=[localization]"))
    result = next(iter(job.results.values()))
    held = Result(tmp_path, ("a", "b", "c", "d"), {"x": 1})
    held.open("", {})
    with pytest.raises(ValueError, match="another run is writing"):
        Result(tmp_path, ("a", "b", "c", "d"), {"x": 1}).open("", {})
    held.close()
    assert result.complete


@pytest.mark.full
def test_five_times_killed_a_run_ends_in_the_identical_table(tmp_path: Path) -> None:
    options = [*BASE, "dataset.count=96", "flush_s=0", "method=[eigencam,gradcam,random]"]
    run(config(tmp_path / "undisturbed", *options))
    command = [sys.executable, "-m", "eigencam", "run", *options, f"paths.results={tmp_path / 'killed'}"]
    rng = random.Random(0)
    kills = 0
    for part in range(1, 40):
        there = set((tmp_path / "killed").glob("*/parts/*.parquet"))
        seen, wanted = set(there), len(there) + rng.randint(1, 18)  # for 9 results x 12 batches; parts are merged
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(seen) < wanted:
            seen |= set((tmp_path / "killed").glob("*/parts/*.parquet"))
            time.sleep(0.001)
        if process.poll() is None and kills < 5:
            process.send_signal(signal.SIGKILL)
            kills += 1
            process.wait()
            assert tables(tmp_path / "killed") != tables(tmp_path / "undisturbed")
        elif process.wait() == 0:
            break
        assert part < 39
    assert kills == 5
    assert tables(tmp_path / "killed") == tables(tmp_path / "undisturbed")


@pytest.mark.full
def test_outputs_that_are_not_the_classes_said_are_refused_before_the_run(tmp_path: Path, ilsvrc: Path) -> None:
    with pytest.raises(ValueError, match=r"scenes_resnet has 12 outputs, ilsvrc 1000 classes"):
        run(
            config(
                tmp_path / "r",
                "dataset=ilsvrc",
                "dataset.count=null",
                f"paths.ilsvrc={ilsvrc}",
                "model.classes=imagenet",
            )
        )
    with pytest.raises(ValueError, match=r"layer 'fc' \(12,\) is no map: it has no positions of the image left"):
        run(config(tmp_path / "r", "model.layer=fc", "method=[eigencam]"))
    with pytest.raises(ValueError, match=r"model\.name 'a/b': allowed in names"):
        run(config(tmp_path / "r", "model.name=a/b"))


@pytest.mark.full
def test_a_baseline_needs_no_class_of_the_networks(tmp_path: Path, ilsvrc: Path) -> None:
    overrides = ["dataset=ilsvrc", "dataset.count=null", f"paths.ilsvrc={ilsvrc}", "method=[center_box]"]
    assert run(config(tmp_path / "r", *overrides)).results["center_box", "localization"].complete


@pytest.mark.full
def test_rows_left_by_a_run_that_was_killed_while_finishing_do_not_win(tmp_path: Path) -> None:
    options = ["method=[random]", "evaluator=[localization]"]
    result = run(config(tmp_path, *options)).results["random", "localization"]
    expected = (result.folder / "metrics.json").read_text()
    rows = result.rows()
    (result.folder / "metrics.json").unlink()
    rows.assign(iou=1.0).to_parquet(result.folder / "rows.parquet")
    run(config(tmp_path, *options))
    assert (result.folder / "metrics.json").read_text() == expected


@pytest.mark.full
def test_a_left_out_method_is_tried_again_when_it_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["method=[cam]", "evaluator=[localization]", "on_unsupported=skip"]
    monkeypatch.setattr("eigencam.methods.cam.CAM.unsupported", lambda *_: "not today")
    job = run(config(tmp_path, *options))
    assert not job.results["cam", "localization"].complete
    monkeypatch.undo()
    assert run(config(tmp_path, *options)).results["cam", "localization"].complete


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_loader_processes_end_with_a_killed_run(tmp_path: Path) -> None:
    options = [
        *BASE[:1],
        "dataset.count=400",
        "workers=2",
        "batch_size=4",
        "flush_s=0",
        "method=[center_box]",
        "device=cpu",
    ]
    command = [sys.executable, "-m", "eigencam", "run", *options, f"paths.results={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("*/parts/*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
