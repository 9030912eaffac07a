"""The pages' commands and code work as written, in an empty folder."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from eigencam.commands import main as cli

pytestmark = pytest.mark.full

DOCS = Path(__file__).parents[1] / "docs"
FEW = {"dataset.count=40": "dataset.count=6", "dataset.count=30": "dataset.count=6"}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, file name and text of each fenced block."""
    text = (DOCS / page).read_text()
    found = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one; modules made there are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EIGENCAM_RESULTS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("my_method", "my_methods", "my_module", "my_detector"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def execute(page: str, change: Callable[[str], str] = str) -> None:
    """Write the page's files, and run its commands."""
    for language, name, as_written in blocks(page):
        text = change(as_written)
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        for line in text.splitlines() if language == "sh" else ():
            command, *arguments = [FEW.get(word, word) for word in shlex.split(line, comments=True)]
            assert command == "eigencam"
            small = [] if arguments[0] in ("table", "bundle", "verify", "merge") else ["workers=0", "device=cpu"]
            assert cli.main([*arguments, *small]) == 0, line


def test_the_worked_example_makes_rows_and_a_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("new_method.md")
    printed = capsys.readouterr().out
    assert re.search(r"localization +gt_known_error +my_method +eigencam", printed)
    assert re.search(r"scenes_resnet +(gradcam|eigencam|my_method).*\n.*\n? +my_method|my_method +\d", printed)
    assert len(list(here.glob("results/runs/*-my_method-localization-*"))) == 2  # power 2 and 3
    assert len(pd.read_parquet(next(here.glob("results/runs/*channel_norm-localization*/rows.parquet")))) == 6


def test_a_dataset_a_network_and_an_evaluator_of_one_s_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, lines = np.random.default_rng(1), ["file,label,x1,y1,x2,y2"]
    (here / "birds").mkdir()
    for k, label in enumerate(["crane", "heron", "crane"]):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(here / f"birds/{k}.png")
        lines += [f"{k}.png,{label},10,5,50,40", f"{k}.png,{label},60,5,70,40"]
    (here / "birds/boxes.csv").write_text("\n".join(lines))
    torch.manual_seed(1)
    torch.save(squeezenet1_1(num_classes=2).state_dict(), "birds_squeezenet.pth")
    execute("extending.md")
    printed = capsys.readouterr().out
    assert "birds, 3 images: peak_distance" in printed
    assert re.search(r"peak_distance +gradcam +eigencam", printed)
    [folder] = here.glob("results/runs/birds-birds_squeezenet-gradcam-peak_distance-*")
    metrics = {m["name"]: m for m in json.loads((folder / "metrics.json").read_text())["metrics"]}
    assert metrics["peak_distance"]["n"] == metrics["peak_near"]["n"] == 3
    assert 0 < metrics["peak_distance"]["value"] < 100


def test_the_commands_of_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("compare.md")
    assert "critical difference" in capsys.readouterr().out
    assert (here / "compared/ranks-localization-mean_iou.svg").is_file()


def test_the_page_of_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("tables.md", lambda text: text.replace("features.9,features.18", "features.18"))
    printed = capsys.readouterr().out
    assert r"\textbf{" in printed
    assert "layer features.18, threshold 0.3" in printed
    assert (here / "sweep.svg").is_file()
    assert "claimed by others, not made again here" in printed


def test_the_page_of_results(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("results.md")
    scope: dict[str, object] = {}
    for language, _, text in blocks("results.md"):
        if language == "python":
            found: dict[str, object] = {}  # each stands for itself
            exec(text, found)
            scope |= found
    assert 0 <= scope["better"] <= 1  # type: ignore[operator]
    assert re.search(r"\| scenes_resnet +\| \*?\*?gradcam", capsys.readouterr().out)
    columns = pd.read_csv(here / "tables/tables.csv", comment="#").columns
    assert {"metric", "value", "low", "high", "unit", "n", "threshold", "note", "cost", "folder"} <= set(columns)
    [folder] = here.glob("results/runs/*-gradcam-localization-*")
    stored = json.loads((folder / "metrics.json").read_text())
    page = (DOCS / "results.md").read_text()
    named = {word for words in re.findall(r"`([\w. ]+)/?`", page) for word in words.split()}
    assert {*stored, *stored["metrics"][0], *pd.read_parquet(folder / "rows.parquet").columns} <= named
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} <= named


def test_the_python_page(here: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save("photo.jpg")
    scope: dict[str, object] = {}
    for language, name, text in blocks("python.md"):
        if language == "python" and not name:
            exec(text.replace("resnet50", "resnet18"), scope)  # the same layers in a third of the time
    assert (here / "gradcam.png").is_file()
    assert list(scope["maps"]) == ["norm"]  # type: ignore[call-overload]
    torch.manual_seed(1)
    torch.save(squeezenet1_1(num_classes=5).state_dict(), "my_weights.pth")
    execute("python.md")
    made = {path.name for path in (here / "explained").iterdir()}
    assert made == {
        *(f"photo-scenes_resnet{end}" for end in (".jpg", "-eigencam.png", "-gradcam.png")),
        *(f"photo-build{end}" for end in (".jpg", "-gradcam.png")),
    }


def test_the_page_of_detectors(here: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save("photo.jpg")
    torch.manual_seed(0)

    def small(text: str) -> str:
        return text.replace("box_score_thresh=0.0", "box_score_thresh=0.0, min_size=96")

    scope: dict[str, Any] = {}
    for language, name, text in blocks("detectors.md"):
        if language == "python" and not name:
            exec(small(text), scope)
    first, second = scope["first"]["gradcam"], scope["second"]["gradcam"]
    assert np.abs(first.normalised - second.normalised).max() > 0
    assert list(scope["whole"]) == ["eigencam", "hirescam"]
    assert scope["segment"].label == f"segment {scope['label']}"
    assert scope["similar"].score == pytest.approx(1)
    assert np.ptp(scope["depends"].raw) > 0
    assert 0 < scope["rather"].score < 1 < abs(scope["logit"].score)
    execute("detectors.md", small)
    assert {path.name for path in (here / "explained").iterdir()} == {
        "photo-build.jpg", "photo-build-eigencam-box_0.png", "photo-build-gradcam-box_0.png"
    }  # fmt: skip
