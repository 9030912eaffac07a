"""Reading of foreign files, the names of images, and typed paths."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import h5py
import numpy as np
import pytest
from runs import config
from scored_files import annotated, voc

from eigencam.datasets import reading
from eigencam.datasets.coco import Coco
from eigencam.datasets.cub import read_cub
from eigencam.datasets.imagenet_segmentation import ImageNetSegmentation
from eigencam.datasets.reading import FileError, Reading, expand, integer, is_file
from eigencam.datasets.voc import Voc
from eigencam.running.run import run

# --- one line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("bbox"), "no 'bbox'"),
        (IndexError("list index out of range"), "list index out of range"),
        (OverflowError("cannot convert float infinity to integer"), "cannot convert float infinity to integer"),
        (MemoryError(), "larger than the memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (PermissionError(13, "Permission denied", "x"), "permission denied"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError("x" * 5000), "x" * 300 + " ..."),
        (AssertionError(), "AssertionError"),
    ],
)
def test_whatever_goes_wrong_names_the_file_and_the_place(error: Exception, line: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n\n2\n")

    def read() -> None:
        with Reading(tmp_path / "a.txt", "numbers") as file:
            for number in file.lines():
                if number == "2":
                    raise error

    with pytest.raises(FileError) as caught:
        read()
    assert str(caught.value) == f"{tmp_path / 'a.txt'}, line 3: {line}; expected: numbers"
    assert caught.value.__cause__ is error
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it comes from a loader process


def test_the_inner_file_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(FileError, match=r"/a: not JSON: .*; expected: an inner file$"), Reading("list", "a list"):  # noqa: SIM117
        with Reading(tmp_path / "a", "an inner file") as file:
            file.json()
    with pytest.raises(FileNotFoundError, match=r"/b: no such file; expected: an inner file$"), Reading("list"):  # noqa: SIM117
        with Reading(tmp_path / "b", "an inner file") as file:
            file.json()
    with pytest.raises(KeyboardInterrupt), Reading("list"):
        raise KeyboardInterrupt


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular"),
    ):
        with pytest.raises(FileError, match=words), Reading(path) as file:
            file.text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("", "not JSON: Expecting value"),
    ],
)
def test_json_that_python_gives_up_on(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FileError, match=words), Reading(tmp_path / "a.json") as file:
        file.json()


def test_an_archive_unpacks_to_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"0" * 5000))
    monkeypatch.setattr(reading, "LARGEST", 4999)
    with pytest.raises(FileError, match="unpacks to more than"), Reading(tmp_path / "a.gz") as file:
        file.text()


@pytest.mark.parametrize("word", ["1.0", "", "x", 2**62, str(-(2**62)), "9" * 5000, 1.0, True, None])
def test_whole_numbers_are_just_these(word: object) -> None:
    with pytest.raises(ValueError, match="no whole number of less than 64 bits"):
        integer(word)
    assert integer(" 12 ") == integer(12) == 12


def test_paths_that_a_person_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/zoë")
    monkeypatch.setenv("DATA", "~/data")
    assert expand("~/a") == Path("/home/zoë/a")
    assert expand("$DATA/a") == expand("${DATA}/a") == Path("/home/zoë/data/a")
    with pytest.raises(ValueError, match=r"\$NOWHERE_AT_ALL/a: the variable \$NOWHERE_AT_ALL is not set"):
        expand("$NOWHERE_AT_ALL/a")
    (tmp_path / "$5").touch()
    assert expand(tmp_path / "$5") == tmp_path / "$5"
    assert not is_file("x" * 5000)
    assert not is_file("a\0b")


@pytest.mark.parametrize("name", ["~", "$EIGENCAM_TEST_DATA"])
def test_every_reader_expands_its_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EIGENCAM_TEST_DATA", str(tmp_path))
    files.write_coco(tmp_path / "coco")
    files.write_cub(tmp_path)
    voc(tmp_path)
    assert Coco(
        f"{name}/coco", annotations=f"{name}/coco/annotations/instances_val2014.json", images=f"{name}/coco/val2014"
    ).ids
    assert read_cub(name, images=f"{name}/CUB_200_2011/images").ids
    (tmp_path / "without.txt").write_text("2008_000001")
    assert Voc(name, without=f"{name}/without.txt").ids == ["2008_000002"]


# --- HDF5 ----------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[Any, Any], None]) -> None:
    """The file with another object in place of the first image."""
    with h5py.File(path, "r+") as file:
        change(file, file["value/img"])


def test_hdf5_data_of_other_files_is_not_read(tmp_path: Path) -> None:
    path, secret = tmp_path / "gtsegs_ijcv.mat", tmp_path / "secret"
    secret.write_bytes(bytes(range(3 * 4 * 4)))

    def external(file: Any, column: Any) -> None:
        column[0, 0] = file["#refs#"].create_dataset("x", (3, 4, 4), "u1", external=[(str(secret), 0, 48)]).ref

    def virtual(file: Any, column: Any) -> None:
        layout = h5py.VirtualLayout((3, 4, 4), "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 4, 4))
        column[0, 0] = file["#refs#"].create_virtual_dataset("x", layout).ref

    def link(file: Any, column: Any) -> None:
        with h5py.File(tmp_path / "other.h5", "w") as other:
            file.copy("value", other)
        del file["value"]
        file["value"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/value")

    for change in (external, virtual, link):
        files.write_imagenet_segmentation(path, [np.eye(4, dtype=np.uint8)] * 2)
        rewritten(path, change)
        with pytest.raises(FileError, match=r"is in another file, .*; dataset\.allow_outside=true follows it"):
            ImageNetSegmentation(path)
        if change is external:
            assert ImageNetSegmentation(path, allow_outside=True).image(0)[0, 0].tolist() == [0, 16, 32]
        path.unlink()


def test_hdf5_data_larger_than_an_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "gtsegs_ijcv.mat"
    files.write_imagenet_segmentation(path, [np.eye(4, dtype=np.uint8)] * 2)

    def sparse(size: int) -> Callable[[Any, Any], None]:
        def change(file: Any, column: Any) -> None:
            data = file["#refs#"].create_dataset(f"x{size}", (3, size, size), "u1", chunks=(1, 1000, 1000))
            column[0, 0] = data.ref

        return change

    for size, words in ((40_000_000, "at most"), (13_000, "no data is stored")):
        rewritten(path, sparse(size))
        with pytest.raises(FileError, match=words):
            ImageNetSegmentation(path)


# --- counting from 0 --------------------------------------------------------------------------------------------


def test_annotations_that_count_from_0_are_reported_and_read_on_request(tmp_path: Path) -> None:
    folder = voc(tmp_path) / "VOC2012/Annotations"
    size = "<size><width>40</width><height>30</height></size>"
    (folder / "2008_000001.xml").write_text(f"<annotation>{size}{annotated('cat', 0, (0, 0, 39, 29))}</annotation>")
    (fault,) = Voc(tmp_path).faults.values()
    assert "2008_000001.xml: impossible box [0.0, 0.0, 39.0, 29.0]" in fault
    assert fault.endswith("files that count from 0 are read with dataset.origin=0")
    (folder / "2008_000002.xml").write_text(f"<annotation>{size}{annotated('cat', 0, (0, 0, 40, 29))}</annotation>")
    data = Voc(tmp_path, origin=0)
    assert data.truth(0).boxes.tolist() == [[0, 0, 39, 29]]
    assert "allowed in 40 x 30 pixels: 0 <= xmin <= xmax <= 39" in data.faults["2008_000002"]
    with pytest.raises(ValueError, match="origin=2: allowed are 0 and 1"):
        Voc(tmp_path, origin=2)


# --- a user's own dataset ----------------------------------------------------------------------------------------

MINE = """
class Mine:
    name, class_space, classes = "mine", "mine", ("a",)
    ids = ["x", "x"]
    def __init__(self, fault=""):
        if fault == "key":
            {"a": 1}["b"]
        if fault == "number":
            self.ids = [1, 2]
"""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("", "dataset: two images of mine are called 'x': 0 and 1; remove or rename one"),
        ("key", "my_faulty_data.py, line 7)"),
        ("number", "dataset: mine.ids: image 0 has 1, int; expected: a text, not empty"),
    ],
)
def test_faults_of_a_persons_own_dataset_are_one_line(
    fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_faulty_data.py").write_text(MINE)
    chosen = config(tmp_path, "dataset=scenes")
    chosen.dataset = {"_target_": "my_faulty_data.Mine", "fault": fault}
    with pytest.raises(ValueError, match=r"^dataset") as caught:
        run(chosen)
    (line,) = str(caught.value).splitlines()
    assert line.endswith(words)
