"""Tampered results with valid seals: read as data or refused in one line; their code and paths are not used."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import stored as made_by_hand
import yaml
from runs import config
from stored import finished, half, reseal, restated, result, rows

from eigencam.commands.main import main
from eigencam.configuring.stored_config import check_paths
from eigencam.running import sweep
from eigencam.running.run import run
from eigencam.store.locks import take
from eigencam.store.reader import read, read_all
from eigencam.store.schema import CONFIG, DAMAGED, IDENTITY, PARTS, ROWS, RUNS, SUMMARY, Summary
from eigencam.store.seal import DamagedError, read_json, write_json, write_yaml
from eigencam.store.trust import PACKAGED, UntrustedError, rebuilt

READERS = (["status", "--all"], ["table", "--by", "prediction"], ["table"], ["summarize"])


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """End a read that would block forever."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def foreign(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, pipe) for name in (IDENTITY, CONFIG, SUMMARY, ROWS, "runs/a.json", ".lock", "parts/1of1-0.parquet")),
        *((name, endless) for name in (IDENTITY, ROWS, "parts/1of1-0.parquet")),
        *((name, foreign) for name in (IDENTITY, ROWS)),
        *((name, folder) for name in (IDENTITY, SUMMARY)),
    ],
)
def test_only_regular_files_are_read(
    tmp_path: Path, name: str, kind: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    made = half(tmp_path) if name.startswith("parts") else finished(tmp_path)
    finished(tmp_path, method={"name": "Other", "version": 1})
    kind(made.folder / name)
    for command in (["status"], ["prune"]):
        main([*command, "--results", str(tmp_path)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if name != ".lock":
        stored = read(made.folder, hashed=True)
        assert stored
        assert stored.state == "damaged"
        assert all("\n" not in fault for fault in stored.faults)


@pytest.mark.parametrize("name", [PARTS, RUNS, DAMAGED])
def test_what_a_link_leads_to_is_neither_moved_nor_written(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = {outside / file: b"mine" for file in ("a.parquet", "a.json", "bad-0.json")}
    for path, content in kept.items():
        path.write_bytes(content)
    made = half(tmp_path / "runs")
    shutil.rmtree(made.folder / name, ignore_errors=True)
    (made.folder / name).symlink_to(outside)
    (made.folder / SUMMARY).write_text("{}")
    again = finished(tmp_path / "runs")
    assert any("a link" in line for line in again.repaired)
    assert {path: path.read_bytes() for path in sorted(outside.iterdir())} == kept
    assert [stored.state for stored in read_all(tmp_path / "runs", hashed=True)] == ["done"]


@pytest.mark.parametrize("name", [IDENTITY, CONFIG, SUMMARY, ROWS])
def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path, name: str) -> None:
    made = result(tmp_path / "runs")
    made.folder.mkdir(parents=True)
    (made.folder / name).symlink_to(tmp_path / "elsewhere")  # leads to nothing yet
    finished(tmp_path / "runs")
    assert not (tmp_path / "elsewhere").exists()
    assert not (made.folder / name).is_symlink()


def test_of_a_link_to_a_folder_only_the_link_is_pruned_and_no_run_writes_through_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path / "elsewhere")
    write_json(made.folder / IDENTITY, {})
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / made.folder.name
    link.symlink_to(made.folder)
    with pytest.raises(ValueError, match="a link"):
        finished(tmp_path / "runs")
    assert main(["prune", "--yes", "--results", str(tmp_path / "runs")]) == 0
    assert not link.is_symlink()
    assert (made.folder / ROWS).exists()


def test_a_folder_whose_name_is_no_text_costs_no_other_result_anything(tmp_path: Path) -> None:
    made = finished(tmp_path)
    shutil.copytree(made.folder, tmp_path / os.fsdecode(made.folder.name.encode().replace(b"method", b"m\xff")))
    command = [sys.executable, "-m", "eigencam", "status", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[2].split() == ["data", "net", "1", "1"]
    assert r"damaged: data net m\udcff localization" in done.stdout


def test_a_folder_of_somebody_s_that_is_named_like_a_result_is_not_pruned(tmp_path: Path) -> None:
    theirs = tmp_path / "a-b-c-d-0123456789"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("mine")
    assert main(["prune", "--yes", "--results", str(tmp_path)]) == 0
    assert (theirs / "thesis.tex").exists()


def test_a_folder_in_which_a_run_begins_is_not_listed_by_prune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scenes-net-eigencam-localization-0123456789"
    folder.mkdir()
    with take(folder / ".lock"):
        assert main(["prune", "--results", str(tmp_path)]) == 0
        assert folder.name not in capsys.readouterr().out
    assert main(["prune", "--results", str(tmp_path)]) == 0
    assert folder.name in capsys.readouterr().out


def nested(depth: int) -> Any:
    return [] if not depth else {"a": [nested(depth - 1)]}


@pytest.mark.parametrize(
    "change",
    [
        {"n": 10**40},
        {"metrics": [{"name": "x", "value": 10**400}]},
        {"metrics": [{"name": "x"}, {"name": "x"}]},
        {"protocol": nested(120)},
        {"rows": {"bytes": -1, "blake2b": "x"}},
        {"headline": ["\ud800|../x\x1b[2J\n"]},
        {"unsupported": "\ud800\n<script>"},
        {"metrics": [{"name": "\ud800${x}", "unit": "\x00", "better": "sideways", "threshold": "\n"}]},
        {"bad_images": {"x": 3}, "fitted_on": -5},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_a_summary_of_any_content_is_shown_or_refused(
    tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path)
    finished(tmp_path, method={"name": "Other", "version": 1})
    write_json(made.folder / SUMMARY, read_json(made.folder / SUMMARY) | change)
    for command in (*READERS, ["report", "--no-images", "--out", str(tmp_path / "page.html")]):
        assert main([*command, "--results", str(tmp_path)]) in (0, 1)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize(
    "change",
    [
        {"method": {"name": "a\nb\x1b", "parameters": nested(120)}},
        {"method": {"name": "M", "parameters": {f"key{k}": "\ud800" for k in range(2000)}}},
        {"evaluator": {"name": "Localization", "version": 1, "parameters": [1, 2]}},
        {"evaluator": {"name": "PxAP", "version": 1, "parameters": {"step": 1e-12}}},
        {"dataset": {"name": "../../x\n", "n": "many"}},
        {"network": {"name": "\ud800", "version": {}}},
        {"channels_last": True},
        {"target": "x" * 100_000},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_an_identity_of_any_content_costs_no_other_result_anything(
    tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    made = finished(tmp_path, seed=1)
    restated(made.folder, lambda identity: identity.update(change))
    for command in (*READERS, ["report", "--no-images", "--out", str(tmp_path / "page.html")]):
        assert main([*command, "--results", str(tmp_path)]) in (0, 1), command
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "60.0" in said.out  # of the other


FRAMES: list[pd.DataFrame] = [
    pd.DataFrame({"image": ["a"], "label": [0]}),
    pd.DataFrame({"label": [0]}),
    rows(6).assign(top5="none"),
    rows(6).assign(iou="high"),
    rows(6).set_index("image"),
]


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_rows_of_any_content_cost_no_other_result_anything(
    tmp_path: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(tmp_path)
    other = finished(tmp_path, method={"name": "Other", "version": 1})
    reseal(made.folder, frame)
    page = tmp_path / "page.html"
    for command in (["table", "--by", "prediction"], ["report", "--no-images", "--out", str(page)]):
        assert main([*command, "--results", str(tmp_path)]) == 0
    assert main(["summarize", "--all", "--results", str(tmp_path)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err
    assert other.complete


def test_a_config_with_aliases_or_of_a_megabyte_is_refused(tmp_path: Path) -> None:
    made = finished(tmp_path)
    laughs = "a: &a [x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True))
    for text in (laughs, "a: " + "x" * 2**20, "a: " + "[" * 200 + "]" * 200, "a: !!python/name:os.system", "- a"):
        write_yaml(made.folder / CONFIG, text)
        stored = read(made.folder)
        assert stored
        with pytest.raises(DamagedError):
            stored.config()


def test_a_stored_config_tells_no_logger_fetches_nothing_and_names_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = {"_target_": "eigencam.running.loggers.TensorBoard", "folder": "/elsewhere"}
    content = {"logger": {"t": logger}, "dataset": {"download": True, "names": ["features.29"]}}
    found = PACKAGED.confined(content, "config.yaml")
    assert found == {"logger": {}, "dataset": {"download": False, "names": ["features.29"]}}
    (tmp_path / "setting.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UntrustedError, match=r"setting\.up"):
        PACKAGED.check({"method": {"m": {"own": "setting.up"}}}, "config.yaml")


def test_a_failed_job_writes_below_the_results_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []
    for k in range(2):
        made = result(tmp_path / "runs", method={"name": f"M{k}", "version": 1})
        text = f"k: {k}\npaths: {{results: /elsewhere, voc: /data}}\nlogger: {{t: {{_target_: os.system}}}}\n"
        made.open(text if k else text.replace("os.system", "eigencam.running.loggers.TensorBoard"), {"packages": {}})
        made.fail(ValueError("why"))
        made.close()
    torn = result(tmp_path / "runs", method={"name": "M1", "version": 1})
    (torn.folder / CONFIG).write_text("torn")
    sweep.retry(tmp_path / "runs", asked.append, lambda error: print(error) or 2, PACKAGED)
    (config,) = asked
    assert config.paths.results == str(tmp_path / "runs")
    assert config.logger == {}
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("node", "refused"),
    [
        ("{dataset: {root: /etc}}", True),
        ("{dataset: {root: ../../etc}}", True),
        ("{model: {weights: /data/../etc/passwd}}", True),
        ("{dataset: {_target_: eigencam.datasets.folder.Folder, root: '~/maps'}}", True),
        ("{dataset: {root: /data/VOC}}", False),
        ("{method: {m: {_target_: own.Method, file: /anywhere}}, dataset: {split: Main/test}}", False),
    ],
)
def test_a_failed_job_reads_where_this_command_line_leads_alone(node: str, refused: bool) -> None:
    content = yaml.safe_load(node)
    if refused:
        with pytest.raises(ValueError, match=r"config\.yaml: .*a path that this command line did not give"):
            check_paths(content, ["/data", "/results"], "config.yaml")
    else:
        check_paths({**content, "paths": {"voc": "/elsewhere"}}, ["/data", "/results"], "config.yaml")


@pytest.mark.full
def test_the_next_run_repairs_every_file_and_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    asked = config(tmp_path, "dataset.count=4", "timing=false", "method=[center_box]", "evaluator=[localization]")
    run(asked, say=lambda _line: None)
    (made,) = read_all(tmp_path)
    kept = {path: path.read_bytes() for name in (IDENTITY, CONFIG, SUMMARY, ROWS) if (path := made.folder / name)}
    for name in (IDENTITY, CONFIG, next((made.folder / RUNS).iterdir()).relative_to(made.folder)):
        (made.folder / name).write_bytes((made.folder / name).read_bytes()[:-3])
    (made.folder / PARTS).mkdir()
    (made.folder / PARTS / "left.parquet").write_text("left by a killed run")
    said: list[str] = []
    run(asked, say=said.append)
    assert len([line for line in said if "set aside" in line]) == 3
    assert {path: path.read_bytes() for path in kept} == kept
    assert not (made.folder / PARTS).exists()
    assert [stored.state for stored in read_all(tmp_path, hashed=True)] == ["done"]
    before = sorted(tmp_path.rglob("*"))
    run(asked, say=said.append)
    assert sorted(tmp_path.rglob("*")) == before


def test_parameters_of_any_size_are_refused() -> None:
    for parameters in ({"threshold": 10**9}, {"threshold": [0.1] * 2_000_000}, {"threshold": 1e-12}):
        with pytest.raises(UntrustedError, match=r"size|allowed"):
            rebuilt({**made_by_hand.IDENTITY["evaluator"], "parameters": parameters}, "evaluator")


@pytest.mark.parametrize("n", [2**60, -1])
def test_the_summary_names_what_is_wrong_with_it(tmp_path: Path, n: int) -> None:
    made = finished(tmp_path)
    write_json(made.folder / SUMMARY, read_json(made.folder / SUMMARY) | {"n": n})
    with pytest.raises(DamagedError, match="n: no number"):
        Summary.read(made.folder / SUMMARY)
