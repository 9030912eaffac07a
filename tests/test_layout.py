"""The package ships what the clone imports, and each top-level folder can be imported under one name only."""

import importlib.util
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_pyproject_lists_every_folder_with_an_init() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    where = {ROOT / path: name for name, path in tool["package-dir"].items()}
    found = {
        ".".join([name, *init.parent.relative_to(top).parts])
        for top, name in where.items()
        for init in top.rglob("__init__.py")
    }
    assert found == set(tool["packages"])


def test_the_top_level_is_what_the_user_fixed() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {line.split("/")[0] for line in done.stdout.splitlines() if "/" in line}
    fixed = {"configs", "eigencam", "evaluation", "datasets", "scripts", "results", "tests"}
    assert {f for f in folders if not f.startswith(".")} - {"docs"} == fixed
    files = {line for line in done.stdout.splitlines() if "/" not in line}
    fixed = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md"}
    assert files - {".gitignore"} == fixed | {"mkdocs.yml", "pyproject.toml", "requirements.lock"}


def test_few_modules_stand_beside_the_rooms() -> None:
    """`__init__.py` is the package itself."""
    beside = {file.stem for file in (ROOT / "eigencam").glob("*.py")} - {"__init__"}
    assert beside == {"__main__", "explainer", "files", "moved", "targets", "transfer"}


@pytest.mark.parametrize("name", ["datasets", "evaluation"])
def test_a_folder_imported_under_the_wrong_name_says_the_right_one(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec
    assert spec.loader
    with pytest.raises(ImportError, match=f"eigencam.{name}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
