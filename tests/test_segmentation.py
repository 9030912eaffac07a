import math

import numpy as np
import pandas as pd
import pytest
from covering import covers
from scipy import ndimage

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation.base import Metric
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pxap import equal_error_rate
from eigencam.evaluation.segmentation import LEVELS, Segmentation

CLASSES = 3


def truth_of(mask: object, label: int = 0, **kwargs: object) -> Truth:
    array = None if mask is None else np.asarray(mask, np.uint8)
    size = (5, 5) if array is None else (array.shape[0], array.shape[1])
    return Truth("a", size, label, np.zeros((0, 4)), np.zeros(0, np.int64), mask=array, **kwargs)  # type: ignore[arg-type]


def random_set(n: int, seed: int = 0, **kwargs: object) -> list[tuple[ScoreMap, Truth]]:
    """Images of different sizes with smooth masks, some void pixels, and similar maps."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        size = (int(rng.integers(10, 30)), int(rng.integers(10, 30)))
        label = int(rng.integers(CLASSES))
        shape = ndimage.gaussian_filter(rng.normal(size=size), 3)
        mask = np.where(shape > np.quantile(shape, 0.7), 1 + label, 0)
        mask[shape < np.quantile(shape, 0.1)] = 1 + (label + 1) % CLASSES
        mask[0, :4] = VOID
        values = np.round(shape / shape.max() + 0.5 * rng.normal(size=size), 2)
        pairs.append((ScoreMap(values, size), truth_of(mask, label, **kwargs)))
    return pairs


def frame(evaluator: Segmentation, pairs: list[tuple[ScoreMap, Truth]]) -> pd.DataFrame:
    return pd.DataFrame([{"label": truth.label, **evaluator.row(score_map, truth)} for score_map, truth in pairs])


def summary(evaluator: Segmentation, pairs: list[tuple[ScoreMap, Truth]]) -> dict[str, Metric]:
    return {metric.name: metric for metric in evaluator.summary(frame(evaluator, pairs))}


def brute_miou(pairs: list[tuple[ScoreMap, Truth]], predictions: list[np.ndarray]) -> float:
    """VOC's mean IoU from a confusion matrix, pixel by pixel."""
    classes = CLASSES + 1
    confusion = np.zeros((classes, classes))
    for (_, truth), found in zip(pairs, predictions, strict=True):
        assert truth.mask is not None
        for wanted, predicted in zip(truth.mask.ravel(), found.ravel(), strict=True):
            if wanted != VOID:
                confusion[wanted, truth.label + 1 if predicted else 0] += 1
    ious = [confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]) for c in range(classes)]
    return 100 * float(np.mean([iou for c, iou in enumerate(ious) if confusion[c].any()]))


def binary_miou(found: list[np.ndarray], wanted: list[np.ndarray], valid: list[np.ndarray]) -> float:
    f, w = (np.concatenate([m[v] for m, v in zip(masks, valid, strict=True)]) for masks in (found, wanted))
    return 50 * float((f & w).sum() / (f | w).sum() + (~f & ~w).sum() / (~f | ~w).sum())


def levels(score_map: ScoreMap) -> np.ndarray:
    return np.floor(np.clip(score_map.full / np.float32(score_map.peak), 0, 1) * np.float32(255))


@pytest.mark.parametrize("sought", ["label", "any"])
def test_against_pixel_by_pixel(sought: str) -> None:
    pairs = random_set(12, foreground=sought)
    metrics = summary(Segmentation("max", 0.3), pairs)
    found = [score_map.full > 0.3 * score_map.peak for score_map, _ in pairs]
    masks = [truth.mask for _, truth in pairs if truth.mask is not None]
    valid = [mask != VOID for mask in masks]
    wanted = [
        valid[i] & ((masks[i] > 0) if sought == "any" else (masks[i] == truth.label + 1))
        for i, (_, truth) in enumerate(pairs)
    ]
    ious = [(f & w).sum() / ((f | w) & v).sum() for f, w, v in zip(found, wanted, valid, strict=True)]
    tp, predicted, truth = (
        sum((f & w).sum() for f, w in zip(found, wanted, strict=True)),
        sum((f & v).sum() for f, v in zip(found, valid, strict=True)),
        sum(w.sum() for w in wanted),
    )
    assert metrics["fg_iou"].value == pytest.approx(100 * float(np.mean(ious)))
    assert metrics["pixel_precision"].value == pytest.approx(100 * tp / predicted)
    assert metrics["pixel_recall"].value == pytest.approx(100 * tp / truth)
    assert metrics["miou"].value == pytest.approx(brute_miou(pairs, found))
    assert metrics["miou_binary"].value == pytest.approx(binary_miou(found, wanted, valid))
    assert metrics["miou"].note == "4 classes occur, with background"
    for metric in metrics.values():
        assert metric.n == 12
        assert covers(metric)


def test_best_thresholds_against_all_of_them() -> None:
    pairs = random_set(5)
    metrics = summary(Segmentation(), pairs)
    fg_iou, miou = [], []
    for v in range(LEVELS):
        found = [levels(score_map) >= v for score_map, _ in pairs]
        ious = []
        for f, (_, truth) in zip(found, pairs, strict=True):
            assert truth.mask is not None
            w = truth.mask == truth.label + 1
            ious.append((f & w).sum() / ((f | w) & (truth.mask != VOID)).sum())
        fg_iou.append(100 * np.mean(ious))
        miou.append(brute_miou(pairs, found) if v % 8 == 0 else 0)
    assert metrics["fg_iou_best"].value == pytest.approx(max(fg_iou))
    assert metrics["fg_iou_best"].threshold == f">= {int(np.argmax(fg_iou))}/255 max"
    attained = int(metrics["miou_best"].threshold.split()[1].split("/")[0])
    assert metrics["miou_best"].value == pytest.approx(
        brute_miou(pairs, [levels(score_map) >= attained for score_map, _ in pairs])
    )
    assert metrics["miou_best"].value >= max(miou) - 1e-9
    assert "oracle" in metrics["miou_best"].note


def test_foreground_iou_is_that_of_coco() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for score_map, truth in random_set(10, seed=1):
        assert truth.mask is not None
        mask = np.where(truth.mask == VOID, 0, truth.mask).astype(np.uint8)
        found = (score_map.full > 0.2 * score_map.peak).astype(np.uint8)
        wanted = (mask == truth.label + 1).astype(np.uint8)
        expected = coco.iou(*([coco.encode(np.asfortranarray(m))] for m in (found, wanted)), [0])[0, 0]
        assert Segmentation().row(score_map, truth_of(mask, truth.label))["fg_iou"] == pytest.approx(expected)


def test_equal_error_rate_against_a_dense_sweep() -> None:
    rng = np.random.default_rng(0)
    wanted, rest = rng.integers(0, 50, LEVELS) * np.linspace(0, 1, LEVELS), rng.integers(0, 90, LEVELS).astype(float)
    # Spread the pixels of each level evenly over it, and try a million thresholds.
    edges = np.arange(LEVELS + 1)
    thresholds = np.linspace(0, LEVELS, 1_000_001)
    above = [h.sum() - np.interp(thresholds, edges, np.concatenate([[0], np.cumsum(h)])) for h in (wanted, rest)]
    with np.errstate(invalid="ignore"):
        precision, recall = above[0] / (above[0] + above[1]), above[0] / wanted.sum()
    nearest = np.nanargmin(np.abs(precision - recall))
    value = equal_error_rate(np.concatenate([wanted, rest])[None])[0]
    assert value == pytest.approx(recall[nearest], abs=1e-4)
    assert value == pytest.approx(precision[nearest], abs=1e-4)


def test_equal_error_rate_of_edge_cases() -> None:
    perfect, constant, inverted, empty = np.zeros((4, 2 * LEVELS))
    perfect[[LEVELS - 1, LEVELS]] = 10, 90
    constant[[LEVELS - 1, 2 * LEVELS - 1]] = 10, 90
    inverted[[0, 2 * LEVELS - 1]] = 10, 90
    empty[LEVELS] = 90
    values = equal_error_rate(np.stack([perfect, constant, inverted, empty]))
    np.testing.assert_allclose(values, [1, 0.1, 0, np.nan])


@pytest.mark.parametrize(("value", "filled"), [(0.5, True), (0.0, False), (-1.0, False), (np.nan, False)])
def test_constant_maps(value: float, filled: bool) -> None:
    mask = np.zeros((4, 5))
    mask[:2] = 1
    row = Segmentation().row(ScoreMap(np.full((2, 2), value), (4, 5)), truth_of(mask))
    assert row["fg_iou"] == (0.5 if filled else 0)
    assert row["hist_label"][255 if filled else 0] == 10
    assert row["hist_background"].sum() == 10
    assert row["map_state"] == ("nonfinite" if math.isnan(value) else "constant")


def test_no_object_and_all_object() -> None:
    evaluator, score_map = Segmentation(), ScoreMap(np.eye(2), (6, 7))
    nothing, everything = truth_of(np.zeros((6, 7))), truth_of(np.ones((6, 7)))
    assert math.isnan(evaluator.row(score_map, nothing)["fg_iou"])
    metrics = summary(evaluator, [(score_map, nothing), (score_map, everything)])
    assert (metrics["fg_iou"].n, metrics["pixel_recall"].n) == (1, 2)
    assert metrics["fg_iou_best"].value == 100
    alone = summary(evaluator, [(score_map, nothing)])
    assert math.isnan(alone["fg_iou"].value)
    assert math.isnan(alone["fg_iou_best"].value)
    assert math.isnan(alone["precision_eer"].value)
    assert alone["pixel_precision"].value == 0
    assert 0 < alone["miou"].value < 100  # of the background alone
    assert alone["miou"].note == "1 classes occur, with background"


def test_all_void_one_pixel_and_one_line() -> None:
    evaluator = Segmentation()
    emptied = truth_of(np.zeros((5, 5)))
    assert emptied.mask is not None
    object.__setattr__(emptied, "mask", np.full_like(emptied.mask, VOID))  # a mask may not be void everywhere
    void = evaluator.row(ScoreMap(np.eye(2), (5, 5)), emptied)
    assert void["above"].sum() == 0
    pixel = evaluator.row(ScoreMap(np.ones((1, 1)), (1, 1)), truth_of([[1]]))
    assert pixel["fg_iou"] == 1
    line = evaluator.row(ScoreMap(np.array([[0.0, 0, 1, 1]]), (1, 4)), truth_of([[0, 1, 1, 0]]))
    assert line["fg_iou"] == pytest.approx(1 / 3)


def test_images_without_a_mask_are_not_counted() -> None:
    evaluator, pairs = Segmentation(), random_set(3)
    row = evaluator.row(ScoreMap(np.eye(2), (5, 5)), truth_of(None, label=700))
    assert not row["has_mask"]
    assert row.keys() == evaluator.row(*pairs[0]).keys()
    without = (ScoreMap(np.eye(2), (5, 5)), truth_of(None))
    assert summary(evaluator, [*pairs, without]) == summary(evaluator, pairs)
    assert all(m.n == 0 and math.isnan(m.value) and m.note for m in summary(evaluator, [without]).values())


def test_image_without_a_label_predicts_no_class() -> None:
    row = Segmentation().row(ScoreMap(np.ones((2, 2)), (2, 2)), truth_of([[0, 1], [2, 3]], label=-1))
    assert row["hist_label"].sum() == 0
    assert row["hist_other"].sum() == 3
    metrics = summary(Segmentation(), [(ScoreMap(np.ones((2, 2)), (2, 2)), truth_of([[0, 1], [2, 3]], label=-1))])
    assert metrics["miou"].value == 0


def test_rows_survive_parquet(tmp_path: object) -> None:
    evaluator, path = Segmentation(), f"{tmp_path}/rows.parquet"
    rows = frame(evaluator, random_set(4))
    rows.to_parquet(path)
    assert evaluator.summary(pd.read_parquet(path)) == evaluator.summary(rows)


def test_faults_are_named() -> None:
    score_map = ScoreMap(np.eye(2), (2, 2))
    with pytest.raises(ValueError, match=r"label 254; .* room for 254 classes"):
        Segmentation().row(score_map, truth_of([[0, 1], [0, 0]], label=254))
    with pytest.raises(ValueError, match=r"mask of \(1, 2\)"):
        Segmentation().row(score_map, truth_of([[0, 1]]))
    with pytest.raises(ValueError, match="threshold 2"):
        Segmentation(threshold=2)


@pytest.mark.parametrize("seed", range(3))
def test_equal_error_rate_is_that_of_all_pixels_ranked_together(seed: int) -> None:
    # Graz-02's protocol on the pixels themselves, each divided by its map's maximum: precision equals recall where as
    # many # pixels are predicted as belong to the object. Levels lose the order only within the level where that
    # happens.
    rng = np.random.default_rng(seed)
    pairs = random_set(20, seed)
    pairs = [(ScoreMap(m.full + 0.001 * rng.random(m.size), m.size), t) for m, t in pairs]  # no ties
    kept = [(m, t, t.mask != VOID) for m, t in pairs if t.mask is not None]
    wanted = np.concatenate([(t.mask == t.label + 1)[k] for _, t, k in kept])
    values = np.concatenate([np.maximum(m.full / m.peak, 0)[k] for m, _, k in kept])
    found = np.argsort(-values, kind="stable")[: wanted.sum()]
    exact = wanted[found].mean()
    level = np.floor(255 * values) == np.floor(255 * values[found[-1]])
    bound = (level & wanted).sum() / wanted.sum()
    assert bound < 0.01
    assert abs(summary(Segmentation(), pairs)["precision_eer"].value - 100 * exact) <= 100 * bound
