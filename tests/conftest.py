"""Fixtures of several test files."""

from typing import Any

import pytest

import eigencam.running.run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records the methods of every forward pass."""
    seen: list[list[str]] = []
    original = eigencam.running.run.compute_maps

    def counted(network: Any, methods: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(list(methods))
        return original(network, methods, *args, **kwargs)

    monkeypatch.setattr(eigencam.running.run, "compute_maps", counted)
    monkeypatch.setattr(eigencam.running.run, "TIMED_BATCHES", 0)
    return seen
