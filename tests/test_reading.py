"""The door that files come in by, the names of images, and what is typed for paths."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import dataset_files as files
import h5py
import numpy as np
import pytest
from hydra import compose, initialize_config_module
from runs import config
from test_score import annotated, voc

from eigencam.commands.main import main
from eigencam.configuring.overrides import accepted, hint
from eigencam.datasets import reading
from eigencam.datasets.coco import Coco
from eigencam.datasets.cub import read_cub
from eigencam.datasets.imagenet_segmentation import ImageNetSegmentation
from eigencam.datasets.imagenetv2 import read_imagenetv2
from eigencam.datasets.names import Ids, as_stored, checked_ids, image_id, inside, match, unique
from eigencam.datasets.openimages import OpenImages
from eigencam.datasets.reading import FileError, Reading, expand, integer, is_file
from eigencam.datasets.voc import Voc
from eigencam.evaluation.predictions import read_coco_boxes
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
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it comes from a loader's process


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


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.jpg", "a"),
        ("n01/a.JPEG", "n01/a"),
        ("a.v2.PNG", "a.v2"),
        ("a.v2", "a.v2"),
        ("./p//a.jpeg", "p/a"),
        ("p/../a.jpg", "a"),
        ("2008_000001", "2008_000001"),
        (".jpg", ".jpg"),
    ],
)
def test_an_id_is_the_path_without_the_suffix(path: str, name: str) -> None:
    assert image_id(path) == name


def matched(ids: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    return match(ids, keys, lambda key: f"{key}.npy", "maps")


@pytest.mark.parametrize(
    ("ids", "keys", "found"),
    [
        (["a", "b"], ["a", "x"], {"a": "a"}),
        (["a"], ["run/val/a"], {"a": "run/val/a"}),
        (["val/a"], ["a"], {"val/a": "a"}),
        (["p/1", "q/1"], ["q/1", "p/1"], {"p/1": "p/1", "q/1": "q/1"}),
        (["p/1", "q/1"], ["maps/q/1"], {"q/1": "maps/q/1"}),
        (["1", "p/1"], ["1", "p/1"], {"1": "1", "p/1": "p/1"}),
        (["a"], ["a.JPEG"], {"a": "a.JPEG"}),
        (["a.v2", "a.v3"], ["a.v2", "a.v3.png"], {"a.v2": "a.v2", "a.v3": "a.v3.png"}),
        (["a", "a.png"], ["a.png"], {"a.png": "a.png"}),
        (["b/1"], ["ab/1"], {}),
        (Ids(["p/x"], {"42": "p/x"}), ["42"], {"p/x": "42"}),
    ],
)
def test_which_file_is_of_which_image(ids: Sequence[str], keys: Sequence[str], found: dict[str, str]) -> None:
    assert matched(ids, keys) == found


@pytest.mark.parametrize(
    ("ids", "keys", "words"),
    [
        (["a"], ["x/a", "y/a"], "two maps for a: x/a.npy and y/a.npy"),
        (["a"], ["a", "y/a"], "two maps for a: a.npy and y/a.npy"),
        (["a"], ["a", "a.jpg"], "two maps for a: a.npy and a.jpg.npy"),
        (["p/1", "q/1"], ["1"], "1.npy could be of p/1 and of q/1"),
        (["p/1", "q/1"], ["p/1", "q/1", "1"], "1.npy could be of p/1 and of q/1"),
    ],
)
def test_files_that_could_be_of_two_or_are_of_one_are_refused(ids: list[str], keys: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        matched(ids, keys)


@pytest.mark.parametrize("ids", [[], "ab", [1, 2], ["a", ""], ["a", None], ["a", "b", "a"], None, 3])
def test_ids_of_anybodys_dataset_are_checked(ids: object) -> None:
    with pytest.raises(ValueError, match="mine"):
        checked_ids(ids, "mine")
    checked_ids(["a", "b"], "mine")


def test_ids_with_aliases_cross_processes() -> None:
    ids = Ids(["a"], {"1": "a"})
    again = pickle.loads(pickle.dumps(ids))
    assert (again, again.aliases) == (["a"], {"1": "a"})


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "p/../../a.jpg", "..", "", ".", "a\0b", 3, None])
def test_names_that_lead_out_or_nowhere(name: object) -> None:
    with pytest.raises(ValueError, match=r"leads out|is no file's name"):
        inside(name)
    assert inside("p/../q/a.jpg") == "q/a.jpg"
    assert inside("../a.jpg", allow_outside=True) == "../a.jpg"


def test_two_spellings_of_a_missing_file_are_refused(tmp_path: Path) -> None:
    for suffix in ("JPG", "jpeg"):
        (tmp_path / f"a.{suffix}").touch()
    (tmp_path / "b.png").touch()
    with pytest.raises(ValueError, match=r"two files for .*a\.jpg: .*a\.JPG and .*a\.jpeg"):
        as_stored([tmp_path / "a.jpg"])
    assert as_stored([tmp_path / "a.JPG", tmp_path / "b.jpg"]) == [tmp_path / "a.JPG", tmp_path / "b.jpg"]
    with pytest.raises(ValueError, match="two images are called 'a': 1 and 2"):
        unique(["b", "a", "a"], range(3))


def coco_of(root: Path, names: Sequence[str]) -> Path:
    """Images by these names, of which the first shows an object."""
    path = files.write_coco(root) / "annotations/instances_val2014.json"
    data = json.loads(path.read_text())
    shape = {"height": files.COCO_SIZE[0], "width": files.COCO_SIZE[1]}
    data["images"] = [{"id": 100 - k, "file_name": name, **shape} for k, name in enumerate(names)]
    data["annotations"] = [{**data["annotations"][0], "image_id": 100 - k} for k in range(len(names))]
    path.write_text(json.dumps(data))
    return root


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    names = ["p/1.jpg", "q/1.jpg", "q/1.v2.jpg"]
    root = coco_of(tmp_path / "coco", names)
    for k, name in enumerate(names):
        files.picture(root / "val2014" / name, files.COCO_SIZE, k)
    data = Coco(root)
    assert data.ids == ["p/1", "q/1", "q/1.v2"]
    (tmp_path / "boxes.json").write_text('[{"image_id": 99, "bbox": [1, 2, 3, 4], "score": 1}]')
    assert list(read_coco_boxes(tmp_path / "boxes.json", data.ids)) == ["q/1"]  # by the number, not by a name like it
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        chosen = compose(
            "run",
            [
                *(
                    "model=scenes_resnet",
                    "dataset=coco",
                    f"paths.coco={root}",
                    f"paths.results={tmp_path}",
                    "device=cpu",
                ),
                *("target=predicted", "method=[center_box]", "evaluator=[proposals]", "workers=0"),
            ],
        )
    job = run(chosen)
    (result,) = job.results.values()
    assert result.summary
    assert result.rows()["image"].tolist() == data.ids
    assert result.summary.n == len(data.ids)
    assert {metric["n"] for metric in result.summary.metrics} == {len(data.ids)}


def linked(tmp_path: Path, name: str) -> None:
    files.picture(tmp_path / "elsewhere.jpg", files.COCO_SIZE)
    (tmp_path / "coco/val2014" / name).parent.mkdir(parents=True, exist_ok=True)


OUTSIDE: dict[str, Callable[..., Any]] = {
    "coco": Coco,
    "cub": read_cub,
    "wsol cub": read_cub,
    "v2": read_imagenetv2,
    "openimages": OpenImages,
}


@pytest.mark.parametrize("how", ["..", "absolute"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_paths_in_annotations_stay_inside(kind: str, how: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if kind == "coco":
        lists, old, place = [coco_of(root, ["a.jpg"]) / "annotations/instances_val2014.json"], "a.jpg", root / "val2014"
    elif kind == "cub":
        lists, old, place = [files.write_cub(root) / "images.txt"], next(iter(files.CUB)), root / "CUB_200_2011/images"
    elif kind == "v2":
        folder, old, place = (
            files.write_imagenetv2(root) / "metadata/ILSVRC/val",
            "val2/0/0.jpeg",
            root / "dataset/ILSVRC/val2",
        )
        lists = list(folder.glob("*.txt"))
    else:
        write, data, old = (
            (files.write_wsol_cub, "CUB", next(iter(files.CUB)))
            if kind == "wsol cub"
            else (files.write_openimages, "OpenImages", next(iter(files.OPENIMAGES)))
        )
        lists, place = list((write(root) / "metadata" / data / "test").glob("*.txt")), root / "dataset" / data
    files.picture(root / "elsewhere/0" / Path(old).name, (1, 1))
    outside = (
        str(tmp_path / "0" / Path(old).name)
        if how == "absolute"
        else os.path.relpath(tmp_path / "0" / Path(old).name, place)
    )
    for path in lists:
        path.write_text(path.read_text().replace(old, outside))
    with pytest.raises(FileError, match=r"leads out of the dataset's folder; dataset\.allow_outside=true"):
        OUTSIDE[kind](root)
    if kind != "v2":  # which reads the last two parts of a path
        with pytest.raises(FileNotFoundError, match=r"files of .* are missing"):
            OUTSIDE[kind](root, allow_outside=True)
        files.picture(tmp_path / "0" / Path(old).name, (30, 50))
        assert len(OUTSIDE[kind](root, allow_outside=True).ids)


def test_names_longer_than_names_can_be_are_missing_files(tmp_path: Path) -> None:
    root = coco_of(tmp_path, ["x" * 5000 + ".jpg", "y" * 100 + "/" * 5000 + "a.jpg"])
    with pytest.raises(FileNotFoundError, match="2 of 2 files of COCO val2014 are missing") as caught:
        Coco(root)
    assert len(str(caught.value)) < 1500


def test_entities_of_xml_do_not_grow_without_a_bound(tmp_path: Path) -> None:
    path, names = voc(tmp_path) / "VOC2012/Annotations/2008_000001.xml", "abcdefghij"
    inner = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise(names))
    path.write_text(f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{inner}]><annotation>&j;</annotation>')
    assert "2008_000001.xml" in Voc(tmp_path).faults["2008_000001"]
    path.write_text('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>')
    assert "undefined entity" in Voc(tmp_path).faults["2008_000001"]


def test_links_that_lead_out_are_followed(tmp_path: Path) -> None:
    root = files.write_coco(tmp_path / "coco")
    (root / "val2014").rename(tmp_path / "store")
    (root / "val2014").symlink_to(tmp_path / "store")
    assert len(Coco(root).ids) == 2


# --- HDF5 ----------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[Any, Any], None]) -> None:
    """The file with something else in the place of the first image."""
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


# --- what counts from 0 --------------------------------------------------------------------------------------------


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


# --- a dataset of one's own ----------------------------------------------------------------------------------------

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


# --- what is typed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["model.weights=epoch=3-step=10.pth"], """'model.weights="epoch=3-step=10.pth"'"""),
        (["paths.voc=/data/Bücher"], """'paths.voc="/data/Bücher"'"""),
        (["dataset.root=/a b (1)/c"], """'dataset.root="/a b (1)/c"'"""),
        (["paths.voc=/a", "b/c"], """'paths.voc="/a b/c"'"""),
        (["dataset=voc2012", "method=[eigencam,~/y]"], """'method=[eigencam,"~/y"]'"""),
        (["-m", "paths.voc=/a,ü"], """'paths.voc=/a,"ü"'"""),
        (["paths.voc=it's"], """'paths.voc="it'"'"'s"'"""),
        (['paths.voc=a"b'], """'paths.voc='"'"'a"b'"'"''"""),
    ],
)
def test_what_hydra_cannot_read_comes_back_quoted(
    arguments: list[str], quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint(arguments).endswith(f"in quotes it can: {quoted}")
    assert main(["run", *arguments]) == 2
    assert quoted in capsys.readouterr().err


def test_what_is_quoted_so_is_what_was_meant() -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    for value in ("a=b", "ü", "a'b", 'a"b', "a\\b=", "a'\"=b", "x (1)", "{a", "[a", "a#b", "~a\\", " é ", "é\\\\"):
        (typed,) = shlex.split(hint([f"key={value}"]).partition("can: ")[2])
        assert OverridesParser.create().parse_override(typed).value() == value
    for arguments in (["a/b"], ["a=1", "-m"], ["--config-dir", "x", "a=1"], [], ["~a"], ["=é"]):
        assert hint(arguments) == ""


def test_a_home_folder_is_what_a_shell_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zoë")
    monkeypatch.setenv("EIGENCAM_RESULTS", "~/results")
    assert accepted(["paths.voc=~/VOC", "+a=~", "~dataset.expect", "a=b~", "-m"]) == [
        'paths.voc="/home/zoë/VOC"',
        '+a="/home/zoë"',
        "~dataset.expect",
        "a=b~",
        "-m",
    ]
    assert os.environ["EIGENCAM_RESULTS"] == "/home/zoë/results"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("option", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_configs_that_hydra_would_misread_are_named(
    option: list[str], encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("# @package _global_\n# é\ndevice: cpu\n", encoding=encoding)
    (path.parent / "._mine.yaml").write_bytes(b"\0\xff")
    assert main(["run", *(word.format(tmp_path) for word in option), "experiment=mine"]) == 2
    seen = capsys.readouterr().err
    assert seen.startswith(f"eigencam: {path}")
    assert seen.count("\n") == 1


def test_a_config_that_is_no_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("a: b: c\n")
    assert main(["run", f"--config-dir={tmp_path}", "+mine=x"]) == 2
    assert main(["explain", "--method", str(tmp_path / "mine.yaml")]) == 2
    seen = capsys.readouterr().err
    assert f"eigencam: {tmp_path / 'mine.yaml'}: mapping values are not allowed here" in seen
