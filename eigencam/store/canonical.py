"""Canonical JSON, the same text for the same content, and the checksum that names a result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: object) -> str:
    """Return JSON with sorted keys and no spaces: the same text for the same content.

    >>> canonical({"b": (1, 2), "a": [1.0, None], "c": {"y", "x"}})
    '{"a":[1.0,null],"b":[1,2],"c":["x","y"]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def plain(value: object) -> Any:
    """Return the value after a round trip through JSON: mappings, lists, texts, numbers."""
    return json.loads(canonical(value))


def checksum(identity: Mapping[str, Any]) -> str:
    """Return the first 10 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:10]


def _plain(value: object) -> object:
    """Convert a value that JSON has no form for."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
