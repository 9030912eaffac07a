"""The notebooks of `docs/tutorials` run from the first cell to the last in an empty folder, and contain no output."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.full

TUTORIALS = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.ipynb"))
MADE = {
    "cluster": "sweep.svg",
    "dataset": "results/runs/*-center_box-localization-*/metrics.json",
    "detector": "",
    "method": "results/runs/*-my_method-localization-*/metrics.json",
    "paper_table": "tables/tables.tex",
    "photo": "explained/photo-scenes_resnet.jpg",
}
"""The variables after the last cell of a notebook."""


def test_there_is_a_tutorial_for_each_task() -> None:
    assert [path.stem for path in TUTORIALS] == list(MADE)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EIGENCAM_RESULTS", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    notebook: dict[str, Any] = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    assert notebook["cells"][0]["cell_type"] == "markdown"
    scope: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            assert cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{path.name}", "exec"), scope)
    assert "eigencam: " not in capsys.readouterr().err  # no command was refused
    assert not MADE[path.stem] or list(tmp_path.glob(MADE[path.stem]))
