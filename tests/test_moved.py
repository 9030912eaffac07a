"""Old import paths: each is the same object as under its new path, with a warning that names it."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eigencam import evaluation, moved
from eigencam.evaluation import maxboxacc
from eigencam.store.build import find
from eigencam.store.trust import PACKAGED
from eigencam.store.versions import versions_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("old", "new"), moved.MODULES.items())
def test_an_old_module_has_what_the_new_one_has(old: str, new: str) -> None:
    sys.modules.pop(f"eigencam.{old}", None)
    there = importlib.import_module(f"eigencam.{new}")
    spec = there.__spec__
    with pytest.warns(moved.MovedWarning, match=rf"^eigencam\.{old} is eigencam\.{new} now; .* version 0\.2$") as told:
        here = importlib.import_module(f"eigencam.{old}")
    assert len(told) == 1
    public = [name for name in vars(there) if not name.startswith("_")]
    assert public
    assert all(getattr(here, name) is getattr(there, name) for name in public)
    assert there.__spec__ is spec
    with pytest.raises(AttributeError, match=f"module 'eigencam.{old}' has no attribute 'nothing'"):
        _ = here.nothing


@pytest.mark.parametrize(("old", "new"), moved.NAMES.items())
@pytest.mark.filterwarnings("ignore::eigencam.moved.MovedWarning")
def test_an_old_name_is_the_same_object(old: str, new: str) -> None:
    (module, _, name), (place, _, inner) = (path.rpartition(".") for path in (old, new))
    made = getattr(importlib.import_module(f"eigencam.{module}"), name)
    assert made is getattr(importlib.import_module(f"eigencam.{place}"), inner)
    assert moved.current(f"eigencam.{old}") == f"eigencam.{new}"


def test_no_module_of_today_has_an_old_name() -> None:
    files = {ROOT / top for top in ("eigencam", "evaluation", "datasets")}
    today = {".".join(p.relative_to(ROOT).with_suffix("").parts) for top in files for p in top.rglob("*.py")}
    assert not {f"eigencam.{old}" for old in moved.MODULES} & {t.removesuffix(".__init__") for t in today}
    assert not set(moved.MODULES) & today


def test_a_target_in_a_yaml_is_found_trusted_and_has_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eigencam.evaluation.wsol", raising=False)
    monkeypatch.delattr(evaluation, "wsol", raising=False)
    old = "eigencam.evaluation.wsol.MaxBoxAcc"
    with pytest.warns(moved.MovedWarning):
        assert find(old) is maxboxacc.MaxBoxAcc
    assert PACKAGED.allows(old)
    assert not PACKAGED.allows("eigencam.wsol.MaxBoxAcc")
    assert versions_of(find(old)) == versions_of(maxboxacc.MaxBoxAcc)


@pytest.mark.full
def test_a_script_is_shown_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from eigencam.evaluation.wsol import *\nprint(MaxBoxAcc().headline)\n")
    script = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert script.stdout == f"{maxboxacc.MaxBoxAcc().headline}\n"
    assert "mine.py:1: MovedWarning: eigencam.evaluation.wsol is eigencam.evaluation.maxboxacc now" in script.stderr


def test_this_program_uses_no_old_path() -> None:
    old = {f"eigencam.{path}" for path in (*moved.MODULES, *moved.NAMES)}
    used: list[str] = []
    tops = ("eigencam", "evaluation", "datasets", "scripts", "tests")
    for file in (path for top in tops for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            used += [f"{file}: {name}" for name in names if name in old]
    assert not used
    texts = [path.read_text() for path in (ROOT / "configs").rglob("*.yaml")]
    targets = {name for text in texts for name in re.findall(r"eigencam(?:\.[a-z_0-9]+)+", text)}
    assert targets
    assert not targets & old


def test_the_public_names_of_the_docs_are_there() -> None:
    section = (ROOT / "docs/python.md").read_text().split("## What is public\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`(eigencam(?:\.\w+)+)`", row)]
    assert len(names) > 10
    assert all(find(name) is not None for name in names)
