import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from covering import covers

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Metric
from eigencam.evaluation.localization import Localization, row_of_boxes
from eigencam.evaluation.maps import ScoreMap


def truth_of(
    *boxes: list[int], size: tuple[int, int] = (20, 20), labels: list[int] | None = None, **kwargs: object
) -> Truth:
    array = np.array(boxes, float).reshape(-1, 4)
    return Truth("a", size, 3, array, np.array(labels if labels is not None else [3] * len(array), np.int64), **kwargs)  # type: ignore[arg-type]


def map_of(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (20, 20)) -> ScoreMap:
    values = np.zeros(size)
    values[y1 : y2 + 1, x1 : x2 + 1] = 1
    return ScoreMap(values, size)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def frame(iou: list[float], label: list[int], target: list[int], top5: list[list[int]]) -> pd.DataFrame:
    return pd.DataFrame({"iou": iou, "label": label, "target": target, "top5": top5, "map_state": "ok"})


def test_row_takes_any_box_of_the_class() -> None:
    truth = truth_of([0, 0, 3, 3], [10, 10, 19, 14], [10, 10, 19, 19], labels=[3, 3, 4])
    row = Localization().row(map_of(10, 10, 19, 19), truth)
    assert (row["x1"], row["y1"], row["x2"], row["y2"]) == (10, 10, 19, 19)
    assert row["iou"] == 0.5  # the matching box belongs to another class
    assert row["map_state"] == "ok"
    assert Localization().row(map_of(10, 10, 19, 19), dataclasses.replace(truth, foreground="any"))["iou"] == 1


def test_half_is_a_hit_and_a_hair_less_is_not() -> None:
    rows = frame([0.5, np.nextafter(0.5, 0)], [0, 0], [0, 0], [[0], [0]])
    assert by_name(Localization().summary(rows))["box_error"].value == 50


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), -1.0), np.full((3, 3), np.nan)])
def test_no_foreground_is_a_miss(values: np.ndarray) -> None:
    row = Localization().row(ScoreMap(values, (20, 20)), truth_of([0, 0, 19, 19]))
    assert math.isnan(row["x1"])
    assert row["iou"] == 0


def test_images_without_a_box_are_left_out() -> None:
    evaluator = Localization()
    truths = [truth_of([0, 0, 19, 19]), truth_of([0, 0, 2, 2], labels=[4]), truth_of()]
    run = [{"label": 3, "target": target, "top5": [3, 1]} for target in (3, 7, 7)]
    rows = pd.DataFrame(
        [{**a, **evaluator.row(map_of(0, 0, 19, 19), truth)} for a, truth in zip(run, truths, strict=True)]
    ).assign(constant_by_design=True)
    metrics = by_name(evaluator.summary(rows))
    assert {name: metric.n for name, metric in metrics.items()} == {
        **dict.fromkeys(["box_error", "gt_known_error", "top1_loc_error", "top5_loc_error", "mean_iou"], 1),
        **dict.fromkeys(["top1_cls_error", "top5_cls_error"], 3),
    }
    assert metrics["gt_known_error"].value == 0
    assert metrics["box_error"].note == "3 constant of 3 maps; 2 images without a box left out"


def test_the_whole_image_can_be_the_object() -> None:
    whole = map_of(0, 0, 19, 19)
    assert Localization().row(whole, truth_of([0, 0, 19, 19]))["iou"] == 1
    line = Localization().row(map_of(4, 0, 7, 0, (1, 9)), truth_of([4, 0, 8, 0], size=(1, 9)))
    assert line["iou"] == 0.8


def test_maps_for_the_true_class_give_every_metric() -> None:
    top5 = [[1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [9, 8, 7, 6, 5], [1, 2, 3, 4, 5]]
    metrics = by_name(Localization().summary(frame([0.9, 0.9, 0.9, 0.1], [1, 1, 1, 1], [1, 1, 1, 1], top5)))
    values = {name: metric.value for name, metric in metrics.items()}
    assert values == {
        "box_error": 25,
        "gt_known_error": 25,
        "top1_loc_error": 75,
        "top5_loc_error": 50,
        "top1_cls_error": 50,
        "top5_cls_error": 25,
        "mean_iou": pytest.approx(70),
    }
    assert all(metric.n == 4 and covers(metric) for metric in metrics.values())
    assert metrics["box_error"].threshold == "0.15 max"
    assert metrics["box_error"].better == "lower"
    assert metrics["mean_iou"].better == "higher"


def test_maps_for_the_predicted_class() -> None:
    top5 = [[1, 2], [2, 1], [9, 8]]
    metrics = by_name(Localization().summary(frame([0.9, 0.9, 0.1], [1, 1, 1], [1, 2, 9], top5)))
    assert metrics["top1_loc_error"].value == pytest.approx(200 / 3)
    for name in ("top5_loc_error", "gt_known_error"):
        assert math.isnan(metrics[name].value)
    assert (metrics["top5_loc_error"].n, metrics["gt_known_error"].n) == (2, 1)
    assert "1 of 3 images have no map for their true class" in metrics["top5_loc_error"].note
    assert metrics["box_error"].value == pytest.approx(100 / 3)


def test_network_of_other_classes() -> None:
    rows = frame([0.9, 0.1], [1, 1], [700, 3], [[], []])
    rows["map_state"] = ["constant", "ok"]
    metrics = by_name(Localization().summary(rows))
    assert metrics["box_error"].value == 100  # one map is constant, the other's box is wrong
    assert metrics["box_error"].note == "1 constant of 2 maps"
    assert by_name(Localization().summary(rows.assign(constant_by_design=True)))["box_error"].value == 50
    assert {name for name, metric in metrics.items() if not math.isnan(metric.value)} == {"box_error", "mean_iou"}


def test_rows_without_target_or_classes() -> None:
    rows = frame([0.9], [1], [1], [[]]).drop(columns=["target", "top5"])
    metrics = by_name(Localization().summary(rows))
    assert metrics["box_error"].value == 0
    assert math.isnan(metrics["gt_known_error"].value)


def test_row_of_boxes_is_that_of_the_first() -> None:
    truth = truth_of([0, 0, 9, 9])
    assert row_of_boxes(np.array([[0, 0, 9, 4], [0, 0, 9, 9]]), truth)["iou"] == 0.5
    assert row_of_boxes(np.zeros((0, 4)), truth)["iou"] == 0
    assert list(row_of_boxes(np.zeros((0, 4)), truth)) == list(Localization().row(map_of(0, 0, 1, 1), truth))


def test_no_rows() -> None:
    metrics = Localization().summary(frame([], [], [], []))
    assert all(metric.n == 0 and math.isnan(metric.value) for metric in metrics)


@pytest.mark.parametrize(
    "wrong",
    [{"rule": "maximum"}, {"threshold": 1.0}, {"component": "first"}, {"iou": 0}, {"rule": "energy", "threshold": 0}],
)
def test_faults_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Localization(**wrong)  # type: ignore[arg-type]


def test_protocol_has_every_parameter() -> None:
    assert {"rule", "threshold", "component", "iou"} <= set(Localization().protocol())
