"""Versions of our code: every class has one, and versions of shared parts are added automatically."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
from golden_raised import GROUPS, RAISED, raised, targets

import eigencam.datasets
import eigencam.evaluation
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Energy
from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.files import BoxFiles
from eigencam.methods.occlusion import Occlusion
from eigencam.methods.relevance import LRP
from eigencam.moved import MovedWarning
from eigencam.networks.network import Preprocess
from eigencam.store.versions import _constant, _shared, reached, summary_versions_of, versions_of

NAMES = ("VERSIONS", "SUMMARY_VERSIONS")


def modules() -> list[str]:
    """All our modules; in an editable installation two of the packages are in separate folders."""
    packages = (eigencam, eigencam.datasets, eigencam.evaluation)
    found = [one.name for p in packages for one in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    return sorted(set(found) - {"eigencam.__main__"})


@pytest.mark.parametrize("group", GROUPS)
def test_what_a_config_names_has_versions_of_its_own(group: str) -> None:
    found = targets(group)
    assert len(found) > 2
    for name, thing in found.items():
        own = vars(thing)  # not a base class's
        assert isinstance(own.get("version"), int), f"{name} has no `version = 1`"
        assert own["version"] >= 1
        if group == "evaluator" and hasattr(thing, "summary"):
            assert isinstance(own.get("summary_version"), int), f"{name} has no `summary_version = 1`"
    names = [thing.__name__ for thing in found.values()]
    assert len(set(names)) == len(names), f"a result's identity names the class alone: {sorted(names)}"


def test_versions_above_1_are_known_without_importing_what_has_them() -> None:
    assert RAISED.read_text() == raised(), "python scripts/golden.py"


@pytest.mark.parametrize("thing", [BoxFiles, Preprocess])
def test_what_no_config_names_has_one_too(thing: Any) -> None:
    assert vars(thing)["version"] == 1


def test_names_of_shared_parts_are_used_once_and_are_read_without_importing() -> None:
    for constant in NAMES:
        loaded = {name: getattr(importlib.import_module(name), constant, {}) for name in modules()}
        parts = [part for found in loaded.values() for part in found]
        assert parts
        assert len(set(parts)) == len(parts)
        for name, found in loaded.items():
            for part, version in found.items():
                assert f'\n{constant} = {{"{part}": {version}}}\n' in inspect.getsource(sys.modules[name]), name


@pytest.mark.parametrize(
    ("thing", "uses", "not_uses"),
    [
        (LRP, {"backward", "forward"}, {"score_map", "tape", "randomness"}),
        (AblationCAM, {"ablation", "tail"}, {"randomness", "backward"}),  # tail: through ablation
        (Occlusion, {"forward"}, {"ablation", "randomness"}),  # reached by other methods of the same file
        (
            MaxBoxAcc,
            {"bicubic", "component_tree", "boxes", "score_map"},
            {"statistics", "forward"},
        ),  # imported when called
        (Localization, {"boxes", "score_map", "truth"}, {"bicubic"}),
    ],
)
def test_shared_parts_enter_by_themselves(thing: Any, uses: set[str], not_uses: set[str]) -> None:
    found = versions_of(thing)
    assert found["version"] == thing.version
    assert uses <= found.keys()
    assert not not_uses & found.keys()


def test_a_summary_has_versions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"states": 1, "statistics": 3}
    assert summary_versions_of(Localization) == {"summary_version": Localization.summary_version, **shared}
    monkeypatch.setattr(Localization, "summary_version", 7)
    monkeypatch.setattr(Localization, "version", 8)
    assert summary_versions_of(Localization)["summary_version"] == 7
    assert versions_of(Localization)["version"] == 8


@pytest.mark.full
def test_reading_versions_imports_nothing() -> None:
    program = """if True:
        import sys
        from eigencam.evaluation.maxboxacc import MaxBoxAcc
        before = set(sys.modules)
        from eigencam.store.versions import versions_of
        found = versions_of(MaxBoxAcc)
        assert {"bicubic", "component_tree"} <= found.keys(), found
        new = {name for name in set(sys.modules) - before if name.startswith(("eigencam", "torch", "numba"))}
        assert new == {"eigencam.store", "eigencam.store.versions"}, new
        from eigencam.evaluation import bicubic
        from eigencam.evaluation import component_tree
        versions_of.__globals__["_shared"].cache_clear()
        versions_of.__globals__["_constant"].cache_clear()
        assert versions_of(MaxBoxAcc) == found
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_module_without_versions_has_none() -> None:
    assert _constant("eigencam.store.build", "VERSIONS") == {}
    assert _constant("eigencam.nowhere", "VERSIONS") == {}


def test_an_old_path_that_was_imported_adds_no_part() -> None:
    before = versions_of(Energy)
    reached.cache_clear()
    _shared.cache_clear()
    sys.modules.pop("eigencam.evaluation.boxes", None)
    with pytest.warns(MovedWarning):
        importlib.import_module("eigencam.evaluation.boxes")
    assert versions_of(Energy) == before
    assert ("eigencam.evaluation.boxes", "") not in reached(Energy)
