"""Everything that changes a number, as JSON: the key of a result.

Code of this package is described by its name and integer `version`, the versions of the shared code that it uses
(`eigencam.store.versions`), and the parameters that differ from the defaults. Moving a module, adding an option or
spelling out a default therefore makes no new result; a change of a default or a number has to raise the version. Your
own code is described by its dotted name and the checksum of its file; code of another library that computes, by the
library's version. Weights and data are described by checksums.

Identity is about rows. Summaries are recomputed from rows and have a version of their own (`Summary`).
"""

import functools
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eigencam.store.build import RESERVED, find
from eigencam.store.canonical import canonical
from eigencam.store.schema import FORMAT
from eigencam.store.versions import versions_of

PACKAGE = "eigencam"
OBJECT = "object"
"""Key of a parameter that is itself an object; its value is the object's `describe`."""

INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def identity_of(
    *,
    network: Mapping[str, Any],
    dataset: Mapping[str, Any],
    target: str,
    dtype: str,
    channels_last: bool = False,
    tf32: bool = False,
) -> dict[str, Any]:
    """Return the part of the identity that all results of a job share; `method` and `evaluator` are added to it.

    Args:
        network: `Network.identity`.
        dataset: description of the dataset, from `describe_dataset`.
        target: the class that maps are for.
        dtype: dtype of the network.
        channels_last: whether convolutions have the channels innermost, which means other kernels and rounding.
        tf32: whether products of float32 numbers may be computed in TF32.
    """
    shared = {"format": FORMAT, "network": network, "dataset": dataset, "target": target, "dtype": dtype}
    chosen = {"channels_last": channels_last, "tf32": tf32}
    return shared | {"decoder": "pillow"} | {key: True for key, on in chosen.items() if on}


def describe(
    node: Mapping[str, Any], *, computes: bool = True, content: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the description of a config's node: code, version, and the parameters that differ from the defaults.

    Args:
        node: a node with `_target_`.
        computes: whether the target's own code computes numbers, so that the version of its library counts. A
            network's constructor does not, since the weights have a checksum.
        content: checksums of files, by the parameter that names the file; they replace the names.
    """
    target = find(node["_target_"])
    given = {key: value for key, value in node.items() if key not in RESERVED} | dict(content or {})
    return _code(target, node["_target_"], computes) | _parameters(given, _defaults(target))


def describe_dataset(node: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
    """Return what changes numbers on a dataset: its name, the code that reads it, and its own identity."""
    reader = _code(find(node["_target_"]), node["_target_"], computes=True)
    return {"name": dataset.name, "reader": reader, **dataset.identity()}


def describe_object(value: Any) -> dict[str, Any]:
    """Return the version of a dataclass of ours, those of the shared code that it uses, and its non-default fields."""
    defaults = _defaults(type(value))
    given = {f.name: getattr(value, f.name) for f in fields(value)}
    return versions(type(value)) | _parameters(given, defaults)


def versions(thing: Any) -> dict[str, Any]:
    """Return `version` and, under `shared`, the versions above 1 of the shared code that something of ours uses.

    Version 1 is not listed: code that begins or ceases to use a part makes no new result if its numbers stay the same.
    """
    described: dict[str, Any] = dict(versions_of(thing))
    version = described.pop("version")
    raised = {part: number for part, number in described.items() if number > 1}
    return {"version": version} | ({"shared": raised} if raised else {})


@functools.cache
def own_source(name: str) -> str:
    """Return the SHA-256 of the file that defines a dotted name; "" for everything except your own code."""
    if "." not in name or not name.replace(".", "").isidentifier():
        return ""
    try:
        found = inspect.unwrap(find(name)) if find_spec(name.partition(".")[0]) else None
    except (Exception, SystemExit):  # a text that only looks like a name, or any error of an import
        return ""
    return "" if found is None else _checksum_of_file(found)


def _code(target: Any, spelled: str, computes: bool) -> dict[str, Any]:
    """Describe a class or function, independent of the import path by which it was found."""
    found = inspect.unwrap(target)
    module, name = getattr(found, "__module__", None) or "", getattr(found, "__qualname__", spelled)
    if module.split(".")[0] == PACKAGE:
        libraries = {library: library_version(library) for library in getattr(found, "libraries", ())}
        return {"name": name, **versions(found), **({"libraries": libraries} if libraries else {})}
    if source := _checksum_of_file(found):
        return {"target": f"{module}.{name}", "source": source, **_built_on(found)}
    root = (module or spelled).split(".")[0]
    return {"library": root, "name": name, **({"library_version": library_version(root)} if computes else {})}


def _built_on(thing: Any) -> dict[str, Any]:
    """`{"shared": ...}`: versions above 1 of this package's code that your own class or function uses or inherits."""
    described = {part: number for part, number in versions_of(thing).items() if part != "version"}
    for base in inspect.getmro(thing)[1:] if inspect.isclass(thing) else ():
        if base.__module__.split(".")[0] == PACKAGE:
            described[base.__name__] = getattr(base, "version", 1)
    raised = {part: number for part, number in described.items() if number > 1}
    return {"shared": raised} if raised else {}


def _defaults(target: Any) -> dict[str, Any]:
    """The parameters that have a default, with the default."""
    parameters = inspect.signature(target).parameters
    made = {f.name: f.default_factory for f in fields(target)} if is_dataclass(target) else {}
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {name: made[name]() if made.get(name, MISSING) is not MISSING else d for name, d in defaults.items()}  # type: ignore[operator]


def _parameters(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that differ from the defaults, and the checksums of your own files that they name."""
    described = {key: _plainly(_alike(value, defaults.get(key))) for key, value in given.items()}
    differing = {
        k: v for k, v in described.items() if k not in defaults or canonical(v) != canonical(_plainly(defaults[k]))
    }
    sources = {text: digest for text in _texts(differing) if (digest := own_source(text))}
    return ({"parameters": differing} if differing else {}) | ({"own_source": sources} if sources else {})


def _texts(value: Any) -> Iterator[str]:
    """The texts in a parameter's value, except those of objects, whose description has its own checksums."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and OBJECT not in value:
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _alike(value: Any, default: Any) -> Any:
    """The value as a boolean or a number, like the default: 1 becomes `true` if the default is a boolean."""
    if isinstance(default, bool) and type(value) is int and value in (0, 1):
        return bool(value)
    return int(value) if isinstance(value, bool) and type(default) in (int, float) else value


def _plainly(value: Any) -> Any:
    """The value with 2 in place of 2.0, which are the same parameter, and with objects in place of their nodes."""
    if isinstance(value, Mapping) and "_target_" in value:
        return {OBJECT: describe(value)}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_plainly(item) for item in value]
    return {key: _plainly(item) for key, item in value.items()} if isinstance(value, Mapping) else value


@functools.cache
def library_version(name: str) -> str:
    """Return the version of the distribution of a top-level module; "" if not known."""
    names = packages_distributions().get(name, ())
    return version(names[0]) if names else ""


def _checksum_of_file(thing: Any) -> str:
    """SHA-256 of the file that defines something; "" for our code and installed packages, or if it has no file."""
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        return ""
    ours = (getattr(thing, "__module__", None) or "").split(".")[0] == PACKAGE
    if file is None or ours or any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED):
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
