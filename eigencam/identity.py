"""What changes a number, as JSON: the key of a result.

A method or evaluator is described by its class or function and all its parameters, defaults included, so that spelling
out a default is not another result. What is defined outside of installed packages, in a person's own files, is
described by the checksum of its file, too.
"""

import functools
import hashlib
import inspect
import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigencam.build import RESERVED, find

VERSION = 1
"""Part of every identity; raised when a change of this package changes a number."""

INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: the same text for the same content.

    >>> canonical({"b": (1, 2), "a": [1.0, None], "c": {"y", "x"}})
    '{"a":[1.0,null],"b":[1,2],"c":["x","y"]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def checksum(identity: Mapping[str, Any]) -> str:
    """The first 10 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:10]


def describe(node: Mapping[str, Any]) -> dict[str, Any]:
    """The target of a config's node, all its parameters, and the checksum of its file where that is a person's own."""
    target = find(node["_target_"])
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    given = {key: value for key, value in node.items() if key not in RESERVED}
    names = [value for value in (node["_target_"], *given.values()) if isinstance(value, str)]
    sources = {name: digest for name in names if (digest := own_source(name))}
    return {"_target_": node["_target_"], **defaults, **given, **({"own_source": sources} if sources else {})}


@functools.cache
def own_source(name: str) -> str:
    """SHA-256 of the file that defines a dotted name; "" for no dotted name, or one of an installed package."""
    if "." not in name or not name.replace(".", "").isidentifier():
        return ""
    try:
        found = inspect.unwrap(find(name))
        file = inspect.getsourcefile(found)
    except (ImportError, ValueError, TypeError, AttributeError):
        return ""
    ours = getattr(found, "__module__", "").split(".")[0] == "eigencam"
    if file is None or ours or any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED):
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _plain(value: object) -> object:
    """What JSON has no form for."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
