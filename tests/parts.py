"""Which tests are the fast part, that `make test` runs, and which the rest, that `make check` runs.

Of a parametrised test the fast part has `CASES` cases; tests marked `full` it leaves out. Together the parts are all
tests, each once.
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
"""The line by which all tests of a file are left out of the fast part, without being imported."""


def fast(items: Iterable[pytest.Item]) -> set[str]:
    """Return the node ids of the fast part.

    The cases of a test are those whose ids have the lowest checksums: others for each test, so that tests over the same
    methods do not all try the same two, and the same ones on every machine, whatever cases are added.
    """
    by_test: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("full"):
            by_test[item.nodeid.split("[")[0]].append(item.nodeid)
    return {case for cases in by_test.values() for case in sorted(cases, key=_checksum)[:CASES]}


def _checksum(nodeid: str) -> int:
    return crc32(nodeid.encode())


def select(part: str, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items of a part, `fast`, `rest` or `all`, and those left out."""
    if part == "all":
        return items, []
    chosen = fast(items)
    kept = [item for item in items if (item.nodeid in chosen) == (part == "fast")]
    return kept, [item for item in items if (item.nodeid in chosen) != (part == "fast")]


def is_of_rest(path: Path) -> bool:
    """Whether all tests of a file are marked `full`."""
    return bool(WHOLE_FILE.search(path.read_text(encoding="utf-8")))
