"""Result folders: complete, or reported as damaged and repaired."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import ENVIRONMENT, finished, half, plan, result, rows

import eigencam.files
from eigencam.commands.main import main
from eigencam.commands.prune import _remove
from eigencam.files import machine
from eigencam.store.bounded_parquet import read_table
from eigencam.store.locks import HeldError, is_held, take
from eigencam.store.parts import Parts
from eigencam.store.reader import read, read_all
from eigencam.store.schema import CONFIG, ROWS, SUMMARY, Seal, Summary
from eigencam.store.schema import IDENTITY as IDENTITY_FILE
from eigencam.store.seal import DamagedError, digest, read_json, write_json


def seen(root: Path) -> Any:
    """The metrics and rows that readers get, by folder."""
    found = read_all(root, hashed=True)
    return {s.folder.name: (s.summary.metrics, s.rows().to_json()) for s in found if s.summary}


# Seals


def test_a_sealed_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None], "b": {"c": "é\n"}, "n": float("nan")}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == {**content, "n": None}
    assert json.loads((tmp_path / "x.json").read_text())["b"] == {"c": "é\n"}
    write_json(tmp_path / "x.json", {})
    assert read_json(tmp_path / "x.json") == {}


@pytest.mark.full
def test_every_flipped_bit_and_every_missing_end_of_a_sealed_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"value": 56.95000000000000001, "text": "a b"})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedError, match=r"x\.json: damaged"):
            read_json(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            read_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "null", '{"seal": 3}', "", "\x00", '{"format": 1e999}'])
def test_what_is_no_sealed_object_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DamagedError) as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


# Damage


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", [IDENTITY_FILE, CONFIG, ROWS, SUMMARY, "runs/*.json"])
def test_a_damaged_file_is_named_costs_no_other_result_and_is_repaired(
    tmp_path: Path, name: str, damage: Callable[[Path, random.Random], None]
) -> None:
    made = finished(tmp_path, method={"name": "Other", "version": 1})
    finished(tmp_path)
    whole = seen(tmp_path)
    damage(next(made.folder.glob(name)), random.Random(0))
    stored = read(made.folder, hashed=True)
    assert stored
    assert stored.state == "damaged"
    assert any(Path(name).suffix in fault for fault in stored.faults)
    left = seen(tmp_path)
    assert left == {folder: content for folder, content in whole.items() if folder != made.folder.name}
    again = finished(tmp_path, method={"name": "Other", "version": 1})
    assert any("set aside" in line for line in again.repaired)
    assert seen(tmp_path) == whole
    assert [path.name for path in (made.folder / "damaged").iterdir()]


def test_rows_that_no_summary_vouches_for_are_not_believed(tmp_path: Path) -> None:
    made = finished(tmp_path)
    other = finished(tmp_path, iou=0.1, method={"name": "Other", "version": 1})
    for name in (ROWS, SUMMARY):  # a complete, sealed pair of another result
        shutil.copy(other.folder / name, made.folder / name)
    stored = read(made.folder)
    assert stored
    assert stored.state == "damaged"
    assert not result(tmp_path).complete


def test_a_part_that_is_torn_foreign_or_renamed_is_set_aside(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", "0123456789")
    parts.write(rows(4))
    (whole,) = (tmp_path / "parts").glob("*.parquet")
    Parts(tmp_path / "parts", "another").write(rows(3, start=10))
    (tmp_path / "parts" / "foreign.parquet").write_bytes(b"PAR1 not really")
    shutil.copy(whole, tmp_path / "parts" / f"1of1-{'0' * 32}.parquet")
    tables, said = parts.tables()
    assert sum(map(len, tables)) == 4
    assert len(said) == 3
    assert all("damaged" in line and ".parquet" in line for line in said)
    assert parts.tables()[1] == []


def test_a_file_that_is_still_being_written_is_nobody_s_damage(tmp_path: Path) -> None:
    made = half(tmp_path)
    for name in (
        "parts/.writing-elsewhere-1-0.parquet",
        "parts/.writing-elsewhere-1-1.json",
        "runs/.writing-a-1-2.json",
    ):
        (made.folder / name).write_text("half")
    stored = read(made.folder, hashed=True)
    assert stored
    assert stored.state == "partial"
    assert not made.lacking(plan(6).positions).any()
    assert not made.repaired
    assert len(list((made.folder / "parts").glob(".writing-*"))) == 2


def test_parts_of_a_long_run_stay_few_and_hold_every_row_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", "0123456789")
    for k in range(200):
        if k == 120:  # the run was killed and restarted
            parts = Parts(tmp_path / "parts", "0123456789")
        parts.write(rows(2, start=2 * k))
    assert len(list((tmp_path / "parts").iterdir())) <= 9
    tables, said = parts.tables(["image"])
    images = [image for table in tables for image in table["image"].to_pylist()]
    assert sorted(images) == [f"{k:04d}" for k in range(400)]
    assert not said


def test_rows_summary_and_folder_are_synced_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    renamed: list[str] = []
    real = os.fsync

    def recorded(number: int) -> None:
        synced.append(Path(f"/proc/self/fd/{number}").resolve().suffix or "folder")
        renamed.append(",".join(sorted(path.name for path in tmp_path.glob("*/*") if path.name in (ROWS, SUMMARY))))
        real(number)

    monkeypatch.setattr(eigencam.files.os, "fsync", recorded)
    finished(tmp_path)
    assert synced == [".parquet", ".json", "folder"]
    assert renamed == ["", ROWS, f"{SUMMARY},{ROWS}"]


@pytest.mark.full
def test_what_a_killed_process_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    made = result(tmp_path)
    (made.folder / "parts").mkdir(parents=True)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    names = [made.folder / f".writing-{machine()}-{int(dead.stdout)}-0.json", made.folder / "parts" / "x"]
    for name in names:
        name.write_text("half")
    finished(tmp_path)
    assert not names[0].exists()


def test_a_folder_that_may_not_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    opened: list[str] = []
    real = os.open

    def recorded(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", recorded)
    (stored,) = read_all(tmp_path, hashed=True)
    assert stored.state == "done"
    assert not stored.running
    assert len(stored.rows()) == 6
    assert result(tmp_path).complete
    assert not opened


@pytest.mark.full
@pytest.mark.parametrize(
    ("column", "n"),
    [("iou", 2**26), ("note", 100_000)],  # a number, or a text of a megabyte, repeated in every row
)
def test_a_file_that_unpacks_to_more_than_its_size_lets_expect_is_damaged(tmp_path: Path, column: str, n: int) -> None:
    made = finished(tmp_path)
    if column == "iou":
        zeros = pa.array(np.zeros(n))
        table = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), ["a"]), "iou": zeros})
        table = table.append_column("label", pa.array(np.zeros(n, np.int64)))
    else:
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), ["x" * 2**20])
        table = pa.table({"image": texts, "label": pa.array(np.zeros(n, np.int64))})
    pq.write_table(table, made.folder / ROWS, compression="zstd")
    content = (made.folder / ROWS).read_bytes()
    assert len(content) < 2**20
    summary = published_with(made.folder, Seal(len(content), digest(content)))
    write_json(made.folder / SUMMARY, summary.stored())
    stored = read(made.folder, hashed=True)
    assert stored
    with pytest.raises(DamagedError, match=r"rows\.parquet: damaged: \d+ bytes that"):
        stored.rows()


def published_with(folder: Path, seal: Seal) -> Summary:
    return replace(Summary.read(folder / SUMMARY), rows=seal)


def test_rows_of_all_kinds_are_read_as_arrow_reads_them(tmp_path: Path) -> None:
    frame = rows(5000).assign(text=["a", None, "", "é", "b"] * 1000, lists=[[1.0], [], None, [2.0, 3.0], [4.0]] * 1000)
    frame.to_parquet(tmp_path / "x.parquet", compression="zstd")
    for columns in (None, ["text", "image"]):
        found = read_table(tmp_path / "x.parquet", columns)
        wanted = pq.read_table(tmp_path / "x.parquet", columns=columns)
        assert found.select(wanted.column_names).equals(wanted)
        assert found.schema.metadata == wanted.schema.metadata


def test_prune_waits_for_a_run_and_a_run_sees_what_prune_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path)
    (made.folder / SUMMARY).write_text("torn")
    running = result(tmp_path)
    running.open("a: 1\n", ENVIRONMENT)
    assert main(["prune", "--yes", "--results", str(tmp_path)]) == 0
    assert not _remove(made.folder)
    assert "a run is writing it" in capsys.readouterr().out
    running.close()
    begun = result(tmp_path)
    with take(made.folder / ".lock-finish"):
        thread = threading.Thread(target=begun.open, args=("a: 1\n", ENVIRONMENT))
        thread.start()
        while not is_held(made.folder / ".lock"):
            time.sleep(0.005)
        shutil.rmtree(made.folder)
    thread.join()
    assert (made.folder / IDENTITY_FILE).exists()
    with pytest.raises(HeldError):
        result(tmp_path).open("a: 1\n", ENVIRONMENT)
    begun.close()


def test_a_run_that_cannot_begin_gives_its_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = result(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("eigencam.store.records.write_json", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.open("", ENVIRONMENT)
    made.open("", ENVIRONMENT)
    made.close()


@pytest.mark.parametrize(
    "command",
    [
        "table --results {runs} --out {inside}",
        "report --results {runs} --no-images --out {inside}/rows.parquet",
        "report --results {runs} --no-images --out {tmp}/report.html --figures {inside}/figures",
        "compare eigencam gradcam --results {runs} --no-run --out {inside}",
        "bundle {runs} --out {tmp}/link/bundle.zip",
        "explain --model scenes_vgg --out {inside}/new",
        "check dataset=scenes --out {inside}",
        "published --paper eigencam2021 --template {inside}/read.csv",
        "merge {runs} --into {inside}",
        "reproduce tables.md --out {inside}",
        "run model=scenes_vgg dataset=scenes paths.results={inside}/runs hydra.run.dir={tmp}/hydra",
    ],
)
def test_no_command_writes_into_a_result(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = finished(tmp_path / "runs")
    (tmp_path / "link").symlink_to(made.folder)
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    words = command.format(runs=tmp_path / "runs", inside=made.folder, tmp=tmp_path).split()
    assert main(words) == 2
    assert f"inside the result {made.folder}; give a path outside of it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before
