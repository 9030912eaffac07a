"""`make test` and `make check` together run every test once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import CASES, fast, is_of_rest, select


@dataclass
class Item:
    """The attributes of a test that are read."""

    nodeid: str
    full: bool = False

    def get_closest_marker(self, name: str) -> object:
        return (self.full and name == "full") or None


def items(cases: Iterable[int] = range(9)) -> list[Any]:
    one, long = Item("tests/test_a.py::test_one"), Item("tests/test_a.py::test_long", full=True)
    return [one, long, *(Item(f"tests/test_a.py::test_many[{k}]") for k in cases)]


def test_the_parts_share_no_test_and_leave_none_out() -> None:
    every = items()
    kept, left_out = select("fast", every)
    rest, others = select("rest", every)
    assert (rest, others) == (left_out, kept)
    assert sorted(item.nodeid for item in kept + rest) == sorted(item.nodeid for item in every)
    assert [item.nodeid.split("::")[1] for item in kept if "[" not in item.nodeid] == ["test_one"]
    assert len(kept) == 1 + CASES
    assert select("all", every) == (every, [])


def test_the_cases_are_the_same_in_any_order_and_few_change_when_one_is_added() -> None:
    before = fast(items())
    assert fast(reversed(items())) == before
    assert len(before - fast(items(range(10)))) <= 1


def test_files_of_the_rest_are_known_by_a_line(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    for line, expected in (
        ("pytestmark = pytest.mark.full", True),
        ('pytestmark = [pytest.mark.full, pytest.mark.skipif(True, reason="")]', True),
        ("pytestmark = pytest.mark.gpu", False),
        ("    pytestmark = pytest.mark.full", False),
    ):
        file.write_text(f"import pytest\n\n{line}\n")
        assert is_of_rest(file) == expected
