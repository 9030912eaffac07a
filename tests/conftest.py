"""Fixtures of several test files."""

from pathlib import Path
from typing import Any

import pytest
from parts import is_of_rest, select

import eigencam.running.batch_pass


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--room", default="", help="only test files that import from this room, e.g. methods")
    parser.addoption("--part", default="all", choices=("all", "fast", "rest"), help="see tests/parts.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore test files that import nothing from the requested room, or that are not in the requested part."""
    if collection_path.suffix != ".py":
        return None
    room = config.getoption("--room")
    if room and f"eigencam.{room}" not in collection_path.read_text(encoding="utf-8"):
        return True
    return (config.getoption("--part") == "fast" and is_of_rest(collection_path)) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that are not in the requested part."""
    items[:], left_out = select(str(config.getoption("--part")), items)
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the terminal's width from the environment, so that tables do not depend on it."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_cache_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what readers cache below the tests' temporary folder."""
    monkeypatch.setenv("EIGENCAM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records the methods of every forward pass."""
    seen: list[list[str]] = []
    original = eigencam.running.batch_pass.compute_maps

    def counted(network: Any, methods: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(list(methods))
        return original(network, methods, *args, **kwargs)

    monkeypatch.setattr(eigencam.running.batch_pass, "compute_maps", counted)
    monkeypatch.setattr(eigencam.running.batch_pass, "TIMED_BATCHES", 0)
    return seen
