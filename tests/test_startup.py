"""What the program does not import: for small tasks, most of a command's time is its start."""

import subprocess
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import pytest
from stored import finished

from eigencam.commands.main import SUBCOMMANDS
from eigencam.networks import torchvision_import

HEAVY = ("torch._dynamo", "sympy", "scipy.stats", "numba", "matplotlib", "torchvision", "skimage")
NO_TORCH = (
    *("eigencam", "eigencam.reporting.data_check", "eigencam.reporting.parsed_tables", "eigencam.store.merge"),
    *("eigencam.evaluation.pxap", "eigencam.commands.main"),
    *(f"eigencam.commands.{name}" for name in ("score", "table", "status", "summarize", "merge", "prune", "verify")),
    *(f"eigencam.commands.{name}" for name in ("card", "reproduce", "published")),
)
"""Modules that import neither torch nor numba."""


def python(code: str, *arguments: str) -> None:
    """Run a program in a separate process; its stderr is the failure's message."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_a_run_that_has_nothing_to_do_imports_neither_compiler_nor_statistics(tmp_path: Path) -> None:
    code = f"""
import sys
import eigencam.running.run
from eigencam.configuring.compose import compose
from eigencam.running.prepare import prepare

config = compose("run", ["model=scenes_resnet", "dataset=scenes", "dataset.count=2", "method=[eigencam,gradcam]",
                         "evaluator=[localization,segmentation]", "paths.results=" + sys.argv[1]])
assert len(prepare(config).results) == 4
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
import torchvision.models
assert "torch._dynamo" not in sys.modules
"""
    python(code, str(tmp_path))


def test_what_needs_no_network_imports_no_torch(tmp_path: Path) -> None:
    """Modules, the composing of a library's network, evaluators rebuilt, and commands that read results."""
    finished(tmp_path / "runs")
    finished(tmp_path / "more", target="predicted")
    code = """
import os, sys
from importlib import import_module

def lean(what):
    assert "torch" not in sys.modules, what

for module in sys.argv[2:]:
    import_module(module)
    lean(module)
    assert "numba" not in sys.modules, module

from eigencam.configuring.compose import compose
compose("run", ["model=timm/resnet18"])
lean("composing")
assert not {"timm", "torchvision"} & set(sys.modules)

from eigencam.store.identity import describe
from eigencam.store.trust import _ours, rebuilt
arguments = {"LabelRandomization": {"weights": "x"}, "Adversarial": {"attack": {"_target_": _ours("evaluator")["PGD"]}}}
for name, target in _ours("evaluator").items():
    given = arguments.get(name, {})
    described = describe({"_target_": target, **{k: v for k, v in given.items() if k != "attack"}})
    if "attack" in given:
        described["parameters"] = {"attack": {"object": describe(given["attack"])}}
    rebuilt(described, "evaluator")
    lean(name)

from eigencam.commands.main import main
os.chdir(sys.argv[1])
for line in ("table --results runs --out tables", "table --paper eigencam2021 --results nowhere", "published",
             "status --results runs", "verify runs", "card runs", "summarize --results runs --all",
             "prune --results runs", "merge runs more --into whole", "report --results runs --no-images"):
    assert main(line.split()) == 0, line
    lean(line)
"""
    python(code, str(tmp_path), *NO_TORCH)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from eigencam.commands.main import main

for command in sys.argv[1:]:
    try:
        main([command, "--help"])
    except SystemExit as done:
        assert done.code == 0, command
    heavy = {"torch", "scipy.stats", "numba", "hydra"} & set(sys.modules)
    assert not heavy, (command, heavy)
"""
    python(code, *(name for name in SUBCOMMANDS if name not in ("run", "fit")))


@pytest.mark.parametrize("imported_before", [False, True])
def test_a_module_is_loaded_without_the_compiler_which_is_found_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported_before: bool
) -> None:
    files = {
        "slow_compiler/__init__.py": "",
        "slow_compiler/utils.py": "def is_supported(kind): return kind == 'cpu'\n",
        "vision.py": "from slow_compiler.utils import is_supported\nasked = lambda: is_supported('cpu')\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torchvision_import, "COMPILER", ("slow_compiler", "slow_compiler.utils"))
    for name in ("slow_compiler", "slow_compiler.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if imported_before:
        import_module("slow_compiler.utils")
    spec = PathFinder.find_spec("vision", [str(tmp_path)])
    assert spec
    assert spec.loader
    loader = spec.loader
    spec.loader = torchvision_import._Lean(loader)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert ("slow_compiler" in sys.modules) == imported_before
    assert module.asked()
    assert "slow_compiler.utils" in sys.modules
    assert module.__spec__ is spec
    assert spec.loader is loader
