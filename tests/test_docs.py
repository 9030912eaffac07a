"""What the pages tell a reader to type works as written, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
FEW = {"dataset.count=40": "dataset.count=6", "dataset.count=30": "dataset.count=6"}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, file name and text of each fenced block."""
    text = (DOCS / page).read_text()
    found = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


def execute(page: str, folder: Path) -> str:
    """Write the named files, type the commands; what they printed."""
    printed = ""
    for language, name, text in blocks(page):
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for line in text.splitlines() if language == "sh" else ():
            command = [FEW.get(word, word) for word in shlex.split(line, comments=True)]
            assert command[0] == "eigencam"
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "COLUMNS": "200", "EIGENCAM_RESULTS": "runs"},
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            printed += done.stdout
    return printed


def test_the_worked_example_makes_rows_and_a_comparison(tmp_path: Path) -> None:
    printed = execute("new_method.md", tmp_path)
    assert re.search(r"localization +gt_known_error +my_method +eigencam", printed)
    assert re.search(r"scenes_resnet +(gradcam|eigencam|my_method).*\n.*\n? +my_method|my_method +\d", printed)
    assert len(list((tmp_path / "runs").glob("*-my_method-localization-*"))) == 2  # power 2 and 3


def test_the_commands_of_compare(tmp_path: Path) -> None:
    printed = execute("compare.md", tmp_path)
    assert "critical difference" in printed
    assert (tmp_path / "compared/ranks-localization-mean_iou.svg").is_file()


def test_the_python_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save("photo.jpg")
    scope: dict[str, object] = {}
    for language, _, text in blocks("python.md"):
        if language == "python":
            exec(text, scope)
    assert (tmp_path / "gradcam.png").is_file()
    assert list(scope["found"]) == ["norm"]  # type: ignore[call-overload]
    execute("python.md", tmp_path)
    assert len(list((tmp_path / "explained").iterdir())) == 3
