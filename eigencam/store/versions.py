"""The versions of our code that a result depends on.

Every method, evaluator, dataset reader, attack, fit and packaged network has a plain class attribute `version` (a
function: an attribute of the function), an integer. It is raised when a change alters results for the same parameters,
or changes a default. An evaluator's `version` covers its rows; its `summary_version` covers the result of
`summary` for equal rows.

Code shared by several of these (enlarging maps, backward rules, random numbers, ...) has a version of its own, under a
name that survives moving the file: a module's `VERSIONS = {"backward": 1}`, or `SUMMARY_VERSIONS` if only summaries
depend on it. Which of these parts a class uses is not declared by hand. It follows from the compiled code of the class
and of all our functions and classes that it refers to, and from the types of their arguments.

`tests/golden.json` holds numbers by name and version. If a number or a default changes while the version does not, a
test fails, and `scripts/golden.py` refuses to write the file.
"""

import functools
import importlib.util
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = __name__.partition(".")[0]


def versions_of(thing: Any) -> dict[str, int]:
    """Return the versions that the results of `thing` depend on; for an evaluator, its rows.

    Args:
        thing: a class or function of ours.

    Returns:
        `version`, its own, and the version of each shared part by the part's name, sorted by name.

    >>> from eigencam.methods.baselines import CenterBox, RandomMap
    >>> versions_of(CenterBox), versions_of(RandomMap)
    ({'version': 1, 'forward': 1}, {'version': 1, 'forward': 1, 'randomness': 1})
    """
    return {"version": getattr(thing, "version", 1), **_shared(thing, "VERSIONS")}


def summary_versions_of(evaluator: Any) -> dict[str, int]:
    """Return the versions that `summary` depends on: `summary_version` and those of shared parts."""
    return {"summary_version": getattr(evaluator, "summary_version", 1), **_shared(evaluator, "SUMMARY_VERSIONS")}


class _ModuleName(str):
    """A module that is only named; its own references are not followed."""

    __slots__ = ()


@functools.cache
def _shared(thing: Any, constant: str) -> dict[str, int]:
    """Name and version of each shared part that `thing` reaches."""
    found: dict[str, int] = {}
    for module in {module for module, _ in reached(thing)}:
        found |= _constant(module, constant)
    return dict(sorted(found.items()))


@functools.cache
def reached(thing: Any) -> frozenset[tuple[str, str]]:
    """Return what a class or function of ours refers to, directly or through others of ours: (module, top-level name).

    The name is "" for a module that is imported when a function is called, or that an argument's type comes from.
    """
    found, seen, stack = set[tuple[str, str]](), set[int](), [thing]
    while stack:
        part = stack.pop()
        if isinstance(part, _ModuleName):
            found.add((part, ""))
        elif id(part) not in seen and (part is thing or _is_ours(part)):  # only the start may be a user's code
            seen.add(id(part))
            found.add((part.__module__, getattr(part, "__qualname__", "").partition(".")[0]))
            stack += _references(part)
    return frozenset(found)


def _is_ours(part: Any) -> bool:
    return isinstance(getattr(part, "__module__", None), str) and part.__module__.partition(".")[0] == ROOT


def _references(part: Any) -> Iterator[Any]:
    """Yield what the code of a class or function refers to."""
    if isinstance(part, type):
        yield from part.__bases__
        for value in vars(part).values():
            yield from (getattr(value, "fget", None), getattr(value, "__func__", value))
        return
    function = getattr(part, "py_func", None) or getattr(part, "__wrapped__", part)  # numba's and functools' wrappers
    if isinstance(function, FunctionType):
        for annotation in function.__annotations__.values():
            yield from (_ModuleName(kind.__module__) for kind in _kinds(annotation) if _is_ours(kind))
        yield from _globals(function.__code__, function.__globals__)
    elif not callable(part):
        yield type(part)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The classes in an annotation, including those in brackets."""
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _kinds(inner)


def _globals(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    """Values of the names in the code, and names of our modules that it imports."""
    for name in code.co_names:
        value = names.get(name)
        if name.partition(".")[0] == ROOT:
            yield from _imported(name, code.co_names)
        elif isinstance(value, ModuleType):
            yield from (getattr(value, inner, None) for inner in code.co_names if value.__name__.startswith(ROOT))
        elif isinstance(value, dict | list | tuple):
            yield from value.values() if isinstance(value, dict) else value
        else:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant, names)


def _imported(name: str, names: Sequence[str]) -> Iterator[_ModuleName]:
    """A module, or the named modules of a package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        yield _ModuleName(name)
    else:
        inside = {f"{name}.{inner}" for inner in names if inner.isidentifier()}
        specs = {module: importlib.util.find_spec(module) for module in inside}
        yield from (_ModuleName(module) for module, spec in specs.items() if spec and spec.origin)  # no old path


@functools.cache
def _constant(module: str, constant: str) -> dict[str, int]:
    """A module's constant of names and versions; for a module that is not loaded yet, read from its text."""
    if module in sys.modules:
        return getattr(sys.modules[module], constant, {})
    spec = importlib.util.find_spec(module)
    text = Path(spec.origin).read_text() if spec and spec.origin else ""
    found = re.search(rf'^{constant} = {{"(\w+)": (\d+)}}$', text, re.M)
    return {found[1]: int(found[2])} if found else {}
