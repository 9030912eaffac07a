"""Doctests of every module, by import name: path-based collection would import `datasets`, not `eigencam.datasets`."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("eigencam", "eigencam.datasets", "eigencam.evaluation", "eigencam.methods")
MODULES = [
    f"{name}.{module.name}"
    for name in PACKAGES
    for module in pkgutil.iter_modules(importlib.import_module(name).__path__)
    if not module.ispkg
]


@pytest.mark.parametrize("name", [*PACKAGES, *MODULES])
def test_doctest(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
