"""CUB, ImageNetV2 and OpenImages30k from files in the layout of their archives and of wsolevaluation's metadata."""

import logging
import pickle
from pathlib import Path

import cv2
import dataset_files as files
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eigencam.datasets.base import VOID, Dataset
from eigencam.datasets.cub import read_cub
from eigencam.datasets.imagenetv2 import read_imagenetv2
from eigencam.datasets.openimages import OpenImages, resized
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.segmentation import Segmentation

# --- CUB -----------------------------------------------------------------------------------------------------------


def test_both_layouts_of_cub_give_the_same_truth(tmp_path: Path) -> None:
    original = read_cub(files.write_cub(tmp_path / "a"))
    other = read_cub(files.write_wsol_cub(tmp_path / "b"))
    assert original.identity() == other.identity()
    assert original.ids == [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
        "200.Common_Yellowthroat/Common_Yellowthroat_0003_190",
    ]
    assert original.labels.tolist() == [0, 199]
    assert original.classes[0] == "001.Black_footed_Albatross"
    truth = original.truth(0)
    assert (truth.size, truth.label, truth.boxes.tolist()) == ((30, 50), 0, [[6, 2, 38, 29]])
    assert truth.sought().all()


def test_cub_is_a_dataset(tmp_path: Path) -> None:
    data: Dataset = read_cub(files.write_cub(tmp_path).parent)  # the folder above works, too
    assert isinstance(data, Dataset)
    assert (data.name, data.class_space, len(data.classes)) == ("cub", "cub", 200)
    assert data.image(1).shape == (25, 30, 3)
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()


def test_the_training_split_of_cub(tmp_path: Path) -> None:
    for root in (files.write_cub(tmp_path / "a"), files.write_wsol_cub(tmp_path / "b")):
        data = read_cub(root, "train")
        assert data.ids == ["002.Laysan_Albatross/Laysan_Albatross_0001_545"]
        assert data.truth(0).boxes.tolist() == [[0, 1, 39, 39]]


def test_a_part_of_cub_is_noted_and_refused_where_all_is_expected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = files.write_cub(tmp_path)
    with caplog.at_level(logging.WARNING):
        read_cub(root)
    assert "CUB test: 2 images, where a full copy has 5794" in caplog.text
    with pytest.raises(ValueError, match=r"2 images, where a full copy has 5794.*expect=null"):
        read_cub(root, expect="full")
    with pytest.raises(ValueError, match=r"localization\.txt: has the MD5"):
        read_cub(files.write_wsol_cub(tmp_path / "b"), expect="full")
    with pytest.raises(ValueError, match="allowed are null"):
        read_cub(root, expect="all")  # type: ignore[arg-type]


def test_missing_files_of_cub_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither bounding_boxes.txt.*CUB_200_2011\.tgz.*EIGENCAM_CUB"):
        read_cub(tmp_path)
    root = files.write_cub(tmp_path)
    next(root.glob("images/001*/*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files of CUB test.*allow_missing=true evaluates the 1"):
        read_cub(root)
    assert len(read_cub(root, allow_missing=True).ids) == 1
    (root / "images.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"images\.txt: no such file.*CUB_200_2011\.tgz"):
        read_cub(root)
    with pytest.raises(FileNotFoundError, match="metadata/CUB/val"):
        read_cub(root, "val")
    with pytest.raises(ValueError, match="allowed are test, train, val"):
        read_cub(root, "dev")  # type: ignore[arg-type]


def test_resized_images_are_refused(tmp_path: Path) -> None:
    root = files.write_wsol_cub(tmp_path)
    files.write_image(next(root.glob("dataset/CUB/001*/*.jpg")), (15, 25))
    with pytest.raises(ValueError, match="25 x 15 pixels, its truth has 50 x 30 pixels"):
        read_cub(root).truth(0)
    original = files.write_cub(tmp_path / "a")
    files.write_image(next(original.glob("images/001*/*.jpg")), (15, 25))
    with pytest.raises(ValueError, match="its truth has boxes such as"):
        read_cub(original).truth(0)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("localization.txt", "a.jpg,1,2,3", "localization.txt, line 1: 4 values.*path,x0,y0,x1,y1"),
        ("localization.txt", "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg,1,2,3,x", "x0,y0,x1,y1"),
        ("class_labels.txt", "a.jpg", "class_labels.txt, line 1: 1 values.*path,class"),
        ("class_labels.txt", "a.jpg,1", "image_ids.txt, line 1: no class for"),
    ],
)
def test_lines_of_another_form_are_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    files.write_wsol_cub(tmp_path)
    (tmp_path / "metadata/CUB/test" / name).write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_cub(tmp_path)


# --- ImageNetV2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["dataset/ILSVRC", ".", "imagenetv2-threshold0.7/.."])
def test_the_folders_numbers_are_the_classes(tmp_path: Path, images: str) -> None:
    (tmp_path / "imagenetv2-threshold0.7").mkdir()
    data = read_imagenetv2(files.write_imagenetv2(tmp_path, images))
    assert isinstance(data, Dataset)
    assert (data.ids, data.labels.tolist()) == (["0/0", "10/3", "2/1"], [0, 10, 2])
    assert (data.class_space, len(data.classes)) == ("imagenet", 1000)
    assert data.truth(1).boxes.tolist() == [[0, 0, 5, 5], [7, 8, 20, 24]]
    assert data.image(1).shape == (25, 25, 3)


def test_classes_of_another_order_are_refused(tmp_path: Path) -> None:
    root = files.write_imagenetv2(tmp_path)
    labels = root / "metadata/ILSVRC/val/class_labels.txt"
    labels.write_text(labels.read_text().replace("val2/10/3.jpeg,10", "val2/10/3.jpeg,2"))  # 2nd of the sorted names
    with pytest.raises(ValueError, match=r"val2/10/3\.jpeg has the class 2; allowed is its folder's number"):
        read_imagenetv2(root)


def test_missing_files_of_imagenetv2_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metadata/ILSVRC/val.*imagenetv2-threshold0\.7\.tar\.gz.*EIGENCAM_"):
        read_imagenetv2(tmp_path)
    root = files.write_imagenetv2(tmp_path)
    (root / "dataset/ILSVRC/val2/2/1.jpeg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 files of ImageNetV2"):
        read_imagenetv2(root)
    assert read_imagenetv2(root, allow_missing=True).ids == ["0/0", "10/3"]
    with pytest.raises(ValueError, match="MD5"):
        read_imagenetv2(root, allow_missing=True, expect="full")


# --- OpenImages30k -------------------------------------------------------------------------------------------------


def test_masks_are_joined_and_the_ignored_region_is_what_is_left(tmp_path: Path) -> None:
    data = OpenImages(files.write_openimages(tmp_path))
    assert isinstance(data, Dataset)
    assert data.ids == ["test/01226z/7af766bd43da900b", "test/0138tl/973645e9516726b3"]
    assert data.classes[:3] == ("01226z", "0138tl", "2")
    for i, (path, (size, shape, label)) in enumerate(files.OPENIMAGES.items()):
        truth, (parts, ignored) = data.truth(i), files.openimages_masks(path)
        thing = parts[0] | parts[1]
        assert (truth.size, truth.label) == (size, label)
        assert truth.mask is not None
        assert truth.mask.shape == shape
        np.testing.assert_array_equal(truth.mask, np.where(thing, 1 + label, np.where(ignored, VOID, 0)))
        assert (truth.mask == VOID).any()
        assert (ignored & thing).any()
        assert data.image(i).shape[:2] == size
    assert data.truth(1).boxes.tolist() == [[4, 3, 19, 11], [15, 10, 29, 17]]
    assert data.truth(0).boxes.tolist() == [[2, 2, 13, 7], [10, 6, 19, 11]]  # two thirds of the pixels of the masks
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()


def test_an_empty_mask_beside_another_one_adds_nothing_and_sizes_may_differ(tmp_path: Path) -> None:
    """As in wsolevaluation's code, which scales each mask to its own size and joins them."""
    root = files.write_openimages(tmp_path)
    before = OpenImages(root).truth(0)
    mask = next(root.rglob("7af766bd43da900b_m*_00000001.png"))
    Image.new("L", (60, 45)).save(mask)
    alone = OpenImages(root).truth(0)
    assert alone.boxes.tolist() == before.boxes[:1].tolist()
    first = files.openimages_masks("test/01226z/7af766bd43da900b.jpg")[0][0]
    assert alone.mask is not None
    assert ((alone.mask == 1) == first).all()
    Image.fromarray(
        np.kron(files.openimages_masks("test/01226z/7af766bd43da900b.jpg")[0][1], np.ones((2, 2))) > 0
    ).save(mask)
    twice = OpenImages(root).truth(0)
    assert twice.mask is not None
    assert (twice.mask == before.mask).all()
    assert twice.boxes.tolist() == before.boxes.tolist()


def test_masks_of_the_images_size_serve_evaluators_that_count_its_pixels(tmp_path: Path) -> None:
    root = files.write_openimages(tmp_path)
    own, fitted = OpenImages(root), OpenImages(root, masks="image")
    assert own.identity() != fitted.identity()
    score_map = ScoreMap(np.eye(7), own.truth(0).size)
    with pytest.raises(ValueError, match=r"mask of \(45, 60\), image of \(30, 40\)"):
        Segmentation().row(score_map, own.truth(0))
    assert Segmentation().row(score_map, fitted.truth(0))["has_mask"]


def test_nearest_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        old, new = rng.integers(1, 300, (2, 2)).tolist()
        mask = rng.random(old) > 0.5
        expected = cv2.resize(mask.astype(np.uint8), new[::-1], interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(resized(mask, tuple(new)), expected == 1)


def reference_mask(paths: list[Path], ignored: Path) -> np.ndarray:
    """The protocol's steps with OpenCV: resize every file to 224 x 224 by nearest pixels, unite the masks, mark what is
    ignored."""

    def load(path: Path) -> np.ndarray:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        return cv2.resize(np.asarray(grey, np.float32), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5

    thing = np.any([load(path) for path in paths], axis=0)
    return thing + 255 * (load(ignored) & ~thing)


@pytest.mark.parametrize("region", [False, True])
def test_pxap_of_the_files_is_the_protocols(tmp_path: Path, region: bool) -> None:
    data = OpenImages(files.write_openimages(tmp_path))
    rng = np.random.default_rng(1)
    rows, totals = [], np.zeros((2, 1002))
    for i, path in enumerate(files.OPENIMAGES):
        values = rng.random((7, 7)).astype(np.float32)
        height, width = data.truth(i).size
        whole = (0.0, 0.0, float(width), float(height)) if region else None
        row = PxAP().row(ScoreMap(values, (height, width), whole), data.truth(i))
        stem = tmp_path / "dataset/OpenImages" / path.removesuffix(".jpg")
        masks = sorted(stem.parent.glob(f"{stem.name}_m*.png"))
        wanted = reference_mask(masks, stem.parent / f"{stem.name}_ignore.png")
        full = cv2.resize(values.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
        full = (full - full.min()) / (full - full.min()).max()
        edges = [*np.arange(0, 1, 0.001), 1.0, 2.0, 3.0]
        histograms = [np.histogram(full[wanted == kind], bins=edges)[0] for kind in (1, 0)]
        assert [*row["hist_object"], 0] == histograms[0].tolist()
        assert [*row["hist_background"], 0] == histograms[1].tolist()
        totals += histograms
        rows.append(row)
    tp, fp = totals[:, ::-1].cumsum(axis=1)
    there = tp + fp > 0
    precision, recall = tp / np.maximum(tp + fp, 1), tp / tp[-1]
    expected = 100 * (precision[1:] * np.diff(recall))[there[1:]].sum()
    assert PxAP().summary(pd.DataFrame(rows))[0].value == expected


def test_an_image_without_ignored_region(tmp_path: Path) -> None:
    root = files.write_openimages(tmp_path)
    place = root / "metadata/OpenImages/test/localization.txt"
    place.write_text(place.read_text().replace("test/01226z/7af766bd43da900b_ignore.png", ""))
    truth = OpenImages(root).truth(0)
    assert truth.mask is not None
    assert set(np.unique(truth.mask)) == {0, 1}


def test_the_training_split_of_openimages_has_no_masks(tmp_path: Path) -> None:
    folder = tmp_path / "metadata/OpenImages/train"
    files.lines(folder / "class_labels.txt", "train/0138tl/5.jpg,1")
    (folder / "localization.txt").touch()
    files.write_image(tmp_path / "dataset/OpenImages/train/0138tl/5.jpg", (10, 20))
    truth = OpenImages(tmp_path, "train").truth(0)
    assert (truth.mask, truth.label, truth.size, len(truth.boxes)) == (None, 1, (10, 20), 0)


def test_missing_files_of_openimages_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metadata/OpenImages/test.*wsolevaluation.*EIGENCAM_OPENIMAGES30K"):
        OpenImages(tmp_path)
    root = files.write_openimages(tmp_path)
    next(root.glob("dataset/OpenImages/test/0138tl/*_m*.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 6 files of OpenImages30k test's masks"):
        OpenImages(root)
    assert OpenImages(root, allow_missing=True).ids == ["test/01226z/7af766bd43da900b"]
    with pytest.raises(ValueError, match="allowed are test, val, train"):
        OpenImages(root, "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="own, image"):
        OpenImages(root, masks="224")  # type: ignore[arg-type]
    place = root / "metadata/OpenImages/test/localization.txt"
    place.write_text(place.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="no mask for 1 images"):
        OpenImages(root)


def test_masks_of_one_object_of_every_kind(tmp_path: Path) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:4] = 255
    from eigencam.datasets.decoding import read_object

    for mode in ("1", "L", "RGB", "RGBA", "P", "LA"):
        Image.fromarray(mask).convert(mode).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_object(tmp_path / "mask.png"), mask > 0)
