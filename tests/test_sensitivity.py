"""The script that changes every number in the code: which ones it changes, and that the changes take effect."""

import ast
import importlib
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from golden_lines import traced

script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "scripts/sensitivity.py")))
SOURCE = """
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

VERSIONS = {"toy": 1}
SHARES = (0.5, 2)
KINDS = {"a": lambda x: x + 3}


@dataclass(frozen=True, slots=True)
class Toy:
    scale: float = 4.0

    version = 1
    headline: ClassVar[Literal[7]] = 5

    def __post_init__(self) -> None:
        if not 0 < self.scale < 100:
            reason = "between 0 and 100"
            raise ValueError(reason)

    @property
    def twice(self) -> float:
        return 6 * self.scale

    def __call__(self) -> float:
        return self.twice + inner(8) + SHARES[0] + KINDS["a"](0)


@lru_cache(maxsize=9)
def inner(x: float, /, more: int = 10) -> float:
    return -x + more
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    tmp_path.joinpath("toy_of_numbers.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toy_of_numbers")
    del sys.modules["toy_of_numbers"]


def test_every_number_of_a_result_is_changed_and_no_other() -> None:
    changes = list(script.changes(SOURCE, "toy"))
    assert {change.where for change in changes} == {
        *("toy module 0.5#1", "toy module 2#1", "toy module 3#1", "toy Toy 4.0#1", "toy Toy 5#1"),
        *("toy Toy.twice 6#1", "toy Toy.__call__ 8#1", "toy Toy.__call__ 0#1", "toy Toy.__call__ 0#2"),
        "toy inner 10#1",
    }
    assert [c.new for c in changes if c.where == "toy module 0.5#1"] == [0.525]
    assert [c.new for c in changes if c.where == "toy Toy.twice 6#1"] == [7, 5]
    assert {c.new for c in script.changes("x = 120", "toy")} == {126, 114}
    assert [c.where for c in changes if not c.small] == ["toy module 0.5#1", "toy Toy 4.0#1", *["toy inner 10#1"] * 2]
    assert [c.name for c in changes if c.where == "toy Toy.twice 6#1"] == [
        "toy Toy.twice 6#1 up",
        "toy Toy.twice 6#1 down",
    ]


def test_a_change_is_in_force_where_the_old_one_was_imported(module: Any) -> None:
    toy, inner, before = module.Toy, module.inner, module.Toy()()
    for change in script.changes(SOURCE, "toy"):
        tree = ast.parse(SOURCE)
        script.literals(tree)[change.node][0].value = change.new
        script.apply(module, tree)
        assert module.inner is inner
        moved = (
            toy.headline != 5 if "Toy 5#1" in change.where else module.SHARES[1] != 2 if "2#1" in change.where else None
        )
        with suppress(IndexError):  # an index past the end
            assert toy()() != before if moved is None else moved, change
        script.apply(module, ast.parse(SOURCE))
        assert toy()() == before


def test_the_lines_of_a_literal_are_those_that_a_use_of_it_executes(module: Any) -> None:
    tree = ast.parse(SOURCE)
    found = script.literals(tree)
    where = script.places(tree, [node for node, _ in found])
    place = {f"{name} {node.value}": at for (node, name), at in zip(found, where, strict=True)}  # type: ignore[attr-defined]
    files = {module.__file__: "toy"}
    seen = {
        "twice": traced(lambda: module.Toy().twice, files)["toy"],
        "inner": traced(lambda: module.inner(3), files)["toy"],
        "kinds": traced(lambda: module.KINDS["a"](3), files)["toy"],
    }

    def users(literal: str) -> set[str]:
        return {name for name, lines in seen.items() if not set(lines).isdisjoint(place[literal].lines)}

    assert users("Toy.twice 6") == {"twice"}
    assert users("Toy 4.0") == {"twice"}  # a method of the class
    assert users("inner 10") == {"inner"}
    assert users("module 3") == {"kinds"}
    assert users("module 0.5") == set()
    assert place["module 0.5"].fixed
    assert place["inner 10"].fixed
    assert not place["Toy.twice 6"].fixed


def test_a_copy_of_the_process_that_does_not_end_is_ended() -> None:
    def endless() -> str:
        while True:
            pass

    assert script.forked(endless, 0.1) == "ended"


def test_what_a_copy_of_the_process_does_stays_there(module: Any) -> None:
    assert script.forked(lambda: "said") == "said"
    assert script.forked(lambda: "") == ""  # not what is said of a copy that ended
    assert script.forked(lambda: setattr(module, "inner", None) or "done") == "done"
    assert module.inner is not None
    assert script.forked(lambda: 1 / 0).startswith("error: ZeroDivisionError")  # type: ignore[arg-type]


def test_what_is_neither_caught_nor_in_the_list_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    text = SOURCE.replace("6", "60")
    up, down = (change for change in script.changes(text, "toy") if "twice" in change.where)
    small = [change for change in script.changes(SOURCE, "toy") if "twice" in change.where]
    assert script.report([(up, "A@1"), (down, "A@1")], {}, whole=True) == 0
    assert script.report([(up, "A@1"), (down, "")], {}, whole=True) == 1
    assert "toy Toy.twice 60#1 down" in capsys.readouterr().out
    assert script.report([(up, "A@1"), (down, "")], {"toy Toy.twice 60#1 down": "why"}, whole=True) == 0
    assert script.report([(up, "A@1"), (down, "A@1")], {"toy Toy.twice 60#1": "why"}, whole=True) == 1
    assert "which is caught, or does not exist" in capsys.readouterr().out
    assert script.report([(up, "A@1"), (small[0], ""), (small[1], "A@1")], {}, whole=True, small=True) == 0
    assert "2 changes of small integers: 1 caught" in capsys.readouterr().out


def test_every_exemption_has_a_reason() -> None:
    assert script.exemptions()
