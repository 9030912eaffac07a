"""Result folders: whole or named as damaged, never run, the same wherever our modules lie."""

import inspect
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from stored import ENVIRONMENT, IDENTITY, finished, half, plan, result, rows

import eigencam.files
from eigencam.commands.main import main
from eigencam.commands.prune import _remove, prunable
from eigencam.commands.summarize import again
from eigencam.evaluation.localization import Localization
from eigencam.locks import HeldError, is_held, take
from eigencam.store.bounded import read_table
from eigencam.store.build import find
from eigencam.store.canonical import canonical
from eigencam.store.identity import describe
from eigencam.store.parts import Parts
from eigencam.store.reader import newest, read, read_all
from eigencam.store.schema import CONFIG, ROWS, SUMMARY, Seal, Summary
from eigencam.store.schema import IDENTITY as IDENTITY_FILE
from eigencam.store.seal import DamagedError, digest, read_json, write_json
from eigencam.store.trust import PACKAGED, Trust, UntrustedError, rebuilt


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
    for name in (ROWS, SUMMARY):  # a whole, sealed pair, but of another result
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
        if k == 120:  # the run was killed and begun again
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


def test_what_a_killed_process_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    made = result(tmp_path)
    (made.folder / "parts").mkdir(parents=True)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    names = [made.folder / f".writing-{os.uname().nodename}-{int(dead.stdout)}-0.json", made.folder / "parts" / "x"]
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


@pytest.mark.parametrize(
    ("column", "n"),
    [("iou", 2**26), ("note", 100_000)],  # a number, or a text of a megabyte, that every row has
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


# Identity


def test_one_and_true_are_one_parameter_where_the_default_says_which() -> None:
    target = "eigencam.methods.eigencam.EigenCAM"
    flags = {name for name, p in inspect.signature(find(target)).parameters.items() if isinstance(p.default, bool)}
    assert flags
    for name in flags:
        for said, meant in ((1, True), (0, False)):
            assert describe({"_target_": target, name: said}) == describe({"_target_": target, name: meant})
    pointing = "eigencam.evaluation.localization.Localization"
    assert describe({"_target_": pointing, "threshold": True}) == describe({"_target_": pointing, "threshold": 1.0})


def test_renaming_our_modules_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = []
    for group in ("method", "evaluator"):
        for path in sorted(Path(str(files("eigencam.configs"))).glob(f"{group}/*.yaml")):
            nodes += [node for node in yaml.safe_load(path.read_text()).values() if "${" not in str(node)]
    before = [canonical(describe(node)) for node in nodes]
    assert len(before) > 60
    for node in nodes:
        monkeypatch.setattr(find(node["_target_"]), "__module__", "eigencam.elsewhere.of_old")
        assert "eigencam" not in canonical(describe(node)).replace("eigencam_centered", "").replace('"eigencam:', "")


def test_a_default_that_is_spelled_out_is_no_other_identity() -> None:
    node = {"_target_": "eigencam.methods.eigencam.EigenCAM"}
    assert describe(node) == describe({**node, "center": False, "sign": "sum"})
    assert describe(node) != describe({**node, "center": True})
    target = {"_target_": "eigencam.evaluation.localization.Localization"}
    assert describe({**target, "threshold": 2.0}) == describe({**target, "threshold": 2})


def test_a_higher_version_is_another_result_and_tables_show_the_newest(tmp_path: Path) -> None:
    for version in (1, 2):
        finished(tmp_path, evaluator={"name": "Localization", "version": version})
    latest, superseded = newest(read_all(tmp_path))
    assert [s.identity["evaluator"]["version"] for s in (*latest, *superseded)] == [2, 1]
    assert [why for _, why, _ in prunable(tmp_path)] == ["superseded"]


def test_results_of_the_old_format_are_named_and_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "scenes-net-cam-localization-0123456789"
    folder.mkdir()
    old = {"version": 1, "network": {"name": "net"}, "dataset": {"name": "scenes"}, "method": {}, "evaluator": {}}
    (folder / IDENTITY_FILE).write_text(json.dumps(old))
    (folder / SUMMARY).write_text("{}")
    (stored,) = read_all(tmp_path)
    assert stored.state == "old"
    assert "format 1" in stored.old
    assert [why for _, why, _ in prunable(tmp_path)] == ["old"]


def test_a_summary_of_another_version_is_made_again_from_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished(tmp_path)
    (stored,) = read_all(tmp_path, hashed=True)
    assert not again(stored, PACKAGED)
    monkeypatch.setattr(Localization, "summary_version", 99, raising=False)
    assert again(stored, PACKAGED)
    summary = made.summary
    assert summary
    assert summary.summary_versions["summary_version"] == 99
    assert summary.rows == stored.summary.rows if stored.summary else False
    assert not again(read_all(tmp_path, hashed=True)[0], PACKAGED)


# Data, never program

PAYLOADS: list[dict[str, Any]] = [
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "payload"},
    {"target": "pandas.read_pickle", "parameters": {"filepath_or_buffer": "payload"}},
    {"target": "os.system", "source": "", "parameters": {"command": "touch RAN"}},
    {
        "library": "pandas",
        "name": "read_pickle",
        "library_version": "2",
        "parameters": {"filepath_or_buffer": "payload"},
    },
    {
        "name": "Localization",
        "version": 1,
        "parameters": {"threshold": {"_target_": "os.system", "command": "touch RAN"}},
    },
    {"name": "../evil", "version": 1},
    {"name": "system", "version": 1},
    {"target": "evil.Evaluator", "source": "0" * 64},
    {"target": 3},
    {"name": "Localization", "version": 1, "parameters": {"__class__": 1}},
    {"name": "Localization", "version": "1"},
    {},
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
def test_nothing_that_a_result_holds_is_run(
    tmp_path: Path, payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.system, ("touch RAN",)

    made = finished(tmp_path / "runs", evaluator=payload)
    (made.folder / "evil.py").write_text("open('RAN', 'w')\nclass Evaluator: pass\n")
    (made.folder / "payload").write_bytes(pickle.dumps(Payload()))
    monkeypatch.chdir(made.folder)
    monkeypatch.syspath_prepend(str(made.folder))
    (stored,) = read_all(tmp_path / "runs")
    assert stored.state == "done"  # its stored metrics stand in every table
    with pytest.raises(UntrustedError) as caught:
        stored.evaluator()
    assert "\n" not in str(caught.value)
    assert not (made.folder / "RAN").exists()


def test_a_person_s_code_is_built_where_this_command_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_evaluator.py").write_text("class Own:\n    def __init__(self, k=1):\n        self.k = k\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    described = describe({"_target_": "own_evaluator.Own", "k": 2})
    with pytest.raises(UntrustedError, match=r"own_evaluator\.Own is not trusted; --trust own_evaluator allows it"):
        rebuilt(described, "evaluator")
    (tmp_path / "configs").mkdir()
    assert rebuilt(described, "evaluator", Trust.of(modules=["own_evaluator"])).k == 2
    (tmp_path / "configs" / "x.yaml").write_text("trust: [own_evaluator]\n")
    assert rebuilt(described, "evaluator", Trust.of(tmp_path / "configs")).k == 2
    (tmp_path / "configs" / "x.yaml").write_text("own:\n  _target_: own_evaluator.Own\n")
    assert rebuilt(described, "evaluator", Trust.of(tmp_path / "configs")).k == 2
    with pytest.raises(UntrustedError, match="another version"):
        rebuilt({**described, "source": "0" * 64}, "evaluator", Trust.of(modules=["own_evaluator"]))


def test_a_stored_config_names_only_what_is_trusted_and_holds_values() -> None:
    PACKAGED.check({"dataset": {"_target_": "eigencam.datasets.scenes.Scenes", "count": 3}}, "config.yaml")
    for node in (
        {"dataset": {"_target_": "pathlib.Path.write_text"}},
        {"model": {"args": [{"_target_": "torch.load", "weights_only": False}]}},
        {"method": {"x": {"_target_": "eigencam.store.files.write_text"}}},
    ):
        with pytest.raises(UntrustedError, match=r"config\.yaml: _target_=.* is not trusted"):
            PACKAGED.check(node, "config.yaml")
    with pytest.raises(UntrustedError, match="no interpolations"):
        PACKAGED.check({"paths": {"results": "${oc.env:HOME}"}}, "config.yaml")


def test_an_identity_is_refused_in_one_line_whatever_it_holds(tmp_path: Path) -> None:
    made = finished(tmp_path)
    rng = random.Random(0)
    values: list[Any] = [None, 3, "x" * 100_000, [], {}, [[]] * 100, True, -1e308, {"a": {"b": {"c": []}}}]
    for _ in range(200):
        identity: dict[str, Any] = dict(IDENTITY)
        for key in rng.sample(sorted(identity), rng.randint(1, 3)):
            identity[key] = rng.choice(values)
        write_json(made.folder / IDENTITY_FILE, identity)
        stored = read(made.folder)
        assert stored
        assert stored.state in ("damaged", "old", "done")
        assert all("\n" not in fault for fault in (*stored.faults, stored.old))


def test_environments_differ_in_the_packages_that_took_part(tmp_path: Path) -> None:
    made = finished(tmp_path)
    (stored,) = read_all(tmp_path)
    assert stored.runs[0].packages == ENVIRONMENT["packages"]
    assert stored.updated
    assert made.folder.name in stored.folder.name
    assert isinstance(pd.Timestamp(stored.updated), pd.Timestamp)


def test_parameters_tell_results_apart_whatever_they_are_called(tmp_path: Path) -> None:
    for source in ("logits", "features"):
        method = {"target": "my.M", "source": "0" * 64, "parameters": {"source": source, "version": 2}}
        finished(tmp_path, method=method)
    finished(tmp_path, dataset={**IDENTITY["dataset"], "version": "2019"})
    finished(tmp_path, dataset={**IDENTITY["dataset"], "version": "2021"})
    assert len(newest(read_all(tmp_path))[0]) == 4
    assert not prunable(tmp_path)


def test_a_folder_of_results_may_hold_the_environment(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eigencam.store.trust import keep_out\n"
        "keep_out(Path(sys.prefix).parent); import hydra, eigencam.evaluation.pxap"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_a_person_s_class_that_is_built_on_ours_has_the_versions_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "built_on_ours.py").write_text(
        "from eigencam.methods.gradcam import GradCAM\nclass My(GradCAM):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "built_on_ours.My"}
    before = describe(node)
    monkeypatch.setattr(find("eigencam.methods.gradcam.GradCAM"), "version", 7)
    assert describe(node) != before


def test_a_run_that_cannot_begin_gives_its_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = result(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("eigencam.store.records.write_json", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.open("", ENVIRONMENT)
    made.open("", ENVIRONMENT)
    made.close()
