"""Faults of whole Parquet files, tars, Imagenette and pairs: refused in one line that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import packed_files as packed
import pytest
from packed_files import FORM, PLACE, Cases, png, rows, write_table

from eigencam.datasets.base import BadImageError
from eigencam.datasets.checks import known_faults, truth_faults
from eigencam.datasets.imagenette import read_imagenette
from eigencam.datasets.pairs import Lfw
from eigencam.datasets.parquet import read_parquet
from eigencam.datasets.tars import read_webdataset

READERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any], Cases]] = {
    "hf": (packed.write_hub, packed.read_hub, packed.HUB_REFUSED),
    "webdataset": (packed.write_tars, packed.read_tars, packed.TARS_REFUSED),
    "pairs": (packed.write_pairs, packed.read_pairs, packed.PAIRS_REFUSED),
}
TABLE = [(reader, what) for reader, (_, _, cases) in READERS.items() for what in cases]


@pytest.mark.parametrize(("reader", "what"), TABLE)
def test_it_is_refused_before_an_image_is_read(tmp_path: Path, reader: str, what: str) -> None:
    write, read, cases = READERS[reader]
    damage, words = cases[what]
    write(tmp_path)
    read(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", packed.IMAGENETTE)
def test_an_image_in_the_wrong_folder_of_imagenette_is_a_fault(tmp_path: Path, what: str) -> None:
    damage, words = packed.IMAGENETTE[what]
    packed.write_imagenette(tmp_path)
    damage(tmp_path)
    data = read_imagenette(tmp_path)
    assert len(known_faults(data)) == 1
    with pytest.raises(ValueError, match=words):
        raise ValueError("\n".join(truth_faults(data)))


@pytest.mark.parametrize("content", [None, b"", b"<html>404</html>"])
def test_a_row_without_an_image_is_a_bad_image(tmp_path: Path, content: bytes | None) -> None:
    packed.write_hub(tmp_path)
    packed.second(image=[{"bytes": content, "path": "2.png"}, {"bytes": png(3), "path": "3.png"}])(tmp_path)
    data = packed.read_hub(tmp_path)
    for read in (data.image, data.truth, data.digest) if content is None else (data.image, data.truth):
        with pytest.raises(BadImageError, match=PLACE.removesuffix("2: ")):
            read(2)
    assert data.image(3).shape == (6, 8, 3)


def test_a_damaged_page_is_of_bad_images_and_the_other_files_are_read(tmp_path: Path) -> None:
    packed.write_hub(tmp_path)
    path = tmp_path / "data" / packed.SECOND
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes(200) + content[220:])
    data = packed.read_hub(tmp_path)
    for i in (2, 3, 2):
        with pytest.raises(BadImageError, match=f"{packed.SECOND}, row {i - 2}: "):
            data.image(i)
    assert data.image(0).shape == (6, 8, 3)


def test_files_that_are_there_can_be_evaluated(tmp_path: Path) -> None:
    packed.write_hub(tmp_path)
    (tmp_path / "data" / packed.FIRST).unlink()
    assert list(read_parquet(tmp_path / "data", allow_missing=True).ids) == ["2", "3"]
    assert list(read_parquet(tmp_path / "data" / packed.SECOND).ids) == ["2", "3"]


def objects(kind: str) -> dict[str, Any]:
    """The boxes of two rows in a struct of lists, or in a list of structs."""
    boxes, labels = rows()["box"], rows()["box_label"]
    if kind == "struct":
        return {"objects": [{"bbox": b, "category": c} for b, c in zip(boxes, labels, strict=True)]}
    return {"objects": [[{"bbox": b, "category": c} for b, c in zip(boxes[0], labels[0], strict=True)], None]}


@pytest.mark.parametrize("kind", ["struct", "list"])
def test_boxes_may_be_in_either_form_of_a_nested_column(tmp_path: Path, kind: str) -> None:
    write_table(tmp_path / "data/validation.parquet", image=rows()["image"], label=[0, 1], **objects(kind))
    options: dict[str, Any] = {"boxes": "objects.bbox", "box_labels": "objects.category", **FORM}
    data = read_parquet(tmp_path / "data", **options)
    assert data.truth(0).boxes.tolist() == rows()["box"][0]
    assert data.truth(0).box_labels.tolist() == [0, 2]
    assert len(data.truth(1).boxes) == 0
    with pytest.raises(ValueError, match=r"no part 'box' in column 'objects\.box'"):
        read_parquet(tmp_path / "data", **{**options, "boxes": "objects.box"})


@pytest.mark.parametrize(
    ("labels", "options", "classes", "numbers"),
    [
        (["10", "9"], {}, tuple(map(str, range(11))), [10, 9]),  # not sorted as texts
        ([10**12, 1], {"names": None}, ("0", "1"), [2**31 - 1, 1]),  # no name for each of a trillion classes
        ([-1, None], {}, ("cat", "dog", "bird"), [-1, -1]),
    ],
)
def test_what_the_labels_mean(
    tmp_path: Path, labels: list[Any], options: dict[str, Any], classes: tuple[str, ...], numbers: list[int]
) -> None:
    options = {"names": None} | options if isinstance(labels[0], str) else options
    write_table(tmp_path / "data/validation.parquet", image=rows()["image"], label=labels, **options)
    data = read_parquet(tmp_path / "data")
    assert data.classes == classes
    assert data.labels.tolist() == numbers


def test_classes_of_boxes_alone(tmp_path: Path) -> None:
    """Names are numbered over all files; without names, all boxes are of one class."""
    for k, names in enumerate((["dog", "cat"], ["cat", "ape"])):
        columns = {"image": rows(2 * k)["image"], "box": rows()["box"], "box_label": [names, []]}
        write_table(tmp_path / f"data/validation-{k}.parquet", None, **columns)
    options: dict[str, Any] = {"label": None, "boxes": "box", **FORM}
    data = read_parquet(tmp_path / "data", box_labels="box_label", **options)
    assert data.classes == ("ape", "cat", "dog")
    assert [data.truth(i).box_labels.tolist() for i in range(4)] == [[2, 1], [], [1, 0], []]
    bare = read_parquet(tmp_path / "data", **options)
    assert bare.classes == ("object",)
    assert bare.truth(0).box_labels.tolist() == [0, 0]
    with pytest.raises(ValueError, match="box_labels=box_label without boxes"):
        read_parquet(tmp_path / "data", label=None, box_labels="box_label")
    with pytest.raises(ValueError, match="two classes are called 'dog'"):
        read_parquet(tmp_path / "data", label=None, classes=["dog", "dog "])


@pytest.mark.parametrize(
    ("label", "key", "words"),
    [
        (b'{"label": 1, "label": 2}', "json:label", "the key 'label' occurs twice"),
        (b'{"label": NaN}', "json:label", "nan is no whole number"),
        (b'{"label": true}', "json:label", "True is no whole number"),
        (b"[1]", "json:label", "list indices must be integers"),
        (b"[" * 100_000, "json:label", "nested too deeply"),
    ],
)
def test_a_label_in_json_is_one_number(tmp_path: Path, label: bytes, key: str, words: str) -> None:
    packed.write_tar(tmp_path / "shards/a.tar", {"a.png": png(), "a.json": label})
    with pytest.raises(ValueError, match=rf"a\.tar, a\.json: {words}"):
        read_webdataset(tmp_path / "shards", label=key)


def test_pairs_that_are_all_missing_are_refused(tmp_path: Path) -> None:
    packed.write_pairs(tmp_path)
    packed.listed("Ada", "Bo")(tmp_path)
    text = (tmp_path / "pairs.txt").read_text(encoding="utf-8").replace("Zoë", "Cy")
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"none of the 4 pairs of pairs\.txt is in "):
        Lfw(tmp_path, matching=None, allow_missing=True)
