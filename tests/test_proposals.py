import contextlib
import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from covering import covers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import iou, to_xywh
from eigencam.evaluation.base import Metric
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.proposal_matching import IOUS, first_of_equal, match_best_pairs, match_coco, recall_integral
from eigencam.evaluation.proposals import Proposals, positive_inside, recall_curve, suppress

BUDGETS = (1, 10, 100)
HOSANG = Proposals(max_boxes=10000, difficult=True, budgets=(1, 3, 10, 32, 100, 316, 1000, 3162, 10000), unique=True)
STL = Proposals(max_boxes=1000, budgets=(1, 5, 10, 100, 1000), over="classes")


def truth_of(boxes: object, classes: list[int] | None = None, difficult: list[bool] | None = None) -> Truth:
    array = np.asarray(boxes, float).reshape(-1, 4)
    labels = np.array(classes if classes is not None else [0] * len(array), np.int64)
    flags = np.array(difficult if difficult is not None else [False] * len(array), bool)
    return Truth("a", (60, 80), -1, array, labels, flags)


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    corner = rng.integers(0, 30, (n, 2))
    return np.concatenate([corner, corner + rng.integers(5, 30, (n, 2))], axis=1).astype(float)


def random_set(n: int, seed: int) -> list[tuple[np.ndarray, Truth]]:
    """Images with 0 to 6 objects, some of them difficult, and 0 to 150 boxes, many of them near an object."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        objects = random_boxes(rng, int(rng.integers(0, 7)))
        boxes = random_boxes(rng, int(rng.integers(0, 120)))
        if len(objects):
            near = np.repeat(objects, 5, axis=0)
            boxes = np.concatenate([boxes, near + rng.integers(-4, 5, near.shape) * [1, 1, 0, 0]])
        boxes = rng.permutation(boxes)
        classes = rng.integers(0, 4, len(objects)).tolist()
        pairs.append((boxes, truth_of(objects, classes, (rng.random(len(objects)) < 0.2).tolist())))
    return pairs


def summary(evaluator: Proposals, pairs: list[tuple[np.ndarray, Truth]]) -> dict[str, Metric]:
    rows = pd.DataFrame([evaluator.row_of_boxes(boxes, truth) for boxes, truth in pairs])
    return {metric.name: metric for metric in evaluator.summary(rows)}


@pytest.mark.parametrize("difficult", [False, True])
def test_average_recall_is_that_of_coco(difficult: bool) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    pairs = random_set(40, seed=0)
    annotations, detections = [], []
    for i, (boxes, truth) in enumerate(pairs, 1):
        for box, flag in zip(to_xywh(truth.boxes), truth.difficult, strict=True):
            crowd = int(flag and not difficult)  # what COCO ignores
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": crowd}
            annotations.append({**annotation, "bbox": box.tolist(), "area": box[2] * box[3]})
        for rank, box in enumerate(to_xywh(boxes)):
            detections.append({"image_id": i, "category_id": 1, "bbox": box.tolist(), "score": 1 - rank / 1000})
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO()
        gt.dataset = {
            "images": [{"id": i} for i in range(1, len(pairs) + 1)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "object"}],
            "info": {},
        }
        gt.createIndex()
        evaluation = cocoeval.COCOeval(gt, gt.loadRes(detections), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(BUDGETS)
        evaluation.evaluate()
        evaluation.accumulate()
    expected = 100 * evaluation.eval["recall"][:, 0, 0, :].mean(axis=0)
    metrics = summary(Proposals(difficult=difficult), pairs)
    np.testing.assert_allclose([metrics[f"ar_coco_{k}"].value for k in BUDGETS], expected)
    np.testing.assert_array_equal(IOUS, evaluation.params.iouThrs)


def test_recall_against_brute_force() -> None:
    pairs = random_set(30, seed=1)
    metrics = summary(Proposals(), pairs)
    for k in BUDGETS:
        matched: list[float] = []
        for boxes, truth in pairs:
            objects = truth.boxes[~truth.difficult]
            overlap = iou(boxes[:k], objects)
            free_boxes, free_objects = set(range(len(overlap))), set(range(len(objects)))
            for value, p, g in sorted(((-overlap[p, g], p, g) for p, g in np.ndindex(overlap.shape)), key=lambda x: x):
                if p in free_boxes and g in free_objects:
                    free_boxes.remove(p)
                    free_objects.remove(g)
                    matched.append(float(-value))
            matched += [0.0] * len(free_objects)
        array = np.array(matched)
        assert metrics[f"recall50_{k}"].value == pytest.approx(100 * (array >= 0.5).mean())
        assert metrics[f"recall70_{k}"].value == pytest.approx(100 * (array >= 0.7).mean())
        curve = [(array >= step / 1000).mean() for step in range(500, 1001)]
        assert metrics[f"ar_{k}"].value == pytest.approx(100 * 2 * 0.001 * np.trapezoid(curve))
        assert metrics[f"ar_{k}"].value == pytest.approx(100 * 2 * np.maximum(array - 0.5, 0).mean(), abs=0.1)
        assert metrics[f"ar_{k}"].n == len(array)


def plain_overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_matching(objects: list[list[float]], boxes: list[list[float]]) -> list[float]:
    """The steps of detection-proposals: the largest entry, row by row; rows are the fewer of the two."""
    rows, columns = (objects, boxes) if len(objects) <= len(boxes) else (boxes, objects)
    left_rows, left_columns, matched = list(range(len(rows))), list(range(len(columns))), [0.0] * len(objects)
    while left_rows:
        best, chosen = -1.0, (0, 0)
        for r in left_rows:
            for c in left_columns:
                if (o := plain_overlap(rows[r], columns[c])) > best:
                    best, chosen = o, (r, c)
        left_rows.remove(chosen[0])
        left_columns.remove(chosen[1])
        matched[chosen[0] if rows is objects else chosen[1]] = best
    return matched


def test_hosangs_protocol_in_plain_loops() -> None:
    """Budgets in half decades, duplicate boxes once, difficult objects included; objects without boxes are missed."""
    pairs = [*random_set(25, seed=4), (np.zeros((0, 4)), truth_of([[0, 0, 9, 9], [3, 3, 20, 20]]))]
    pairs = [(np.concatenate([boxes[:40], boxes]), truth) for boxes, truth in pairs]
    assert HOSANG.budgets == tuple(round(10 ** (e / 2)) for e in range(9))
    metrics = summary(HOSANG, pairs)
    for k in HOSANG.budgets:
        found: list[float] = []
        for boxes, truth in pairs:
            once: list[list[float]] = []
            for box in boxes.tolist():
                if box not in once:
                    once.append(box)
            found += plain_matching(truth.boxes.tolist(), once[:k])
        recall = [sum(o >= step / 1000 for o in found) / len(found) for step in range(500, 1001)]
        assert metrics[f"recall50_{k}"].value == pytest.approx(100 * recall[0])
        assert metrics[f"recall70_{k}"].value == pytest.approx(100 * recall[200])
        average = 2 * 0.001 * sum((a + b) / 2 for a, b in itertools.pairwise(recall))
        assert metrics[f"ar_{k}"].value == pytest.approx(100 * average)
        assert metrics[f"ar_{k}"].n == sum(len(truth.boxes) for _, truth in pairs)
    assert HOSANG.headline[:2] == ("recall50_1", "recall50_10")


def test_ties_are_matched_as_in_the_authors_code() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        boxes, objects = (rng.integers(0, 3, (rng.integers(1, 7), 2)).astype(float) for _ in range(2))
        boxes, objects = (np.concatenate([corner, corner + 2], axis=1) for corner in (boxes, objects))
        wanted = plain_matching(objects.tolist(), boxes.tolist())
        np.testing.assert_allclose(match_best_pairs(iou(boxes, objects)), wanted)


def test_mean_recall_over_classes_in_plain_loops() -> None:
    pairs = [*random_set(25, seed=5), (np.zeros((0, 4)), truth_of([[0, 0, 9, 9]], [2]))]
    metrics = summary(STL, pairs)
    for k in STL.budgets:
        for share in (0.5, 0.7):
            hits: dict[int, list[bool]] = {}
            for boxes, truth in pairs:
                for box, kind, flag in zip(truth.boxes.tolist(), truth.box_labels, truth.difficult, strict=True):
                    if not flag:
                        found = any(plain_overlap(box, proposal) >= share for proposal in boxes[:k].tolist())
                        hits.setdefault(int(kind), []).append(found)
            metric = metrics[f"mean_recall{round(100 * share)}_{k}"]
            assert metric.value == pytest.approx(100 * np.mean([np.mean(found) for found in hits.values()]))
            assert covers(metric)
            assert (metric.n, metric.note) == (sum(map(len, hits.values())), "4 classes")
    assert set(STL.headline) <= set(metrics)
    assert metrics["mabo"].value == pytest.approx(summary(Proposals(max_boxes=1000), pairs)["mabo"].value)


def test_equal_boxes_are_counted_once() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 5, 9, 9], [0.4, 0, 9, 8.2], [5, 5, 9, 9.1]])
    assert first_of_equal(boxes).tolist() == [0, 1, 3]
    truth = truth_of([[20, 20, 29, 29]])
    twice = np.array([[0.0, 0, 9, 9]] * 2 + [[20, 20, 29, 29]])
    found = [Proposals(budgets=(1, 2, 3), unique=unique).row_of_boxes(twice, truth) for unique in (False, True)]
    assert [[row[f"matched_{k}"].tolist() for k in (1, 2, 3)] for row in found] == [[[0], [0], [1]], [[0], [1], [1]]]
    assert [row["n_boxes"] for row in found] == [3, 2]


def test_the_integral_is_that_of_a_step() -> None:
    for o in (0.0, 0.4999, 0.5, 0.50049, 0.777, 0.9999, 1.0):
        steps = [float(o >= step / 1000) for step in range(500, 1001)]
        assert recall_integral(np.array([o]))[0] == pytest.approx(2 * 0.001 * np.trapezoid(steps))


def test_best_overlap_against_brute_force() -> None:
    pairs = random_set(20, seed=2)
    metrics = summary(Proposals(difficult=True), pairs)
    best: dict[int, list[float]] = {}
    for boxes, truth in pairs:
        for box, kind in zip(truth.boxes, truth.box_labels, strict=True):
            best.setdefault(int(kind), []).append(float(iou(boxes[:100], box[None]).max(initial=0)))
    assert metrics["abo"].value == pytest.approx(100 * np.mean(list(itertools.chain(*best.values()))))
    assert metrics["mabo"].value == pytest.approx(100 * np.mean([np.mean(values) for values in best.values()]))
    assert metrics["mabo"].note == f"{len(best)} classes"
    for metric in metrics.values():
        assert covers(metric)


def test_matching_differs_where_it_should() -> None:
    # One proposal between two objects matches only one of them; the best overlap has no such rule.
    objects, box = [[0, 0, 9, 9], [4, 0, 13, 9]], np.array([[2.0, 0, 11, 9]])
    row = Proposals().row_of_boxes(box, truth_of(objects))
    assert sorted(row["matched_1"]) == [0, pytest.approx(2 / 3)]
    assert row["best"] == pytest.approx([2 / 3, 2 / 3])
    # In COCO's matching the first proposal takes the object that the second fits better, so the second matches nothing.
    overlap = np.array([[0.55, 0.53], [0.8, 0.2]])
    np.testing.assert_array_equal(match_best_pairs(overlap), [0.8, 0.53])
    assert match_coco(overlap, (2,))[0][0] == 1
    assert match_coco(overlap[::-1], (1, 2))[1][0] == 2


def test_rows_of_difficult_objects() -> None:
    truth = truth_of([[0, 0, 9, 9], [20, 20, 29, 29]], difficult=[False, True])
    boxes = np.array([[20.0, 20, 29, 29], [0, 0, 9, 9]])
    row = Proposals().row_of_boxes(boxes, truth)
    assert row["n_objects"] == 1
    assert row["matched_1"] == [0]  # the place is used up
    assert row["matched_10"] == [1]
    assert list(Proposals(difficult=True).row_of_boxes(boxes, truth)["matched_1"]) == [0, 1]


@pytest.mark.parametrize("score", ["f1", "mean"])
def test_proposals_of_two_blobs(score: str) -> None:
    values = np.zeros((60, 80))
    values[10:20, 10:30] = 1
    values[40:50, 50:60] = 0.55
    evaluator = Proposals(score=score)  # type: ignore[arg-type]
    boxes = evaluator.propose(ScoreMap(values, (60, 80)))
    np.testing.assert_array_equal(boxes, [[10, 10, 29, 19], [50, 40, 59, 49]])  # no duplicates, the strong one first
    row = evaluator.row(ScoreMap(values, (60, 80)), truth_of([[10, 10, 29, 19], [50, 40, 59, 49]]))
    assert (row["n_boxes"], row["map_state"]) == (2, "ok")
    assert list(row["matched_10"]) == [1, 1]


def test_ties_go_to_area_then_raster() -> None:
    values = np.zeros((60, 80))
    values[40:50, 5:15] = values[5:15, 50:60] = values[5:15, 20:30] = 1
    boxes = Proposals().propose(ScoreMap(values, (60, 80)))
    np.testing.assert_array_equal(boxes[:, :2], [[20, 5], [50, 5], [5, 40]])
    values[50, 5:15] = 1
    assert Proposals(score="mean").propose(ScoreMap(values, (60, 80)))[0].tolist() == [5, 40, 14, 50]


def test_limit_and_suppression() -> None:
    rng = np.random.default_rng(0)
    score_map = ScoreMap(ndimage.gaussian_filter(rng.normal(size=(60, 80)), 2), (60, 80))
    everything = Proposals().propose(score_map)
    np.testing.assert_array_equal(Proposals(max_boxes=5).propose(score_map), everything[:5])
    sparse = Proposals(nms=0.3).propose(score_map)
    overlap = iou(sparse, sparse) - np.eye(len(sparse))
    assert overlap.max() <= 0.3
    assert len(sparse) < len(everything)
    np.testing.assert_array_equal(suppress(everything, 1.0, 7), everything[:7])


@settings(derandomize=True, deadline=None)
@given(arrays(np.float32, (7, 9), elements=st.floats(-1, 1, width=32)), st.integers(0, 99))
def test_positive_inside(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.integers(0, 9, (2, 5)), axis=0), np.sort(rng.integers(0, 7, (2, 5)), axis=0)
    boxes = np.stack([x[0], y[0], x[1], y[1]], axis=1).astype(float)
    brute = [values[y1 : y2 + 1, x1 : x2 + 1].clip(0).sum(dtype=float) for x1, y1, x2, y2 in boxes.astype(int)]
    np.testing.assert_allclose(positive_inside(values, boxes), brute, atol=1e-9)


@settings(derandomize=True, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
)
def test_matching_is_one_to_one(overlap: np.ndarray) -> None:
    matched = match_best_pairs(overlap)
    assert matched.shape == (overlap.shape[1],)
    assert (matched <= overlap.max(axis=0, initial=0)).all()
    assert (matched > 0).sum() <= len(overlap)
    if overlap.size:
        assert matched.max() == overlap.max()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_maps_without_foreground(value: float) -> None:
    evaluator, truth = Proposals(), truth_of([[0, 0, 5, 5]])
    row = evaluator.row(ScoreMap(np.full((7, 7), value), (60, 80)), truth)
    assert row["n_boxes"] == 0
    assert list(row["best"]) == [0]
    metrics = {metric.name: metric for metric in evaluator.summary(pd.DataFrame([row]))}
    assert (metrics["recall50_1"].value, metrics["recall50_1"].n) == (0, 1)
    assert "of 1 maps" in metrics["abo"].note


def test_constant_map_is_one_box() -> None:
    row = Proposals().row(ScoreMap(np.ones((7, 7)), (60, 80)), truth_of([[0, 0, 79, 59]]))
    assert (row["n_boxes"], row["map_state"]) == (1, "constant")
    assert list(row["matched_1"]) == [1]


@pytest.mark.parametrize("rule", ["range", "mean", "energy"])
def test_other_rules_on_signed_maps(rule: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, 7))
    for shift in (0, -9):  # -9: negative everywhere
        boxes = Proposals(rule=rule).propose(ScoreMap(values + shift, (60, 80)))  # type: ignore[arg-type]
        assert (len(boxes) > 0) == (shift == 0 or rule == "range")


def test_no_objects_and_tiny_images() -> None:
    evaluator = Proposals()
    row = evaluator.row(ScoreMap(np.ones((1, 1)), (1, 1)), truth_of([]))
    assert (row["n_boxes"], row["n_objects"]) == (1, 0)
    *metrics, boxes = evaluator.summary(pd.DataFrame([row]))
    assert all(math.isnan(metric.value) and metric.n == 0 for metric in metrics)
    assert (boxes.name, boxes.value, boxes.n, boxes.unit) == ("boxes", 1, 1, "")
    line = evaluator.row(ScoreMap(np.array([[0.0, 1, 1, 0]]), (1, 4)), truth_of([[1, 0, 2, 0]]))
    assert list(line["matched_1"]) == [1]


def test_rows_survive_parquet_and_merging(tmp_path: object) -> None:
    evaluator = Proposals()
    rows = pd.DataFrame([evaluator.row_of_boxes(boxes, truth) for boxes, truth in random_set(20, seed=3)])
    for part, name in ((rows[:7], "a"), (rows[7:], "b")):
        part.to_parquet(f"{tmp_path}/{name}.parquet")
    merged = pd.concat([pd.read_parquet(f"{tmp_path}/{name}.parquet") for name in "ab"], ignore_index=True)
    assert evaluator.summary(merged) == evaluator.summary(rows)


def test_recall_curve() -> None:
    rows = pd.DataFrame([Proposals().row_of_boxes(np.array([[0.0, 0, 9, 6]]), truth_of([[0, 0, 9, 9]]))])
    curve = recall_curve(rows, 1)
    assert curve["recall"].tolist() == [1] * 5 + [0] * 6  # overlap 0.7
    with pytest.raises(ValueError, match="allowed are 1, 10, 100"):
        recall_curve(rows, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"thresholds": ()},
            {"thresholds": (0.5, 1.0)},
            {"score": "area"},
            {"max_boxes": 0},
            {"nms": 2},
            {"rule": "x"},
        ),
        *({"budgets": ()}, {"budgets": (0, 1)}, {"budgets": (10, 1)}, {"over": "pictures"}),
    ],
)
def test_faults_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Proposals(**wrong)  # type: ignore[arg-type]
