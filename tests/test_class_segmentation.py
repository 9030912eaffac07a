"""Class maps compared with a confusion matrix of pixels at every threshold; edge cases; a run with `target=each`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from covering import covers
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from scipy import ndimage

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.class_segmentation import ClassSegmentation
from eigencam.evaluation.localization_tuned import halves
from eigencam.evaluation.maps import ScoreMap
from eigencam.running.run import run

CLASSES = 5
Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A mask, and a map (h, w) for each of some classes; `meant`: whether constant maps are so on purpose."""

    name: str
    mask: Masks
    maps: dict[int, NDArray[np.float64]]
    meant: bool = True

    @property
    def broken(self) -> bool:
        """Whether the map of a class is undefined."""
        return any(not np.isfinite(m).all() or (np.ptp(m) == 0 and not self.meant) for m in self.maps.values())

    def row(self, evaluator: ClassSegmentation, order: int = 1) -> Row:
        height, width = self.mask.shape
        labels = list(self.maps)[::order]
        start = Truth(self.name, (height, width), -1, np.zeros((0, 4)), np.zeros(0, np.int64), mask=self.mask)
        truths = [replace(start, label=label) for label in labels]
        score_maps = [ScoreMap(self.maps[label], (height, width)) for label in labels]
        start_of_row = {"image": self.name, "label": labels[0], "constant_by_design": self.meant}
        return {**start_of_row, **evaluator.joint_row(score_maps, truths)}


def by_hand(example: Example, threshold: float) -> Masks:
    """The label of every pixel by the rule in words."""
    height, width = example.mask.shape
    fulls = {k: ScoreMap(values, (height, width)).full for k, values in example.maps.items()}
    found = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            highest = np.float32(threshold)
            for k in sorted(fulls):
                peak = fulls[k].max()
                if k >= 0 and peak > 0 and fulls[k][y, x] / peak > highest:
                    highest, found[y, x] = fulls[k][y, x] / peak, k + 1
    return found


def miou(examples: Sequence[Example], found: Sequence[Masks]) -> float:
    """The mean IoU from a confusion matrix, over the classes with a pixel in the truth, in percent.

    In an image with an undefined map, each class is predicted wherever it is not.
    """
    confusion, elsewhere = np.zeros((VOID, VOID)), np.zeros(VOID)
    for example, own in zip(examples, found, strict=True):
        if example.broken:
            counted = example.mask[example.mask != VOID]
            for c in {0, *(k + 1 for k in example.maps), *counted.tolist()}:
                elsewhere[c] += (counted != c).sum()
                confusion[c, VOID - 1] += (counted == c).sum()
            continue
        for wanted, predicted in zip(example.mask.ravel().tolist(), own.ravel().tolist(), strict=True):
            if wanted != VOID:
                confusion[wanted, predicted] += 1
    there = [c for c in range(VOID) if confusion[c].any()]
    ious = [
        confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() + elsewhere[c] - confusion[c, c]) for c in there
    ]
    return 100 * float(np.mean(ious))


def random_examples(n: int, seed: int = 0) -> list[Example]:
    """Masks with void pixels, and similar maps: with ties, negative values, some NaN, constant, or of one pixel."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        size = int(rng.integers(1, 15)), int(rng.integers(1, 15))
        labels = rng.permutation(CLASSES)[: rng.integers(1, 4)]
        mask = np.zeros(size, np.uint8)
        maps = {}
        for k in sorted(labels.tolist()):
            shape = ndimage.gaussian_filter(rng.normal(size=size), 2)
            mask[shape > np.quantile(shape, 0.6)] = k + 1
            maps[k] = np.round(shape / np.abs(shape).max() + 0.3 * rng.normal(size=size), 1)
        mask[rng.random(size) < 0.1] = VOID
        if i % 5 == 1:
            maps[next(iter(maps))][0, 0] = np.nan
        if i % 5 == 2:
            maps[next(iter(maps))][:] = 0.4
        if i % 5 == 3:
            maps[next(iter(maps))] = np.ones((1, 1))
        if i % 5 == 4:
            maps[CLASSES + 1] = -np.ones((2, 2))  # given, no pixel of it
        examples.append(Example(f"image {i}", mask, maps))
    return examples


def summary(evaluator: ClassSegmentation, examples: Sequence[Example]) -> dict[str, Metric]:
    return {m.name: m for m in evaluator.summary(pd.DataFrame([example.row(evaluator) for example in examples]))}


@pytest.mark.parametrize(("threshold", "step"), [(0.15, 0.1), (0.3, 0.1), (0.0, 0.25)])
def test_all_metrics_against_a_confusion_matrix_at_each_threshold(threshold: float, step: float) -> None:
    examples, evaluator = random_examples(25), ClassSegmentation(threshold, step)
    grid = evaluator.grid.tolist()
    assert grid == pytest.approx(sorted({*np.arange(0, 1, step).round(6).tolist(), threshold}))
    found = [[by_hand(example, t) for example in examples] for t in grid]
    values = [miou(examples, masks) for masks in found]
    metrics = summary(evaluator, examples)
    assert metrics["class_miou"].value == pytest.approx(values[grid.index(np.float32(threshold))])
    assert metrics["class_miou"].threshold == f"{threshold:g} max"
    assert metrics["class_miou_best"].value == pytest.approx(max(values))
    assert metrics["class_best_threshold"].value == pytest.approx(grid[int(np.argmax(values))])
    assert "oracle" in metrics["class_miou_best"].note

    half = halves(example.name for example in examples)
    assert 0 < half.sum() < len(half)
    read: list[Masks | None] = [None] * len(examples)
    for side in (half, ~half):
        other = [i for i, own in enumerate(side) if not own]
        tuned = [miou([examples[i] for i in other], [masks[i] for i in other]) for masks in found]
        for i in np.flatnonzero(side):
            read[i] = found[int(np.argmax(tuned))][i]
    assert metrics["class_miou_tuned"].value == pytest.approx(miou(examples, [m for m in read if m is not None]))
    curve = evaluator.curves(pd.DataFrame([example.row(evaluator) for example in examples]))[0]
    np.testing.assert_allclose(curve.ys, values)
    for metric in metrics.values():
        assert metric.n == 25
        if metric.unit == "%":
            assert covers(metric)


def test_the_note_says_what_occurs_and_what_is_wrong_with_maps() -> None:
    examples = random_examples(25)
    maps = [values for example in examples for values in example.maps.values()]
    constant, nan = sum(values.min() == values.max() for values in maps), sum(np.isnan(m).any() for m in maps)
    note = summary(ClassSegmentation(), examples)["class_miou"].note
    assert note.startswith(f"{constant} constant, {nan} nonfinite of {len(maps)} maps; ")
    assert f"{CLASSES + 1} classes occur, with background; 1 given without a pixel left out" in note


def test_rows_do_not_depend_on_the_order_of_the_classes() -> None:
    for example in random_examples(10, seed=1):
        one, other = (example.row(ClassSegmentation(), order) for order in (1, -1))
        assert all(np.array_equal(one[name], other[name]) for name in one if name != "label")


def halved(value: int, size: tuple[int, int] = (4, 6)) -> Masks:
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = value
    return mask


LEFT = np.array([[1.0, 1, 1, 0, 0, 0]] * 4)


def test_one_class_that_is_found_exactly() -> None:
    metrics = summary(ClassSegmentation(), [Example("a", halved(3), {2: LEFT})])
    assert metrics["class_miou"].value == 100
    assert metrics["class_miou"].note == "2 classes occur, with background"
    assert np.isnan(metrics["class_miou_tuned"].value)
    assert metrics["class_miou_tuned"].note == "not defined: one half is empty"


def test_of_tied_classes_the_first_has_the_pixels() -> None:
    mask = halved(1)
    mask[2:, :3] = 2
    metrics = summary(ClassSegmentation(), [Example("a", mask, {0: LEFT, 1: LEFT})])
    assert metrics["class_miou"].value == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert "100.0 % of the pixels found are a tie" in metrics["class_miou"].note
    assert "tie" not in summary(ClassSegmentation(), [Example("a", mask, {0: LEFT, 1: 1 - LEFT})])["class_miou"].note


def test_a_third_class_above_two_that_tie_is_no_tie() -> None:
    example = Example("a", halved(1), {0: LEFT, 1: LEFT, 2: np.ones((1, 1))})
    assert example.row(ClassSegmentation())["tied"] == 12
    lower = LEFT / 2
    lower[0, 5] = 1
    assert Example("a", halved(1), {0: lower, 1: lower, 2: LEFT}).row(ClassSegmentation())["tied"] == 1


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (np.full((2, 2), np.nan), 0),
        (np.zeros((2, 2)), 50 * 5 / 6),
        (-np.ones((2, 2)), 50 * 5 / 6),
        (np.ones((2, 2)), 50 * 1 / 6),
    ],
    ids=["nan", "zero", "negative", "constant"],
)
def test_a_map_of_one_value_is_wrong_everywhere_unless_it_is_meant(values: NDArray[np.float64], meant: float) -> None:
    mask = halved(0)
    mask[:, 0] = 1
    for given, expected in ((True, meant), (False, 0)):
        row = Example("a", mask, {0: values}, given).row(ClassSegmentation())
        assert row["constant"] + row["nonfinite"] == row["maps"] == 1
        metric = ClassSegmentation().summary(pd.DataFrame([row]))[0]
        assert metric.value == pytest.approx(expected)
        assert "of 1 maps" in metric.note


def test_void_no_mask_no_class_and_one_pixel() -> None:
    evaluator = ClassSegmentation()
    emptied = Truth("a", (4, 6), 0, np.zeros((0, 4)), np.zeros(0, np.int64), mask=halved(0))
    object.__setattr__(emptied, "mask", np.full_like(halved(0), VOID))  # a mask may not be void everywhere
    nothing = {"image": "a", "label": 0, **evaluator.joint_row([ScoreMap(LEFT, (4, 6))], [emptied])}
    void = {m.name: m for m in evaluator.summary(pd.DataFrame([nothing]))}
    assert {(np.isnan(m.value), m.note) for m in void.values()} == {(True, "not defined: all pixels are void")}
    unlabelled = summary(evaluator, [Example("a", halved(1), {-1: LEFT})])
    assert unlabelled["class_miou"].value == 25  # all is predicted as background: half of it is right
    assert (
        summary(evaluator, [Example("a", np.ones((1, 1), np.uint8), {0: np.ones((1, 1))})])["class_miou"].value == 100
    )
    truth = Truth("a", (4, 6), 0, np.zeros((0, 4)), np.zeros(0, np.int64))
    rows = [{"image": "a", **evaluator.joint_row([ScoreMap(LEFT, (4, 6))], [truth])}]
    assert rows[0].keys() == Example("a", halved(1), {0: LEFT}).row(evaluator).keys() - {"label", "constant_by_design"}
    assert all(np.isnan(m.value) and "no image has a mask" in m.note for m in evaluator.summary(pd.DataFrame(rows)))
    assert evaluator.curves(pd.DataFrame(rows)) == []
    both = pd.DataFrame([*rows, Example("b", halved(1), {0: LEFT}).row(evaluator)])
    first = evaluator.summary(both)[0]
    assert (first.value, first.n) == (100, 1)


def test_parameters_and_masks_are_checked() -> None:
    with pytest.raises(ValueError, match="0 <= threshold < 1"):
        ClassSegmentation(1)
    with pytest.raises(ValueError, match=r"0\.001 to 1"):
        ClassSegmentation(step=0)
    other = Truth("a", (4, 5), 0, np.zeros((0, 4)), np.zeros(0, np.int64), mask=halved(1), own_resolution=True)
    with pytest.raises(ValueError, match="allowed are equal ones"):
        ClassSegmentation().joint_row([ScoreMap(LEFT, (4, 5))], [other])
    with pytest.raises(ValueError, match="room for 254 classes"):
        Example("a", halved(1), {254: LEFT}).row(ClassSegmentation())


@pytest.mark.full
def test_a_run_has_one_row_an_image(tmp_path: Path) -> None:
    base = ["dataset.count=6", "workers=0", "device=cpu", "target=each", f"paths.results={tmp_path}"]
    chosen = ["method=[gradcam,center_gaussian]", "evaluator=[class_segmentation]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        job = run(compose("run", [*base, *chosen]))
    truths = [job.dataset.truth(i) for i in range(6)]
    assert any(len(truth.objects()) > 1 for truth in truths)
    for result in job.results.values():
        rows = result.rows()
        assert list(rows["image"]) == job.dataset.ids
        for truth, row in zip(truths, rows.to_dict("records"), strict=True):
            assert truth.mask is not None
            assert row["maps"] == len(truth.objects())
            assert row["truth"].sum() == (truth.mask != VOID).sum()
            assert row["predicted"].sum() >= row["truth"].sum()  # again the background, at every threshold
        assert result.summary is not None
        values = {m["name"]: m["value"] for m in result.summary.metrics}
        assert values["class_miou"] <= values["class_miou_best"] <= 100
