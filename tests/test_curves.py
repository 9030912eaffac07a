"""Curves agree with the metrics that are read from them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Curve, Metric
from eigencam.evaluation.faithfulness import AverageDrop, InsertionDeletion, Road
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.localization_tuned import TunedLocalization
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Energy
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.segmentation import Segmentation

SIZE = (40, 60)


def examples(boxed: bool = True) -> list[tuple[ScoreMap, Truth]]:
    rng = np.random.default_rng(3)
    made = []
    for i in range(12):
        x, y = rng.integers(0, 30), rng.integers(0, 20)
        boxes = np.array([[x, y, x + 25, y + 15], [2, 3, 9, 12]], np.float64)[: 2 if boxed else 0]
        mask = np.zeros(SIZE, np.uint8)
        if boxed:
            mask[y : y + 16, x : x + 26] = 1 + i % 3
            mask[0] = 255
        values = rng.random((5, 7))
        values[1 + y * 3 // 20, 1 + x * 4 // 30] = 3
        truth = Truth(f"p{i}", SIZE, i % 3, boxes, np.full(len(boxes), i % 3), mask=mask if boxed else None)
        made.append((ScoreMap(values, SIZE), truth))
    return made


def frame(evaluator: Any, boxed: bool = True) -> pd.DataFrame:
    rows = [
        {"image": truth.image_id, "label": truth.label, "target": truth.label, "top5": [0, 1, 2, 3, 4]}
        | evaluator.row(score_map, truth)
        for score_map, truth in examples(boxed)
    ]
    return pd.DataFrame(rows)


def both(evaluator: Any, rows: pd.DataFrame | None = None) -> tuple[dict[str, Metric], dict[str, Curve]]:
    rows = frame(evaluator) if rows is None else rows
    curves = {c.name: c for c in evaluator.curves(rows)}
    assert all(len(c.xs) == len(c.ys) > 1 and np.isfinite([c.xs, c.ys]).all() for c in curves.values())
    return {m.name: m for m in evaluator.summary(rows)}, curves


def at(curve: Curve, x: float) -> float:
    (found,) = curve.ys[np.isclose(curve.xs, x)]
    return float(found)


def test_localized_is_what_is_left_of_the_error() -> None:
    metrics, curves = both(Localization(threshold=0.5, iou=0.2))
    curve = curves["localized against overlap"]
    assert curve.mark == pytest.approx((0.2, 100 - metrics["box_error"].value))
    assert at(curve, 0.2) == pytest.approx(100 - metrics["box_error"].value)
    assert at(curve, 0) == 100
    assert (np.diff(curve.ys) <= 0).all()
    assert 0 < metrics["box_error"].value < 100


def test_the_tuned_error_is_the_lowest() -> None:
    metrics, curves = both(TunedLocalization())
    curve = curves["error against threshold"]
    assert curve.mark == pytest.approx((metrics["best_threshold"].value, metrics["error_best"].value))
    assert curve.ys.min() == pytest.approx(metrics["error_best"].value)


@pytest.mark.full
def test_max_box_acc_is_the_highest_at_each_overlap() -> None:
    metrics, curves = both(MaxBoxAcc(contours="all", ious=(0.3, 0.5, 0.7)))
    for iou in (0.3, 0.5, 0.7):
        curve = curves[f"accuracy at IoU {iou:g} against threshold"]
        metric = metrics[f"max_box_acc_v2_{100 * iou:g}"]
        assert curve.mark is not None
        assert curve.ys.max() == pytest.approx(metric.value)
        assert f"> {255 * curve.mark[0]:.0f}/255" == metric.threshold


def test_pxap_is_the_area_under_its_curve() -> None:
    metrics, curves = both(PxAP())
    curve = curves["precision against recall"]
    area = (curve.ys * np.diff(curve.xs, prepend=0)).sum() / 100
    assert area == pytest.approx(metrics["pxap"].value)
    assert curve.xs[-1] == 100


def test_segmentation_reads_its_bound_and_its_equal_error_off_the_curves() -> None:
    metrics, curves = both(Segmentation())
    sweep = curves["foreground IoU against threshold"]
    assert sweep.mark is not None
    assert sweep.mark[1] == sweep.ys.max() == pytest.approx(metrics["fg_iou_best"].value)
    assert f">= {255 * sweep.mark[0]:.0f}/255 max" == metrics["fg_iou_best"].threshold
    pr = curves["precision against recall"]
    crossing = np.argmax(pr.xs >= pr.ys)
    value = metrics["precision_eer"].value
    assert pr.ys[crossing] <= value + 1e-9
    assert pr.xs[crossing - 1] <= value + 1e-9


@pytest.mark.parametrize("over", ["objects", "classes"])
def test_recall_of_proposals_is_on_both_curves(over: Any) -> None:
    evaluator = Proposals(over=over, budgets=(1, 3, 10))
    metrics, curves = both(evaluator)
    name = "recall" if over == "objects" else "mean recall"
    for k in (1, 3, 10):
        for iou in (0.5, 0.7):
            value = metrics[f"{name.replace(' ', '_')}{100 * iou:g}_{k}"].value
            assert at(curves[f"{name} of the first {k}"], iou) == pytest.approx(value)
            against = curves[f"{name} at IoU {iou:g} against boxes"]
            assert against.log
            assert at(against, k) == pytest.approx(value)


def test_overlap_at_each_delta() -> None:
    metrics, curves = both(Energy())
    curve = curves["overlap against threshold"]
    assert at(curve, 0.25) == pytest.approx(metrics["overlap_0.25"].value)


def asked() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 9
    columns = {"confidence": rng.random(n), **{f"kept_{k}": rng.random(n) for k in (100, 50, 30, 15)}}
    lists = {"deletion": 29, "insertion": 29, "morf": 4, "lerf": 4}
    columns |= {name: list(rng.random((n, k)).astype(np.float32)) for name, k in lists.items()}
    return pd.DataFrame({**columns, "map_state": "ok"})


def test_curves_of_evaluators_that_ask_the_network() -> None:
    metrics, curves = both(AverageDrop(), asked())
    assert at(curves["average drop against pixels kept"], 15) == pytest.approx(metrics["drop_15"].value)
    assert at(curves["increase in confidence against pixels kept"], 100) == pytest.approx(metrics["increase_100"].value)
    metrics, curves = both(InsertionDeletion(), asked())
    for name in ("deletion", "insertion"):
        area = np.trapezoid(curves[name].ys, curves[name].xs) / 100
        assert area == pytest.approx(metrics[f"{name}_auc"].value)
    metrics, curves = both(Road(), asked())
    assert curves["most relevant first"].ys.mean() == pytest.approx(metrics["road_morf"].value)
    assert curves["least relevant first"].ys.mean() == pytest.approx(metrics["road_lerf"].value)


@pytest.mark.parametrize(
    "evaluator",
    [
        *(Localization(), TunedLocalization(), MaxBoxAcc(), PxAP(), Segmentation(), Energy()),
        *(Proposals(), Proposals(over="classes")),
    ],
    ids=lambda evaluator: type(evaluator).__name__,
)
def test_without_objects_there_is_no_curve(evaluator: Any) -> None:
    assert evaluator.curves(frame(evaluator, boxed=False)) == []
