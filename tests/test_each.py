"""`target=each`: one map and one row for every class among an image's objects, from one forward pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from eigencam.datasets.base import Truth
from eigencam.datasets.scenes import Scenes
from eigencam.evaluation import statistics
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pointing import Pointing
from eigencam.passes.forward import Forward
from eigencam.running.batch_maps import compute_maps
from eigencam.running.prepare import prepare
from eigencam.running.run import run


def config(results: Path, *overrides: str) -> DictConfig:
    base = ["dataset.count=6", "workers=0", "batch_size=4", "device=cpu", "target=each", f"paths.results={results}"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", [*base, *overrides])


@pytest.mark.parametrize(
    ("labels", "mask", "classes"),
    [
        ([4, 2, 4], None, [2, 4]),
        ([4], [[0, 1]], [4]),
        ([], [[0, 1], [255, 8]], [0, 7]),
        ([], [[0, 255]], []),
        ([], None, []),
    ],
)
def test_classes_are_those_of_the_boxes_else_of_the_mask(labels: list[int], mask: Any, classes: list[int]) -> None:
    pixels = None if mask is None else np.array(mask, np.uint8)
    boxes = np.zeros((len(labels), 4))
    difficult = np.ones(len(labels), bool)
    size = (2, 2) if pixels is None else pixels.shape
    assert Truth("a", size, 0, boxes, np.array(labels, np.int64), difficult, pixels).objects() == classes


def test_every_class_has_the_row_of_its_own_map(tmp_path: Path) -> None:
    methods = ["gradcam", "eigencam", "layercam"]
    chosen = [f"method=[{','.join(methods)}]", "evaluator=[pointing]"]
    job = run(config(tmp_path, *chosen))
    evaluator = Pointing()
    several = 0
    for method in methods:
        rows = job.results[method, "pointing"].rows()
        expected: list[tuple[str, int, float, float]] = []
        for i, image in enumerate(job.dataset.ids):
            truth = job.dataset.truth(i)
            pixels, region = job.network.preprocess(job.dataset.image(i))
            several += len(truth.objects()) > 1
            for label in truth.objects():
                alone = compute_maps(
                    job.network,
                    {method: job.methods[method]},
                    torch.from_numpy(pixels)[None],
                    labels=[label],
                    index=[i],
                )
                row = evaluator.row(ScoreMap(alone.maps[method][0], truth.size, region), replace(truth, label=label))
                expected.append((image, label, row["x"], row["hit"]))
        assert list(zip(rows["image"], rows["label"], strict=True)) == [e[:2] for e in expected]
        np.testing.assert_allclose(rows[["x", "hit"]], [e[2:] for e in expected], atol=0.6)
        assert (rows["target"] == rows["label"]).all()
    assert several > 2


@pytest.mark.full
def test_an_image_goes_through_the_network_once_and_a_map_of_no_class_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eigencam.running.batch_pass.TIMED_BATCHES", 0)
    seen: dict[str, list[int]] = {"eigencam": [], "gradcam": []}
    job = prepare(config(tmp_path))
    for name, counts in seen.items():
        kind = type(job.methods[name])
        original = kind.__call__

        def counted(
            self: Any, forward: Forward, targets: Any, counts: list[int] = counts, original: Any = original
        ) -> Any:
            counts.append(len(forward))
            return original(self, forward, targets)

        monkeypatch.setattr(kind, "__call__", counted)
    inputs: list[int] = []
    handle = job.network.module.register_forward_pre_hook(lambda _m, args: inputs.append(len(args[0])))
    monkeypatch.setattr("eigencam.running.run.prepare", lambda _config: job)
    run(config(tmp_path, "method=[eigencam,gradcam]", "evaluator=[localization]"))
    handle.remove()
    assert inputs == [4, 2]
    pairs = [len(job.dataset.truth(i).objects()) for i in range(6)]
    assert seen == {"eigencam": [4, 2], "gradcam": [sum(pairs[:4]), sum(pairs[4:])]}


class Together:
    """Number of maps, and the sum of their classes."""

    def joint_row(self, score_maps: list[ScoreMap], truths: list[Truth]) -> Row:
        return {"maps": len(score_maps), "classes": sum(t.label for t in truths)}

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        return [statistics.mean("maps", rows["maps"])]

    def protocol(self) -> dict[str, object]:
        return {}


@pytest.mark.full
def test_an_evaluator_may_ask_for_all_maps_of_an_image_at_once(tmp_path: Path) -> None:
    own = ["method=[gradcam]", "evaluator=[localization]", "+evaluator.together={_target_: test_each.Together}"]
    job = run(config(tmp_path / "each", *own))
    rows = job.results["gradcam", "together"].rows()
    assert list(rows["image"]) == job.dataset.ids
    expected = [job.dataset.truth(i) for i in range(6)]
    assert list(rows["maps"]) == [len(t.objects()) for t in expected]
    assert list(rows["classes"]) == [sum(t.objects()) for t in expected]
    assert list(rows["label"]) == [t.label for t in expected]
    rows = run(config(tmp_path / "one", *own, "target=ground_truth")).results["gradcam", "together"].rows()
    assert list(rows["maps"]) == [1] * 6
    assert list(rows["classes"]) == [t.label for t in expected]


class Asking:
    """Each row's values from the probe, and a number that is computed once for all methods."""

    made = 0

    def rows(self, maps: Any, probe: Any) -> list[Row]:
        def make() -> int:
            Asking.made += 1
            return Asking.made

        number = probe.shared("number", make)
        return [
            {"own": truth.label, "height": score_map.size[0], "shape": len(m), "number": number, "row": k}
            for k, (m, truth, score_map) in enumerate(zip(maps, probe.truths, probe.score_maps, strict=True))
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        return []

    def protocol(self) -> dict[str, object]:
        return {}


@pytest.mark.full
def test_an_evaluator_that_asks_the_network_knows_truths_and_shares_work_between_methods(tmp_path: Path) -> None:
    own = ["method=[gradcam,random]", "evaluator=[]", "+evaluator.asking={_target_: test_each.Asking}"]
    job = run(config(tmp_path, *own))
    for method in ("gradcam", "random"):
        rows = job.results[method, "asking"].rows()
        assert (rows["own"] == rows["label"]).all()
        assert len(rows) == sum(len(job.dataset.truth(i).objects()) for i in range(6))
        assert sorted(set(rows["number"])) == [1, 2]  # once for each of two batches, shared by both methods


@pytest.mark.full
def test_an_image_without_objects_has_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Scenes.truth

    def emptied(self: Scenes, i: int) -> Truth:
        truth = original(self, i)
        if i != 1:
            return truth
        nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(truth.size, np.uint8)
        boxes, labels, difficult, mask = nothing
        return replace(truth, label=-1, boxes=boxes, box_labels=labels, difficult=difficult, mask=mask)

    monkeypatch.setattr(Scenes, "truth", emptied)
    job = run(config(tmp_path, "method=[gradcam]", "evaluator=[pointing,segmentation]"))
    for result in job.results.values():
        rows = result.rows()
        assert rows.loc[rows["image"] == job.dataset.ids[1], "label"].tolist() == [-1]
        assert sorted(set(rows["image"])) == sorted(job.dataset.ids)


def test_another_class_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"target=each: the classes of scenes .* gradcam"):
        run(config(tmp_path, "model.classes=imagenet", "method=[gradcam]"))


@pytest.mark.full
def test_only_objects_of_the_row_s_class_are_sought_where_the_dataset_seeks_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Scenes.truth
    monkeypatch.setattr(Scenes, "truth", lambda self, i: replace(truth(self, i), foreground="any"))
    chosen = ["method=[gradcam]", "evaluator=[pointing]"]
    rows = run(config(tmp_path / "any", *chosen)).results["gradcam", "pointing"].rows()
    monkeypatch.setattr(Scenes, "truth", truth)
    expected = run(config(tmp_path / "label", *chosen)).results["gradcam", "pointing"].rows()
    assert rows.duplicated("image").any()
    pd.testing.assert_frame_equal(rows, expected)


MEASURES = "localization,localization_fong_range,maxboxacc_v2,pointing,energy,segmentation,foreground,pxap,average_drop"


@pytest.mark.full
def test_the_rows_of_an_image_count_as_one(tmp_path: Path) -> None:
    job = run(config(tmp_path, "dataset.count=36", "method=[gradcam]", f"evaluator=[{MEASURES}]"))
    compared = 0
    for (_, name), result in job.results.items():
        evaluator, rows, summary = job.evaluators[name], result.rows(), result.summary
        assert summary is not None
        again = pd.concat([rows] * 3, ignore_index=True)
        once, thrice = (by_name(statistics.by_image(evaluator.summary(r), r)) for r in (rows, again))
        alone = by_name(evaluator.summary(again))
        assert len(set(rows["image"])) < len(rows)
        for metric in once.values():
            if metric.sample is None or np.isnan(metric.low):
                continue
            same = thrice[metric.name]
            assert same.value == pytest.approx(metric.value)
            if metric.hit:  # at most as many effective rows as rows
                assert metric.low - 1e-9 <= same.low < same.high <= metric.high + 1e-9
            else:
                assert (same.low, same.high) == pytest.approx((metric.low, metric.high), abs=1e-9)
            assert same.sample is not None
            assert cast(tuple[int, ...], same.sample.parts.shape)[0] <= len(set(rows["image"]))
            # Repeating the rows three times adds no information; treated as different images they would seem to add
            # some.
            apart = alone[metric.name]
            assert apart.high - apart.low < metric.high - metric.low or metric.value in (0, 100)
            stored = next(m for m in summary.metrics if m["name"] == metric.name)
            assert (stored["low"], stored["high"]) == pytest.approx((metric.low, metric.high), abs=1e-9)
            compared += 1
    assert compared > 25


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}
