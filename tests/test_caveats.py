"""Caveats of methods: those known only from an abstract say so in their name and below every table."""

from dataclasses import replace
from pathlib import Path

import pytest
from stored import ENVIRONMENT, finished, plan, result, rows

from eigencam.commands.main import main
from eigencam.configuring.catalogue import catalogue
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.tables import tables
from eigencam.methods.base import caveat_of
from eigencam.methods.fam import FAM
from eigencam.methods.vscam import VSCAM
from eigencam.reporting.collect import collect
from eigencam.store.summing import summed_up

READING = "a reading of the paper's abstract; its formulas were not at hand"


def with_caveat(root: Path) -> None:
    """A complete result of a method with a caveat, finished from its parts as `run` and `merge` do."""
    made = result(root, method={"name": "FAM", "version": 2})
    made.open("a: 1\n", ENVIRONMENT, plan=replace(plan(6), caveat=caveat_of(FAM())))
    made.add(rows(6).to_dict("records"))  # type: ignore[arg-type]
    made.flush()
    gathered = made.gathered()
    assert gathered is not None
    made.publish(gathered, summed_up(Localization(), gathered.rows)[0])
    made.close()


def test_every_table_has_the_caveat(tmp_path: Path) -> None:
    with_caveat(tmp_path)
    (table,) = tables(collect(tmp_path))
    assert [note for note in table.notes if READING in note] == [f"method: {READING}"]
    finished(tmp_path / "other", method={"name": "EigenCAM", "version": 2})
    (table,) = tables(collect(tmp_path / "other"))
    assert not any("reading" in note for note in table.notes)


def test_readings_of_abstracts_are_called_so() -> None:
    readings = {entry.option for entry in catalogue() if entry.option.endswith("_reading")}
    named = {"fam", "fam_support", "lime_verification", "ventral", "vscam"}
    assert readings == {f"{name}_reading" for name in named}
    assert caveat_of(FAM()) == caveat_of(VSCAM()) == READING


@pytest.mark.parametrize("old", ["fam", "vscam"])
def test_an_old_name_says_the_new_one(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"method=[{old}]"]) == 2
    assert f"method {old} is called {old}_reading now" in capsys.readouterr().err
