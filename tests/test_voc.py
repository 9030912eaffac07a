import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from eigencam.datasets.base import BadImageError, Dataset
from eigencam.datasets.voc import CLASSES, Voc, read_annotation

SHARED = os.environ.get("EIGENCAM_SHARED", "")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="EIGENCAM_SHARED is not set: real images and reference files are not here"
)

CAT, DOG, PERSON = (CLASSES.index(name) for name in ("cat", "dog", "person"))
Objects = list[tuple[str, tuple[float, float, float, float], int]]
IMAGES: dict[str, Objects] = {  # boxes 1-based, as VOC writes them; difficult
    "2008_000002": [("dog", (1, 1, 30, 20), 0)],
    "2008_000001": [("cat", (3, 4, 12, 13), 0), ("dog", (5.5, 6, 8, 9), 0), ("person", (1, 1, 40, 30), 1)],
    "2009_000003": [("person", (2, 2, 9, 9), 1)],
}


def xml(objects: Objects, size: tuple[int, int] = (30, 40)) -> str:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox>{part if name == 'person' else ''}</object>"
        for name, (x1, y1, x2, y2), difficult in objects
    )
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{body}</annotation>"


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros((30, 40), np.uint8)
    if name != "2009_000003":
        mask[2:20, 2:30] = 255
        mask[4:18, 4:20] = DOG + 1
        mask[4:6, 4:6] = CAT + 1
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "VOCdevkit" / "VOC2012"
    for below in ("ImageSets/Main", "ImageSets/Segmentation", "JPEGImages", "Annotations", "SegmentationClass"):
        (top / below).mkdir(parents=True)
    for name, objects in IMAGES.items():
        Image.new("RGB", (40, 30), "red").save(top / f"JPEGImages/{name}.jpg")
        (top / f"Annotations/{name}.xml").write_text(xml(objects))
        palette = Image.fromarray(mask_of(name))
        palette.putpalette([value for k in range(256) for value in (k, 0, 0)])
        palette.save(top / f"SegmentationClass/{name}.png")
    for task in ("Main", "Segmentation"):
        (top / f"ImageSets/{task}/val.txt").write_text("\n".join(IMAGES) + "\n")
    (top / "ImageSets/Main/cat_val.txt").write_text("2008_000001  1\n2008_000002 -1\n2009_000003  0\n")
    return tmp_path


def test_the_root_may_be_any_of_the_three_folders(root: Path) -> None:
    folders = (root, root / "VOCdevkit", root / "VOCdevkit" / "VOC2012")
    identities = [Voc(folder).identity() for folder in folders]
    assert identities[0] == identities[1] == identities[2]


def test_it_is_a_dataset_in_the_order_of_the_ids(root: Path) -> None:
    data: Dataset = Voc(root)
    assert isinstance(data, Dataset)
    assert (data.name, data.class_space, data.classes[14]) == ("voc2012", "voc", "person")
    assert data.ids == sorted(IMAGES)
    assert data.image(0).shape == (30, 40, 3)
    assert pickle.loads(pickle.dumps(data)).identity() == data.identity()


def test_boxes_become_0_based_and_keep_fractions_and_parts_are_no_objects(root: Path) -> None:
    truth = Voc(root).truth(0)
    np.testing.assert_array_equal(truth.boxes, [[2, 3, 11, 12], [4.5, 5, 7, 8], [0, 0, 39, 29]])
    np.testing.assert_array_equal(truth.box_labels, [CAT, DOG, PERSON])
    np.testing.assert_array_equal(truth.difficult, [False, False, True])
    assert truth.size == (30, 40)
    assert truth.foreground == "any"
    assert truth.sought().all()
    assert truth.mask is None


def test_difficult_objects_can_be_left_out_and_do_not_change_the_label(root: Path) -> None:
    with_all, without = Voc(root), Voc(root, difficult=False)
    assert [len(without.truth(i).boxes) for i in range(3)] == [2, 1, 0]
    assert (
        [with_all.truth(i).label for i in range(3)] == [without.truth(i).label for i in range(3)] == [CAT, DOG, PERSON]
    )
    assert with_all.identity() != without.identity()


def test_masks_hold_class_indices_and_decide_the_label(root: Path) -> None:
    data = Voc(root, task="Segmentation")
    truth = data.truth(0)
    assert truth.mask is not None
    np.testing.assert_array_equal(truth.mask, mask_of(data.ids[0]))
    assert truth.label == DOG  # by its boxes, the class would be cat
    assert data.truth(2).label == PERSON  # without objects in the mask, the boxes decide


def test_an_image_with_a_mask_needs_no_annotation_but_one_of_main_does(root: Path) -> None:
    (root / "VOCdevkit/VOC2012/Annotations/2008_000001.xml").unlink()
    truth = Voc(root, task="Segmentation").truth(0)
    assert truth.boxes.shape == (0, 4)
    assert (truth.size, truth.label) == ((30, 40), DOG)
    with pytest.raises(
        FileNotFoundError, match=r"1 lack their file in .*Annotations, e\.g\. 2008_000001.*the 2 that are"
    ):
        Voc(root)
    assert Voc(root, allow_missing=True).ids == ["2008_000002", "2009_000003"]


def test_missing_images_and_masks_are_one_message(root: Path) -> None:
    (root / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg").unlink()
    (root / "VOCdevkit/VOC2012/SegmentationClass/2008_000002.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"3 images.*JPEGImages, e\.g\. 2008_000001; .*SegmentationClass, e\.g\."
    ):
        Voc(root, task="Segmentation")
    assert Voc(root, task="Segmentation", allow_missing=True).ids == ["2009_000003"]


def test_a_missing_set_or_folder_tells_where_it_was_looked_for_and_what_there_is(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Main/test\.txt.*image sets there are val\. The archives are"):
        Voc(root, image_set="test")
    with pytest.raises(FileNotFoundError, match="VOC2007"):
        Voc(root, year=2007)
    with pytest.raises(FileNotFoundError, match="VOC 2007"):
        Voc(root / "VOCdevkit" / "VOC2012", year=2007, image_set="val")


def test_the_set_of_a_class_has_the_images_with_that_class(root: Path) -> None:
    assert Voc(root, image_set="cat_val").ids == ["2008_000001", "2009_000003"]


def test_listed_images_can_be_left_out(root: Path) -> None:
    file = root / "fitted.txt"
    file.write_text("2008_000002\n1999_000001\n")
    for task in ("Main", "Segmentation"):
        data = Voc(root, task=task, without=file)  # type: ignore[arg-type]
        assert data.ids == ["2008_000001", "2009_000003"]
        assert data.identity()["without"] == 1
        assert str(root) not in str(data.identity())
    assert "without" not in Voc(root).identity()
    with pytest.raises(FileNotFoundError, match=r"no\.txt: no such file.*dataset\.without"):
        Voc(root, without=root / "no.txt")
    file.write_text("\n".join(IMAGES))
    with pytest.raises(ValueError, match="it names all 3 images"):
        Voc(root, without=file)


def test_wrong_options_name_the_allowed_ones(root: Path) -> None:
    with pytest.raises(ValueError, match="2007 and 2012"):
        Voc(root, year=2010)
    with pytest.raises(ValueError, match="Main and Segmentation"):
        Voc(root, task="Layout")  # type: ignore[arg-type]


def test_a_resized_image_is_an_error_and_a_broken_one_is_left_to_the_run(root: Path) -> None:
    path = root / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg"
    Image.new("RGB", (20, 15)).save(path)
    with pytest.raises(ValueError, match="annotation 40 x 30, image 20 x 15"):
        Voc(root).truth(0)
    path.write_bytes(b"")
    data = Voc(root)
    assert data.truth(0).size == (30, 40)
    with pytest.raises(BadImageError, match="2008_000001"):
        data.image(0)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("<annotation>", "no element found.*expected: a VOC annotation"),
        ("<annotation/>", "no whole number.*expected: a VOC annotation"),
        (xml([("unicorn", (1, 1, 2, 2), 0)]), "unicorn"),
        (xml([("cat", (1, 1, 99, 2), 0)]), "impossible box"),
        (xml([("cat", (5, 1, 2, 2), 0)]), "impossible box"),
        (
            xml([("cat", (1, 1, 2, 2), 0)]).replace("</bndbox>", "</bndbox><bndbox><xmin>1</xmin></bndbox>"),
            "2 boxes of object 1 of 1; allowed is one",
        ),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.xml.*{match}"):
        read_annotation(tmp_path / "a.xml")


def test_a_mask_with_other_values_than_classes_is_an_error(root: Path) -> None:
    Image.fromarray(np.full((30, 40), 21, np.uint8)).save(root / "VOCdevkit/VOC2012/SegmentationClass/2008_000001.png")
    with pytest.raises(ValueError, match=r"values \[21\]"):
        Voc(root, task="Segmentation").truth(0)


def test_the_identity_follows_the_truth(root: Path) -> None:
    folder = root / "VOCdevkit/VOC2012"
    main, masks = Voc(root).identity(), Voc(root, task="Segmentation").identity()
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(folder / "SegmentationClass/2008_000001.png")
    assert Voc(root).identity() == main
    assert Voc(root, task="Segmentation").identity() != masks
    (folder / "Annotations/2008_000001.xml").write_text(xml([("cat", (3, 4, 12, 12), 0)]))
    assert Voc(root).identity() != main


def test_a_failed_download_says_how_to_get_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(*args: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets, "VOCDetection", offline)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*no network.*VOCtest_06-Nov-2007\.tar"):
        Voc(tmp_path, year=2007, image_set="test", download=True)


def test_nothing_is_downloaded_when_the_set_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("torchvision.datasets"), "VOCDetection", None)
    assert len(Voc(root, download=True).ids) == 3


@needs_shared
@pytest.mark.parametrize(
    ("year", "image_set", "task", "n", "without_boxes"),
    [(2007, "test", "Main", 19, 0), (2012, "val", "Main", 251, 0), (2012, "val", "Segmentation", 326, 78)],
)
def test_the_real_images_are_read(year: int, image_set: str, task: str, n: int, without_boxes: int) -> None:
    data = Voc(Path(SHARED) / "realdata", year, image_set, task)  # type: ignore[arg-type]
    truths = [data.truth(i) for i in range(len(data.ids))]
    assert len(truths) == n
    assert sum(len(truth.boxes) == 0 for truth in truths) == without_boxes
    assert all(truth.label >= 0 for truth in truths)
    assert all(data.image(i).shape[:2] == truths[i].size for i in range(0, n, 10))


@needs_shared
def test_the_boxes_of_real_masks_and_annotations_agree() -> None:
    # Boxes are drawn tightly around the mask and its void border: the remaining gaps are equal on both sides, so that
    # they # cancel unless one of the two grids is shifted by a pixel.
    data = Voc(Path(SHARED) / "realdata", task="Segmentation")
    margins = []
    for i in range(len(data.ids)):
        truth = data.truth(i)
        if len(truth.boxes) == 1 and truth.mask is not None:
            rows, columns = np.nonzero(truth.mask)
            margins.append(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - truth.boxes[0])
    left, top, right, bottom = np.median(margins, axis=0)
    assert len(margins) > 100
    assert abs(left + right) <= 1
    assert abs(top + bottom) <= 1
