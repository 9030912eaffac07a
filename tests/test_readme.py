"""The README's commands work as written."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


PAGES = [ROOT / "README.md", ROOT / "docs/measured.md"]


def test_the_readme_is_short_and_has_three_tasks_of_three_lines() -> None:
    assert len(README.splitlines()) < 120
    tasks = README.partition("## Three tasks")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", tasks, re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [3, 3, 3]
    assert README.index("explain photo.jpg") < README.index("| network | method |")
    assert "eigencam reproduce results/real_ilsvrc/tables.md" in README


@pytest.mark.full
def test_the_page_of_measured_numbers_is_made_by_its_command() -> None:
    made = subprocess.run([sys.executable, "scripts/measured.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs/measured.md").read_text()


def test_the_version_is_said_once_for_all() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version  # type: ignore[index]


def test_files_that_the_readme_shows_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_make_targets_of_the_readme_exist() -> None:
    assert shutil.which("make")
    for target in re.findall(r"^make ([a-z]+)", README, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def squeezed(line: str) -> str:
    return " | ".join(cell.strip() for cell in line.strip("|").split("|"))


def test_the_numbers_that_the_readme_quotes_are_those_of_the_committed_tables() -> None:
    committed = {squeezed(line) for path in ROOT.glob("results/*/tables.md") for line in path.read_text().splitlines()}
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    quoted = [squeezed(line) for line in lines if re.match(r"\| \w+ \| \w+ \| .*\[", line)]
    assert len(quoted) > 20
    assert set(quoted) <= committed
