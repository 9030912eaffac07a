"""The versions of our code in this program, known without importing it, compared with those of a stored result.

`raised.json` lists every method, evaluator, dataset reader and network of ours whose version, or that of a shared part
that it uses, is above 1. `scripts/golden.py` writes it, and a test compares it with the code.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from eigencam.store.identity import library_version

FILE = "raised.json"


@functools.cache
def _raised() -> dict[str, dict[str, Any]]:
    return json.loads((files("eigencam.store") / FILE).read_text())


@functools.cache
def _shared() -> dict[str, int]:
    """The versions above 1 of the shared parts."""
    return {part: number for described in _raised().values() for part, number in described.get("shared", {}).items()}


def outdated(identity: Mapping[str, Any]) -> list[str]:
    """Return a line for each named part or library of a result whose version differs from the one here.

    Libraries that are not installed here are not compared.

    >>> outdated({"method": {"name": "GradCAM", "version": 7}})
    ['GradCAM is of version 7, here it is 1']
    >>> outdated({"method": {"target": "mine.Masked", "shared": {"smooth_masks": 7}}})
    ['smooth_masks is of version 7, here it is 2']
    """
    return list(dict.fromkeys(_lines(identity)))


def _lines(node: object, key: str = "") -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _lines(item)
    if not isinstance(node, Mapping):
        return
    name = node.get("name", "Preprocess" if key == "preprocess" else None)
    if isinstance(name, str) and type(node.get("version")) is int:
        now = _raised().get(name, {"version": 1})
        yield from _compared({name: node["version"]}, {name: now["version"]})
        yield from _compared(node.get("shared"), now.get("shared", {}))
    elif isinstance(used := node.get("shared"), Mapping):  # your own code: which parts it uses here is not known
        yield from _compared(used, {part: _shared().get(part, 1) for part in used})
    libraries = node.get("libraries")
    others = dict(libraries) if isinstance(libraries, Mapping) else {}
    if isinstance(library := node.get("library"), str) and node.get("library_version"):
        others[library] = node["library_version"]
    here = {library: library_version(library) for library in others}
    yield from _compared(others, {library: number or others[library] for library, number in here.items()})
    for inner, value in node.items():
        yield from _lines(value, str(inner))


def _compared(stated: object, now: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the parts whose versions differ; a part of ours that is not listed has version 1."""
    then = stated if isinstance(stated, Mapping) else {}
    for name in sorted({*then, *now}):
        if (a := then.get(name, 1)) != (b := now.get(name, 1)):
            yield f"{name} is of version {a}, here it is {b}"
