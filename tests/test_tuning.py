"""Thresholds chosen on a part of the images, or by other boxes, compared with evaluators on those images alone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_class_segmentation import random_examples
from test_segmentation import levels, random_set

from eigencam.datasets.base import VOID, Truth
from eigencam.datasets.boxes import iou
from eigencam.evaluation.class_segmentation import ClassSegmentation
from eigencam.evaluation.localization_tuned import TunedLocalization
from eigencam.evaluation.maps import ScoreMap, box_of
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.segmentation import Segmentation
from eigencam.evaluation.tuning import is_tuned_on
from eigencam.store.identity import describe

EVALUATORS = (MaxBoxAcc, TunedLocalization, Segmentation, ClassSegmentation)
SIZE = (24, 32)


def boxed(n: int = 40) -> list[tuple[ScoreMap, Truth]]:
    """Maps of a bright block on noise, with increasing contrast, and its box; every seventh image has no box."""
    rng, made = np.random.default_rng(4), []
    for k in range(n):
        x, y = (int(v) for v in rng.integers(0, 10, 2))
        values = rng.random(SIZE) * (0.3 + 0.5 * k / n)
        values[y : y + 10, x : x + 14] += 0.5
        boxes = np.array([[x, y, x + 13, y + 9]] if k % 7 else [], float).reshape(-1, 4)
        made.append((ScoreMap(values, SIZE), Truth(f"i{k}", SIZE, 0, boxes, np.zeros(len(boxes), np.int64))))
    return made


def rows_of(evaluator: Any, data: list[tuple[ScoreMap, Truth]]) -> pd.DataFrame:
    return pd.DataFrame([{"image": t.image_id, "label": t.label, **evaluator.row(m, t)} for m, t in data])


def ious(data: list[tuple[ScoreMap, Truth]], boxes: list[np.ndarray], grid: tuple[float, ...]) -> np.ndarray:
    """(N, T): IoU of the box around all foreground with the first of an image's boxes; NaN without a box."""
    found = np.full((len(data), len(grid)), np.nan)
    for i, ((score_map, truth), own) in enumerate(zip(data, boxes, strict=True)):
        height, width = truth.size
        for k, t in enumerate(grid if len(own) else ()):
            box = box_of(score_map, "range", t, "all")
            box = np.array([0, 0, width - 1, height - 1]) if np.isnan(box).any() else box
            found[i, k] = iou(box[None].astype(float), own[:1])[0, 0]
    return found


@pytest.mark.parametrize("pseudo", [False, True])
@pytest.mark.parametrize("tune", [None, 0.4, "listed"])
def test_localization_at_a_threshold_chosen_elsewhere(tune: Any, pseudo: bool, tmp_path: Path) -> None:
    if tune is None and not pseudo:
        return  # cross-fitted: tests/test_pointing.py
    data = boxed()
    names = [truth.image_id for _, truth in data]
    if tune == "listed":
        (tmp_path / "tune.txt").write_text("\n".join(names[:15]))
        tune = str(tmp_path / "tune.txt")
    own = [truth.boxes for _, truth in data]
    others = [np.array([[2.0, 3.0, 20.0, 15.0]]) if k % 3 else np.zeros((0, 4)) for k in range(len(data))]
    file = tmp_path / "boxes.txt"
    file.write_text("".join(f"val/{n}.JPEG,2,3,20,15\n" for n, b in zip(names, others, strict=True) if len(b)))
    evaluator = TunedLocalization(tune=tune, pseudo=str(file) if pseudo else None)
    truth, stand_in = (ious(data, boxes, evaluator.grid) for boxes in (own, others))
    on = np.array([tune is None or is_tuned_on(tune, name) for name in names])
    reported = np.array([tune is None or not is_tuned_on(tune, name) for name in names]) & ~np.isnan(truth[:, 0])
    by = stand_in if pseudo else truth
    on &= ~np.isnan(by[:, 0])
    at = int((by[on] < 0.5).sum(axis=0).argmin())
    wrong = truth[reported] < 0.5
    rows = rows_of(evaluator, data)
    error, best, threshold = evaluator.summary(rows)
    assert error.value == pytest.approx(100 * wrong[:, at].mean())
    assert best.value == pytest.approx(100 * wrong.mean(axis=0).min())
    assert error.value >= best.value
    assert (error.n, best.n) == (reported.sum(), reported.sum())
    assert error.threshold == f"{evaluator.grid[at]:g} range"
    assert threshold.value == evaluator.grid[int(wrong.sum(axis=0).argmin())]
    by_boxes = " by boxes in place of the truth's" * pseudo
    assert f"threshold chosen{by_boxes} on {on.sum()} " + ("images" if tune is None else "other images") in error.note
    (curve,) = evaluator.curves(rows)
    assert curve.ys == pytest.approx(100 * wrong.mean(axis=0))
    assert evaluator.sources(SimpleNamespace(ids=names, name="d")).keys() == {  # type: ignore[arg-type]
        *(["tune"] if isinstance(tune, str) else []),
        *(["pseudo"] if pseudo else []),
    }
    if tune is not None:
        inside = rows["in_tune"].to_numpy(bool)
        assert "no image is left to report on" in evaluator.summary(rows[inside])[0].note
        assert "no image is left to choose the threshold on" in evaluator.summary(rows[~inside])[0].note


def pixel_ious(score_map: ScoreMap, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """(256,) foreground IoU at each level, and (256, 4, 4) pixels by true and predicted class."""
    assert truth.mask is not None
    level, counted = levels(score_map), truth.mask != VOID
    wanted = truth.mask == truth.label + 1
    found = level[None] >= np.arange(256)[:, None, None]
    iou_at = (found & wanted).sum(axis=(1, 2)) / ((found | wanted) & counted).sum(axis=(1, 2))
    confusion = np.zeros((256, 4, 4))
    for c in range(4):
        inside = found & (truth.mask == c)
        confusion[:, c, truth.label + 1] = inside.sum(axis=(1, 2))
        confusion[:, c, 0] = (truth.mask == c).sum() - inside.sum(axis=(1, 2))
    return iou_at, confusion


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """(256, 4, 4) -> (256,): over the classes that occur in the truth."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(axis=1) + confusion.sum(axis=2) - right
    there = confusion[0].sum(axis=1) > 0
    return (right[:, there] / union[:, there]).mean(axis=1)


def test_segmentation_at_thresholds_chosen_elsewhere() -> None:
    data = [(m, replace(t, image_id=f"i{k}")) for k, (m, t) in enumerate(random_set(64))]
    evaluator = Segmentation(tune=0.4)
    on = np.array([is_tuned_on(0.4, truth.image_id) for _, truth in data])
    rows = rows_of(evaluator, data)
    assert rows["in_tune"].tolist() == on.tolist()
    each = [pixel_ious(*pair) for pair in data]
    single, confusion = (np.stack(values) for values in zip(*each, strict=True))
    found = {metric.name: metric for metric in evaluator.summary(rows)}
    at = int(single[on].mean(axis=0).argmax()), int(mean_iou(confusion[on].sum(axis=0)).argmax())
    assert found["fg_iou_tuned"].value == pytest.approx(100 * single[~on].mean(axis=0)[at[0]])
    assert found["miou_tuned"].value == pytest.approx(100 * mean_iou(confusion[~on].sum(axis=0))[at[1]])
    assert [found[n].threshold for n in ("fg_iou_tuned", "miou_tuned")] == [f">= {v}/255 max" for v in at]
    for name in ("fg_iou_tuned", "miou_tuned"):
        assert f"threshold chosen on {on.sum()} other images (tune=0.4)" in found[name].note
        assert name in evaluator.headline
    assert found["fg_iou_tuned"].low < found["fg_iou_tuned"].value < found["fg_iou_tuned"].high
    alone = {m.name: m for m in Segmentation().summary(rows[~on].reset_index(drop=True))}
    for name, metric in alone.items():  # all other metrics cover the reported images
        assert found[name].value == pytest.approx(metric.value)
        assert (found[name].n, found[name].note, found[name].threshold) == (metric.n, metric.note, metric.threshold)
    for drawn, wanted in zip(evaluator.curves(rows), Segmentation().curves(rows[~on]), strict=True):
        assert drawn.ys == pytest.approx(wanted.ys)
    nothing = {m.name: m for m in evaluator.summary(rows[~on].reset_index(drop=True))}
    assert "no image is left to choose the threshold on" in nothing["miou_tuned"].note
    assert nothing["miou"].value == alone["miou"].value
    left = evaluator.summary(rows[on].reset_index(drop=True))
    assert len(left) == len(found)
    assert all("no image is left to report on" in metric.note for metric in left)


def test_class_segmentation_at_a_score_chosen_elsewhere() -> None:
    examples = random_examples(25)
    evaluator, plain = ClassSegmentation(0.15, 0.1, tune=0.4), ClassSegmentation(0.15, 0.1)
    rows = pd.DataFrame([example.row(evaluator) for example in examples])
    on = np.array([is_tuned_on(0.4, example.name) for example in examples])
    assert rows["in_tune"].tolist() == on.tolist()
    there, others = (rows[chosen].reset_index(drop=True) for chosen in (on, ~on))
    score = {m.name: m.value for m in plain.summary(there)}["class_best_threshold"]
    found = {m.name: m for m in evaluator.summary(rows)}
    fixed = ClassSegmentation(score, 0.1)
    alike = pd.DataFrame([example.row(fixed) for example, chosen in zip(examples, on, strict=True) if not chosen])
    wanted = {m.name: m for m in fixed.summary(alike)}["class_miou"]
    assert found["class_miou_tuned"].value == pytest.approx(wanted.value)
    assert found["class_miou_tuned"].threshold == f"{score:g} max"
    assert f"threshold chosen on {on.sum()} other images (tune=0.4)" in found["class_miou_tuned"].note
    alone = {m.name: m for m in plain.summary(others)}
    for name in ("class_miou", "class_miou_best", "class_best_threshold"):
        assert found[name].value == pytest.approx(alone[name].value)
        assert (found[name].n, found[name].note) == (alone[name].n, alone[name].note)
    for drawn, other in zip(evaluator.curves(rows), plain.curves(others), strict=True):
        assert drawn.ys == pytest.approx(other.ys)
    assert all("no image is left to report on" in metric.note for metric in evaluator.summary(there))
    lone = {m.name: m for m in evaluator.summary(others)}
    assert "no image is left to choose the threshold on" in lone["class_miou_tuned"].note
    assert lone["class_miou"].value == alone["class_miou"].value


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_what_is_no_share_and_no_file_is_refused_and_none_is_no_part_of_an_identity(evaluator: Any) -> None:
    with pytest.raises(ValueError, match="0 < tune < 1, a file of ids, or null"):
        evaluator(tune=1.0)
    target = {"_target_": f"{evaluator.__module__}.{evaluator.__name__}"}
    assert describe({**target, "tune": None}) == describe(target)
    assert describe({**target, "tune": 0.1})["parameters"] == {"tune": 0.1}
    assert not {"tune", "pseudo"} & dict(evaluator().protocol()).keys() or evaluator is MaxBoxAcc
