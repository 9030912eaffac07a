"""Proposals from files in the usual formats."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from scored_files import voc

from eigencam.commands.main import main
from eigencam.evaluation.proposal_files import read_mat, read_txt

IDS = ["2008_000001", "2008_000002"]
BOXES = np.array([[5.0, 5, 9, 9], [0, 0, 19, 9], [30, 20, 39, 29]])  # 0-based; the objects are the last two
SCORES = np.array([0.1, 0.9, 0.5])


def write(folder: Path, form: str) -> Path:
    folder.mkdir(parents=True)
    if form == "mat":
        for name in IDS:
            (folder / name[:4]).mkdir(exist_ok=True)
            content = {"boxes": BOXES + 1, "scores": SCORES[:, None].astype(np.float32), "num_candidates": 3}
            savemat(folder / name[:4] / f"{name}.mat", content)
        return folder
    lines = [" ".join(map(str, [*box, score])) for box, score in zip(BOXES, SCORES, strict=True)]
    if form == "folder":
        for name in IDS:
            (folder / f"{name}.txt").write_text("\n".join(lines).replace(" ", ", ") + "\n")
        return folder
    file = folder / "boxes.txt.gz"
    file.write_bytes(gzip.compress("\n".join(f"{name} {line}" for line in lines for name in IDS).encode()))
    return file


@pytest.mark.parametrize("form", ["mat", "folder", "file"])
def test_every_form_gives_the_same_boxes(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / form, form)
    read: Any = read_mat if form == "mat" else read_txt
    for order, wanted in (("falling", [1, 2, 0]), ("rising", [0, 2, 1]), ("file", [0, 1, 2])):
        found = read(path, [*IDS, "2008_000003"], order)
        assert list(found) == IDS
        for boxes in found.values():
            assert boxes.tolist() == BOXES[wanted].tolist()


@pytest.mark.parametrize("form", ["mat", "file"])
def test_scores_of_files_under_each_protocol(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, path = voc(tmp_path / "voc"), write(tmp_path / form, form)

    def metrics(*options: str) -> dict[str, float]:
        kind = "mat" if form == "mat" else "txt"
        arguments = ["score", str(path), "--format", kind, "--truth", str(root), "--set", "2012/Main/val", "--json"]
        assert main([*arguments, *options]) == 0
        return json.loads(capsys.readouterr().out)["metrics"]

    assert metrics()["recall50_1"] == 100  # difficult objects are not requested
    hosang = metrics("--protocol", "hosang")
    assert (hosang["recall50_1"], hosang["recall50_3"], hosang["ar_10000"]) == (66.67, 100, 100)
    assert metrics("--protocol", "stl")["mean_recall50_1"] == 100
    assert metrics("--protocol", "stl", "--difficult")["mean_recall50_1"] == 50
    assert metrics("--order", "rising")["recall50_1"] == 0
    assert metrics("--origin", "0" if form == "mat" else "1")["ar_1"] < 100
    assert metrics()["box_error"] == 0


def test_no_scores_and_no_boxes(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"boxes": BOXES + 1, "scores": np.zeros((0, 0))})
    savemat(tmp_path / "b.mat", {"boxes": np.zeros((0, 0))})
    found = read_mat(tmp_path, ["a", "b"])
    assert found["a"].tolist() == BOXES.tolist()
    assert found["b"].shape == (0, 4)
    (tmp_path / "c.txt").write_text("a 1 2 3 4\n\n")
    assert read_txt(tmp_path / "c.txt", ["a"])["a"].tolist() == [[1, 2, 3, 4]]
    (tmp_path / "empty.txt").write_text("")
    assert read_txt(tmp_path / "empty.txt", ["a"]) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("z 1 2 3 4 5", "1 images that the truth does not have, e.g. z"),
        ("a 1 2 3", "box 0.*four numbers"),
        ("a 1 2 3 4 5\na 1 2 3 4", "box 1.*in all lines"),
        ("a 1 2 3 x 5", "'x' is no number"),
        ("a 1 2 3 nan 5", "not finite"),
    ],
)
def test_faults_of_text_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_txt(tmp_path / "boxes.txt", ["a"])


def test_faults_of_mat_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_mat(tmp_path / "none", ["a"])
    with pytest.raises(FileNotFoundError, match=r"no \.mat file of an image"):
        read_mat(tmp_path, ["a"])
    for content, words in (
        ({"candidates": BOXES}, "no `boxes`"),
        ({"boxes": BOXES[:, :3]}, r"\(3, 3\)"),
        ({"boxes": BOXES, "scores": SCORES[:2]}, "2 scores of 3 boxes"),
    ):
        savemat(tmp_path / "a.mat", content)
        with pytest.raises(ValueError, match=words):
            read_mat(tmp_path, ["a"])
    (tmp_path / "a.mat").write_text("nothing of the kind")
    with pytest.raises(
        ValueError, match=r"a\.mat: no header of a MATLAB file; expected: a MATLAB file, version 5 to 7"
    ):
        read_mat(tmp_path, ["a"])
