"""Graz-02, ImageNet-Segmentation and COCO from files in the layout of their archives."""

import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import dataset_files as files
import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from eigencam.datasets.base import VOID, BadImageError, Dataset
from eigencam.datasets.coco import Coco
from eigencam.datasets.graz02 import Ig02, painted
from eigencam.datasets.imagenet_segmentation import ImageNetSegmentation

# --- Graz-02 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ig02(tmp_path: Path) -> Path:
    return files.write_ig02(tmp_path)


def seen_and_hidden() -> tuple[np.ndarray, np.ndarray]:
    """The pixels that the masks of `files.write_ig02` paint red and green; red wins where both occur."""
    seen, hidden = np.zeros((24, 32), bool), np.zeros((24, 32), bool)
    seen[2:8, 3:12] = seen[8:10, 3:8] = seen[12:20, 12:30] = True
    hidden[8:14, 8:16] = True
    return seen, hidden & ~seen


@pytest.mark.parametrize("occluded", ["background", "object", "void"])
def test_hidden_parts_are_what_the_option_says(ig02: Path, occluded: str) -> None:
    truth = Ig02(ig02, "cars", occluded=occluded).truth(0)  # type: ignore[arg-type]
    seen, hidden = seen_and_hidden()
    expected = np.where(seen, 2, np.where(hidden, {"background": 0, "object": 2, "void": VOID}[occluded], 0))
    assert truth.mask is not None
    np.testing.assert_array_equal(truth.mask, expected)
    first = [3, 2, 15, 13] if occluded == "object" else [3, 2, 11, 9]
    assert truth.boxes.tolist() == [first, [12, 12, 29, 19]]  # the empty mask has none
    assert (truth.label, truth.sought().all()) == (1, True)


def test_a_dataset_is_one_category(ig02: Path) -> None:
    data: Dataset = Ig02(ig02)
    assert isinstance(data, Dataset)
    assert (data.name, data.classes, data.ids) == (
        "ig02_bikes",
        ("bikes", "cars", "people"),
        ["bikes/bike_001", "bikes/bike_002"],
    )
    assert data.image(0).shape == (24, 32, 3)
    assert Ig02(ig02, split="train").ids == ["bikes/bike_002"]
    assert Ig02(ig02, split="all").ids == ["bikes/bike_001", "bikes/bike_002"]
    whole = Ig02(ig02, "all")
    assert [whole.truth(i).label for i in range(4)] == [0, 0, 1, 2]
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()
    identities = [Ig02(ig02, occluded=o).identity() for o in ("background", "object")]
    assert identities[0] != identities[1]


def test_archives_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    for category in files.IG02:
        files.write_ig02(tmp_path / f"ig02-v1.0-{category}")
    assert Ig02(tmp_path, "people").ids == ["people/person_007"]


def test_two_masks_of_one_number_are_refused(ig02: Path) -> None:
    mask = ig02 / "bikes/bike_001.mask.1.png"
    (mask.parent / "bike_001.mask.01.png").write_bytes(mask.read_bytes())
    with pytest.raises(ValueError, match=r"two masks are called 'bike_001\.mask\.1': .*\.01\.png and .*\.1\.png"):
        Ig02(ig02, "bikes")


def test_colours_of_masks() -> None:
    colours = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 0), (128, 0, 0), (90, 200, 0), (0, 0, 255)]], np.uint8)
    red, green = painted(colours)
    assert red.tolist() == [[True, False, False, True, False, False]]
    assert green.tolist() == [[False, True, False, False, True, False]]


def test_missing_files_of_graz_say_where_they_come_from(ig02: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no bikes_test\.txt.*13266fdf968176fa3aebdd439184254f.*EIGENCAM_IG02"):
        Ig02(ig02 / "cars")
    for path in ig02.glob("bikes/bike_001.mask*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no bike_001\.mask\.0\.png"):
        Ig02(ig02)
    assert Ig02(ig02, allow_missing=True).ids == ["bikes/bike_002"]
    with pytest.raises(ValueError, match=r"IG02 cars test: 1 images, where a full copy has 177"):
        Ig02(ig02, "cars", expect="full")
    (ig02 / "cars_test.txt").write_text("\n")
    with pytest.raises(ValueError, match="no image is listed"):
        Ig02(ig02, "cars")
    for wrong in ({"category": "dogs"}, {"split": "val"}, {"occluded": "maybe"}):
        with pytest.raises(ValueError, match="allowed are"):
            Ig02(ig02, **wrong)  # type: ignore[arg-type]
    Image.new("RGB", (4, 4)).save(ig02 / "people/person_007.mask.1.png")
    with pytest.raises(ValueError, match=r"mask of \(4, 4\) pixels, the image has \(32, 24\)"):
        Ig02(ig02, "people").truth(0)


# --- ImageNet-Segmentation -----------------------------------------------------------------------------------------

MASKS = [np.zeros(size, np.uint8) for size in ((20, 30), (25, 15), (1, 7))]
MASKS[0][3:9, 5:12] = 1
MASKS[1][:] = 1


@pytest.fixture
def segmentation(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    path = tmp_path / "gtsegs_ijcv.mat"
    return path, list(files.write_imagenet_segmentation(path, MASKS))


def test_images_and_masks_are_turned_the_right_way_round(segmentation: tuple[Path, list[np.ndarray]]) -> None:
    path, images = segmentation
    data: Dataset = ImageNetSegmentation(path)
    assert isinstance(data, Dataset)
    assert data.ids == ["00000", "00001", "00002"]
    for i, mask in enumerate(MASKS):
        truth = data.truth(i)
        np.testing.assert_array_equal(data.image(i), images[i])
        np.testing.assert_array_equal(truth.mask, mask)
        assert (truth.size, truth.label, truth.foreground) == (mask.shape, -1, "any")
    assert [data.truth(i).boxes.tolist() for i in range(3)] == [[[5, 3, 11, 8]], [[0, 0, 14, 24]], []]
    assert data.truth(0).sought().tolist() == [True]
    assert ImageNetSegmentation(path.parent).identity() == data.identity()


def first_pixels(data: ImageNetSegmentation, queue: "multiprocessing.Queue[list[int]]") -> None:
    queue.put(data.image(0)[0, 0].tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_process_opens_the_file_itself(segmentation: tuple[Path, list[np.ndarray]], method: str) -> None:
    path, images = segmentation
    data = ImageNetSegmentation(path)
    data.image(1)  # open here, too
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()
    if method == "spawn":  # what a spawned process receives
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).image(0), images[0])
        return
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=first_pixels, args=(data, queue))
    worker.start()
    assert queue.get(timeout=30) == images[0][0, 0].tolist()
    worker.join()


def test_grey_images_are_repeated_and_others_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "gtsegs_ijcv.mat"
    files.write_imagenet_segmentation(path, MASKS)
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        refs = file["#refs#"]
        grey = refs.create_dataset("grey", data=np.arange(600, dtype=np.uint8).reshape(30, 20))
        wide = refs.create_dataset("wide", data=np.zeros((3, 15, 25)))
        file["value/img"][0, 0], file["value/img"][1, 0] = grey.ref, wide.ref
        file["value/gt"][2, 0] = file["value/gt"][0, 0]
        refs["m1"][0, 0] = 7
    data = ImageNetSegmentation(path)
    assert data.image(0).shape == (20, 30, 3)
    assert data.image(0)[1, 0].tolist() == [1, 1, 1]
    with pytest.raises(BadImageError, match="image 1"):
        data.image(1)
    with pytest.raises(ValueError, match="mask 1 of uint8 with 1 pixels such as 7; allowed are the numbers 0 and 1"):
        data.truth(1)


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"gtsegs_ijcv\.mat.*calvin-vision\.net.*EIGENCAM_IMAGENET_SEGMENTATION"
    ):
        ImageNetSegmentation(tmp_path)
    path = tmp_path / "gtsegs_ijcv.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" * 100)
    with pytest.raises(ValueError, match=r"expected: MATLAB 7\.3"):
        ImageNetSegmentation(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("value/img", data=np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"expected: MATLAB 7\.3"):
        ImageNetSegmentation(path)
    files.write_imagenet_segmentation(path, MASKS)
    with pytest.raises(ValueError, match="3 images, where a full copy has 4276"):
        ImageNetSegmentation(path, expect="full")


# --- COCO ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return files.write_coco(tmp_path)


def test_objects_of_coco_become_classes_masks_and_boxes(coco: Path) -> None:
    data: Dataset = Coco(coco)
    assert isinstance(data, Dataset)
    assert (data.name, data.class_space) == ("coco_val2014", "coco")
    assert data.classes == ("person", "stop sign", "toothbrush")  # ids 1, 13, 90
    assert data.ids == ["COCO_val2014_000000000042", "COCO_val2014_000000000073"]
    truth = data.truth(0)
    expected = np.zeros(files.COCO_SIZE, np.uint8)
    expected[30:40, 0:20] = VOID
    expected[5:35, 10:40] = 1
    expected[8:18, 20:26] = 3
    np.testing.assert_array_equal(truth.mask, expected)
    assert truth.boxes.tolist() == [[20, 8, 25, 17], [10, 5, 39, 34], [0, 30, 19, 39]]
    assert (truth.box_labels.tolist(), truth.difficult.tolist()) == ([2, 0, 0], [False, False, True])
    assert (truth.label, truth.foreground) == (0, "any")
    empty = data.truth(1)
    assert (empty.label, len(empty.boxes), empty.mask is not None and int(empty.mask.max())) == (-1, 0, 0)
    assert data.image(0).shape == (*files.COCO_SIZE, 3)
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_masks_of_objects_are_those_of_cocos_own_code(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco / "annotations/instances_val2014.json"
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    for k in range(20):  # random polygons of several parts, each alone in an image
        parts = [(rng.random(10) * 40).round(2).tolist() for _ in range(1 + k % 2)]
        content["annotations"].append(
            {
                "id": 100 + k,
                "image_id": 200 + k,
                "category_id": 13,
                "segmentation": parts,
                "bbox": [0, 0, 1, 1],
                "area": 1,
            }
        )
        name = f"COCO_val2014_{200 + k:012d}.jpg"
        content["images"].append({"id": 200 + k, "file_name": name, "height": 40, "width": 50})
        files.write_image(coco / "val2014" / name, files.COCO_SIZE)
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
    path.write_text(json.dumps(content))
    theirs, ours = COCO(path), Coco(coco)
    capsys.readouterr()
    for k in range(20):
        mask = ours.truth(ours.ids.index(f"COCO_val2014_{200 + k:012d}")).mask
        np.testing.assert_array_equal(mask, 2 * theirs.annToMask(theirs.anns[100 + k]))


def test_missing_files_of_coco_say_where_they_come_from(coco: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the splits there are val2014.*cocodataset\.org.*EIGENCAM_COCO"):
        Coco(coco, "val2017")
    with pytest.raises(ValueError, match="2 images, where a full copy has 40504"):
        Coco(coco, expect="full")
    files.write_image(coco / "val2014/COCO_val2014_000000000042.jpg", (20, 25))
    with pytest.raises(ValueError, match=r"has \(25, 20\) pixels, its objects are for \(50, 40\)"):
        Coco(coco).truth(0)
    (coco / "val2014/COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 files of COCO val2014"):
        Coco(coco)
    assert Coco(coco, allow_missing=True).ids == ["COCO_val2014_000000000073"]
    (coco / "annotations/instances_val2014.json").write_text('{"images": [{}]}')
    with pytest.raises(ValueError, match="no 'file_name'; expected: COCO's instances"):
        Coco(coco)
