"""MaxBoxAcc and PxAP against the protocol's own steps, written with OpenCV: bicubic, contours at every threshold."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from eigencam.datasets.base import Truth
from eigencam.evaluation import wsol
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.bicubic import resize
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.wsol import MaxBoxAcc

V1, V2 = MaxBoxAcc(), MaxBoxAcc("all", (0.3, 0.5, 0.7))
PLAIN = MaxBoxAcc(form="plain")
Floats = NDArray[np.float64]


def oracle_map(values: NDArray[np.float32], size: int = 224) -> Floats:
    """(size, size) in [0, 1]: float64, bicubic, minimum and maximum; zeros for a map that is constant or has a NaN."""
    if np.isnan(values).any() or values.min() == values.max():
        return np.zeros((size, size))
    full = cv2.resize(values.astype(np.float64), (size, size), interpolation=cv2.INTER_CUBIC)
    full = full - full.min()
    return full / full.max()


def oracle_truth(truth: Truth, size: int = 224) -> NDArray[np.int64]:
    """Boxes of the truth at the size of the map, truncated; inclusive ends."""
    height, width = truth.size
    sought = truth.boxes[truth.sought()].tolist()
    scale = float(size)
    boxes = [
        [x1 * scale / width, y1 * scale / height, x2 * scale / width, y2 * scale / height] for x1, y1, x2, y2 in sought
    ]
    return np.array([[int(end) for end in box] for box in boxes])


def oracle_boxes(image: NDArray[np.uint8], threshold: int) -> tuple[NDArray[np.int64], int]:
    """Boxes of all contours above a threshold, and which is that of the largest."""
    binary = cv2.threshold(image[:, :, None], threshold, 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return np.array([[0, 0, 0, 0]]), 0
    areas = [cv2.contourArea(contour) for contour in contours]
    height, width = image.shape
    ends = [(x, y, min(x + w, width - 1), min(y + h, height - 1)) for x, y, w, h in map(cv2.boundingRect, contours)]
    return np.array(ends), areas.index(max(areas))


def oracle_iou(a: NDArray[np.int64], b: NDArray[np.int64]) -> Floats:
    """(A, B): inclusive boxes."""
    a, b = a[:, None], b[None]
    sides = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1)
    common = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0] + 1) * (box[..., 3] - box[..., 1] + 1) for box in (a, b)]
    return common / (areas[0] + areas[1] - common)


def oracle(
    image: NDArray[np.uint8], boxes: NDArray[np.int64], thresholds: Sequence[int]
) -> dict[wsol.Contours, Floats]:
    """The best overlap at each threshold, of the largest contour and of all."""
    largest, every = [], []
    for v in thresholds:
        found, which = oracle_boxes(image, v)
        ious = oracle_iou(found, boxes).max(axis=1)
        largest.append(ious[which])
        every.append(ious.max())
    return {"largest": np.array(largest), "all": np.array(every)}


def truth_of(rng: np.random.Generator, size: tuple[int, int] | None = None, count: int | None = None) -> Truth:
    """A picture with some boxes of its class and one of another."""
    height, width = size or tuple(rng.integers(100, 500, 2).tolist())
    n = (count if count is not None else int(rng.integers(1, 4))) + 1
    x, y = np.sort(rng.integers(0, width, (n, 2)), axis=1), np.sort(rng.integers(0, height, (n, 2)), axis=1)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)
    return Truth("a", (height, width), 3, boxes, np.array([3] * (n - 1) + [4]))


def cam(rng: np.random.Generator, n: int, noise: float = 0.05) -> NDArray[np.float32]:
    """(n, n): one to three blobs and some noise."""
    y, x = np.mgrid[:n, :n] / n
    blobs = [
        rng.uniform(0.3, 1)
        * np.exp(-((x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2) / (2 * rng.uniform(0.08, 0.25) ** 2))
        for _ in range(rng.integers(1, 4))
    ]
    return (sum(blobs) + noise * rng.normal(size=(n, n))).astype(np.float32)


def one_pixel(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    values = np.zeros((n, n), np.float32)
    values[tuple(rng.integers(0, n, 2))] = 1
    return values


def rings(rng: np.random.Generator) -> NDArray[np.float32]:
    """224 x 224 of few levels: frames of rectangles, nested and side by side, some at the border."""
    values = np.zeros((224, 224), np.float32)
    for _ in range(rng.integers(2, 12)):
        (x, y), (w, h) = rng.integers(0, 200, 2), rng.integers(1, 90, 2)
        values[y : y + h, x : x + w] = rng.integers(1, 5)
        values[y + 1 : y + h - 1, x + 1 : x + w - 1] = rng.integers(0, 5)
    return values


def blocks(rng: np.random.Generator) -> NDArray[np.float32]:
    """224 x 224: components of equal areas, on one or two levels."""
    values = np.zeros((224, 224), np.float32)
    side = int(rng.integers(1, 7))
    for y in range(0, 224 - side, 2 * side + 3):
        for x in rng.choice(np.arange(0, 224 - side, 2 * side + 1), 2, replace=False):
            values[y : y + side, x : x + side] = rng.integers(1, 3)
    return values


KINDS: dict[str, tuple[int, Callable[[np.random.Generator], NDArray[np.float32]]]] = {
    "cam 14": (50, lambda rng: cam(rng, 14)),
    "cam 7": (50, lambda rng: cam(rng, 7)),
    "relu": (30, lambda rng: np.maximum(cam(rng, 14, 0.2) - 0.3, 0)),
    "random 14": (30, lambda rng: rng.random((14, 14), np.float32)),
    "random 28": (10, lambda rng: rng.random((28, 28), np.float32)),
    "random 5 x 9": (20, lambda rng: rng.normal(size=(5, 9)).astype(np.float32)),
    "smooth 224": (10, lambda rng: ndimage.gaussian_filter(rng.normal(size=(224, 224)), 5).astype(np.float32)),
    "border": (20, lambda rng: np.pad(rng.random((2, 14), np.float32), ((0, 12), (0, 0)))[:: rng.choice([-1, 1])]),
    "one cell": (20, lambda rng: one_pixel(rng, 14)),
    "one pixel": (20, lambda rng: one_pixel(rng, 224)),
    "one cell in all": (5, lambda rng: rng.random((1, 1), np.float32)),
    "rings": (20, rings),
    "ties": (20, blocks),
    "constant": (10, lambda rng: np.full((14, 14), rng.normal(), np.float32)),
    "nan": (10, lambda rng: np.where(rng.random((14, 14)) < 0.1, np.nan, cam(rng, 14)).astype(np.float32)),
    "two values": (20, lambda rng: rng.integers(0, 2, (14, 14)).astype(np.float32)),
}


def bits(ious: Floats, iou: float) -> list[int]:
    return np.packbits(ious >= iou).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_overlaps_are_the_protocols(kind: str) -> None:
    """345 maps, every threshold: overlaps equal as floats, rows equal as bits."""
    count, make = KINDS[kind]
    rng = np.random.default_rng(0)
    for _ in range(count):
        values, truth = make(rng), truth_of(rng)
        score_map = ScoreMap(values, truth.size)
        full, boxes = oracle_map(values), oracle_truth(truth)
        np.testing.assert_array_equal(wsol.scaled(score_map, 224), full)
        image = (full * 255).astype(np.uint8)
        thresholds: Sequence[int] = range(255)
        if (image == 0).all() or set(np.unique(image)) == {0, 255}:
            thresholds = [0]  # all thresholds give the same picture
        by_contours = oracle(image, boxes, thresholds)
        for evaluator in (V1, V2):
            wanted = np.broadcast_to(by_contours[evaluator.contours], 255)
            found = wsol.overlaps(image, wsol.truth_boxes(truth, None, 224), evaluator.contours)
            np.testing.assert_array_equal(found, wanted)
            row = evaluator.row(score_map, truth)
            for iou in evaluator.ious:
                assert row[f"hits_{100 * iou:g}"].tolist() == bits(wanted, iou)


@pytest.mark.parametrize("size", [(24, 24), (1, 40), (40, 1), (1, 1), (2, 31), (17, 5)])
def test_overlaps_of_noise_and_of_narrow_pictures(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for values in (256, 256, 3, 2):
        image = (rng.integers(0, values, size) * (255 // (values - 1))).astype(np.uint8)
        truth = truth_of(rng, size)
        inclusive = truth.boxes[truth.sought()].astype(np.int64)
        half_open = truth.boxes[truth.sought()] + np.array([0, 0, 1, 1])
        for contours, wanted in oracle(image, inclusive, range(255)).items():
            np.testing.assert_array_equal(wsol.overlaps(image, half_open, contours), wanted)


def test_full_noise() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (224, 224)).astype(np.uint8)
    truth = truth_of(rng, (224, 224))
    thresholds = [5, 90, 128, 145, 150, 155, 180, 250]  # the components merge about 150
    for contours, wanted in oracle(image, oracle_truth(truth), thresholds).items():
        found = wsol.overlaps(image, wsol.truth_boxes(truth, None, 224), contours)
        np.testing.assert_array_equal(found[thresholds], wanted)


def test_enlarging_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (1, 5), (2, 3), (7, 7), (13, 14), (28, 28), (100, 60), (223, 225), (300, 500)]:
        for _ in range(5):
            values = rng.normal(size=shape).astype(np.float32)
            wanted = cv2.resize(values.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
            np.testing.assert_array_equal(resize(values, 224), wanted)


def frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame([{"image": f"i{i}", "label": 3, **row} for i, row in enumerate(rows)])


def pictures(n: int = 25) -> list[tuple[ScoreMap, Truth]]:
    rng = np.random.default_rng(7)
    truths = [truth_of(rng) for _ in range(n)]
    makers = [make for _, make in KINDS.values()]
    return [(ScoreMap(makers[i % 5](rng), truth.size), truth) for i, truth in enumerate(truths)]


@pytest.mark.parametrize("step", [0.001, 0.01, 0.3])
def test_the_metric_is_the_protocols(step: float) -> None:
    data = pictures(10)
    images = [(oracle_map(score_map.values) * 255).astype(np.uint8) for score_map, _ in data]
    for evaluator in (V1, V2):
        correct = np.zeros((len(evaluator.ious), len(np.arange(0, 1, step))))
        for image, (_, truth) in zip(images, data, strict=True):
            thresholds, place = np.unique([int(t * image.max()) for t in np.arange(0, 1, step)], return_inverse=True)
            found = oracle(image, oracle_truth(truth), thresholds.tolist())[evaluator.contours][place]
            correct += found[None] >= np.array(evaluator.ious)[:, None]
        wanted = np.average((correct * 100.0 / len(data)).max(axis=1))
        rows = frame([evaluator.row(score_map, truth) for score_map, truth in data])
        metric = dataclasses.replace(evaluator, step=step).summary(rows)[0]
        assert metric.value == wanted
        assert metric.low <= metric.value <= metric.high
        assert metric.n == len(data)


def test_names_thresholds_and_notes() -> None:
    data = pictures(10)
    for evaluator, names in (
        (V1, ["max_box_acc"]),
        (V2, ["max_box_acc_v2", "max_box_acc_v2_30", "max_box_acc_v2_50", "max_box_acc_v2_70"]),
        (PLAIN, ["max_box_acc_plain"]),
        (MaxBoxAcc("all", form="plain"), ["max_box_acc_v2_plain"]),
    ):
        metrics = evaluator.summary(frame([evaluator.row(*pair) for pair in data]))
        assert [metric.name for metric in metrics] == names
        assert evaluator.headline == (names[0],)
        assert all("oracle" in metric.note and "/255" in metric.threshold for metric in metrics)
        assert set(evaluator.protocol()) >= {"contours", "ious", "form", "step", "size", "evaluator"}


def square(x1: int, y1: int, x2: int, y2: int) -> ScoreMap:
    values = np.zeros((224, 224), np.float32)
    values[y1 : y2 + 1, x1 : x2 + 1] = 1
    return ScoreMap(values, (224, 224))


def truth_224(
    *boxes: Sequence[float], size: tuple[int, int] = (224, 224), mask: NDArray[np.uint8] | None = None
) -> Truth:
    array = np.array(boxes, float).reshape(-1, 4)
    return Truth("a", size, 3, array, np.full(len(array), 3), mask=mask)


def test_on_paper() -> None:
    """A box of 10 x 10 is read as 11 x 11; at the picture's last pixel it is exact. The plain form is exact."""
    image, truth = wsol.levels(square(20, 30, 29, 39), 224), truth_224([20, 30, 29, 39])
    boxes = wsol.truth_boxes(truth, None, 224)
    assert wsol.overlaps(image, boxes).tolist() == [100 / 121] * 255
    assert wsol.overlaps(image, boxes, form="plain").tolist() == [1.0] * 255
    corner = wsol.levels(square(200, 200, 223, 223), 224)
    assert wsol.overlaps(corner, wsol.truth_boxes(truth_224([200, 200, 223, 223]), None, 224)).tolist() == [1.0] * 255
    half = truth_224([40, 60, 59, 79], size=(448, 448))
    assert wsol.truth_boxes(half, None, 224).tolist() == [[20, 30, 30, 40]]
    assert wsol.truth_boxes(half, None, 224, "plain").tolist() == [[20, 30, 30, 40]]
    odd = truth_224([41, 61, 60, 80], size=(448, 448))
    assert wsol.truth_boxes(odd, None, 224).tolist() == [[20, 30, 31, 41]]
    assert wsol.truth_boxes(odd, None, 224, "plain").tolist() == [[20.5, 30.5, 30.5, 40.5]]


def test_a_map_of_a_part_of_the_picture() -> None:
    truth = truth_224([110, 10, 119, 19], [90, 0, 109, 9], size=(50, 200))
    wanted = [[20, 20, 40, 40], [-20, 0, 20, 20]]  # 2 pixels of the map a pixel of the picture, from x = 100
    assert wsol.truth_boxes(truth, (100, 0, 150, 50), 100, "plain").tolist() == wanted


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
@pytest.mark.parametrize("values", [np.zeros((7, 7)), np.full((7, 7), 0.3), np.full((7, 7), np.nan)])
def test_no_map(evaluator: MaxBoxAcc, values: NDArray[np.float64]) -> None:
    score_map = ScoreMap(values, (224, 224))
    hits = [evaluator.row(score_map, truth_224(box))["hits_50"] for box in ([0, 0, 0, 0], [0, 0, 223, 223])]
    first = 255 if evaluator.form == "reference" else 0  # the box of the first pixel stands in for one
    assert [int(np.unpackbits(packed).sum()) for packed in hits] == [first, 0]
    metric = evaluator.summary(frame([evaluator.row(score_map, truth_224([0, 0, 9, 9]))]))[0]
    assert metric.value == 0
    assert metric.note.endswith("1 nonfinite of 1 maps" if np.isnan(values).any() else "1 constant of 1 maps")


def test_the_whole_picture() -> None:
    score_map = square(0, 0, 223, 222)
    for evaluator in (V1, V2, PLAIN):
        rows = frame([evaluator.row(score_map, truth_224([0, 0, 223, 223]))])
        assert evaluator.summary(rows)[0].value == 100


def test_a_picture_one_pixel_high() -> None:
    truth = truth_224([0, 0, 149, 0], size=(1, 300))
    assert wsol.truth_boxes(truth, None, 224).tolist() == [[0, 0, 112, 1]]  # as in the authors' code
    assert wsol.truth_boxes(truth, None, 224, "plain").tolist() == [[0, 0, 112, 224]]
    values = np.array([[1.0, 1, 0, 0]])
    assert PLAIN.summary(frame([PLAIN.row(ScoreMap(values, truth.size), truth)]))[0].value == 100


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
def test_pictures_without_a_box_are_left_out(evaluator: MaxBoxAcc) -> None:
    data = [(square(0, 0, 99, 99), truth_224([0, 0, 99, 99])), (square(0, 0, 9, 9), truth_224())]
    metric = evaluator.summary(frame([evaluator.row(*pair) for pair in data]))[0]
    assert (metric.value, metric.n) == (100, 1)
    assert "1 pictures without a box left out" in metric.note
    none = evaluator.summary(frame([evaluator.row(*data[1])]))[0]
    assert np.isnan(none.value)
    assert none.n == 0


def test_objects_of_any_class() -> None:
    truth = dataclasses.replace(truth_224([0, 0, 99, 99]), label=1, foreground="any")
    assert np.unpackbits(V1.row(square(0, 0, 99, 99), truth)["hits_50"]).sum() == 255


@pytest.mark.parametrize(
    "wrong", [{"contours": "first"}, {"form": "exact"}, {"ious": ()}, {"ious": (0.0,)}, {"step": 0}, {"size": 0}]
)
def test_faults_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        MaxBoxAcc(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("evaluator", "most"), [(V1, 50), (V2, 130), (PLAIN, 50)])
def test_rows_are_small_and_come_back_from_disk(evaluator: MaxBoxAcc, most: int, tmp_path: Path) -> None:
    data = [*pictures(25), (square(0, 0, 9, 9), truth_224())]
    rows = frame([evaluator.row(*pair) for pair in data])
    rows.to_parquet(tmp_path / "rows.parquet", compression="zstd")
    back = pd.read_parquet(tmp_path / "rows.parquet")
    assert evaluator.summary(back) == evaluator.summary(rows)
    many = pd.concat([rows] * 40, ignore_index=True)
    assert sum(rows[f"hits_{100 * iou:g}"][0].nbytes for iou in evaluator.ious) <= 96
    many.to_parquet(tmp_path / "many.parquet", compression="zstd")
    assert (tmp_path / "many.parquet").stat().st_size / len(many) < most


def oracle_pxap(data: list[tuple[ScoreMap, Truth]], step: float) -> tuple[Metric | float, list[tuple[Floats, Floats]]]:
    """The protocol's steps: histograms of the pixels of all pictures, then the sum over its bins."""
    edges = np.append(list(np.arange(0, 1, step)), [1.0, 2.0, 3.0])
    histograms = []
    for score_map, truth in data:
        assert truth.mask is not None
        full = oracle_map(score_map.values)
        kinds = (truth.mask == 4, truth.mask == 255)
        wanted, void = (
            cv2.resize(k.astype(np.float32), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for k in kinds
        )
        rest = ~wanted & ~void
        histograms.append(tuple(np.histogram(full[k], bins=edges)[0].astype(float) for k in (wanted, rest)))
    positive, negative = (np.sum([h[k] for h in histograms], axis=0) for k in (0, 1))
    tp, fp = positive[::-1].cumsum(), negative[::-1].cumsum()
    there = tp + fp != 0
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / positive.sum()
    return (precision[1:] * np.diff(recall))[there[1:]].sum() * 100, histograms


def masked(n: int) -> list[tuple[ScoreMap, Truth]]:
    rng = np.random.default_rng(3)
    data = []
    for i in range(n):
        score_map, truth = pictures(n)[i]
        smooth = ndimage.gaussian_filter(rng.normal(size=truth.size), 20)
        mask = np.select([smooth > 0.02, smooth > 0.01, smooth < -0.03], [4, 255, 7], 0).astype(np.uint8)
        data.append((score_map, dataclasses.replace(truth, mask=mask)))
    constant = ScoreMap(np.full((7, 7), 0.3), data[0][1].size)
    return [*data, (constant, data[0][1]), (ScoreMap(np.full((7, 7), np.nan), data[1][1].size), data[1][1])]


@pytest.mark.parametrize("step", [0.001, 0.01, 0.3])
def test_pxap_is_the_protocols(step: float) -> None:
    data = masked(8)
    evaluator = PxAP(step)
    rows = frame([evaluator.row(*pair) for pair in data])
    wanted, histograms = oracle_pxap(data, step)
    for kind, column in enumerate(("hist_object", "hist_background")):
        for histogram, counts in zip(histograms, rows[column], strict=True):
            assert [*counts, 0] == histogram[kind].tolist()  # no value is in [2, 3)
    metric = evaluator.summary(rows)[0]
    assert metric.value == wanted
    assert metric.low < metric.value < metric.high
    assert metric.note == "1 constant, 1 nonfinite of 10 maps"


def test_pxap_of_masks_of_all_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 700, 2).tolist()
        mask = rng.integers(0, 2, (height, width)).astype(np.uint8) * 4
        truth = truth_224(size=(height, width), mask=mask)
        row = PxAP().row(ScoreMap(cam(rng, 14), truth.size), truth)
        nearest = cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST)
        assert row["hist_object"].sum(dtype=int) == (nearest == 4).sum()


def test_pxap_on_paper() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, :112] = 4
    truth = truth_224(mask=mask)

    def pxap(*maps: NDArray[np.float64]) -> Metric:
        return PxAP().summary(frame([PxAP().row(ScoreMap(m, truth.size), truth) for m in maps]))[0]

    assert pxap((mask == 4).astype(float)).value == 100
    assert pxap((mask == 0).astype(float)).value == 50  # all found at once, with all others
    assert pxap(np.zeros((7, 7))).value == 50
    # One picture is right, one is all background: half of the pixels found at 1, at precision 1; the rest at 1/2.
    assert pxap((mask == 4).astype(float), np.zeros((7, 7))).value == 75
    void = dataclasses.replace(truth, mask=np.where(mask == 0, 255, 4).astype(np.uint8))
    assert PxAP().summary(frame([PxAP().row(ScoreMap(np.zeros((7, 7)), truth.size), void)]))[0].value == 100


def test_pxap_that_is_not_defined() -> None:
    without, empty = truth_224(), truth_224(mask=np.zeros((224, 224), np.uint8))
    rows = [PxAP().row(square(0, 0, 9, 9), truth) for truth in (without, empty)]
    assert rows[0].keys() == rows[1].keys()
    for chosen in (rows[:1], rows):
        metric = PxAP().summary(frame(chosen))[0]
        assert np.isnan(metric.value)
        assert "not defined" in metric.note
    with pytest.raises(ValueError, match="allowed"):
        PxAP(0)
    with pytest.raises(ValueError, match="allowed"):
        PxAP(size=0)


def test_pxap_rows_come_back_from_disk(tmp_path: Path) -> None:
    data = [*masked(8), (square(0, 0, 9, 9), truth_224())]
    rows = frame([PxAP().row(*pair) for pair in data])
    rows.to_parquet(tmp_path / "rows.parquet", compression="zstd")
    assert PxAP().summary(pd.read_parquet(tmp_path / "rows.parquet")) == PxAP().summary(rows)


def test_nothing_of_this_imports_numba_before_it_is_used() -> None:
    code = "import sys, eigencam.cli, eigencam.score, eigencam.evaluation.pxap; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
