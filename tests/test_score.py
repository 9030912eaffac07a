"""`eigencam score` on boxes: the devkit's and COCO's formats, and their faults."""

import contextlib
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scored_files import DEVKIT_IDS, SHARED, WORDS, ilsvrc, run, voc

from eigencam.commands.main import main
from eigencam.datasets.devkit import Synsets
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth, read_truth
from eigencam.evaluation.predictions import (
    devkit_metrics,
    read_coco_boxes,
    read_coco_truth,
    read_devkit,
)
from eigencam.evaluation.proposal_files import read_txt


@pytest.mark.skipif(not SHARED, reason=WORDS)
@pytest.mark.parametrize(
    ("network", "expected"), [("alexNet", (65.70, 41.64, 48.03)), ("vgg16", (55.22, 27.05, 43.66))]
)
def test_published_boxes(network: str, expected: tuple[float, ...], capsys: pytest.CaptureFixture[str]) -> None:
    reference = Path(str(SHARED)) / "reference"
    file = reference / f"cnn_fixations/{network}.txt.gz"
    out = run(capsys, file, "--format", "devkit", "--truth", reference / "ilsvrc_val")
    names = ("top1_loc_error", "top1_cls_error", "box_error")
    assert tuple(out["metrics"][name] for name in names) == expected
    assert out["n"] == 50_000


def test_devkit_takes_the_best_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boxes.txt"
    file.write_text(
        "7 0 0 9 9 \n"  # right
        "500 20 10 39 29 8 20 10 39 29\n"  # the second guess is right: it matches the second box
        "9 0 0 4 4\n"  # right label, wrong box
    )
    out = run(capsys, file, "--format", "devkit", "--truth", ilsvrc(tmp_path / "truth"))
    assert out["metrics"] == {
        "top1_loc_error": 66.67,
        "top1_cls_error": 33.33,
        "top5_loc_error": 33.33,
        "top5_cls_error": 0,
        "box_error": 33.33,
        "mean_iou": 66.67,
    }
    low, high = out["interval95"]["box_error"]
    assert 0 < low < 33.33 < high < 100


def test_a_part_of_a_devkit_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, truth, names = tmp_path / "boxes.txt", ilsvrc(tmp_path / "truth"), tmp_path / "names.txt"
    file.write_text("7 0 0 9 9\n500 0 0 1 1\n9 0 0 4 4\n")  # right, wrong, right label with a wrong box
    ids = read_truth(truth).ids
    names.write_text(f"{ids[0]}\n{ids[2]}\n")
    given = (file, "--format", "devkit", "--truth", truth)
    first, listed = run(capsys, *given, "--limit", "1"), run(capsys, *given, "--images", names)
    assert (first["n"], first["metrics"]["top1_loc_error"]) == (1, 0)
    assert (listed["n"], listed["metrics"]["top1_loc_error"], listed["metrics"]["top1_cls_error"]) == (2, 50, 0)
    assert listed["protocol"]["pictures"] == "2 of ILSVRC, 1 left out"
    with pytest.raises(ValueError, match="limit=4; allowed are 1 to 3"):
        run(capsys, *given, "--limit", "4")


def test_devkit_ids_are_not_sorted_indices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boxes.txt.gz"
    file.write_bytes(gzip.compress(b"7 0 0 9 9\n8 0 0 4 4\n9 5 5 14 14\n"))
    truth = ilsvrc(tmp_path / "truth")
    order = list(range(1, 1001))
    (truth / "devkit_id_by_sorted_index.json").write_text(json.dumps(order))  # here index 7 is devkit id 8
    assert run(capsys, file, "--format", "devkit", "--truth", truth)["metrics"]["top1_cls_error"] == 100
    sorted_ = run(capsys, file, "--format", "devkit", "--truth", truth, "--labels", "sorted")
    assert sorted_["metrics"]["top1_cls_error"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7 0 0 9 9\n8 0 0 4\n9 5 5 14 14\n", "line 2: 4 numbers"),
        ("7 0 0 9 9\n\n9 5 5 14 14\n", "line 2: 0 numbers"),
        ("7 0 0 9 9\n8 0 0 4 4\n" + "9 5 5 14 14 " * 6, "line 3: 30 numbers"),
        ("7 0 0 9 9\n8 0 0 x 4\n9 5 5 14 14\n", "line 2: '8 0 0 x 4'"),
        ("7 0 0 9 9\n8.5 0 0 4 4\n9 5 5 14 14\n", "line 2"),
        ("7 0 0 9 9\n8 0 0 nan 4\n9 5 5 14 14\n", "line 2"),
        ("7 0 0 9 9\n1001 0 0 4 4\n9 5 5 14 14\n", r"line 2: labels \[1001\]; allowed are 1 to 1000"),
        ("0 0 0 9 9\n8 0 0 4 4\n9 5 5 14 14\n", "line 1: labels"),
        ("7 0 0 9 9\n8 0 0 4 4\n", "2 lines, the truth has 3 images"),
        ("", "line 1: 0 numbers"),
    ],
)
def test_devkit_faults_name_the_line(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boxes.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        run(capsys, file, "--format", "devkit", "--truth", ilsvrc(tmp_path / "truth"))


def test_devkit_against_a_loop(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 60
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 4, n))])
    corner = rng.integers(0, 8, (offsets[-1], 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 12, (offsets[-1], 2))], axis=1).astype(float)
    sizes, synsets = np.full((n, 2), 30), Synsets(devkit_ids=DEVKIT_IDS)
    truth = IlsvrcTruth([str(i) for i in range(n)], rng.integers(0, 3, n), boxes, offsets, sizes, synsets, "text")
    lines: list[list[list[int]]] = []
    for _ in range(n):
        lines.append([])
        for _ in range(rng.integers(1, 6)):
            x, y, w, h = rng.integers([0, 0, 4, 4], [8, 8, 12, 12]).tolist()
            lines[-1].append([int(DEVKIT_IDS[rng.integers(0, 3)]), x, y, x + w, y + h])
    file = tmp_path / "boxes.txt"
    file.write_text("\n".join(" ".join(str(word) for guess in line for word in guess) for line in lines))
    metrics = {metric.name: metric.value for metric in devkit_metrics(file, read_devkit(file), truth)}
    errors = []
    for i, line in enumerate(lines):
        errors.append(1)
        for label, *box in line:
            wrong_box = 1
            for x1, y1, x2, y2 in truth.boxes_of(i):
                w, h = min(x2, box[2]) - max(x1, box[0]) + 1, min(y2, box[3]) - max(y1, box[1]) + 1
                union = (x2 - x1 + 1) * (y2 - y1 + 1) + (box[2] - box[0] + 1) * (box[3] - box[1] + 1) - w * h
                if w > 0 and h > 0 and w * h / union >= 0.5:
                    wrong_box = 0
            errors[-1] = min(errors[-1], max(int(DEVKIT_IDS[truth.labels[i]] != label), wrong_box))
    assert metrics["top5_loc_error"] == pytest.approx(100 * np.mean(errors))
    assert 0 < metrics["top5_loc_error"] < 100


def coco_result(image: object, box: list[float], value: float) -> dict[str, object]:
    return {"image_id": image, "category_id": 1, "bbox": box, "score": value}


def test_coco_against_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, file = tmp_path / "instances.json", tmp_path / "results.json.gz"
    objects = [(1, 3, [0, 0, 10, 10], 0), (1, 7, [20, 0, 10, 10], 0), (2, 3, [0, 0, 4, 4], 0), (2, 3, [9, 9, 4, 4], 1)]
    data = {
        "images": [{"id": i, "width": 40, "height": 30} for i in (2, 1)],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd, "area": box[2] * box[3]}
            for k, (i, c, box, crowd) in enumerate(objects)
        ],
    }
    truth.write_text(json.dumps(data))
    results = [coco_result(1, [20, 0, 10, 5], 0.2), coco_result(1, [0, 0, 10, 10], 0.9)]
    file.write_bytes(gzip.compress(json.dumps(results).encode()))
    out = run(capsys, file, "--format", "coco", "--truth", truth)
    assert out["n"] == 2
    assert out["metrics"]["box_error"] == 50
    assert out["metrics"]["recall50_1"] == 33.33
    assert out["metrics"]["recall50_10"] == 66.67
    assert out["metrics"]["mabo"] == pytest.approx((100 * (1 + 0) / 2 + 50) / 2)
    assert out["protocol"]["without boxes"].startswith("1:")
    assert run(capsys, file, "--format", "coco", "--truth", truth, "--difficult")["metrics"]["recall50_10"] == 50
    assert [t.box_labels.tolist() for t in read_coco_truth(truth)] == [[0, 1], [0, 0]]
    assert not any(name.startswith("top") for name in out["metrics"])


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_are_ordered_as_cocoeval_orders_them(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 25, (60, 2))
    objects = [
        {"id": k + 1, "image_id": 1 + k % 6, "category_id": int(rng.choice([9, 2, 5])), "iscrowd": 0, "area": 25}
        | {"bbox": [*map(int, corner), 5, 5]}
        for k, corner in enumerate(corners[:18])
    ]
    results = [
        {**coco_result(1 + int(rng.integers(6)), [*map(float, corner), 5.0, 5.0], float(rng.choice([0.5, 0.9])))}
        | {"category_id": int(rng.choice([9, 2, 5]))}
        for corner in np.concatenate([corners[:18] + rng.integers(0, 2, (18, 2)), corners])
    ]
    rng.shuffle(results)  # type: ignore[arg-type]
    data = {
        "images": [{"id": i, "width": 40, "height": 40} for i in range(1, 7)],
        "categories": [{"id": i, "name": str(i)} for i in (9, 2, 5)],
        "annotations": objects,
        "info": {},
    }
    truth, file = tmp_path / "instances.json", tmp_path / "results.json"
    truth.write_text(json.dumps(data))
    file.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO(str(truth))
        evaluation = cocoeval.COCOeval(gt, gt.loadRes(str(file)), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
    expected = 100 * evaluation.eval["recall"][:, 0, 0, :].mean(axis=0)
    metrics = run(capsys, file, "--format", "coco", "--truth", truth)["metrics"]
    np.testing.assert_allclose([metrics[f"ar_coco_{k}"] for k in (1, 10, 100)], expected, atol=0.005)


def test_coco_ids_of_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, truth = tmp_path / "results.json", voc(tmp_path)
    file.write_text(
        json.dumps([coco_result(2008000001, [0, 0, 20, 10], 1), coco_result("2008_000002", [30, 20, 10, 10], 1)])
    )
    out = run(capsys, file, "--format", "coco", "--truth", truth, "--set", "2012/Main/val")
    assert (out["metrics"]["box_error"], out["metrics"]["recall50_1"]) == (0, 50)
    with_difficult = run(capsys, file, "--format", "coco", "--truth", truth, "--set", "2012/Main/val", "--difficult")
    assert with_difficult["metrics"]["recall50_1"] == 66.67
    file.write_text(json.dumps([coco_result(3, [5, 5, 10, 10], 1)]))
    assert run(capsys, file, "--format", "coco", "--truth", ilsvrc(tmp_path / "i"))["metrics"]["box_error"] == 66.67


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "JSON of a dict"),
        ("[", "not JSON"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "result 0.*score"),
        ('[{"image_id": 1, "bbox": [0, 0, 1], "score": 1}]', "result 0: bbox"),
        ('[{"image_id": 9, "bbox": [0, 0, 1, 1], "score": 1}]', "does not have, e.g. 9; it has a1, a2"),
    ],
)
def test_coco_faults_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_coco_boxes(tmp_path / "results.json", ["a1", "a2"])
    (tmp_path / "truth.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="no 'categories'; expected: COCO's instances"):
        read_coco_truth(tmp_path / "truth.json")


def bad_devkit(folder: Path) -> tuple[list[object], list[object]]:
    """Three images, the second with a box outside the image; predictions that are right."""
    truth = ilsvrc(folder / "truth")
    lines = (truth / "localization.txt").read_text().replace("0,0,4,4", "0,0,4,99").splitlines()
    (truth / "localization.txt").write_text("\n".join(line for line in lines if "20,10,39,29" not in line) + "\n")
    boxes = folder / "boxes.txt"
    boxes.write_text(
        "".join(f"{DEVKIT_IDS[label]} {box}\n" for label, box in ((7, "0 0 9 9"), (8, "0 0 4 4"), (9, "5 5 14 14")))
    )
    return [boxes, "--format", "devkit", "--truth", truth], ["top1_loc_error", 0.0]


def bad_coco(folder: Path) -> tuple[list[object], list[object]]:
    objects = [(1, [0, 0, 10, 10]), (2, [30, 0, 20, 10]), (3, [5, 5, 10, 10])]
    data = {
        "images": [{"id": i, "width": 40, "height": 30} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": k, "image_id": i, "category_id": 1, "bbox": box} for k, (i, box) in enumerate(objects)],
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "boxes.json").write_text(json.dumps([coco_result(i, [*map(float, box)], 1.0) for i, box in objects]))
    return [folder / "boxes.json", "--format", "coco", "--truth", folder / "truth.json"], ["box_error", 0.0]


def bad_voc(folder: Path) -> tuple[list[object], list[object]]:
    root, maps = voc(folder), folder / "maps"
    annotation = root / "VOC2012/Annotations/2008_000002.xml"
    annotation.write_text(re.sub(r"<xmax>\d+", "<xmax>400", annotation.read_text(), count=1))
    maps.mkdir()
    for name in ("2008_000001", "2008_000002"):
        np.save(maps / f"{name}.npy", np.arange(12.0).reshape(3, 4))
    return [maps, "--format", "maps", "--truth", root, "--set", "2012/Main/val"], ["mean_iou", None]


@pytest.mark.parametrize("made", [bad_devkit, bad_coco, bad_voc])
def test_truth_that_cannot_be_right_is_refused_or_left_out_and_counted(
    made: Callable[[Path], tuple[list[object], list[object]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, (metric, value) = made(tmp_path)
    assert main(["score", *map(str, options)]) == 2
    error = capsys.readouterr().err
    assert "--on-bad-truth skip leaves such images out" in error
    assert len(error.splitlines()) == 1
    out = run(capsys, *options, "--on-bad-truth", "skip")
    n = 2 if made is not bad_voc else 1
    assert out["n"] == n
    assert out["protocol"]["bad truth"].startswith(f"1 of {n + 1} left out, e.g. ")
    assert set(out["denominators"].values()) <= {n}
    assert value is None or out["metrics"][metric] == value
    assert main(["score", *map(str, options), "--on-bad-truth", "skip"]) == 0
    assert f"bad truth: 1 of {n + 1} left out" in capsys.readouterr().out


def test_where_no_truth_is_right_nothing_is_left_to_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = bad_coco(tmp_path)
    text = (tmp_path / "truth.json").read_text()
    data = json.loads(text)
    data["annotations"] = [{**one, "bbox": [30, 0, 20, 10]} for one in data["annotations"]]
    (tmp_path / "truth.json").write_text(json.dumps(data))
    assert main(["score", *map(str, options), "--on-bad-truth", "skip"]) == 2
    assert "for all 3 images: none has a valid truth" in capsys.readouterr().err


def test_which_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, file = voc(tmp_path), tmp_path / "results.json"
    file.write_text("[]")
    options = (file, "--format", "coco", "--truth", truth)
    with pytest.raises(ValueError, match=r"--set 2012/Main/val or --set 2012/Segmentation/val"):
        run(capsys, *options)
    with pytest.raises(ValueError, match="allowed are auto, ilsvrc"):
        run(capsys, *options, "--set", "2012")
    (truth / "VOC2012/ImageSets/Segmentation/val.txt").unlink()
    assert run(capsys, *options)["metrics"]["box_error"] == 100
    assert run(capsys, file, "--format", "coco", "--truth", truth / "VOC2012")["n"] == 2


@pytest.mark.parametrize(
    ("option", "formats", "words"),
    [
        (("--threshold", "5"), "devkit coco mat txt", "--threshold 5.0: --format {} does not use it; it is for maps"),
        (("--threshold", "nan"), "coco", "--threshold nan: --format coco does not use it"),
        (("--mask-threshold", "0.3"), "coco txt", "--mask-threshold 0.3: --format {} does not use it"),
        (("--rule", "mean"), "coco", "--rule mean"),
        (("--component", "all"), "mat", "--component all"),
        (("--labels", "sorted"), "coco", "--labels sorted: --format coco does not use it; it is for devkit"),
        (("--order", "rising"), "coco maps", "--order rising: --format {} does not use it; it is for mat, txt"),
        (("--origin", "1"), "coco", "--origin 1"),
        (("--difficult",), "devkit", "--difficult: --format devkit does not use it"),
        (("--set", "ilsvrc"), "devkit", "--set ilsvrc: --format devkit"),
        (("--protocol", "stl"), "devkit", "--protocol stl"),
    ],
)
def test_an_option_that_a_format_has_no_use_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], formats: str, words: str
) -> None:
    for name in formats.split():
        with pytest.raises(ValueError, match=words.format(name)):
            run(capsys, tmp_path / "a", "--format", name, "--truth", tmp_path, *option)


def test_a_coco_file_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match=r"truth\.json: no image is listed"):
        read_coco_truth(tmp_path / "truth.json")


def test_a_set_of_a_coco_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match=r"--set foo: .*truth\.json has one set of images"):
        run(capsys, tmp_path / "a", "--format", "coco", "--truth", tmp_path / "truth.json", "--set", "foo")


@pytest.mark.parametrize("box", [[5, 5, -3, 2], [5, 5, 3, 0], [5, 5, 0, 0]])
def test_predicted_boxes_have_a_width_and_a_height(tmp_path: Path, box: list[float]) -> None:
    (tmp_path / "results.json").write_text(json.dumps([coco_result(1, [0, 0, 2, 2], 1), coco_result(1, box, 1)]))
    with pytest.raises(ValueError, match=r"result 1: bbox .* of image 1; allowed are sizes more than 0"):
        read_coco_boxes(tmp_path / "results.json", ["1"])
    x, y, w, h = box
    (tmp_path / "boxes.txt").write_text(f"1 0 0 5 5\n1 {x} {y} {x + w - 1} {y + h - 1}\n")
    with pytest.raises(ValueError, match=r"line 2: .*allowed are boxes x1 y1 x2 y2 with x1 <= x2"):
        read_devkit(tmp_path / "boxes.txt")
    with pytest.raises(ValueError, match=r"boxes\.txt: box .*x1 <= x2 and y1 <= y2, not x y width height"):
        read_txt(tmp_path / "boxes.txt", ["1"])
