"""`dataset=folder`: the same images in every format, and the faults of each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import lines, write_image
from PIL import Image

from eigencam.datasets.base import VOID, BadTruthError, Dataset, Truth
from eigencam.datasets.boxes import to_half_open, to_xywh
from eigencam.datasets.coco import Coco
from eigencam.datasets.folder import Folder
from eigencam.datasets.voc import CLASSES, Voc
from eigencam.evaluation.base import Evaluator
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pointing import Pointing
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.segmentation import Segmentation

SHARED = os.environ.get("EIGENCAM_SHARED", "")
needs_shared = pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: real images are not here")


def same(a: Truth, b: Truth) -> bool:
    """Whether two truths of an image are equal."""
    masks = [np.zeros(0) if t.mask is None else t.mask for t in (a, b)]
    pairs = [(a.boxes, b.boxes), (a.box_labels, b.box_labels), (a.difficult, b.difficult), tuple(masks)]
    plain = [(t.image_id, t.size, t.label, t.foreground) for t in (a, b)]
    return plain[0] == plain[1] and all(np.array_equal(x, y) for x, y in pairs)


def runs_of(pixels: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths for a bool mask."""
    flat = np.concatenate([[False], pixels.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], edges, [pixels.size]]))
    return {"size": list(pixels.shape), "counts": lengths.tolist()}


def box_around(pixels: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(pixels)
    return [float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())]


def write_forms(root: Path, count: int) -> None:
    """Real VOC images in all formats: a box around each class of the mask, a difficult one around the void pixels."""
    real = Voc(Path(SHARED) / "realdata", task="Segmentation")
    devkit, images = root / "VOC2012", root / "images"
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (devkit / folder).mkdir(parents=True)
    images.mkdir()
    corners = []
    for i in range(count):
        name, mask = real.ids[i], real.truth(i).mask
        assert mask is not None
        height, width = mask.shape
        for folder in (devkit / "JPEGImages", images):
            (folder / f"{name}.jpg").symlink_to(real._path("JPEGImages", name))
        (devkit / f"SegmentationClass/{name}.png").symlink_to(real._path("SegmentationClass", name))
        coco["images"].append({"id": i, "file_name": f"{name}.jpg", "width": width, "height": height})
        objects = []
        for value in [v for v in np.unique(mask).tolist() if v]:
            pixels, crowd = mask == value, value == VOID
            label = 0 if crowd else value - 1
            x1, y1, x2, y2 = box_around(pixels)
            name_and_flag = f"<name>{CLASSES[label]}</name><difficult>{int(crowd)}</difficult>"
            where = zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2), strict=True)
            inner = "".join(f"<{k}>{v + 1:g}</{k}>" for k, v in where)
            objects.append(f"<object>{name_and_flag}<bndbox>{inner}</bndbox></object>")
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]),
                    "image_id": i,
                    "category_id": label + 1,
                    "iscrowd": int(crowd),
                    "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                    "area": int(pixels.sum()),
                    "segmentation": runs_of(pixels),
                }
            )
            if not crowd:
                corners.append((name, CLASSES[label], x1, y1, x2, y2))
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        lines(devkit / f"Annotations/{name}.xml", f"<annotation>{size}{''.join(objects)}</annotation>")
    lines(devkit / "ImageSets/Segmentation/val.txt", *real.ids[:count])
    (root / "instances.json").write_text(json.dumps(coco))
    boxes = np.array([corner[2:] for corner in corners])
    for form, values in (("xyxy", boxes + 1), ("half", to_half_open(boxes)), ("xywh", to_xywh(boxes))):
        rows = (f"{c[0]}.jpg,{','.join(map(str, b))},{c[1]}" for c, b in zip(corners, values.tolist(), strict=True))
        lines(root / f"{form}.csv", *rows)


@pytest.mark.full
@needs_shared
def test_the_same_real_images_in_every_form_give_the_same_rows(tmp_path: Path) -> None:
    count = 60
    write_forms(tmp_path, count)
    root, masks = tmp_path / "images", {"masks": tmp_path / "VOC2012/SegmentationClass", "mask_values": "palette"}
    named = {"classes": CLASSES, **masks}
    corners = {"box_format": "xyxy", "box_origin": 1, "box_end": "inclusive"}
    half_open = {"box_format": "xyxy", "box_origin": 0, "box_end": "exclusive"}
    forms: dict[str, Dataset] = {
        "VOC": Voc(tmp_path, task="Segmentation"),
        "COCO": Coco(tmp_path, annotations=tmp_path / "instances.json", images=root),
        "folder, XML": Folder(root, boxes=tmp_path / "VOC2012/Annotations", **named),
        "folder, COCO": Folder(root, boxes=tmp_path / "instances.json"),
        "folder, COCO and masks": Folder(root, boxes=tmp_path / "instances.json", **masks),
    }
    plain: dict[str, Dataset] = {
        "VOC, not difficult": Voc(tmp_path, task="Segmentation", difficult=False),
        "corners": Folder(root, boxes=tmp_path / "xyxy.csv", **corners, **named),
        "half open": Folder(root, boxes=tmp_path / "half.csv", **half_open, **named),
        "x y w h": Folder(root, boxes=tmp_path / "xywh.csv", box_format="xywh", box_origin=0, **named),
    }
    evaluators: list[Evaluator] = [Localization(), Pointing(), Segmentation(), Proposals()]
    rng = np.random.default_rng(0)
    for group in (forms, plain):
        (_, first), *others = group.items()
        assert len(first.ids) == count
        for i in range(count):
            truth = first.truth(i)
            score_map = ScoreMap(rng.random((7, 7), np.float32), truth.size)
            wanted = [evaluator.row(score_map, truth) for evaluator in evaluators]
            for form, data in others:
                assert data.ids[i] == first.ids[i]
                assert same(data.truth(i), truth), (form, first.ids[i])
                for evaluator, row in zip(evaluators, wanted, strict=True) if i % 5 == 0 else ():
                    assert repr(evaluator.row(score_map, data.truth(i))) == repr(row), form


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in two folders."""
    for k, name in enumerate(("cat/a.jpg", "cat/b.png", "dog/a.JPG")):
        write_image(tmp_path / "photos" / name, (30, 40), k)
    return tmp_path / "photos"


def mask_of(photos: Path, values: Callable[[np.ndarray], Image.Image]) -> Path:
    """A mask for each image, a square of 100 pixels at the upper left corner."""
    pixels = np.zeros((30, 40), np.uint8)
    pixels[:10, :10] = 1
    for name in ("cat/a", "cat/b", "dog/a"):
        path = photos.parent / f"masks/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values(pixels).save(path)
    return photos.parent / "masks"


def test_images_alone_have_no_label_and_no_object(photos: Path) -> None:
    data = Folder(photos)
    assert data.ids == ["cat/a", "cat/b", "dog/a"]
    truth = data.truth(0)
    assert (truth.label, len(truth.boxes), truth.mask, truth.size) == (-1, 0, None, (30, 40))


def test_folders_are_labels(photos: Path) -> None:
    data = Folder(photos, labels="folders")
    assert data.classes == ("cat", "dog")
    assert [data.truth(i).label for i in range(3)] == [0, 0, 1]
    assert data.truth(0).foreground == "label"


@pytest.mark.parametrize("kind", ["csv", "head", "json", "numbers"])
def test_labels_in_a_file(photos: Path, kind: str) -> None:
    names = {"cat/a.jpg": "cat", "cat/b": "cat", "dog/a.JPG": "dog"}
    path = photos.parent / ("labels.json" if kind == "json" else "labels.csv")
    if kind == "json":
        path.write_text(json.dumps(names))
    else:
        head = ["image,label"] if kind == "head" else []
        numbers = {"cat": 1, "dog": 0} if kind == "numbers" else {"cat": "cat", "dog": "dog"}
        lines(path, *head, *(f"{name},{numbers[label]}" for name, label in names.items()))
    data = Folder(photos, labels=path, classes=["dog", "cat"])
    assert [data.classes[data.truth(i).label] for i in range(3)] == ["cat", "cat", "dog"]


def test_the_first_word_of_a_class_names_it(photos: Path) -> None:
    lines(photos.parent / "classes.txt", "dog, domestic", "cat tabby, tabby cat")
    data = Folder(photos, labels="folders", classes=photos.parent / "classes.txt", class_space="imagenet")
    assert data.class_space == "imagenet"
    assert "dog, domestic" in data.classes
    assert data.faults.keys() == {"dog/a"}  # its first word is `dog,`
    assert [data.truth(i).label for i in range(2)] == [1, 1]


MASKS: dict[str, tuple[Callable[[np.ndarray], Image.Image], Any]] = {
    "0 and 255": (lambda m: Image.fromarray(m * 255), {"object": 255}),
    "one bit": (lambda m: Image.fromarray(m > 0), {"object": 1}),
    "grey in RGB": (lambda m: Image.fromarray(np.repeat(m[..., None] * 200, 3, 2)), {"object": 200}),
    "16 bits": (lambda m: Image.fromarray(m.astype(np.uint16) * 60000), {"object": 60000}),
    "colours": (
        lambda m: Image.fromarray(np.where(m[..., None] > 0, (128, 0, 0), (0, 64, 0)).astype(np.uint8)),
        {"object": "#800000", "background": "#004000"},
    ),
    "several values": (lambda m: Image.fromarray(m * 7), {"object": [5, 7]}),
    "turned round": (lambda m: Image.fromarray(1 - m), {"object": 0, "background": 1}),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind(photos: Path, kind: str) -> None:
    write, values = MASKS[kind]
    data = Folder(photos, labels="folders", masks=mask_of(photos, write), mask_values=values)
    for i in range(3):
        truth = data.truth(i)
        assert truth.mask is not None
        assert truth.sought_pixels().sum() == 100
        assert truth.sought_pixels()[:10, :10].all()
        assert set(np.unique(truth.mask)) == {0, truth.label + 1}


def test_a_palette_s_colours_may_be_named(photos: Path) -> None:
    def write(pixels: np.ndarray) -> Image.Image:
        image = Image.fromarray(pixels * 3).convert("P")
        image.putpalette([0, 0, 0] * 3 + [10, 20, 30])
        return image

    values = {"background": "#000000", "object": "#0a141e"}
    data = Folder(photos, masks=mask_of(photos, write), mask_values=values)
    assert data.classes == ("object",)
    assert data.truth(2).sought_pixels().sum() == 100
    assert data.truth(2).label == 0


def test_masks_below_the_images_are_no_images(photos: Path) -> None:
    mask_of(photos, MASKS["0 and 255"][0]).rename(photos / "masks")
    data = Folder(photos, masks=photos / "masks", mask_values={"object": 255})
    assert data.ids == ["cat/a", "cat/b", "dog/a"]


GOOD = {"box_format": "xyxy", "box_origin": 0, "box_end": "inclusive"}
ROWS = ["cat/a.jpg,1,2,8,9", "cat/b.png,0,0,39,29", "dog/a.JPG,3,3,3,3"]
REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no format": ({"box_format": None}, ROWS, "box_format=None; allowed: xyxy"),
    "no origin": ({"box_origin": None}, ROWS, "box_origin=None; allowed: 0 and 1"),
    "no end": ({"box_end": None}, ROWS, "box_end=None; allowed: inclusive"),
    "an end beside a width": ({"box_format": "xywh"}, ROWS, "allowed with box_format=xywh is null"),
    "a head of another format": ({}, ["image,x,y,w,h", *ROWS], "box_format=xyxy needs image and x1,y1,x2,y2"),
    "too few values": ({}, ["cat/a.jpg,1,2,8", *ROWS], "line 1: 4 values"),
    "an image without a line": ({}, ROWS[:2], r"1 have no annotation, e.g. dog/a.*allow_missing=true"),
    "a line without an image": ({}, [*ROWS, "dog/q.jpg,1,1,2,2"], r"line 4.*allow_missing=true"),
    "nothing": ({}, [], "no image is listed"),
    "an unknown foreground": ({"foreground": "all"}, ROWS, "foreground=all; allowed: label, any"),
    "values without masks": ({"mask_values": {"object": 255}}, ROWS, "without masks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_an_image_is_read(photos: Path, case: str) -> None:
    options, rows, words = REFUSED[case]
    lines(photos.parent / "boxes.csv", *rows)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Folder(photos, boxes=photos.parent / "boxes.csv", **GOOD | options)


FAULTS = {
    "inverted": ("8,9,1,2", r"line 1: cat/a: box \[8.0, 9.0, 1.0, 2.0\].*box_format=xywh"),
    "nan": ("nan,2,8,9", "allowed are 0 <= x1"),
    "negative": ("-5,2,8,9", "allowed are 0 <= x1"),
    "huge": ("1,2,1e12,9", "allowed are 0 <= x1"),
    "no number": ("1,2,8,nine", "allowed are four numbers"),
    "outside": ("1,2,40,9", r"allowed in 40 x 30 pixels"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_box_is_a_fault_of_its_image_alone(photos: Path, case: str) -> None:
    box, words = FAULTS[case]
    lines(photos.parent / "boxes.csv", f"cat/a.jpg,{box}", *ROWS[1:])
    data = Folder(photos, boxes=photos.parent / "boxes.csv", **GOOD)
    assert (case == "outside") != ("cat/a" in data.faults)  # its size is known only when the image is opened
    with pytest.raises(BadTruthError, match=words):
        data.truth(0)
    assert data.truth(1).boxes.tolist() == [[0, 0, 39, 29]]


def test_columns_by_their_heads_and_images_without_an_object(photos: Path) -> None:
    lines(
        photos.parent / "b.csv",
        "label,xmin,ymin,width,height,file",
        "cow,1,2,8,9,cat/a",
        ",,,,,cat/b",
        "pig,1,1,1,1,dog/a",
    )
    data = Folder(photos, boxes=photos.parent / "b.csv", box_format="xywh", box_origin=1)
    assert data.classes == ("cow", "pig")
    assert data.truth(0).boxes.tolist() == [[0, 1, 7, 9]]
    assert [len(data.truth(i).boxes) for i in range(3)] == [1, 0, 1]


def test_an_unknown_class_names_those_there_are(photos: Path) -> None:
    data = Folder(photos, labels="folders", classes=["cat", "cow"])
    assert list(data.faults) == ["dog/a"]
    with pytest.raises(BadTruthError, match=r"dog/a.JPG: class 'dog'; the classes are cat, cow"):
        data.truth(2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "allowed: palette"),
        ("pallete", "allowed: palette"),
        ({}, "allowed: palette"),
        ({"void": 255}, "nothing stands for an object"),
        ({"object": 1, "cat": 1}, "stands for object and for cat"),
        ({"object": -1}, "object: -1"),
        ({"object": True}, "object: True"),
        ({"object": "red"}, "object: 'red'"),
        ({"object": 1, "void": "#ffffff"}, "numbers beside colours"),
    ],
)
def test_values_of_masks_are_checked(photos: Path, values: Any, words: str) -> None:
    masks = mask_of(photos, MASKS["0 and 255"][0])
    with pytest.raises(ValueError, match=words):
        Folder(photos, masks=masks, mask_values=values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"object": 1}, r"255 in the mask; allowed by dataset.mask_values are 0 \(background\), 1 \(object\)"),
        ({"object": "#ffffff"}, r"#000000 in the mask"),
    ],
)
def test_a_value_that_stands_for_nothing_is_refused(photos: Path, values: Any, words: str) -> None:
    masks = mask_of(photos, MASKS["0 and 255"][0])
    data = Folder(photos, labels="folders", masks=masks, mask_values=values)
    with pytest.raises(BadTruthError, match=words):
        data.truth(0)


def test_a_mask_of_another_size_is_refused(photos: Path) -> None:
    masks = mask_of(photos, MASKS["0 and 255"][0])
    Image.fromarray(np.zeros((30, 41), np.uint8)).save(masks / "cat/a.png")
    data = Folder(photos, masks=masks, mask_values={"object": 255})
    with pytest.raises(BadTruthError, match=r"a mask of \(30, 41\)"):
        data.truth(0)


def test_the_identity_follows_what_is_said_of_the_images(photos: Path) -> None:
    masks = mask_of(photos, MASKS["0 and 255"][0])
    lines(photos.parent / "boxes.csv", *ROWS)
    boxes = photos.parent / "boxes.csv"
    made = [
        Folder(photos),
        Folder(photos, labels="folders"),
        Folder(photos, labels="folders", class_space="pets"),
        Folder(photos, labels="folders", foreground="any"),
        Folder(photos, boxes=boxes, **GOOD),
        Folder(photos, boxes=boxes, box_format="xyxy", box_origin=0, box_end="exclusive", allow_missing=True),
        Folder(photos, masks=masks, mask_values={"object": 255}),
        Folder(photos, masks=masks, mask_values={"object": 255, "background": 0}),
    ]
    told = [json.dumps(data.identity(), sort_keys=True) for data in made]
    assert len(set(told)) == len(told)
    assert json.dumps(Folder(photos).identity(), sort_keys=True) == told[0]
