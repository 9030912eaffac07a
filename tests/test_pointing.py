"""Pointing, energy and tuned localization compared with brute force, and edge cases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from covering import covers
from hydra import compose, initialize_config_module
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import iou
from eigencam.datasets.scenes import Scenes
from eigencam.evaluation.localization_tuned import DEFAULT, TunedLocalization, boxes_around
from eigencam.evaluation.maps import Rule, ScoreMap, box_of, cut, cuts
from eigencam.evaluation.pointing import Energy, Pointing, fill, read_flags
from eigencam.reporting.collect import collect
from eigencam.reporting.derived import by_prediction
from eigencam.running.run import run
from eigencam.store.records import Result

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


def test_images_without_an_object_to_hit_are_left_out() -> None:
    rows = [
        Pointing().row(peak_at(25, 25), t)
        for t in (truth((20, 20, 30, 30)), truth(), truth((0, 0, 9, 9), difficult=True))
    ]
    frame = pd.DataFrame(rows).assign(label=0)
    accuracy, hits = Pointing().summary(frame)
    assert (accuracy.value, accuracy.n, hits.value, hits.n) == (100, 1, 100, 1)
    assert "2 images" in accuracy.note
    assert np.isnan(Pointing().summary(frame[1:])[0].value)
    nan = Pointing().row(ScoreMap(np.full(SIZE, np.nan), SIZE), truth((0, 0, 9, 9)))
    assert nan["hit"] == 0


def test_the_accuracy_is_the_mean_over_classes() -> None:
    frame = pd.DataFrame({"hit": [1.0, 1, 1, 0], "label": [0, 0, 0, 1], "map_state": "ok"})
    accuracy, hits = Pointing().summary(frame)
    assert (accuracy.value, hits.value) == (50, 75)
    assert accuracy.value == 50
    assert covers(accuracy)


@dataclass(frozen=True)
class Pair:
    """One class of one image."""

    score_map: ScoreMap
    truth: Truth


def protocol_by_hand(
    pairs: Sequence[Pair], objects: str, flags: dict[str, list[bool]] | None, classes: int
) -> tuple[float, float, int]:
    """The whole protocol pixel by pixel: mean over the classes with a pair, share of hits, number of pairs."""
    hits, misses = np.zeros(classes), np.zeros(classes)
    for pair in pairs:
        t, full = pair.truth, pair.score_map.full
        own = [k for k in range(len(t.boxes)) if t.box_labels[k] == t.label]
        if flags is not None and t.image_id in flags and not flags[t.image_id][t.label]:
            continue
        if all(t.difficult[k] for k in own):
            continue
        height, width = t.size
        target = np.zeros(t.size, bool)
        for v in range(height):
            for u in range(width):
                boxed = any(t.boxes[k][0] <= u <= t.boxes[k][2] and t.boxes[k][1] <= v <= t.boxes[k][3] for k in own)
                assert t.mask is not None
                target[v, u] = boxed if objects == "boxes" else t.mask[v, u] == t.label + 1
        share = 0.0
        if np.isfinite(pair.score_map.values).all() and np.ptp(pair.score_map.values):
            highest = [(v, u) for v in range(height) for u in range(width) if full[v, u] == full.max()]
            vs, us = np.nonzero(target)
            share = float(np.mean([((vs - v) ** 2 + (us - u) ** 2 < 15**2).any() for v, u in highest]))
        hits[t.label] += share
        misses[t.label] += 1 - share
    counted = hits + misses
    accuracies = [hits[k] / counted[k] for k in range(classes) if counted[k]]
    return 100 * float(np.mean(accuracies)), 100 * hits.sum() / counted.sum(), round(counted.sum())


def random_pairs(n: int, classes: int, seed: int) -> list[Pair]:
    """Images with boxes at the border, difficult objects, several per class; maps of one pixel, with ties or NaN."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        height, width = (int(side) for side in rng.integers(1, 70, 2))
        number = int(rng.integers(1, 5))
        x, y = (np.sort(rng.integers(0, side, (number, 2)), axis=1) for side in (width, height))
        boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(float)
        labels, difficult = rng.integers(0, classes, number), rng.random(number) < 0.4
        mask = np.zeros((height, width), np.uint8)
        for box, label in zip(boxes, labels, strict=True):
            mask[fill(box[None], mask.shape)] = label + 1
        mask[rng.random(mask.shape) < 0.1] = 255
        shape = (1, 1) if i % 7 == 0 else tuple(rng.integers(1, 9, 2))
        whole = Truth(str(i), (height, width), 0, boxes, labels, difficult, mask)
        for label in whole.objects():
            values = rng.integers(-2, 3, shape).astype(float)
            if rng.random() < 0.1:
                values[0, 0] = np.nan
            pairs.append(Pair(ScoreMap(values, whole.size), replace(whole, label=label)))
    return pairs


@pytest.mark.parametrize("objects", ["boxes", "mask"])
def test_the_whole_protocol_against_pixel_by_pixel(tmp_path: Path, objects: str) -> None:
    classes, pairs = 6, random_pairs(40, 5, seed=3)  # the last class never occurs
    rng = np.random.default_rng(0)
    flags = {str(i): (rng.random(classes) < 0.5).tolist() for i in range(0, 40, 2)}
    path = tmp_path / "difficult.txt"
    path.write_text("".join("\t".join([name, *(str(int(f)) for f in own)]) + "\n" for name, own in flags.items()))
    evaluator = Pointing(objects=objects, difficult=str(path))  # type: ignore[arg-type]
    rows = [{"label": pair.truth.label, **evaluator.row(pair.score_map, pair.truth)} for pair in pairs]
    found = {metric.name: metric for metric in evaluator.summary(pd.DataFrame(rows))}
    for suffix, chosen in (("", None), ("_difficult", flags)):
        accuracy, hits, n = protocol_by_hand(pairs, objects, chosen, classes)
        assert found[f"pointing_accuracy{suffix}"].value == pytest.approx(accuracy)
        assert found[f"pointing_hits{suffix}"].value == pytest.approx(hits)
        assert found[f"pointing_accuracy{suffix}"].n == found[f"pointing_hits{suffix}"].n == n
        assert "nonfinite of" in found[f"pointing_accuracy{suffix}"].note
    assert 0 < found["pointing_hits_difficult"].n < found["pointing_hits"].n < len(pairs)
    plain = [Pointing(objects=objects).row(pair.score_map, pair.truth) for pair in pairs]  # type: ignore[arg-type]
    assert [row["hit"] for row in plain] == pytest.approx([row["hit"] for row in rows], nan_ok=True)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_an_image_that_is_not_listed_is_in_the_difficult_subset(tmp_path: Path) -> None:
    evaluator = Pointing(difficult=write(tmp_path / "list", "a\t0\nb\t1\n"))
    chosen = [evaluator.row(peak_at(0, 0), truth((0, 0, 9, 9), name=name))["in_difficult"] for name in "abc"]
    assert chosen == [False, True, True]
    frame = pd.DataFrame([{"label": 0, **evaluator.row(peak_at(0, 0), truth((0, 0, 9, 9)))}])
    metrics = evaluator.summary(frame)
    assert [(metric.name, metric.n) for metric in metrics[2:]] == [
        ("pointing_accuracy_difficult", 0),
        ("pointing_hits_difficult", 0),
    ]
    assert np.isnan(metrics[2].value)
    assert metrics[2].note == "the 0 of 1 in the difficult subset"


class Few:
    name, class_space, ids, classes = "few", "few", ["a", "b"], ("x", "y")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\t0\t1\nb\t0\n", "1 flags for b; allowed is one for each of the 2 classes of few"),
        ("c\t0\t1\n", "lists none of the images of few, e.g. a, but c"),
        ("a 0 1\n", "line 1: 'a 0 1'; expected: .* its id and flags"),
        ("a\t0\t1\nb\t0\t2\n", "line 2"),
        ("", "no image is listed"),
    ],
)
def test_a_list_of_other_images_or_classes_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Pointing(difficult=write(tmp_path / "list", text)).sources(Few())  # type: ignore[arg-type]


def test_the_list_is_part_of_the_identity(tmp_path: Path) -> None:
    names = [write(tmp_path / name, text) for name, text in (("x", "a\t0\t1\n"), ("y", "a\t1\t1\n"))]
    digests = [Pointing(difficult=name).sources(Few())["difficult"] for name in names]  # type: ignore[arg-type]
    assert len(set(digests)) == 2
    assert Pointing().sources(Few()) == {}  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="pointing_game_ebp_voc07_difficult"):
        Pointing(difficult=str(tmp_path / "none")).sources(Few())  # type: ignore[arg-type]


@pytest.mark.full
def test_a_run_with_a_list_has_both_and_its_rows_need_the_file_no_more(tmp_path: Path) -> None:
    base = ["dataset.count=5", "workers=0", "device=cpu", "target=each", f"paths.results={tmp_path / 'runs'}"]
    chosen = ["method=[gradcam]", "evaluator=[pointing]", f"evaluator.pointing.difficult={tmp_path / 'list'}"]

    def results() -> Result:
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            return run(compose("run", [*base, *chosen])).results["gradcam", "pointing"]

    data = Scenes(count=5)
    ones, n = "\t1" * len(data.classes), sum(len(data.truth(i).objects()) for i in range(5))
    write(
        tmp_path / "list",
        "".join(f"{name}{ones if k else ones.replace('1', '0')}\n" for k, name in enumerate(data.ids)),
    )
    first = results()
    rows = first.rows()
    assert len(rows) == n
    assert (rows["in_difficult"] == (rows["image"] != data.ids[0])).all()
    assert first.summary is not None
    counts = {metric["name"]: metric["n"] for metric in first.summary.metrics}
    assert counts["pointing_hits"] == n
    assert counts["pointing_hits_difficult"] == rows["in_difficult"].sum() < n
    write(tmp_path / "list", "".join(f"{name}{ones}\n" for name in data.ids))
    read_flags.cache_clear()  # as in another process
    assert results().folder != first.folder
    (tmp_path / "list").unlink()
    long = by_prediction(tmp_path / "runs", collect(tmp_path / "runs"))
    assert any(name.startswith("pointing_accuracy_difficult_") for name in long["metric"])


def by_hand(score_map: ScoreMap, inside: NDArray[np.bool_], delta: float) -> tuple[float, float]:
    m = score_map.full.astype(float)
    m = (m - m.min()) / (m.max() - m.min())
    above = m > delta
    return m[inside].sum() / m.sum(), (above & inside).sum() / (inside.sum() + (above & ~inside).sum())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_energy_and_overlap_follow_their_formulas(seed: int) -> None:
    t = truth((5, 6, 40, 33), (30, 20, 79, 59))
    row = Energy().row(noise(seed), t)
    for delta in (0, 0.25, 0.5):
        expected = by_hand(noise(seed), fill(t.boxes, SIZE), delta)
        assert (row["energy"], row[f"overlap_{delta:g}"]) == pytest.approx(expected, rel=1e-5)


def test_the_energy_is_that_in_the_boxes_of_the_rows_class() -> None:
    """The class's boxes are united, each pixel counts once; boxes of other classes do not count."""
    boxes = np.array([[0, 0, 9, 9], [5, 5, 14, 14], [70, 50, 79, 59]], float)
    several = Truth("a", SIZE, 0, boxes, np.array([0, 0, 1]))
    for label, inside in ((0, fill(boxes[:2], SIZE)), (1, fill(boxes[2:], SIZE))):
        row = Energy().row(noise(5), replace(several, label=label))
        assert (row["energy"], row["overlap_0.25"]) == pytest.approx(by_hand(noise(5), inside, 0.25), rel=1e-5)
    assert fill(boxes[:2], SIZE).sum() == 175
    assert np.isnan(Energy().row(noise(5), replace(several, label=2))["energy"])


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
