"""Faults that Python, JSON or XML would silently read as something else: each is refused, with its file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from readers import READERS

Change = Callable[[str], str]


def swap(old: str, new: str) -> Change:
    return lambda text: re.sub(old, new, text, count=1)


def coco(change: Callable[[dict[str, Any]], object]) -> Change:
    def rewritten(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return rewritten


def result(**values: object) -> Change:
    return lambda text: json.dumps([{**json.loads(text)[0], **values}])


XML = "2008_000001.xml"
COCO, RESULTS = "instances_val2014.json", "results.json"
SEPARATOR = r"'1_0(\.0)?' is no number"
CASES: list[tuple[str, str, Change, str]] = [
    ("voc", XML, swap(r"<xmin>\d+", "<xmin>1_0"), SEPARATOR),
    ("voc", XML, swap(r"<xmin>\d+", "<xmin>\uff11"), "'\uff11' is no number"),
    ("voc", XML, swap("</name>", "</name><name>dog</name>"), "2 times name in <object>; allowed is one"),
    ("voc", XML, swap("</size>", "</size><size/>"), "2 times size in <annotation>; allowed is one"),
    ("voc", XML, lambda text: text.replace("object>", "OBJECT>"), "<OBJECT>; allowed is <object>"),
    ("voc", XML, lambda text: text.replace("annotation>", "notes>"), "<notes> at the top; allowed is <annotation>"),
    ("ilsvrc xml", "*1.xml", swap("</size>", "</size><size/>"), "2 times size in <annotation>; allowed is one"),
    ("ilsvrc xml", "*1.xml", swap(r"<xmin>\d+", "<xmin>1_0"), SEPARATOR),
    ("ilsvrc text", "localization.txt", swap(r",(\d+),", ",1_0,"), SEPARATOR),
    ("ilsvrc text", "class_labels.txt", swap(",65", ",6_5"), "'6_5' is no number"),
    ("ilsvrc csv", "LOC_val_solution.csv", swap(r"(n\d+) \d+ ", r"\1 1_0 "), SEPARATOR),
    ("cub", "bounding_boxes.txt", swap("1 6.0", "1 1_0.0"), "1_0.0"),
    ("cub by wsolevaluation", "test/localization.txt", swap(",6,", ",1_0,"), SEPARATOR),
    (
        "cub by wsolevaluation",
        "test/localization.txt",
        lambda text: text + "200.Common_Yellowthroat/none.jpg,1,1,2,2\n",
        "'200.Common_Yellowthroat/none.jpg' is no image of class_labels.txt",
    ),
    ("imagenetv2", "val/localization.txt", swap("val2/2/1", "val2/2/7"), "'val2/2/7.jpeg' is no image of class_labels"),
    (
        "openimages",
        "test/localization.txt",
        lambda text: text + "test/01226z/none.jpg,test/01226z/none_m01226z_0.png,\n",
        "'test/01226z/none.jpg' is no image of class_labels.txt",
    ),
    (
        "openimages",
        "test/localization.txt",
        swap(r",([^,]+\.png),[^,]+_ignore\.png", r",\1,\1"),
        "the mask .*_00000000.png is also the ignored region of",
    ),
    (
        "ilsvrc text",
        "localization.txt",
        lambda text: text + "val/none.JPEG,1,1,2,2\n",
        "1 images have boxes but no label",
    ),
    (
        "folder",
        "boxes.csv",
        lambda text: text + "none.jpg,0,1,4,5,cat\n",
        "1 of 3 annotations are of images that are not",
    ),
    ("folder", "boxes.csv", swap(",4,5", ",1_0,5"), "1_0.*allowed are four numbers"),
    ("txt", "boxes.txt", swap("a 1 1 4", "a 1 1 1_0"), SEPARATOR),
    ("devkit's boxes", "boxes.txt", swap("7 0 0 9", "7 0 0 1_0"), "line 1: .*1_0"),
    (
        "coco",
        COCO,
        coco(lambda data: data["annotations"].append(data["annotations"][0])),
        "two annotations have the id",
    ),
    (
        "coco",
        COCO,
        coco(lambda data: data["categories"].append({**data["categories"][0], "id": 997})),
        "two categories",
    ),
    ("coco", COCO, lambda text: text[:-1] + ', "annotations": []}', "the key 'annotations' occurs twice in one object"),
    ("coco's results", RESULTS, result(score="0.5"), "score 0.5"),
    ("coco's results", RESULTS, result(score=True), "score True"),
    ("coco's results", RESULTS, result(bbox=["0", 1, 2, 3]), r"bbox \['0', 1, 2, 3\]"),
    ("coco's results", RESULTS, result(bbox=[True, True, True, True]), r"bbox \[True"),
]


@pytest.mark.parametrize(("reader", "file", "change", "words"), CASES)
def test_it_is_refused(reader: str, file: str, change: Change, words: str, tmp_path: Path) -> None:
    READERS[reader].write(tmp_path)
    path = next(tmp_path.rglob(file))
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        READERS[reader].read(tmp_path)
    assert path.name in str(error.value) or "annotations" in words or "boxes but no label" in words


KEPT: list[tuple[str, str, Change, int]] = [
    ("ilsvrc text", "localization.txt", lambda text: text + text.splitlines()[0] + "\n", 2),
    ("voc", XML, lambda text: text.replace("<annotation>", "<annotation><filename>%s</filename>"), 1),
    ("voc", XML, lambda text: text.replace("<annotation>", "<annotation><filename>elsewhere.jpg</filename>"), 1),
    ("ilsvrc xml", "*1.xml", lambda text: text.replace("<annotation>", "<annotation><filename>%s</filename>"), 1),
]


@pytest.mark.parametrize(("reader", "file", "change", "times"), KEPT)
def test_what_official_files_have_is_read(reader: str, file: str, change: Change, times: int, tmp_path: Path) -> None:
    """A box that ILSVRC's list has twice, and file names that are a placeholder's or a copy's."""
    READERS[reader].write(tmp_path)
    before = READERS[reader].read(tmp_path)
    path = next(tmp_path.rglob(file))
    path.write_text(change(path.read_text()))
    after = READERS[reader].read(tmp_path)
    assert (len(after[2][3]), after[2][3][: len(before[2][3])]) == (len(before[2][3]) * times, before[2][3])
    assert after[3:] == before[3:]
