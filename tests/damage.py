"""Faults of labels and boxes: for each reader, a function that makes each fault, and the expected error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import ilsvrc_files
import numpy as np
import test_voc
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from eigencam.datasets.base import VOID

Damage = Callable[[Path], object]
Cases = dict[str, tuple[Damage, str]]
"""By the fault's name: a function that makes it, and a pattern of the expected error."""

HUGE = "1000000000000"


def swap(file: str, old: str, new: str) -> Damage:
    """Replace a text in a file that contains it."""

    def change(root: Path) -> None:
        path = next(root.glob(file))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def paint(file: str, pixels: NDArray[Any] | Image.Image) -> Damage:
    """Replace a mask."""

    def change(root: Path) -> None:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(next(root.glob(file)))

    return change


def empty(file: str) -> Damage:
    return lambda root: next(root.glob(file)).write_bytes(b"")


def corners(file: str, line: str, box: str, width: int, height: int) -> Cases:
    """Faults of a box `x1,y1,x2,y2`, 0-based inclusive, in an image of the given size; the file's `line`
    has `box` in place of {}."""
    wrong = {
        "outside": f"{width + 20},0,{width + 30},5",
        "inverted": "9,0,2,5",
        "zero": "9,0,8,5",
        "nan": "nan,0,5,5",
        "1-based": f"1,1,{width},{height}",
        "huge": f"0,0,{HUGE},5",
        "negative": "-3,0,5,5",
    }
    shown = r"box \d+ of \d+ is .*allowed.*: 0 <= x1 <= x2|boxes are impossible.*is expected"
    return {what: (swap(file, line.format(box), line.format(new)), shown) for what, new in wrong.items()}


# --- VOC -----------------------------------------------------------------------------------------------------------


def write_voc(root: Path) -> None:
    top = root / "VOCdevkit/VOC2012"
    for name, objects in test_voc.IMAGES.items():
        files.write_image(top / f"JPEGImages/{name}.jpg", (30, 40))
        for below in ("Annotations", "SegmentationClass"):
            (top / below).mkdir(exist_ok=True)
        (top / f"Annotations/{name}.xml").write_text(test_voc.xml(objects))
        Image.fromarray(test_voc.mask_of(name)).save(top / f"SegmentationClass/{name}.png")
    for task in ("Main", "Segmentation"):
        files.lines(top / f"ImageSets/{task}/val.txt", *test_voc.IMAGES)


def voc_box(*box: object) -> Damage:
    text = test_voc.xml([("cat", box, 0)])  # type: ignore[list-item]
    return lambda root: (root / "VOCdevkit/VOC2012/Annotations/2008_000001.xml").write_text(text)


VOC_MASK = "**/SegmentationClass/2008_000001.png"
VOC_XML = "**/Annotations/2008_000001.xml"
VOC: Cases = {
    what: (voc_box(*box), r"2008_000001\.xml: impossible box .*allowed in 40 x 30 pixels: 1 <= xmin")
    for what, box in {
        "outside": (60, 1, 70, 9),
        "inverted": (9, 1, 2, 5),
        "zero": (9, 1, 8, 5),
        "nan": ("nan", 1, 5, 5),
        "0-based": (0, 0, 39, 29),
        "huge": (1, 1, HUGE, 5),
        "one beyond": (1, 1, 41, 30),
    }.items()
} | {
    "label": (swap(VOC_XML, "<name>cat", "<name>unicorn"), r"2008_000001\.xml: class 'unicorn'; the classes are"),
    "flag": (swap(VOC_XML, "<difficult>0", "<difficult>no"), r"2008_000001\.xml: difficult 'no'; allowed are 0 and 1"),
    "file name": (
        swap(VOC_XML, "<annotation>", "<annotation><filename>VOC2012\\2008_000002.jpg</filename>"),
        r"2008_000001\.xml: its <filename> is VOC2012\\2008_000002\.jpg, another image; allowed is its own name",
    ),
    "size": (swap(VOC_XML, "<width>40", "<width>44"), r"2008_000001.*annotation 44 x 30, image 40 x 30"),
    "empty": (empty(VOC_XML), r"2008_000001\.xml: no element found.*expected: a VOC annotation"),
}
VOC_MASKS: Cases = {
    "mask size": (paint(VOC_MASK, np.ones((40, 30), np.uint8)), "2008_000001.*mask 30 x 40"),
    "mask dtype": (paint(VOC_MASK, np.ones((30, 40), np.uint16)), r"2008_000001\.png: a mask of mode 'I;16'"),
    "mask bool": (paint(VOC_MASK, np.ones((30, 40), bool)), r"2008_000001\.png: a mask of mode '1'"),
    "mask colours": (paint(VOC_MASK, Image.new("RGB", (40, 30), "red")), r"2008_000001\.png: a mask of mode 'RGB'"),
    "mask values": (paint(VOC_MASK, np.full((30, 40), 21, np.uint8)), r"2008_000001\.png: values \[21\]; allowed are"),
    "mask void": (
        paint(VOC_MASK, np.full((30, 40), VOID, np.uint8)),
        r"2008_000001\.png: 2008_000001: all pixels of the mask are 255, void; allowed",
    ),
}

# --- ILSVRC --------------------------------------------------------------------------------------------------------


def write_ilsvrc(source: str) -> Damage:
    def write(root: Path) -> None:
        ilsvrc_files.WRITERS[source](root)
        ilsvrc_files.write_images(root / "val")

    return write


FIRST = ilsvrc_files.IDS[0]  # 40 x 50 pixels, box 3,4,30,49
WNID = ilsvrc_files.WNIDS[ilsvrc_files.LABELS[0]]
XML = f"**/{FIRST}.xml"
ILSVRC_TEXT = corners("localization.txt", f"{FIRST}.JPEG,{{}}", "3,4,30,49", 40, 50) | {
    "label": (swap("class_labels.txt", f"{FIRST}.JPEG,65", f"{FIRST}.JPEG,1000"), rf"class_labels.*{FIRST}.*0\.\.999"),
    "label -1": (swap("class_labels.txt", f"{FIRST}.JPEG,65", f"{FIRST}.JPEG,-1"), "has the label -1"),
    "label 65.7": (swap("class_labels.txt", f"{FIRST}.JPEG,65", f"{FIRST}.JPEG,65.7"), r"has the label 65\.7"),
    "size": (swap("image_sizes.txt", f"{FIRST}.JPEG,40,50", f"{FIRST}.JPEG,40.5,50"), r"40\.5 x 50 pixels; allowed"),
    "size 0": (swap("image_sizes.txt", f"{FIRST}.JPEG,40,50", f"{FIRST}.JPEG,0,50"), "0 x 50 pixels; allowed"),
    "size nan": (swap("image_sizes.txt", f"{FIRST}.JPEG,40,50", f"{FIRST}.JPEG,nan,50"), "nan x 50 pixels; allowed"),
}


def in_xml(box: str) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{name}>{x}</{name}>" for name, x in zip(names, box.split(","), strict=True))


def as_xml(cases: Cases) -> Cases:
    def rewrite(damage: Damage) -> Damage:
        def change(root: Path) -> None:
            files.lines(root / "localization.txt", f"{FIRST}.JPEG,3,4,30,49")
            damage(root)
            box = (root / "localization.txt").read_text().strip().partition(",")[2]
            (root / "localization.txt").unlink()
            swap(XML, in_xml("3,4,30,49"), in_xml(box))(root)

        return change

    return {what: (rewrite(damage), words) for what, (damage, words) in cases.items()}


ILSVRC_BOXES = corners("localization.txt", f"{FIRST}.JPEG,{{}}", "3,4,30,49", 40, 50)
ILSVRC_XML = as_xml(ILSVRC_BOXES) | {
    "file name": (
        swap(XML, "<annotation>", f"<annotation><filename>{ilsvrc_files.IDS[1]}</filename>"),
        rf"{FIRST}\.xml: its <filename> is {ilsvrc_files.IDS[1]}, another image",
    ),
    "label": (swap(XML, WNID, "n99999999"), rf"{FIRST}\.xml: 'n99999999' is none of the 1000"),
    "no object": (
        lambda root: next(root.glob(XML)).write_text("<annotation><size/></annotation>"),
        rf"{FIRST}\.xml.*exactly one",
    ),
    "empty": (empty(XML), rf"{FIRST}\.xml: no element found.*expected: an annotation"),
    "size": (swap(XML, "<width>40", "<width>41"), rf"{FIRST}\.JPEG has 40 x 50 pixels, its truth"),
}
ILSVRC_CSV = {
    what: (swap("LOC_val_solution.csv", f"{WNID} 3 4 30 49", f"{WNID} {box}"), words)
    for what, box, words in (
        ("outside", "60 0 70 5", rf"{FIRST}\.JPEG has 40 x 50 pixels, its truth"),
        ("inverted", "9 0 2 5", "boxes are impossible"),
        ("zero", "9 0 8 5", "boxes are impossible"),
        ("nan", "nan 0 5 5", "boxes are impossible"),
        ("1-based", "1 1 40 50", "one pixel off"),
        ("huge", f"0 0 {HUGE} 5", "boxes are impossible"),
    )
} | {
    "label": (swap("LOC_val_solution.csv", f"{WNID} 3 4", "n99999999 3 4"), r"\.csv, line \d: 'n99999999' is none"),
    "two labels": (
        swap("LOC_val_solution.csv", f"{WNID} 3 4 30 49", f"{WNID} 3 4 30 49 {ilsvrc_files.WNIDS[1]} 1 1 2 2"),
        rf"\.csv, line \d: {FIRST} has the classes .*exactly one",
    ),
}


def cached(*box: float, label: float = 0) -> Damage:
    """Replace the first object in the development kit's file."""

    def change(root: Path) -> None:
        labels = [ilsvrc_files.DEVKIT_IDS[one] for one in ilsvrc_files.LABELS]
        pairs = zip(labels, ilsvrc_files.BOXES, strict=True)
        rows = [[{"label": one, "bbox": np.array(b, float)} for b in of] for one, of in pairs]
        rows[0] = [{"label": label or labels[0], "bbox": np.array(box, float)}]
        records = ilsvrc_files.struct([{"objects": ilsvrc_files.struct(of)} for of in rows])
        savemat(next(root.glob("**/cache_groundtruth.mat")), {"rec": records})

    return change


ILSVRC_DEVKIT: Cases = {
    what: (cached(*box), words)
    for what, box, words in (
        ("outside", (60, 0, 70, 5), rf"{FIRST}\.JPEG has 40 x 50 pixels, its truth"),
        ("inverted", (9, 0, 2, 5), "boxes are impossible"),
        ("zero", (9, 0, 8, 5), "boxes are impossible"),
        ("nan", (np.nan, 0, 5, 5), "boxes are impossible"),
        ("1-based", (1, 1, 40, 50), "one pixel off"),
        ("huge", (0, 0, 1e12, 5), "boxes are impossible"),
    )
}


# --- CUB and ImageNetV2 --------------------------------------------------------------------------------------------

BIRD = "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"  # 50 x 30 pixels
CUB = {
    what: (swap("**/bounding_boxes.txt", "1 6.0 2.0 32.0 27.0", f"1 {box}"), words)
    for what, box, words in (
        ("outside", "60 0 5 5", "its truth has boxes such as"),
        (
            "inverted",
            "9 0 -5 5",
            r"bounding_boxes\.txt: box \[9\.0, 0\.0, -5\.0, 5\.0\].*image 1, 001.*allowed are widths",
        ),
        ("zero", "9 0 0 5", "bounding_boxes.txt: box .*allowed are widths and heights more than 0"),
        (
            "nan",
            "nan 0 5 5",
            r"bounding_boxes\.txt: 001\.Black_footed_Albatross/Black_Footed_Albatross_0046_18: box 1 of 1 is \[nan",
        ),
        ("nan width", "3 0 nan 5", "allowed are widths and heights more than 0"),
        ("1-based", "1 1 49 29", "one pixel off"),
        ("huge", f"0 0 {HUGE} 5", "box 1 of 1 is"),
        ("negative", "-3 0 5 5", "box 1 of 1 is"),
    )
} | {
    f"label {label}": (
        swap("**/image_class_labels.txt", "1 1\n", f"1 {label}\n"),
        rf"image_class_labels\.txt: class '{label}' of image 1, {BIRD}; allowed are whole numbers, 1 to 200",
    )
    for label in ("0", "201", "65.7", "-1", "300", HUGE)
}
CUB_LABEL = rf"class_labels\.txt: label '{{}}' of {BIRD}; allowed are whole numbers, 0 to 199"
CUB_WSOL = corners("**/test/localization.txt", f"{BIRD},{{}}", "6,2,38,29", 50, 30) | {
    f"label {label}": (swap("**/test/class_labels.txt", f"{BIRD},0", f"{BIRD},{label}"), CUB_LABEL.format(label))
    for label in ("200", "-1", "65.7", HUGE, "one")
}
CUB_WSOL["no box"] = (
    swap("**/test/localization.txt", f"{BIRD},6,2,38,29\n", ""),
    r"localization\.txt: 001\.Black_footed_Albatross/Black_Footed_Albatross_0046_18 has no box; allowed is one or more",
)
CUB_WSOL["size"] = (swap("**/test/image_sizes.txt", f"{BIRD},50,30", f"{BIRD},51,30"), "its truth has 51 x 30 pixels")
V2 = corners("**/localization.txt", "val2/0/0.jpeg,{}", "1,2,29,19", 30, 20) | {
    "label": (swap("**/class_labels.txt", "val2/0/0.jpeg,0", "val2/0/0.jpeg,1000"), "label '1000' of val2/0/0.jpeg"),
    "label -1": (swap("**/class_labels.txt", "val2/0/0.jpeg,0", "val2/0/0.jpeg,-1"), "label '-1' of val2/0/0.jpeg"),
    "no box": (swap("**/localization.txt", "val2/0/0.jpeg,1,2,29,19\n", ""), "0/0 has no box"),
}


# --- a user's folder -----------------------------------------------------------------------------------------

FOLDER: Cases = {
    what: (damage, r"box .*allowed.*0 <= x1 <= x2")
    for what, (damage, _) in corners("boxes.csv", "q/b.jpg,{},cat", "1,1,7,5", 8, 6).items()
}
