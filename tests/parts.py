"""The two parts of the tests: the fast part, run by `make test`, and the rest, run by `make check`.

The fast part has `CASES` cases of each parametrised test, and no test marked `full`. Together the parts contain every
test once.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import pytest

CASES = 2
"""Cases of a parametrised test in the fast part."""

WHOLE_FILE = re.compile(r"^pytestmark = \[?pytest\.mark\.full\b", re.MULTILINE)
"""The line that excludes all tests of a file from the fast part, without importing the file."""


def fast(items: Iterable[pytest.Item]) -> set[str]:
    """Return the node ids of the fast part.

    The cases of a test are those whose ids have the lowest checksums. They differ from test to test, so that tests over
    the same methods do not all try the same two, and are the same on every machine.
    """
    by_test: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("full"):
            by_test[item.nodeid.split("[")[0]].append(item.nodeid)
    return {case for cases in by_test.values() for case in sorted(cases, key=_checksum)[:CASES]}


def _checksum(nodeid: str) -> int:
    return crc32(nodeid.encode())


def select(part: str, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items of a part (`fast`, `rest` or `all`), and all others."""
    if part == "all":
        return items, []
    chosen = fast(items)
    kept = [item for item in items if (item.nodeid in chosen) == (part == "fast")]
    return kept, [item for item in items if (item.nodeid in chosen) != (part == "fast")]


def is_of_rest(path: Path) -> bool:
    """Whether all tests of a file are marked `full`."""
    return bool(WHOLE_FILE.search(path.read_text(encoding="utf-8")))
