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
    with pytest.raises(ValueError, match=words) as error:
        READERS[reader].read(tmp_path)
    assert path.name in str(error.value)
