"""The list of methods describes each one, and the page in `docs/` is made from it."""

from pathlib import Path

import pytest

from eigencam.commands.main import main
from eigencam.commands.methods import names
from eigencam.configuring.catalogue import catalogue, pages

ROOT = Path(__file__).parent.parent


def test_every_method_says_what_it_is_and_needs() -> None:
    for entry in catalogue():
        assert entry.needs, entry
        assert entry.paper or "baselines" in entry.module or entry.option in ("files", "center_windows"), entry


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/methods.md").read_text() == pages(catalogue())  # eigencam methods --pages > docs/methods.md
    assert f"| {names(catalogue())} |" in (ROOT / "README.md").read_text()  # eigencam methods --format names


def test_methods_of_ones_own_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/own.yaml").write_text("own:\n  _target_: eigencam.methods.gradcam.GradCAM\n")
    assert main(["methods", "--config-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("own ") for line in lines) == 1
    assert main(["methods", "--config-dir", str(tmp_path / "nowhere")]) == 2


def test_a_methods_kind_may_depend_on_its_parameters() -> None:
    kinds = {entry.option: entry.class_specific for entry in catalogue()}
    assert kinds["gradcam"]
    assert kinds["files"]
    assert not kinds["eigencam"]
