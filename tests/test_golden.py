"""No number changes without a raised version: `golden.json` compared with the current code."""

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden import alone, makers
from golden_file import RENEW, Case, Entry, added, difference, moved, numbers, read, tolerances, what_to_raise, write

from eigencam.methods.baselines import WholePicture

FILE, MAKERS = read(), makers()

script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "scripts/golden.py")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with alone():
        yield


def test_there_is_an_entry_of_everything() -> None:
    """Every class has golden numbers at its current version, and no removed class has any."""
    names = MAKERS.keys()
    gone, new = sorted(FILE.keys() - names), sorted(names - FILE.keys())
    assert not new, f"no golden numbers of {', '.join(new)}; {RENEW} adds them"
    assert not gone, f"golden numbers of what is not there any more: {', '.join(gone)}; {RENEW} leaves them out"


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_move_with_a_version_only(name: str) -> None:
    wanted, found = FILE.get(name), MAKERS[name]()
    if wanted is None:
        pytest.skip("has no golden numbers: the test above fails")
    if found.versions != wanted.versions:
        pytest.fail(f"{name} is of {found.versions}, the file of {wanted.versions}; {RENEW} brings it up to date")
    if lines := list(moved(found, wanted)):
        shared = ", ".join(key for key in found.versions if key != "version")
        raised = what_to_raise(name, found.versions)
        pytest.fail(
            f"{name} moved. If that is meant, raise {raised}, or the version of the shared part that moved it "
            f"({shared}); then run {RENEW}\n" + "\n".join(lines)
        )
    if lines := list(added(found, wanted)):
        pytest.fail(f"{name} has more than the file; {RENEW} adds it\n" + "\n".join(lines))


def entry(values: list[float | str], **versions: int) -> Entry:
    """An entry with one case, by default for a class at version 1."""
    return Entry(versions or {"version": 1}, {"sigma": 0.5}, {"case": {"map": values}})


def test_what_counts_as_moved() -> None:
    old = entry(["2x2", 100.0, -50.0, float("nan")])
    assert not list(moved(old, old))
    assert not list(moved(entry(["2x2", 100.00005, -50.0, float("nan")]), old))  # 5e-7 of the largest
    assert list(moved(entry(["2x2", 100.0, -50.005, float("nan")]), old))
    assert not list(
        moved(entry(["2x2", 100.0, -50.005, float("nan")]), replace(old, tolerances={"case": {"map": 1e-4}}))
    )
    for other in (["2x2", 100.0, -50.0, 0.0], ["4", 100.0, -50.0, float("nan")], ["2x2", 100.0, -50.0]):
        assert list(moved(entry(other), old))
    (line,) = moved(replace(old, defaults={"sigma": 0.6}), old)
    assert line == "the default sigma=0.5 became 0.6"
    assert list(moved(replace(old, defaults={}), old))
    assert list(moved(replace(old, cases={}), old))
    more = replace(old, defaults={"sigma": 0.5, "layer": None}, cases={**old.cases, "other": {"map": [1.0]}})
    assert not list(moved(more, old))
    assert list(added(more, old)) == ["the parameter layer is new", "other: map is new"]


def test_boxes_are_exact() -> None:
    old, new = (Entry({}, {}, {"case": {"boxes": [x]}}) for x in (100.0, 100.00001))
    assert list(moved(new, old))


def test_numbers_of_a_large_array_show_any_change() -> None:
    array = np.sin(np.arange(300.0)).reshape(15, 20)
    assert difference(numbers(array), numbers(array.copy())) == 0
    swapped, shifted = array.copy(), np.roll(array, 1, axis=1)
    swapped[3, 4], swapped[9, 4] = array[9, 4], array[3, 4]
    for other in (1.05 * array, swapped, shifted, array.T.copy(), np.where(array > 0.99, np.nan, array)):
        assert difference(numbers(other), numbers(array)) > 1e-5


def test_tolerances_are_ten_times_what_runs_differ_by() -> None:
    runs: list[dict[str, Case]] = [{"case": {"map": [2.0, x], "hog": [1.0], "boxes": [x]}} for x in (1.0, 1.0, 1.00004)]
    assert tolerances(runs) == {"case": {"map": 2e-4}}


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = {"A@1": replace(entry(["2x2", 1.5, float("nan")]), tolerances={"case": {"map": 1e-3}}), "B@2": entry([0.1])}
    write(made, tmp_path / "file.json")
    found = read(tmp_path / "file.json")
    assert found.keys() == made.keys()
    assert not list(moved(found["A@1"], made["A@1"]))
    assert found["A@1"].tolerances == made["A@1"].tolerances
    assert found["B@2"].defaults == {"sigma": 0.5}


def test_the_script_refuses_what_moved_without_a_version() -> None:
    old = {
        "A@1": entry([1.0]),
        "A@1 summary@1": entry([2.0], version=1, summary_version=1),
        "tape@1": entry([3.0], tape=1),
    }
    assert not list(script.refused(old, old))
    assert not list(script.refused({**old, "B@1": entry([1.0])}, old))  # new
    first, *_ = script.refused({**old, "A@1": entry([1.05])}, old)
    assert first.startswith("A@1: raise A.version")
    first, *_ = script.refused({**old, "A@1 summary@1": entry([2.1], version=1, summary_version=1)}, old)
    assert "raise A.summary_version" in first
    first, *_ = script.refused({**old, "tape@1": entry([3.1], tape=1)}, old)
    assert "raise tape in VERSIONS" in first
    raised = {"A@2": entry([1.05], version=2), "A@1 summary@2": entry([2.1], version=2, summary_version=2)}
    assert not list(script.refused(raised, old))
    assert "only rise" in next(iter(script.refused(old, raised)))


def test_the_script_keeps_lines_that_did_not_move() -> None:
    old = replace(entry([1.0, 2.0]), tolerances={"case": {"map": 1e-3}})
    assert script.kept(entry([1.0000001, 2.0]), old) == old
    more = Entry({"version": 1}, {"sigma": 0.5}, {"case": {"map": [1.0], "new": [2.0]}}, {"case": {"new": 0.5}})
    assert script.kept(more, old).tolerances == {"case": {"map": 1e-3, "new": 0.5}}
    raised = entry([1.05], version=2)
    assert script.kept(raised, old) == raised


def test_a_change_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    test_numbers_move_with_a_version_only(f"WholePicture@{WholePicture.version}")
    before = WholePicture.__call__
    monkeypatch.setattr(WholePicture, "__call__", lambda *args: 1.05 * before(*args))
    with pytest.raises(pytest.fail.Exception, match=r"raise WholePicture\.version, or .* \(forward"):
        test_numbers_move_with_a_version_only(f"WholePicture@{WholePicture.version}")


def test_a_raised_version_needs_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    name, version = f"WholePicture@{WholePicture.version}", WholePicture.version + 1
    monkeypatch.setattr(WholePicture, "version", version)
    with pytest.raises(pytest.fail.Exception, match=r"python scripts/golden\.py brings it up to date"):
        test_numbers_move_with_a_version_only(name)
    monkeypatch.setitem(MAKERS, f"WholePicture@{version}", MAKERS[name])
    with pytest.raises(AssertionError, match=f"no golden numbers of WholePicture@{version}"):
        test_there_is_an_entry_of_everything()


def test_names_are_made_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"WholePicture@{WholePicture.version}"
    monkeypatch.setattr(WholePicture, "version", 7)
    assert MAKERS.keys() ^ makers().keys() == {name, "WholePicture@7"}
