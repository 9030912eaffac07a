"""Ids of images, and the paths that annotations name."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest
from hydra import compose, initialize_config_module
from scored_files import voc

from eigencam.datasets.coco import Coco
from eigencam.datasets.cub import read_cub
from eigencam.datasets.imagenetv2 import read_imagenetv2
from eigencam.datasets.names import Ids, as_stored, checked_ids, image_id, inside, match, unique
from eigencam.datasets.openimages import OpenImages
from eigencam.datasets.reading import FileError
from eigencam.datasets.voc import Voc
from eigencam.evaluation.predictions import read_coco_boxes
from eigencam.running.run import run


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


@pytest.mark.parametrize("ids", [[], "ab", [1, 2], ["a", ""], ["a", None], ["a", "b", "a"], ["ä", "\udce4"], None, 3])
def test_ids_of_anybodys_dataset_are_checked(ids: object) -> None:
    with pytest.raises(ValueError, match="mine"):
        checked_ids(ids, "mine")
    checked_ids(["a", "ä", "象"], "mine")


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
    """Images with these names; the first one shows an object."""
    path = files.write_coco(root) / "annotations/instances_val2014.json"
    data = json.loads(path.read_text())
    shape = {"height": files.COCO_SIZE[0], "width": files.COCO_SIZE[1]}
    data["images"] = [{"id": 100 - k, "file_name": name, **shape} for k, name in enumerate(names)]
    data["annotations"] = [{**data["annotations"][0], "image_id": 100 - k} for k in range(len(names))]
    path.write_text(json.dumps(data))
    return root


@pytest.mark.full
def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    names = ["p/1.jpg", "q/1.jpg", "q/1.v2.jpg"]
    root = coco_of(tmp_path / "coco", names)
    for k, name in enumerate(names):
        files.write_image(root / "val2014" / name, files.COCO_SIZE, k)
    data = Coco(root)
    assert data.ids == ["p/1", "q/1", "q/1.v2"]
    (tmp_path / "boxes.json").write_text('[{"image_id": 99, "bbox": [1, 2, 3, 4], "score": 1}]')
    assert list(read_coco_boxes(tmp_path / "boxes.json", data.ids)) == [
        "q/1"
    ]  # matched by the number, not by a similar name
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
    files.write_image(tmp_path / "elsewhere.jpg", files.COCO_SIZE)
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
    files.write_image(root / "elsewhere/0" / Path(old).name, (1, 1))
    outside = (
        str(tmp_path / "0" / Path(old).name)
        if how == "absolute"
        else os.path.relpath(tmp_path / "0" / Path(old).name, place)
    )
    for path in lists:
        path.write_text(path.read_text().replace(old, outside))
    with pytest.raises(FileError, match=r"leads out of the dataset's folder; dataset\.allow_outside=true"):
        OUTSIDE[kind](root)
    if kind != "v2":  # it reads the last two parts of a path
        with pytest.raises(FileNotFoundError, match=r"files of .* are missing"):
            OUTSIDE[kind](root, allow_outside=True)
        files.write_image(tmp_path / "0" / Path(old).name, (30, 50))
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
