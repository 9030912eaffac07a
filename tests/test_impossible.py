"""Numbers that no run can have written: refused when read, even with a valid seal, and never computed."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from stored import ENVIRONMENT, finished, half, plan, result, rows

from eigencam.commands.main import main
from eigencam.evaluation.base import About, Metric
from eigencam.evaluation.localization import Localization
from eigencam.store.reader import read
from eigencam.store.records import Result
from eigencam.store.schema import _WORDS, PARTS, RUNS, SUMMARY, impossible
from eigencam.store.seal import read_json, write_json
from eigencam.store.summing import summed_up

METRIC = {"name": "x", "value": 40.0, "low": 30.0, "high": 50.0, "n": 6, "unit": "%"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cost": -3.0}, r"cost: -3; a time is 0 or more"),
        ({"seconds": -0.5}, r"seconds: -0\.5; a time is 0 or more"),
        ({"images": -1}, r"images: no number that was measured"),
        ({"rows_before": -1}, r"rows_before: no number that was measured"),
        ({"rows": [[3, 1]]}, r"rows: \[3, 1\] in the place of"),
        ({"cost": "3"}, r"cost: str in the place of float"),
    ],
)
def test_a_run_that_cannot_have_been_is_named(
    tmp_path: Path, change: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path)
    path = next((made.folder / RUNS).glob("*.json"))
    write_json(path, read_json(path) | change)
    assert main(["status", "--results", str(tmp_path)]) == 1
    main(["table", "--results", str(tmp_path)])
    stored = read(made.folder)
    assert stored
    assert stored.summary is None
    (fault,) = stored.faults
    assert path.name in fault
    assert re.search(words, fault)
    assert fault in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metrics": [METRIC | {"low": 60.0}]}, "metrics: x: its interval is 60 to 50"),
        ({"metrics": [METRIC | {"n": 0}]}, "metrics: x: n = 0, and a value of 40"),
        ({"metrics": [METRIC | {"undefined": True}]}, "metrics: x: declared undefined, but has the value 40"),
        ({"metrics": [METRIC | {"hit": True, "value": 140.0, "high": 150.0}]}, "metrics: x: a share of 140 %"),
        ({"metrics": [METRIC | {"better": "sideways"}]}, "allowed are '', 'lower', 'higher'"),
        ({"metrics": [METRIC | {"about": "weather"}]}, "allowed are 'method', 'network', 'both'"),
        ({"n": 700}, "n = 700, and the dataset has 6 images"),
        ({"n": -1}, "n: no number that was measured"),
    ],
)
def test_a_summary_that_cannot_be_is_named_and_made_again(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    made = finished(tmp_path, dataset={"name": "data", "n": 6})
    before = (made.folder / SUMMARY).read_bytes()
    write_json(made.folder / SUMMARY, read_json(made.folder / SUMMARY) | change)
    stored = read(made.folder)
    assert stored
    assert stored.summary is None
    assert any(words in fault for fault in stored.faults)
    assert not made.whole
    finished(tmp_path, dataset={"name": "data", "n": 6})
    assert (made.folder / SUMMARY).read_bytes() == before


@pytest.mark.parametrize("images", [-5, 0, 2.5, True])
def test_a_number_of_images_that_cannot_be_is_named(tmp_path: Path, images: float) -> None:
    made = half(tmp_path)
    path = made.folder / PARTS / "plan.json"
    write_json(path, {"images": images, "baseline": False, "caveat": ""})
    with pytest.raises(ValueError, match=r"plan\.json.*`images` has to be a number above 0"):
        made.parts.plan()


class Mine(Localization):
    """An evaluator whose numbers contradict each other."""

    found = Metric(**METRIC)  # type: ignore[arg-type]

    def summary(self, rows: Any) -> list[Metric]:
        return [self.found, replace(self.found, name="y")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 60.0}, "metric x: its interval is 60 to 50"),
        ({"n": 0}, "metric x: n = 0, and a value of 40"),
        ({"better": "up"}, "metric x: better: 'up'; allowed are"),
        ({"name": "y"}, "metrics: one of them twice"),
    ],
)
def test_what_cannot_be_is_not_stored(change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(summed_up(Mine(), rows())[0]["metrics"]) == 2
    monkeypatch.setattr(Mine, "found", replace(Mine.found, **change))
    with pytest.raises(ValueError, match=words):
        summed_up(Mine(), rows())


def test_the_allowed_words_are_those_of_a_metric() -> None:
    assert _WORDS["about"] == get_args(About)
    assert not impossible(Metric("x", float("nan"), float("nan"), float("nan"), 0, undefined=True).stored())


def test_a_summary_with_the_names_of_another_result_is_made_again(tmp_path: Path) -> None:
    made = finished(tmp_path)
    before = (made.folder / SUMMARY).read_bytes()
    write_json(made.folder / SUMMARY, read_json(made.folder / SUMMARY) | {"method": "other"})
    assert not made.whole
    finished(tmp_path)
    assert result(tmp_path).whole
    assert (made.folder / SUMMARY).read_bytes() == before


def _with_part_of_another(tmp_path: Path, frame: pd.DataFrame) -> Result:
    """A result with all rows but one, and a sealed part of other rows."""
    made = result(tmp_path / "r")
    made.open("a: 1\n", ENVIRONMENT, None, plan(6))
    made.add(rows(5).to_dict("records"))  # type: ignore[arg-type]
    made.flush()
    other = result(tmp_path / "other")
    other.open("a: 1\n", ENVIRONMENT, None, plan(9))
    other.add(frame.to_dict("records"))  # type: ignore[arg-type]
    other.flush()
    (part,) = (other.folder / PARTS).glob("*.parquet")
    shutil.copy(part, made.folder / PARTS / f"2of2-{part.name.partition('-')[2]}")
    return made


def test_a_part_with_an_image_that_the_dataset_does_not_have_is_set_aside(tmp_path: Path) -> None:
    made = _with_part_of_another(tmp_path, rows(9))
    with made.finishing():
        assert made.gathered() is None
    assert any("2of2-" in line and "image 0006: not in the dataset; set aside" in line for line in made.repaired)


def test_parts_that_do_not_fit_together_are_one_line(tmp_path: Path) -> None:
    made = _with_part_of_another(tmp_path, rows(1, 5).assign(iou="high"))
    with made.finishing(), pytest.raises(ValueError, match=r"parts of different columns: .*iou"):
        made.gathered()
