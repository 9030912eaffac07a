"""Faults of masks and of COCO's annotations; see `damage.py`."""

import json
from pathlib import Path
from typing import Any

import dataset_files as files
import h5py
import numpy as np
from damage import Cases, Damage, paint, swap
from numpy.typing import NDArray
from PIL import Image

# --- masks ---------------------------------------------------------------------------------------------------------

OPEN = "test/01226z/7af766bd43da900b"  # 40 x 30 pixels, masks 60 x 45
OPEN_MASK = f"**/{OPEN}_m01226z_00000000.png"
GREYS = np.tile(np.arange(60, dtype=np.uint8), (45, 1))
OPENIMAGES: Cases = {
    "mask size": (paint(OPEN_MASK, np.ones((60, 45), np.uint8)), "a mask of 45 x 60 pixels; allowed is the shape"),
    "mask dtype": (paint(OPEN_MASK, np.ones((45, 60), np.uint16)), "a mask of mode 'I;16'; allowed are"),
    "mask values": (paint(OPEN_MASK, GREYS), r"7af766bd43da900b_m01226z_00000000\.png: 60 grey values, \[0, 1, 2, 3\]"),
    "ignored size": (paint(f"**/{OPEN}_ignore.png", np.ones((60, 45), np.uint8)), r"_ignore\.png: a mask of 45 x 60"),
} | {
    f"label {label}": (
        swap("**/class_labels.txt", f"{OPEN}.jpg,0", f"{OPEN}.jpg,{label}"),
        rf"class_labels\.txt: label '{label}' of {OPEN}\.jpg; allowed are whole numbers, 0 to 99",
    )
    for label in ("100", "200", "-1", "300", "65.7")
}


def no_object(root: Path) -> None:
    for path in root.glob(f"**/{OPEN}_m*.png"):
        Image.new("L", (60, 45)).save(path)


OPENIMAGES["mask empty"] = (no_object, "no pixel of the object in 2 masks")


def coloured(colour: tuple[int, int, int]) -> Damage:
    return paint("**/carsgraz_001.mask.0.png", Image.new("RGB", (32, 24), colour))


def all_hidden(root: Path) -> None:
    for path in root.glob("**/carsgraz_001.mask.*.png"):
        Image.new("RGB", (32, 24), files.GREEN).save(path)


IG02_CASES: Cases = {
    "mask size": (paint("**/carsgraz_001.mask.0.png", Image.new("RGB", (24, 32))), r"mask of \(24, 32\) pixels"),
    **{
        f"mask {name}": (coloured(colour), rf"carsgraz_001\.mask\.0\.png: the colour \({colour[0]}, .*allowed are red")
        for name, colour in {"white": (255, 255, 255), "blue": (0, 0, 255), "grey": (90, 90, 90)}.items()
    },
    "mask grey file": (paint("**/carsgraz_001.mask.0.png", np.full((24, 32), 255, np.uint8)), "the colour .*allowed"),
    "mask void": (all_hidden, "all pixels of the mask are 255, void"),
}


def write_segmentation(root: Path) -> None:
    masks = [np.zeros((20, 30), np.uint8), np.ones((25, 15), np.uint8)]
    masks[0][3:9, 5:12] = 1
    files.write_imagenet_segmentation(root / "gtsegs_ijcv.mat", masks)


def stored(values: NDArray[Any]) -> Damage:
    """Replace the first mask; its axes are in the file's order."""

    def change(root: Path) -> None:
        with h5py.File(root / "gtsegs_ijcv.mat", "r+") as opened:
            file: Any = opened
            file[file["value/gt"][0, 0]][0, 0] = file["#refs#"].create_dataset("new", data=values).ref

    return change


def with_value(value: float, dtype: type = np.float64) -> NDArray[Any]:
    mask = np.zeros((30, 20), dtype)
    mask[4:9, 3:9] = 1
    mask[4, 4] = value
    return mask


IMAGENET_SEGMENTATION: Cases = {
    "mask half": (stored(with_value(0.5)), r"gtsegs_ijcv\.mat: mask 0 of float64 with 1 pixels such as 0\.5; allowed"),
    "mask nan": (stored(with_value(np.nan)), r"gtsegs_ijcv\.mat: mask 0 of float64 with 1 pixels such as nan; allowed"),
    "mask values": (stored(with_value(255, np.uint8)), "mask 0 of uint8 with 1 pixels such as 255; allowed"),
    "mask dtype": (stored(np.full((30, 20), b"1")), "mask 0 of .*allowed are the numbers 0 and 1"),
    "mask size": (
        stored(np.ones((20, 30), np.uint8)),
        r"mask 0 of \[30, 20\]; allowed is the size of its image, \[20, 30\]",
    ),
    "mask shape": (stored(np.ones((3, 30, 20), np.uint8)), r"mask 0 of \[20, 30, 3\]; allowed"),
}

# --- COCO ----------------------------------------------------------------------------------------------------------


def annotated(**change: object) -> Damage:
    """Change the second annotation, of image 42: 50 x 40 pixels."""

    def write(root: Path) -> None:
        path = root / "annotations/instances_val2014.json"
        data = json.loads(path.read_text())
        data["annotations"][1] |= change
        path.write_text(json.dumps(data))

    return write


def runs(counts: object, size: tuple[int, int] = files.COCO_SIZE) -> Damage:
    return annotated(segmentation={"counts": counts, "size": list(size)})


NAMED = r"instances_val2014\.json: annotation 1 of image 42: "
COCO: Cases = {
    **{
        what: (annotated(bbox=box), NAMED + r"bbox .*allowed")
        for what, box in {
            "outside": [200, 200, 30, 20],
            "inverted": [40, 30, -30, 20],
            "zero": [10, 10, 0, 5],
            "nan": [float("nan"), 0, 5, 5],
            "infinite": [0, 0, float("inf"), 5],
            "1-based": [1, 1, 50, 40],
            "huge": [0, 0, 10**400, 5],
            "box empty": [],
            "three numbers": [1, 2, 3],
            "texts": ["1", "2", "3", "4"],
            "box null": None,
        }.items()
    },
    "label": (annotated(category_id=2), NAMED + "category_id 2; allowed are 1, 13, 90"),
    "crowd": (annotated(iscrowd=7), NAMED + "iscrowd 7; allowed are 0 and 1"),
    "area": (annotated(area=float("nan")), NAMED + "area nan; allowed are numbers"),
    **{
        f"polygon {what}": (annotated(segmentation=polygon), NAMED + "(polygon|segmentation) .*allowed")
        for what, polygon in {
            "null": None,
            "none": [],
            "text": "abc",
            "of two": [[10, 5]],
            "of four": [[1, 1, 9, 9]],
            "odd": [[1, 1, 9, 9, 3, 5, 7]],
            "far": [[0, 0, 1e12, 0, 5, 5]],
            "huge": [[0, 0, 10**400, 0, 5, 5]],
            "nan": [[1, 1, 9, float("nan"), 3, 5]],
            "texts": [["1", "1", "9", "9", "3", "5"]],
            "nested": [[[1, 1, 9, 9, 3, 5]]],
            "flat": [1, 1, 9, 9, 3, 5],
        }.items()
    },
    **{
        f"runs {what}": (damage, NAMED + ".*allowed")
        for what, damage in {
            "short": runs([100]),
            "long": runs([0, 2001]),
            "negative": runs([-5, 2005]),
            "fractions": runs([0.5, 1999.5]),
            "nothing": runs(None),
            "of another size": runs([0, 2000], (50, 40)),
            "packed short": runs("T3"),
            "packed wrong": runs("\x01"),
            "packed cut": runs("o"),
            "packed endless": runs("o" * 50),
        }.items()
    },
}


FOLDER: Cases = {
    "mask size": (paint("masks/q/b.png", np.zeros((6, 9), np.uint8)), r"b: a mask of \(6, 9\); allowed"),
    "mask values": (paint("masks/q/b.png", np.full((6, 8), 7, np.uint8)), r"b\.png: 7 in the mask; allowed"),
    "mask of 16 bits": (paint("masks/q/b.png", np.full((6, 8), 70, np.uint16)), r"b\.png: 70 in the mask"),
    "mask in colours": (paint("masks/q/b.png", Image.new("RGB", (8, 6), files.RED)), r"b\.png: a mask in colours"),
}
