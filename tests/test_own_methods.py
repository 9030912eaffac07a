"""A user's own method or network by its dotted name: its identity, and refusals before a run."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import config

from eigencam.running.run import run
from eigencam.store.identity import describe, own_source

MINE = '''
import torch
from dataclasses import dataclass

class Plain:
    """Parameters without a dataclass."""
    needs_gradient = class_specific = False
    def __init__(self, power=1.0):
        self.power = power
    def __call__(self, forward, targets):
        return forward.activations().clamp(min=0).pow(self.power).sum(1)

class InPlace(Plain):
    def __call__(self, forward, targets):
        return forward.activations().pow_(2).sum(1)

def function(forward, targets, power=1.0):
    assert forward.gradients(targets).shape == forward.activations().shape
    return forward.activations().pow(power).mean(1)
'''


def forget(name: str) -> None:
    sys.modules.pop(name, None)
    own_source.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own module, importable as `my_module`."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my_module.py"
    path.write_text(MINE)
    forget("my_module")
    yield path
    forget("my_module")


@pytest.mark.full
def test_parameters_and_source_of_a_users_method_are_identity(
    mine: Path, tmp_path: Path, passes: list[list[str]]
) -> None:
    def again(power: float) -> int:
        passes.clear()
        forget("my_module")
        node = f"{{_target_: my_module.Plain, power: {power}}}"
        function = f"{{_target_: my_module.function, _partial_: true, power: {power}}}"
        run(config(tmp_path / "r", "method=[]", f"+method.plain={node}", f"+method.function={function}"))
        return len(passes)

    assert again(1.0) == 3
    assert again(1.0) == 0
    assert again(2.0) == 3
    mine.write_text(MINE + "\n# another version\n")
    assert again(2.0) == 3


@pytest.mark.parametrize("named", ["my_module.function", ["my_module.function"], {"of": ["my_module.function"]}])
def test_the_source_of_a_function_that_a_parameter_names_is_identity(mine: Path, named: Any) -> None:
    node = {"_target_": "eigencam.methods.eigencam.EigenCAM", "layer": named}
    before = describe(node)
    assert list(before["own_source"]) == ["my_module.function"]
    mine.write_text(MINE + "\n# another version\n")
    forget("my_module")
    assert describe(node) != before
    assert "own_source" not in describe({**node, "layer": {"one": {"_target_": "my_module.Plain"}}})  # has its own


@pytest.mark.full
def test_a_network_of_ones_own_with_numbered_layers(mine: Path, tmp_path: Path) -> None:
    mine.write_text(
        "from torch import nn\n\n\ndef build(width=8):\n"
        "    conv, pool = nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), nn.Linear(width, 12))\n"
    )
    own = ["model=custom", "model.name=own", "model._target_=my_module.build", "model.classes=scenes", "model.layer=1"]
    job = run(config(tmp_path / "r", *own, "method=[eigencam,cam]", "+method.eigencam.layer=0"))
    assert (job.network.layer, job.methods["eigencam"].layer) == ("1", "0")  # type: ignore[attr-defined]
    assert job.network.identity["constructor"]["source"]
    forget("my_module")
    with pytest.raises(ValueError, match="Are you sure that 'building' is importable"):
        run(config(tmp_path / "r", *own, "model._target_=my_module.building"))


def test_a_function_that_is_the_method_is_told_to_be_partial(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method\.f\.forward: missing.*_partial_: true"):
        run(config(tmp_path, "method=[]", "+method.f={_target_: my_module.function}"))


@pytest.mark.full
@pytest.mark.parametrize("others", ["[eigencam]", "[eigencam,gradcam]"])
def test_a_method_that_changes_what_all_share_is_found_out(mine: Path, tmp_path: Path, others: str) -> None:
    with pytest.raises(ValueError, match="method inplace changes in place what all methods share"):
        run(config(tmp_path, f"method={others}", "+method.inplace={_target_: my_module.InPlace}"))


@pytest.mark.full
def test_a_method_that_returns_something_else_than_maps_is_named(mine: Path, tmp_path: Path) -> None:
    mine.write_text("import torch\n\ndef wrong(forward, targets):\n    return torch.zeros(1, 2)\n")
    with pytest.raises(ValueError, match=r"method wrong returned \(1, 2\); needed: a tensor \(8, h, w\)"):
        run(config(tmp_path, "method=[eigencam]", "+method.wrong={_target_: my_module.wrong, _partial_: true}"))
