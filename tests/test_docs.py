"""What the pages tell a reader to type works as written, in an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from eigencam import cli

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
    """An empty folder to be in; modules that are made there do not outlive the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EIGENCAM_RESULTS", "runs")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("my_method", "my_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def execute(page: str) -> None:
    """Write the named files, type the commands."""
    for language, name, text in blocks(page):
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        for line in text.splitlines() if language == "sh" else ():
            command, *arguments = [FEW.get(word, word) for word in shlex.split(line, comments=True)]
            assert command == "eigencam"
            small = [] if arguments[0] == "table" else ["workers=0", "device=cpu"]
            assert cli.main([*arguments, *small]) == 0, line


def test_the_worked_example_makes_rows_and_a_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("new_method.md")
    printed = capsys.readouterr().out
    assert re.search(r"localization +gt_known_error +my_method +eigencam", printed)
    assert re.search(r"scenes_resnet +(gradcam|eigencam|my_method).*\n.*\n? +my_method|my_method +\d", printed)
    assert len(list(here.glob("runs/*-my_method-localization-*"))) == 2  # power 2 and 3


def test_the_commands_of_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute("compare.md")
    assert "critical difference" in capsys.readouterr().out
    assert (here / "compared/ranks-localization-mean_iou.svg").is_file()


def test_the_python_page(here: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save("photo.jpg")
    scope: dict[str, object] = {}
    for language, name, text in blocks("python.md"):
        if language == "python" and not name:
            exec(text.replace("resnet50", "resnet18"), scope)  # the same layers, in a third of the time
    assert (here / "gradcam.png").is_file()
    assert list(scope["found"]) == ["norm"]  # type: ignore[call-overload]
    torch.manual_seed(1)
    torch.save(squeezenet1_1(num_classes=5).state_dict(), "my_weights.pth")
    execute("python.md")
    made = {path.name for path in (here / "explained").iterdir()}
    assert made == {
        *(f"photo-scenes_resnet{end}" for end in (".jpg", "-eigencam.png", "-gradcam.png")),
        *(f"photo-build{end}" for end in (".jpg", "-gradcam.png")),
    }
