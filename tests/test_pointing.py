"""Pointing, energy and tuned localization against brute force, and at their edges."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation.boxes import iou
from eigencam.evaluation.maps import Rule, ScoreMap, box_of, cut, cuts
from eigencam.evaluation.pointing import Energy, Pointing, fill
from eigencam.evaluation.tuned import DEFAULT, TunedLocalization, boxes_around

SIZE = (60, 80)


def truth(*boxes: tuple[int, ...], size: tuple[int, int] = SIZE, difficult: bool = False, name: str = "a") -> Truth:
    flags = np.full(len(boxes), difficult)
    return Truth(name, size, 0, np.array(boxes, float).reshape(-1, 4), np.zeros(len(boxes), np.int64), flags)


def peak_at(x: int, y: int, size: tuple[int, int] = SIZE) -> ScoreMap:
    values = np.zeros(size)
    values[y, x] = 1
    return ScoreMap(values, size)


def noise(seed: int, size: tuple[int, int] = SIZE) -> ScoreMap:
    return ScoreMap(np.random.default_rng(seed).normal(size=size), size)


@pytest.mark.parametrize("x", range(0, 80, 7))
@pytest.mark.parametrize("objects", ["boxes", "mask"])
def test_a_hit_is_a_pixel_of_the_object_nearer_than_the_tolerance(x: int, objects: str) -> None:
    t = truth((30, 20, 40, 50), (10, 0, 12, 3))
    mask = np.where(fill(t.boxes, SIZE), np.uint8(1), np.uint8(0))
    t = Truth("a", SIZE, 0, t.boxes, t.box_labels, t.difficult, mask)
    ys, xs = np.nonzero(mask)
    for y in range(0, 60, 9):
        expected = (np.hypot(xs - x, ys - y) < 15).any()
        assert Pointing(objects=objects).row(peak_at(x, y), t)["hit"] == expected  # type: ignore[arg-type]


def test_the_tolerance_itself_is_a_miss() -> None:
    t = truth((20, 20, 30, 30))
    assert Pointing(tolerance=5).row(peak_at(15, 25), t)["hit"] == 0
    assert Pointing(tolerance=5.001).row(peak_at(15, 25), t)["hit"] == 1


def test_ties_share_and_a_constant_map_scores_by_chance() -> None:
    values = np.zeros(SIZE)
    values[25, 25] = values[0, 79] = 1
    t = truth((20, 20, 30, 30))
    assert Pointing().row(ScoreMap(values, SIZE), t)["hit"] == 0.5
    ys, xs = np.nonzero(np.ones(SIZE))
    near = np.hypot(np.maximum(np.maximum(20 - xs, xs - 30), 0), np.maximum(np.maximum(20 - ys, ys - 30), 0)) < 15
    assert Pointing().row(ScoreMap(np.ones(SIZE), SIZE), t)["hit"] == pytest.approx(near.mean())


def test_pictures_without_an_object_to_hit_are_left_out() -> None:
    rows = [
        Pointing().row(peak_at(25, 25), t)
        for t in (truth((20, 20, 30, 30)), truth(), truth((0, 0, 9, 9), difficult=True))
    ]
    frame = pd.DataFrame(rows).assign(label=0)
    accuracy, hits = Pointing().summary(frame)
    assert (accuracy.value, accuracy.n, hits.value, hits.n) == (100, 1, 100, 1)
    assert "2 pictures" in accuracy.note
    assert np.isnan(Pointing().summary(frame[1:])[0].value)
    nan = Pointing().row(ScoreMap(np.full(SIZE, np.nan), SIZE), truth((0, 0, 9, 9)))
    assert nan["hit"] == 0


def test_the_accuracy_is_the_mean_over_classes() -> None:
    frame = pd.DataFrame({"hit": [1.0, 1, 1, 0], "label": [0, 0, 0, 1], "map_state": "ok"})
    accuracy, hits = Pointing().summary(frame)
    assert (accuracy.value, hits.value) == (50, 75)
    assert accuracy.low <= 50 <= accuracy.high


def by_hand(score_map: ScoreMap, inside: NDArray[np.bool_], delta: float) -> tuple[float, float]:
    m = score_map.full.astype(float)
    m = (m - m.min()) / (m.max() - m.min())
    above = m > delta
    return m[inside].sum() / m.sum(), (above & inside).sum() / (inside.sum() + (above & ~inside).sum())


@pytest.mark.parametrize("seed", range(4))
def test_energy_and_overlap_follow_their_formulas(seed: int) -> None:
    t = truth((5, 6, 40, 33), (30, 20, 79, 59))
    row = Energy().row(noise(seed), t)
    for delta in (0, 0.25, 0.5):
        expected = by_hand(noise(seed), fill(t.boxes, SIZE), delta)
        assert (row["energy"], row[f"overlap_{delta:g}"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("values", [np.zeros((1, 1)), np.full((3, 3), 7.0), np.full((2, 2), np.nan)], ids=str)
def test_maps_without_energy(values: NDArray[np.float64]) -> None:
    row = Energy().row(ScoreMap(values, SIZE), truth((5, 6, 40, 33)))
    assert row["energy"] == row["overlap_0"] == 0
    assert np.isnan(Energy().row(ScoreMap(values, SIZE), truth())["energy"])


@pytest.mark.parametrize("size", [(60, 80), (1, 40), (1, 1)])
@pytest.mark.parametrize("rule", ["range", "max", "mean", "energy"])
def test_boxes_at_all_thresholds_are_those_of_one_threshold_each(rule: Rule, size: tuple[int, int]) -> None:
    for seed in range(3):
        score_map = noise(seed, size)
        assert cuts(score_map, rule, DEFAULT[rule]).tolist() == [cut(score_map, rule, t) for t in DEFAULT[rule]]
        for threshold, box in zip(DEFAULT[rule], boxes_around(score_map, rule, DEFAULT[rule]), strict=True):
            expected = box_of(score_map, rule, threshold, "all")
            whole = [0, 0, size[1] - 1, size[0] - 1]
            assert box.tolist() == (whole if np.isnan(expected).any() else expected.tolist())


def test_the_threshold_is_chosen_on_the_other_half() -> None:
    rng = np.random.default_rng(0)
    evaluator = TunedLocalization()
    rows = []
    for i in range(60):
        x, y = int(rng.integers(0, 40)), int(rng.integers(0, 30))
        values = rng.random(SIZE) * 0.3
        values[y : y + 25, x : x + 30] += 0.7
        t = truth((x, y, x + 29, y + 24), name=str(i))
        row = evaluator.row(ScoreMap(values, SIZE), t)
        assert row["ious"][8] == pytest.approx(
            iou(box_of(ScoreMap(values, SIZE), "range", 0.4, "all")[None], t.boxes)[0, 0]
        )
        rows.append({"image": str(i), **row})
    error, best, threshold = evaluator.summary(pd.DataFrame(rows))
    assert best.value == 0
    assert error.value >= best.value
    assert 0.2 <= threshold.value <= 0.7
    assert error.n == 60
    everywhere = evaluator.summary(pd.DataFrame([{"image": "a", **evaluator.row(noise(0), truth())}]))
    assert np.isnan(everywhere[0].value)


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Pointing(tolerance=0)
    with pytest.raises(ValueError, match="boxes, mask"):
        Pointing(objects="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no masks"):
        Pointing(objects="mask").row(noise(0), truth((0, 0, 1, 1)))
    with pytest.raises(ValueError, match="delta < 1"):
        Energy([1.5])
    with pytest.raises(ValueError, match="allowed"):
        TunedLocalization("range", [1.5])
