"""Truth as other programs write it, close to the accepted forms: read as it is meant, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import lines, write_image
from numpy.typing import NDArray
from PIL import Image

from eigencam.datasets.base import BadTruthError, Dataset, Truth
from eigencam.datasets.checks import checked_truth, truth_faults
from eigencam.datasets.folder import Folder

NAMES = [f"{'cat' if k % 2 else 'dog'}/{k}.png" for k in range(10)]
SIZE = (20, 30)
OBJECT = np.zeros(SIZE, np.uint8)
OBJECT[5:12, 6:20] = 255
XYXY: dict[str, Any] = {"box_format": "xyxy", "box_origin": 0, "box_end": "inclusive"}
XYWH: dict[str, Any] = {"box_format": "xywh", "box_origin": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, name in enumerate(NAMES):
        write_image(tmp_path / "photos" / name, SIZE, k)
    return tmp_path


def first_fault(data: Dataset) -> str:
    """The fault that keeps a run from beginning."""
    return next(iter(truth_faults(data)), "")


def boxes(root: Path, line: str, head: str = "", **options: Any) -> Folder:
    """Images with one line each in a CSV file; `{}` is the image's name."""
    lines(root / "boxes.csv", *filter(None, [head]), *(line.format(name) for name in NAMES))
    return Folder(root / "photos", labels="folders", boxes=root / "boxes.csv", **(options or XYXY))


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("{},0.1,0.2,0.5,0.9", XYXY),
        ("{},0,0,1,0.9", XYXY),
        ("{},0.1,0.2,0.5,0.9", XYXY | {"box_end": "exclusive"}),
        ("{},0.1,0.2,0.5,0.6", XYWH),
        ("{},0.5,0.5,1,1", XYWH),
    ],
)
def test_fractions_are_no_pixels(root: Path, line: str, options: dict[str, Any]) -> None:
    assert "none ends beyond 1; allowed are pixels, not fractions" in first_fault(boxes(root, line, **options))


def test_a_box_of_the_first_pixels_is_one() -> None:
    one = np.zeros(1, np.int64)
    for corners in ([0, 0, 1, 1], [0, 0, 0, 0], [0.25, 0, 1.5, 1]):
        assert len(Truth("a", (8, 8), 0, np.array([corners], float), one).boxes) == 1
    several = np.array([[0.1, 0.1, 0.9, 0.9], [3, 3, 5, 5]])
    assert len(Truth("a", (8, 8), 0, several, np.zeros(2, np.int64)).boxes) == 2
    with pytest.raises(BadTruthError, match="pixels, not fractions"):
        Truth("a", (8, 8), 0, several[:1], one)


@pytest.mark.parametrize(
    ("head", "line", "words"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "{},300,200,cat,1,2,9,12", "its objects are for 300 x 200"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "{},3e1,20,cat,1,2,9,12", "3e1 x 20 pixels"),
        ("image,x1,y1,x2,y2,x1", "{},1,2,9,12,3", "two columns x1; allowed is one"),
        ("image,x1,y1,x2,y2", "{},1,2,9,12,3", "line 2: 6 values below a header"),
        ("image,x1,y1,x2,y2,label", "{},1,2,9", "line 2: 4 values below a header"),
        (
            "image,x1,y1,x2,y2",
            "image,x1,y1,x2,y2",
            "10 have no annotation",
        ),
    ],
)
def test_a_csv_file_that_contradicts_its_header(root: Path, head: str, line: str, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        raise ValueError(first_fault(boxes(root, line, head)))


@pytest.mark.parametrize(
    "head", ["filename,width,height,class,xmin,ymin,xmax,ymax", "filename,w,h,class,xmin,ymin,xmax,ymax"]
)
def test_a_csv_file_as_scripts_for_tensorflow_write_it(root: Path, head: str) -> None:
    data = boxes(root, "{},30,20,cat,1,2,9,12", head)
    assert first_fault(data) == ""
    assert data.truth(0).boxes.tolist() == [[1, 2, 9, 12]]


def files_of(root: Path, name: str, content: str) -> Path:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(content)
    return root / name


CVAT = '<annotations><image name="0.png" width="30" height="20"><box label="cat" xtl="1"/></image></annotations>'
XML = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>{}</name><bndbox><xmin>1</xmin>"
    "<ymin>2</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cvat.xml", CVAT, r"cvat\.xml: allowed are a CSV file .*COCO's JSON and a folder of VOC's XML files"),
        ("yolo/0.txt", "0 0.5 0.5 0.2 0.2", r"yolo: no XML file in it; a file of boxes ends in \.csv or \.json"),
        ("studio.json", '[{"data": {}}]', r"studio\.json: a list; ground truth is .*expected: COCO's instances"),
        ("labelme.json", '{"shapes": []}', r"labelme\.json: no 'images'; expected: COCO's instances"),
        ("panoptic.json", json.dumps({"images": [], "categories": []}), "no image is listed"),
    ],
)
def test_files_of_annotation_programs_are_refused_by_name(root: Path, name: str, content: str, words: str) -> None:
    path = files_of(root, name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Folder(root / "photos", boxes=path.parent if path.suffix == ".txt" else path)


def test_an_object_without_a_name_or_a_box_is_a_fault(root: Path) -> None:
    for name in NAMES:
        files_of(root, f"xml/{Path(name).stem}.xml", XML.format("" if name.endswith("3.png") else "cat"))
    data = Folder(root / "photos", boxes=root / "xml")
    assert list(data.faults) == ["cat/3"]
    assert "xml: object 1 of 1 has no name" in data.faults["cat/3"]
    files_of(root, "xml/3.xml", XML.format("cat").replace("bndbox", "polygon"))
    assert "'' is no number" in Folder(root / "photos", boxes=root / "xml").faults["cat/3"]


def numbered(root: Path, label: Callable[[int], object], **options: Any) -> Folder:
    lines(root / "labels.csv", *(f"{name},{label(k)}" for k, name in enumerate(NAMES)))
    return Folder(root / "photos", labels=root / "labels.csv", **options)


def test_numbers_as_labels_count_from_0(root: Path) -> None:
    data = numbered(root, lambda k: -1 if k == 1 else k)
    assert data.classes == tuple(map(str, range(10)))  # without -1, which would shift all others
    assert list(data.faults) == ["cat/1"]
    assert [data.truth(i).label for i in (1, 2, 5)] == [3, 5, 0]
    assert "class '1.0'; the classes are names, or whole numbers" in first_fault(numbered(root, lambda k: f"{k % 2}.0"))
    from_1 = numbered(root, lambda k: k + 1, classes=[f"c{k}" for k in range(10)])
    assert "class '10'; the classes are c0, " in first_fault(from_1)
    assert "from 0; labels that count from 1 are one too high" in first_fault(from_1)
    huge = numbered(root, lambda k: 10**12 if k == 1 else k)
    assert (len(huge.classes), list(huge.faults)) == (10, ["cat/1"])
    with pytest.raises(ValueError, match=r"labels\.csv, line 1: 3 values; expected: lines `image,label`"):
        numbered(root, lambda k: f"{k},1")


def test_labels_and_boxes_counted_in_two_ways_are_refused(root: Path) -> None:
    lines(root / "labels.csv", *(f"{name},{k % 3}" for k, name in enumerate(NAMES)))
    for shift, words in ((0, ""), (1, "none of the 10 images looked at has a box of its label's class: cat/1 has the")):
        lines(root / "boxes.csv", *(f"{name},1,2,9,12,{k % 3 + shift}" for k, name in enumerate(NAMES)))
        data = Folder(root / "photos", labels=root / "labels.csv", boxes=root / "boxes.csv", **XYXY)
        assert words in first_fault(data)
        assert bool(words) == bool(first_fault(data))


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "val/dog/b.png"):
        write_image(tmp_path / name, SIZE)
    with pytest.raises(ValueError, match=r"are splits, not classes; name one by dataset\.root"):
        Folder(tmp_path, labels="folders")
    assert Folder(tmp_path / "train", labels="folders").classes == ("cat",)


def masks(root: Path, pixels: NDArray[Any], mode: str | None = None, suffix: str = "png", **values: object) -> Folder:
    for name in NAMES:
        path = (root / "masks" / name).with_suffix(f".{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, mode).save(path)
    return Folder(root / "photos", masks=root / "masks", mask_values=values or {"object": 255})


WHITE = np.full((*SIZE, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (OBJECT > 0, {"object": 1}, ""),
        (OBJECT > 0, {}, r"1\.png: 1 in the mask; allowed .* 255 \(object\)"),
        (OBJECT.astype(np.uint16) * 257, {"object": 65535}, ""),
        (OBJECT.astype(np.uint16) * 257, {}, r"65535 in the mask; allowed .* 255 \(object\)"),
        (np.dstack([OBJECT, OBJECT, OBJECT, OBJECT]), {}, ""),
        (np.dstack([OBJECT, OBJECT * 0, OBJECT * 0, OBJECT]), {"background": "#000000", "object": "#ff0000"}, ""),
        (np.dstack([WHITE, OBJECT]), {}, r"\.png: one colour, and the shape is in the alpha channel"),
        (np.dstack([WHITE * 0, OBJECT]), {}, r"\.png: one colour, and the shape is in the alpha channel"),
        (np.dstack([OBJECT * 0, OBJECT]), {}, r"\.png: one colour, and the shape is in the alpha channel"),
        (OBJECT[::2, ::2], {}, r"a mask of \(10, 15\); allowed is the image's size"),
        (OBJECT * 0, {}, "none of the 10 masks looked at has an object, all are background"),
    ],
)
def test_masks_of_every_kind(root: Path, pixels: NDArray[Any], options: dict[str, Any], words: str) -> None:
    data = masks(root, pixels, **options)
    if words:
        with pytest.raises(ValueError, match=words):
            raise ValueError(first_fault(data))
    else:
        assert first_fault(data) == ""
        mask = checked_truth(data, 0).mask
        assert mask is not None
        assert ((mask == 1) == (OBJECT > 0)).all()


def test_a_mask_that_was_stored_as_jpeg_is_refused(root: Path) -> None:
    assert "in the mask; allowed by dataset.mask_values are" in first_fault(masks(root, OBJECT, suffix="jpg"))
