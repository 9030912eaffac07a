"""Stored curves: equal to those computed from the rows, checked for damage, never required."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import config
from stored import finished, reseal, restated, rows

from eigencam.commands.main import main
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.curves import drawn
from eigencam.evaluation.faithfulness import AverageDrop, InsertionDeletion, Road
from eigencam.evaluation.localization import Localization
from eigencam.running.run import run
from eigencam.store.kept_curves import kept_curves, write_curves
from eigencam.store.reader import Stored, read
from eigencam.store.schema import CURVES, Summary
from eigencam.store.seal import DamagedError, read_json, write_json
from eigencam.store.summing import is_outdated, keep_curves, sum_up_again
from eigencam.store.verify import check

EVALUATOR = Localization()


def kept(root: Path, **changes: Any) -> Stored:
    """A complete result with its curves."""
    stored = again(finished(root, **changes).folder)
    assert stored.summary
    keep_curves(stored.folder, stored.summary, EVALUATOR, stored.row_file())
    return again(stored.folder)


def again(folder: Path) -> Stored:
    stored = read(folder, hashed=True)
    assert stored
    return stored


def of_rows(stored: Stored) -> list[Curve]:
    return drawn(EVALUATOR, stored.row_file())


def same(a: list[Curve] | None, b: list[Curve]) -> bool:
    """Whether curves are equal to the last bit."""
    return a is not None and [_plain(curve) for curve in a] == [_plain(curve) for curve in b]


def _plain(curve: Curve) -> tuple[Any, ...]:
    return curve.name, curve.x, curve.y, curve.xs.tolist(), curve.ys.tolist(), curve.mark, curve.log


def test_they_are_those_of_the_rows(tmp_path: Path) -> None:
    stored = kept(tmp_path)
    assert same(stored.curves(), of_rows(stored))
    assert stored.state == "done"
    assert check(stored) == ([], "")


def test_a_run_keeps_them_and_makes_them_again(tmp_path: Path) -> None:
    what = config(tmp_path, "method=[eigencam]", "evaluator=[localization,pointing]", "dataset.count=6", "timing=false")
    run(what)
    (empty,) = tmp_path.glob(f"*-pointing-*/{CURVES}")
    assert read_json(empty)["curves"] == []
    (path,) = tmp_path.glob(f"*-localization-*/{CURVES}")
    first = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(first[:-9]), lambda: write_json(path, {"curves": []})):
        damage()
        run(what)
        assert path.read_bytes() == first


def test_a_changed_file_is_named_and_the_curves_come_from_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = kept(tmp_path / "runs")
    pages = [tmp_path / f"{k}.html" for k in range(3)]
    report = ["report", "--results", str(tmp_path / "runs"), "--no-images", "--out"]
    assert main([*report, str(pages[0])]) == 0
    path = stored.folder / CURVES
    path.write_bytes(path.read_bytes().replace(b"images", b"Images"))
    (fault,) = again(stored.folder).faults
    assert fault == f"{path}: damaged: its content does not match its seal"
    capsys.readouterr()
    assert main([*report, str(pages[1])]) == 0
    assert f"{path}: damaged: its content does not match its seal; drawn from its rows" in capsys.readouterr().err
    path.unlink()
    assert main([*report, str(pages[2])]) == 0
    assert not path.exists()
    assert len({page.read_text() for page in pages}) == 1
    assert "localized against overlap" in pages[0].read_text()


def test_those_of_other_rows_another_result_or_another_version_do_not_count(tmp_path: Path) -> None:
    one, other = kept(tmp_path, iou=0.3), kept(tmp_path, iou=0.3, method={"name": "Other", "version": 1})
    shutil.copy(other.folder / CURVES, one.folder / CURVES)
    assert (again(one.folder).state, again(one.folder).curves()) == ("done", None)
    reseal(other.folder, rows(iou=0.9))
    assert again(other.folder).curves() is None
    third = kept(tmp_path, method={"name": "Third", "version": 1})
    moved = restated(third.folder, lambda _identity: None, summary_versions={"summary_version": 0})
    assert again(moved).curves() is None
    summary = Summary.read(moved / "metrics.json")
    assert is_outdated(moved, summary, EVALUATOR)
    sum_up_again(moved, summary, EVALUATOR, third.row_file())
    assert same(again(moved).curves(), of_rows(again(moved)))
    assert not is_outdated(moved, Summary.read(moved / "metrics.json"), EVALUATOR)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no list": lambda content: content.update(curves={}),
    "none": lambda content: content.update(curves=["a"]),
    "no text": lambda content: content["curves"][0].update(name=3),
    "a long text": lambda content: content["curves"][0].update(x="x" * 201),
    "no number": lambda content: content["curves"][0]["xs"].append("1"),
    "a truth": lambda content: content["curves"][0]["ys"].__setitem__(0, True),
    "not defined": lambda content: content["curves"][0]["ys"].__setitem__(0, None),
    "too large": lambda content: content["curves"][0]["ys"].__setitem__(0, 1e300),
    "of 400 digits": lambda content: content["curves"][0]["ys"].__setitem__(0, 10**400),
    "of two lengths": lambda content: content["curves"][0]["ys"].pop(),
    "no points": lambda content: content["curves"][0].update(xs=[], ys=[]),
    "no mark": lambda content: content["curves"][0].update(mark=[1.0]),
    "a logarithm of 0": lambda content: content["curves"][0].update(log=True),
    "too many": lambda content: content.update(curves=content["curves"] * 101),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_no_run_writes_is_refused(tmp_path: Path, change: str) -> None:
    stored = kept(tmp_path)
    content = read_json(stored.folder / CURVES)
    CHANGES[change](content)
    write_json(stored.folder / CURVES, content)
    with pytest.raises(DamagedError, match=r"curves\.json: damaged: .*curve"):
        again(stored.folder).curves()
    assert any(CURVES in line for line in check(again(stored.folder))[0])


def test_verify_names_a_curve_that_is_not_of_the_rows(tmp_path: Path) -> None:
    stored = kept(tmp_path)
    content = read_json(stored.folder / CURVES)
    content["curves"][0]["ys"][3] += 0.1
    write_json(stored.folder / CURVES, content)
    name = content["curves"][0]["name"]
    assert check(again(stored.folder))[0] == [f"{CURVES}: {name}: differs from the curve of its rows"]
    content["curves"] = []
    write_json(stored.folder / CURVES, content)
    assert check(again(stored.folder))[0] == [f"{CURVES}: 0 curves, 1 from its rows"]


def test_bundles_and_merges_carry_them(tmp_path: Path) -> None:
    first = kept(tmp_path / "ours")
    bundle, theirs = tmp_path / "all.zip", tmp_path / "theirs"
    assert main(["bundle", str(tmp_path / "ours"), "--out", str(bundle)]) == 0
    assert main(["merge", str(bundle), "--into", str(theirs)]) == 0
    assert (theirs / first.folder.name / CURVES).read_bytes() == (first.folder / CURVES).read_bytes()


class Own:
    """A user's evaluator, whose curves need all rows at once."""

    def row(self, *_: object) -> Row:
        raise NotImplementedError

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        return Localization().summary(rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        return Localization().curves(rows)


class Broken(Localization):
    """An evaluator whose curves cannot be drawn."""

    def drawn(self, totals: Any) -> list[Curve]:
        raise ZeroDivisionError


@pytest.mark.parametrize("evaluator", [Own(), Broken()])
def test_what_a_user_draws_from_all_rows_or_cannot_draw_is_not_kept(tmp_path: Path, evaluator: Any) -> None:
    stored = again(finished(tmp_path).folder)
    assert stored.summary
    keep_curves(stored.folder, stored.summary, evaluator, stored.row_file())
    assert not (stored.folder / CURVES).exists()


def test_a_curve_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    stored = again(finished(tmp_path).folder)
    assert stored.summary
    write_curves(stored.folder, stored.summary, [Curve("a", "x", "y", np.arange(3.0), np.array([1.0, np.nan, 2.0]))])
    assert not (stored.folder / CURVES).exists()
    write_curves(stored.folder, stored.summary, [Curve("a", "x", "y", np.arange(3.0), np.arange(3.0))])
    assert kept_curves(stored.folder, stored.summary)


@pytest.mark.parametrize(
    ("evaluator", "columns"),
    [
        (AverageDrop(shares=(0.3, 1.0)), {"confidence": (), "kept_30": (), "kept_100": ()}),
        (InsertionDeletion(steps=4), {"deletion": (5,), "insertion": (5,)}),
        (Road(), {"morf": (4,), "lerf": (4,)}),
    ],
)
def test_sums_over_blocks_draw_the_means_over_all_rows(evaluator: Any, columns: dict[str, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(5)
    values = {name: list(rng.random((40, *shape))) for name, shape in columns.items()}
    states = {"map_state": ["constant", *["ok"] * 39], "answer_state": "ok", "constant_by_design": False}
    frame = pd.DataFrame({"image": [f"{k}" for k in range(40)], "label": 0, **values, **states})
    whole, first, second = (evaluator.totals(part) for part in (frame, frame[:17], frame[17:]))
    halves = {name: first[name] + second[name] for name in whole}
    for one, other in zip(evaluator.curves(frame), evaluator.drawn(halves), strict=True):
        assert _plain(one)[:4] == _plain(other)[:4]
        np.testing.assert_allclose(one.ys, other.ys, rtol=1e-12)
    assert len(evaluator.curves(frame)) == 2
    assert evaluator.curves(frame[:0]) == []
