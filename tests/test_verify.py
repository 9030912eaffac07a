"""The faults that `verify` finds, the content of `card`, and a table's notes on results of another version."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import config
from stored import finished, half, reseal, restated, rows_of

from eigencam.commands.main import main
from eigencam.evaluation.tables import tables
from eigencam.reporting.collect import collect
from eigencam.running.run import run
from eigencam.store import outdated, verify
from eigencam.store.examine import published
from eigencam.store.image_positions import hashes
from eigencam.store.row_file import RowFile
from eigencam.store.schema import ROWS, SUMMARY
from eigencam.store.seal import read_json, write_json
from eigencam.store.summing import publish

SMALL = ["dataset.count=6", "timing=false", "method=[gradcam]", "evaluator=[localization]"]


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit status and output of `eigencam verify`."""
    status = main(["verify", *map(str, argv)])
    return status, capsys.readouterr().out


def change_value(folder: Path) -> None:
    summary = published(folder)
    publish(folder, replace(summary, metrics=({**summary.metrics[0], "value": 12.5}, *summary.metrics[1:])))


def drop_a_row(folder: Path) -> None:
    reseal(folder, rows_of(folder).iloc[:-1])


def repeat_a_row(folder: Path) -> None:
    frame = rows_of(folder)
    reseal(folder, pd.concat([frame, frame.iloc[:1]], ignore_index=True))


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / ROWS).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / ROWS).write_bytes(content)


def forget_who_made_rows(folder: Path) -> None:
    (path,) = (folder / "runs").iterdir()
    write_json(path, read_json(path) | {"rows": [[0, 2]]})


def lose_the_runs(folder: Path) -> None:
    shutil.rmtree(folder / "runs")


def claim_more_rows(folder: Path) -> None:
    (path,) = (folder / "runs").iterdir()
    write_json(path, read_json(path) | {"rows": [[0, 9]]})


def another_target(folder: Path) -> None:
    publish(folder, replace(published(folder), target="predicted"))


def another_version(folder: Path) -> None:
    restated(folder, lambda identity: identity["method"].update(version=7))


def another_summary(folder: Path) -> None:
    publish(folder, replace(published(folder), summary_versions={}))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change_value, "value 12.5 stored, "),
        (drop_a_row, "n = 6, and its rows are of 5 images"),
        (repeat_a_row, "1 rows have the same image and class as an earlier row"),
        (flip_a_bit, f"{ROWS}: damaged"),
        (forget_who_made_rows, "row 3 (image 0003): no file in runs/ says which run computed it"),
        (lose_the_runs, "row 0 (image 0000): no file in runs/ says which run computed it"),
        (claim_more_rows, "a file in runs/ claims rows up to number 10, and there are 6"),
        (another_target, "maps for the class: predicted; the identity says ground_truth"),
        (another_version, "Method is of version 7, here it is 1"),
        (another_summary, "`eigencam summarize` recomputes its metrics"),
    ],
)
def test_each_fault_is_a_line_and_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, fault: str
) -> None:
    made = finished(tmp_path)
    finished(tmp_path, method={"name": "Other", "version": 1})
    half(tmp_path, method={"name": "Half", "version": 1})
    assert said(capsys, tmp_path) == (0, "3 results, 2 of them complete; no faults\n")
    change(made.folder)
    status, out = said(capsys, tmp_path)
    assert status == 1
    assert [fault in line for line in out.splitlines()[:-1]].count(True) == 1, out
    assert "Other" not in out


def test_a_person_s_evaluator_is_not_run_and_the_metrics_are_called_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path).folder
    restated(folder, lambda identity: identity.update(evaluator={"target": "os.system", "source": "0"}))
    status, out = said(capsys, tmp_path)
    assert status == 1
    assert "metrics not recomputed: evaluator os.system is not trusted" in out


@pytest.mark.full
def test_a_real_result_is_verified_with_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(tmp_path, *SMALL))
    capsys.readouterr()
    assert said(capsys, "--data", tmp_path) == (0, "1 results, 1 of them complete; no faults\n")
    status, out = said(capsys, "--data", tmp_path, "dataset.count=7")
    assert status == 1
    assert "scenes: n was 6, and is 7" in out
    assert main(["verify", str(tmp_path), "dataset.count=7"]) == 2


def test_the_card_of_a_result_says_where_its_numbers_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = next(iter(run(config(tmp_path, *SMALL)).results.values()))
    assert main(["card", str(result.folder)]) == 0
    page = capsys.readouterr().out
    identity = read_json(result.folder / "identity.json")
    (ran,) = (read_json(path) for path in (result.folder / "runs").iterdir())
    assert result.summary
    texts = [identity["network"]["sha256"], identity["dataset"]["checksum"], ran["git_commit"], ran["host"]]
    texts += ["command: ", "scored: 6", "rows: 0 to 5", "preprocess:", "version: 1", "torch "]
    texts += [metric["name"] for metric in result.summary.metrics]
    assert [text for text in texts if text not in page] == []
    (result.folder / ROWS).write_bytes(b"torn")
    assert main(["card", str(tmp_path)]) == 1
    assert f"{ROWS}: damaged" in capsys.readouterr().out


def test_a_table_says_which_numbers_another_version_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    (table,) = tables(collect(tmp_path))
    assert not [note for note in table.notes if "another version" in note]
    monkeypatch.setattr(outdated, "_raised", lambda: {"Method": {"version": 2, "shared": {"tape": 3}}})
    (table,) = tables(collect(tmp_path))
    notes = [note for note in table.notes if "another version" in note]
    said = "Method is of version 1, here it is 2; tape is of version 1, here it is 3"
    assert notes == [f"made by another version ({said}): net/method"]


def test_nothing_there_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "no results there" in capsys.readouterr().err
    made = finished(tmp_path)
    shutil.rmtree(made.folder / "runs")
    (made.folder / SUMMARY).unlink()
    assert said(capsys, made.folder)[0] == 0


@pytest.mark.parametrize("bits", [64, 1, 0])
def test_images_and_rows_are_counted_right_also_where_their_hashes_agree(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "a", "b", "c", "c", "c", "a"]
    frame = pd.DataFrame({"image": names, "label": [0, 1, 0, 2, 2, 3, 0], "iou": 0.5})
    frame.to_parquet(tmp_path / ROWS)
    monkeypatch.setattr(verify, "hashes", lambda ids: hashes(ids) % 2**bits if bits < 64 else hashes(ids))
    assert verify.counted(RowFile(tmp_path / ROWS, 3)) == (3, 2)
    frame.iloc[[0, 1, 2, 3, 5]].to_parquet(tmp_path / ROWS)
    assert verify.counted(RowFile(tmp_path / ROWS, 3)) == (3, 0)
