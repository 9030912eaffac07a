"""MaxBoxAcc compared with the protocol's steps in OpenCV: bicubic enlargement, contours at every threshold."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from covering import covers
from numpy.typing import NDArray
from wsol_maps import (
    KINDS,
    Floats,
    examples,
    frame,
    oracle_map,
    square,
    truth_224,
    truth_of,
)

from eigencam.datasets.base import Truth
from eigencam.evaluation import maxboxacc as wsol
from eigencam.evaluation.bicubic import resize
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.sums import summed
from eigencam.evaluation.tuning import is_tuned_on, pseudo_boxes

V1, V2 = MaxBoxAcc(), MaxBoxAcc("all", (0.3, 0.5, 0.7))


PLAIN = MaxBoxAcc(form="plain")


def oracle_truth(truth: Truth, size: int = 224) -> NDArray[np.int64]:
    """Boxes of the truth scaled to the map, truncated, with inclusive ends."""
    height, width = truth.size
    sought = truth.boxes[truth.sought()].tolist()
    scale = float(size)
    boxes = [
        [x1 * scale / width, y1 * scale / height, x2 * scale / width, y2 * scale / height] for x1, y1, x2, y2 in sought
    ]
    return np.array([[int(end) for end in box] for box in boxes])


def oracle_boxes(image: NDArray[np.uint8], threshold: int) -> tuple[NDArray[np.int64], int]:
    """Boxes of all contours above a threshold, and the index of the largest contour's box."""
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
    """The best overlap at each threshold, for the largest contour and for all contours."""
    largest, every = [], []
    for v in thresholds:
        found, which = oracle_boxes(image, v)
        ious = oracle_iou(found, boxes).max(axis=1)
        largest.append(ious[which])
        every.append(ious.max())
    return {"largest": np.array(largest), "all": np.array(every)}


def bits(ious: Floats, iou: float) -> list[int]:
    return np.packbits(ious >= iou).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_overlaps_are_the_protocols(kind: str) -> None:
    """345 maps at every threshold: equal overlaps as floats, equal rows as bits."""
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
            thresholds = [0]  # all thresholds give the same image
        by_contours = oracle(image, boxes, thresholds)
        for evaluator in (V1, V2):
            wanted = np.broadcast_to(by_contours[evaluator.contours], 255)
            found = wsol.overlaps(image, wsol.truth_boxes(truth, None, 224), evaluator.contours)
            np.testing.assert_array_equal(found, wanted)
            row = evaluator.row(score_map, truth)
            for iou in evaluator.ious:
                assert row[f"hits_{100 * iou:g}"].tolist() == bits(wanted, iou)


@pytest.mark.parametrize("size", [(24, 24), (1, 40), (40, 1), (1, 1), (2, 31), (17, 5)])
def test_overlaps_of_noise_and_of_narrow_images(size: tuple[int, int]) -> None:
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
    thresholds = [5, 90, 128, 145, 150, 155, 180, 250]  # the components merge near level 150
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


@pytest.mark.parametrize("step", [0.001, 0.01, 0.3])
def test_the_metric_is_the_protocols(step: float) -> None:
    data = examples(10)
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
        assert covers(metric)
        assert metric.n == len(data)


def test_names_thresholds_and_notes() -> None:
    data = examples(10)
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


def test_on_paper() -> None:
    """A box of 10 x 10 is read as 11 x 11; at the image's last pixel it is exact. The plain form is exact."""
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


def test_a_map_of_a_part_of_the_image() -> None:
    truth = truth_224([110, 10, 119, 19], [90, 0, 109, 9], size=(50, 200))
    wanted = [[20, 20, 40, 40], [-20, 0, 20, 20]]  # 2 pixels of the map per pixel of the image, from x = 100
    assert wsol.truth_boxes(truth, (100, 0, 150, 50), 100, "plain").tolist() == wanted


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
@pytest.mark.parametrize("values", [np.zeros((7, 7)), np.full((7, 7), 0.3), np.full((7, 7), np.nan)])
def test_no_map(evaluator: MaxBoxAcc, values: NDArray[np.float64]) -> None:
    score_map = ScoreMap(values, (224, 224))
    hits = [evaluator.row(score_map, truth_224(box))["hits_50"] for box in ([0, 0, 0, 0], [0, 0, 223, 223])]
    first = 255 if evaluator.form == "reference" else 0  # the first pixel's box counts instead
    assert [int(np.unpackbits(packed).sum()) for packed in hits] == [first, 0]
    metric = evaluator.summary(frame([evaluator.row(score_map, truth_224([0, 0, 9, 9]))]))[0]
    assert metric.value == 0
    assert metric.note.endswith("1 nonfinite of 1 maps" if np.isnan(values).any() else "1 constant of 1 maps")


def test_the_whole_image() -> None:
    score_map = square(0, 0, 223, 222)
    for evaluator in (V1, V2, PLAIN):
        rows = frame([evaluator.row(score_map, truth_224([0, 0, 223, 223]))])
        assert evaluator.summary(rows)[0].value == 100


def test_an_image_one_pixel_high() -> None:
    truth = truth_224([0, 0, 149, 0], size=(1, 300))
    assert wsol.truth_boxes(truth, None, 224).tolist() == [[0, 0, 112, 1]]  # as in the authors' code
    assert wsol.truth_boxes(truth, None, 224, "plain").tolist() == [[0, 0, 112, 224]]
    values = np.array([[1.0, 1, 0, 0]])
    assert PLAIN.summary(frame([PLAIN.row(ScoreMap(values, truth.size), truth)]))[0].value == 100


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
def test_images_without_a_box_are_left_out(evaluator: MaxBoxAcc) -> None:
    data = [(square(0, 0, 99, 99), truth_224([0, 0, 99, 99])), (square(0, 0, 9, 9), truth_224())]
    metric = evaluator.summary(frame([evaluator.row(*pair) for pair in data]))[0]
    assert (metric.value, metric.n) == (100, 1)
    assert "1 images without a box left out" in metric.note
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
    data = [*examples(25), (square(0, 0, 9, 9), truth_224())]
    rows = frame([evaluator.row(*pair) for pair in data])
    rows.to_parquet(tmp_path / "rows.parquet", compression="zstd")
    back = pd.read_parquet(tmp_path / "rows.parquet")
    assert evaluator.summary(back) == evaluator.summary(rows)
    many = pd.concat([rows] * 40, ignore_index=True)
    assert sum(rows[f"hits_{100 * iou:g}"][0].nbytes for iou in evaluator.ious) <= 96
    many.to_parquet(tmp_path / "many.parquet", compression="zstd")
    assert (tmp_path / "many.parquet").stat().st_size / len(many) < most


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_threshold_tuned_on_some_images_is_reported_on_the_others(
    evaluator: MaxBoxAcc, as_list: bool, tmp_path: Path
) -> None:
    data = [
        (score_map, dataclasses.replace(truth, image_id=f"i{k}")) for k, (score_map, truth) in enumerate(examples(24))
    ]
    everything = frame([evaluator.row(*pair) for pair in data])
    file = tmp_path / "tune.txt"
    names = [truth.image_id for _, truth in data]
    file.write_text("\n".join(names[:9]))
    tune = str(file) if as_list else 0.4
    tuned = dataclasses.replace(evaluator, tune=tune)
    rows = frame([tuned.row(*pair) for pair in data])
    chosen = np.array([is_tuned_on(tune, name) for name in names])
    assert 3 < chosen.sum() < 20
    assert not as_list or chosen.tolist() == [k < 9 for k in range(24)]
    assert rows["in_tune"].to_numpy().tolist() == chosen.tolist()
    values = []
    for iou in evaluator.ious:
        hits = np.unpackbits(np.stack(everything[f"hits_{100 * iou:g}"].tolist()), axis=1, count=255)
        visited = np.unique((np.arange(0, 1, evaluator.step) * 255).astype(int))
        at = visited[hits[chosen][:, visited].sum(axis=0).argmax()]
        values.append(100 * hits[~chosen][:, at].mean())
    metrics = tuned.summary(rows)
    assert metrics[0].value == pytest.approx(np.mean(values))
    assert metrics[0].n == (~chosen).sum()
    assert f"threshold chosen on {chosen.sum()} other images ({'listed' if as_list else 'tune=0.4'})" in metrics[0].note
    if as_list:  # stored results identify the file by its checksum
        assert dataclasses.replace(tuned, tune="ab12").summary(rows) == metrics
    assert all("oracle" not in metric.note for metric in metrics)
    assert len(tuned.curves(rows)) == len(evaluator.ious)
    assert tuned.curves(rows[chosen]) == []
    assert summed(tuned, rows[chosen])[0].undefined
    assert "no image is left to report on" in summed(tuned, rows[chosen])[0].note
    assert "no image is left to choose the threshold on" in summed(tuned, rows[~chosen])[0].note


@pytest.mark.parametrize("evaluator", [V1, V2, PLAIN])
@pytest.mark.parametrize("tune", [None, 0.4])
def test_a_threshold_chosen_by_boxes_that_stand_in_for_the_truth(
    evaluator: MaxBoxAcc, tune: float | None, tmp_path: Path
) -> None:
    names = [f"i{k}" for k in range(24)]
    data = [(m, dataclasses.replace(t, image_id=name)) for name, (m, t) in zip(names, examples(24), strict=True)]
    file, lines = tmp_path / "selective_search.txt", []
    others = []
    for k, (score_map, truth) in enumerate(data):
        height, width = truth.size
        box = [width // 8, height // 8, width // 2, height // 2]
        lines += [f"val/{truth.image_id}.JPEG,{','.join(map(str, box))}"] if k % 3 else []
        stand_in = dataclasses.replace(
            truth, boxes=np.array([box], float), box_labels=np.array([truth.label]), difficult=None
        )
        others.append(evaluator.row(score_map, stand_in))
    file.write_text("\n".join(lines))
    chosen = np.array([k % 3 > 0 and (tune is None or is_tuned_on(tune, name)) for k, name in enumerate(names)])
    reported = np.array([tune is None or not is_tuned_on(tune, name) for name in names])
    assert 3 < chosen.sum() < 24
    assert reported.any()
    picks = dataclasses.replace(evaluator, pseudo=str(file), tune=tune)
    rows = frame([picks.row(*pair) for pair in data])
    values = []
    for iou in evaluator.ious:
        by, hits = (
            np.unpackbits(np.stack([row[f"hits_{100 * iou:g}"] for row in some]), axis=1, count=255)
            for some in (others, rows.to_dict("records"))
        )
        values.append(100 * hits[reported][:, by[chosen].sum(axis=0).argmax()].mean())
    metrics = picks.summary(rows)
    assert metrics[0].value == pytest.approx(np.mean(values))
    assert metrics[0].n == reported.sum()
    assert f"threshold chosen by boxes in place of the truth's on {chosen.sum()} " in metrics[0].note
    assert dataclasses.replace(picks, pseudo="ab12").summary(rows) == metrics
    assert "without a box" not in metrics[0].note


def test_a_file_of_boxes_is_of_the_dataset(tmp_path: Path) -> None:
    file = tmp_path / "boxes.txt"
    data = SimpleNamespace(ids=["ILSVRC2012_val_00000001", "b"], name="d")
    for k, (text, said) in enumerate([("x/y.jpg,0,0,1,1", "none of the images of d"), ("b,3,0,1,1", "line 1: box")]):
        file = tmp_path / f"{k}.txt"
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            MaxBoxAcc(pseudo=str(file)).sources(data)  # type: ignore[arg-type]
    good = tmp_path / "good.txt"
    good.write_text("val/ILSVRC2012_val_00000001.JPEG,0,0,1,1\nval/ILSVRC2012_val_00000001.JPEG,2,2,3,3\n")
    assert set(MaxBoxAcc(pseudo=str(good)).sources(data)) == {"pseudo"}  # type: ignore[arg-type]
    assert pseudo_boxes(str(good), "ILSVRC2012_val_00000001").tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    outside = dataclasses.replace(examples(1)[0][1], image_id="ILSVRC2012_val_00000001")
    good.with_name("far.txt").write_text("val/ILSVRC2012_val_00000001.JPEG,0,0,9999,1\n")
    with pytest.raises(ValueError, match=r"far\.txt"):
        MaxBoxAcc(pseudo=str(good.with_name("far.txt"))).row(examples(1)[0][0], outside)


@pytest.mark.parametrize("tune", [0.0, 1.0, -0.1, float("nan"), "", 3, True])
def test_what_is_no_share_and_no_file_is_refused(tune: object) -> None:
    with pytest.raises(ValueError, match="0 < tune < 1, a file of ids, or null"):
        MaxBoxAcc(tune=tune)  # type: ignore[arg-type]


@pytest.mark.parametrize(("lines", "words"), [("x\ny", "none of the 3"), ("a\nb\nc", "all of the 3"), ("", "none")])
def test_a_list_of_none_or_all_images_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "tune.txt"
    file.write_text(lines)
    data = SimpleNamespace(ids=["a", "b", "c"], name="d")
    with pytest.raises(ValueError, match=words):
        MaxBoxAcc(tune=str(file)).sources(data)  # type: ignore[arg-type]
    some = tmp_path / "some.txt"
    some.write_text("a\nx\n")
    assert set(MaxBoxAcc(tune=str(some)).sources(data)) == {"tune"}  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        MaxBoxAcc(tune=str(tmp_path / "missing.txt")).sources(data)  # type: ignore[arg-type]


def test_the_share_does_not_depend_on_the_other_images() -> None:
    ids = [f"image {k}" for k in range(4000)]
    some = [is_tuned_on(0.1, name) for name in ids]
    assert 300 < sum(some) < 500
    assert all(is_tuned_on(0.3, name) for name, chosen in zip(ids, some, strict=True) if chosen)
