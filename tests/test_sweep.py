"""Sweeps: their jobs, launchers, finished and missing results, and the retry of failed jobs."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from stored import rows_of
from submitit.core.utils import UncompletedJobError
from submitit.slurm.slurm import SlurmJob

from eigencam.commands.main import main
from eigencam.commands.status import duration, planned, states
from eigencam.running import sweep
from eigencam.running.faults import PartlyFailedError
from eigencam.running.launcher_callbacks import Tidy, WatchQueue
from eigencam.running.run import run
from eigencam.store.locks import take
from eigencam.store.parts import Parts
from eigencam.store.seal import read_json, write_json

ONE = "evaluator=[localization]"
SMALL = ["dataset.count=6", "batch_size=2", "workers=0", "device=cpu", "method=[eigencam,random]", ONE]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", list(overrides))


def call(*argv: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "eigencam", *argv]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def same_results(one: Path, other: Path) -> None:
    names = sorted(path.parent.name for path in one.glob("*/metrics.json"))
    assert names
    assert names == sorted(path.parent.name for path in other.glob("*/metrics.json"))
    for name in names:
        left, right = (pd.read_parquet(root / name / "rows.parquet") for root in (one, other))
        pd.testing.assert_frame_equal(left, right)
        assert (one / name / "metrics.json").read_text() == (other / name / "metrics.json").read_text()


def test_the_jobs_of_a_command_are_those_that_hydra_would_start() -> None:
    models = [(config.model.name, config.dataset.count) for _, config in sweep.jobs(["experiment=demo"])]
    assert models == [("scenes_vgg", 240), ("scenes_resnet", 240)]
    found = dict(
        sweep.jobs(["experiment=demo", "model=scenes_vgg", "dataset.count=3,4", "launcher=slurm", "shard=1/2,2/2"])
    )
    assert [(c.model.name, c.dataset.count, c.shard) for c in found.values()] == [
        ("scenes_vgg", 3, "1/1"),
        ("scenes_vgg", 4, "1/1"),
    ]
    assert next(iter(found)) == "model=scenes_vgg experiment=demo dataset.count=3"


def test_status_of_an_experiment_tells_done_missing_left_out_and_refused(tmp_path: Path) -> None:
    run(composed(*SMALL, f"paths.results={tmp_path}", "model=scenes_vgg"))
    settings = [*SMALL[:4], ONE, "method=[eigencam,random,cam]", "on_unsupported=skip"]
    frame = planned([*settings, "model=scenes_vgg,scenes_resnet"], tmp_path)
    got = {(line.network, line.method): line.state for line in frame.itertuples()}
    assert got == {
        ("scenes_vgg", "eigencam"): "done",
        ("scenes_vgg", "random"): "done",
        ("scenes_vgg", "cam"): "left out",
        ("scenes_resnet", "eigencam"): "missing",
        ("scenes_resnet", "random"): "missing",
        ("scenes_resnet", "cam"): "missing",
    }
    missing = frame[frame["state"] == "missing"]
    assert (missing["pictures"] == 6).all()
    session = json.loads(next(tmp_path.glob("*eigencam*/runs/*.json")).read_text())
    assert session["images"] == 6
    assert missing["left_s"].to_list() == pytest.approx([session["seconds"]] * 3, rel=0.2)
    refused = planned([*settings, "model=scenes_vgg", "model.weights=none.safetensors"], tmp_path)
    assert list(refused["state"]) == ["refused"]
    assert "none.safetensors: no such file" in refused["error"].item()


def test_a_result_whose_lock_is_held_is_running_with_the_time_left(tmp_path: Path) -> None:
    run(composed(*SMALL, f"paths.results={tmp_path}"))
    folder = next(tmp_path.glob("*eigencam*"))
    rows = rows_of(folder)
    (folder / "metrics.json").unlink()
    Parts(folder / "parts", folder.name.rsplit("-", 1)[-1]).write(rows[:4])
    (run_file,) = folder.glob("runs/*.json")
    started = datetime.fromtimestamp(time.time() - 20, UTC).isoformat()
    write_json(run_file, read_json(run_file) | {"started": started, "rows_before": 2})
    with take(folder / ".lock-2of4"):
        frame = states(tmp_path).set_index("method")
    line = frame.loc["eigencam"].to_dict()
    assert [line[key] for key in ("state", "rows", "pictures")] == ["running", 4, 6]
    assert line["left_s"] == pytest.approx(20, rel=0.2)  # two rows in 20 seconds, two to come
    assert states(tmp_path).set_index("method")["state"].to_dict() == {"eigencam": "partial", "random": "done"}


def test_the_command_prints_counts_errors_and_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(composed(*SMALL, f"paths.results={tmp_path}"))
    assert main(["status", *SMALL, "model=scenes_resnet,scenes_vgg", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "missing" in out
    assert "time left, one job after another: " in out
    assert main(["status", "experiment=nothing", "--results", str(tmp_path)]) == 2
    assert "experiment is one of:" in (printed := capsys.readouterr().err)
    assert "paper/cam2016" in printed


def test_durations() -> None:
    assert [duration(s) for s in (float("nan"), 0.4, 59.4, 61, 7260)] == ["", "0 s", "59 s", "1 min", "2 h 1 min"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--retry-failed", "--results", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.count=many", "dataset.count=many; allowed: an integer"),
        ("dataset.count=0", "dataset: scenes need count >= 1 and seed >= 0, not count=0, seed=0"),
        ("shard=5/4", "shard=5/4; allowed: 1/1, or k/n with 1 <= k <= n, as 3/16"),
    ],
)
def test_a_fault_is_told_in_one_line(override: str, message: str, tmp_path: Path) -> None:
    done = call("run", override, f"paths.results={tmp_path}")
    assert (done.returncode, done.stderr) == (2, f"eigencam: {message}\n")


@pytest.mark.full
def test_failed_jobs_run_once_more_and_one_that_fails_again_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flaky_methods.py").write_text(
        "from pathlib import Path\n"
        "class Flaky:\n"
        "    needs_gradient = class_specific = False\n"
        "    def __init__(self, marker=''): self.marker = marker\n"
        "    def __call__(self, forward, targets):\n"
        "        if not Path(self.marker).is_file(): raise RuntimeError('no marker')\n"
        "        return forward.activations().sum(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    results = tmp_path / "results"
    for k in (1, 2):
        method = f"+method.flaky={{_target_: flaky_methods.Flaky, marker: '{tmp_path}/marker{k}'}}"
        with pytest.raises(PartlyFailedError, match="no marker"):
            run(composed(*SMALL[:4], ONE, "method=[random]", method, f"paths.results={results}"))
    assert len(sweep.failed(results)) == 2
    (tmp_path / "marker2").touch()
    assert main(["run", "--retry-failed", "--results", str(results)]) == 2
    assert "flaky_methods.Flaky is not trusted; --trust flaky_methods" in capsys.readouterr().err
    assert main(["run", "--retry-failed", "--results", str(results), "--trust", "flaky_methods"]) == 1
    printed = capsys.readouterr()
    assert "2 failed jobs" in printed.out
    assert "no marker" in printed.err
    assert len(sweep.failed(results)) == 1
    (tmp_path / "marker1").touch()
    assert main(["run", "--retry-failed", "--results", str(results), "--trust", "flaky_methods"]) == 0
    assert set(states(results)["state"]) == {"done"}


@pytest.mark.full
@pytest.mark.parametrize("launcher", ["local", "joblib"])
def test_launchers_give_the_results_of_a_plain_run(launcher: str, tmp_path: Path) -> None:
    shards = "shard=1/3,2/3,3/3" if launcher == "local" else "shard=1/1"
    model = "model=scenes_vgg" if launcher == "local" else "model=scenes_vgg,scenes_resnet"
    settings = [item for item in SMALL if launcher == "local" or not item.startswith("device")]  # joblib: device=free
    swept = call("run", "-m", f"launcher={launcher}", *settings, model, shards, f"paths.results={tmp_path / 'swept'}")
    assert swept.returncode == 0, swept.stderr
    for name in model.removeprefix("model=").split(","):
        run(composed(*SMALL, f"model={name}", f"paths.results={tmp_path / 'plain'}"))
    same_results(tmp_path / "plain", tmp_path / "swept")
    left = [path for path in (tmp_path / "swept/.hydra").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".yaml", ".out", ".err"}


@pytest.mark.parametrize("accounting", [False, True])
def test_a_killed_job_of_slurm_is_seen_in_the_queue_where_there_is_no_accounting(
    accounting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = tmp_path / "queue"
    programs = {"squeue": f"cat {queue}", "sacct": f"exit {0 if accounting else 1}"}
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = SlurmJob.watcher
    monkeypatch.setattr(SlurmJob, "watcher", before)  # put back afterwards
    WatchQueue().on_multirun_start(composed())
    assert (SlurmJob.watcher is before) == accounting
    if accounting:
        return
    jobs = [SlurmJob[None](tmp_path, f"7_{k}") for k in range(3)]
    queue.write_text("7_0|RUNNING|node\n7_1|PENDING|\n7_2|COMPLETING|node\n")
    assert [job.done(force_check=True) for job in jobs] == [False] * 3
    time.sleep(0.01)  # submitit polls every millisecond
    queue.write_text("7_0|RUNNING|node\n7_1|PENDING|\n")
    assert [job.done(force_check=True) for job in jobs] == [False, False, True]


def test_few_files_of_jobs_that_ended_well_stay(tmp_path: Path) -> None:
    ended = (
        "a on b: 0 results completed, 2 were there",
        "2 results completed",
        "a on b: nothing to compute, 2 are there",
    )
    for job, line in ((f"7_{k}", line) for k, line in enumerate(ended)):
        folder = tmp_path / ".submitit" / job
        folder.mkdir(parents=True)
        for name in ("submitted.pkl", "0_result.pkl", "submission.sh"):
            (folder / f"{job}_{name}").write_text("x")
        (folder / f"{job}_0_log.out").write_text(f"{line}\n")
        (folder / f"{job}_0_log.err").write_text("warned\n" if job == "7_0" else "")
    there = {"hydra": {"launcher": {"submitit_folder": f"{tmp_path}/.submitit/%j"}}}
    Tidy().on_multirun_end(OmegaConf.create(there))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["7_1_0_log.out"]
    assert not (tmp_path / ".submitit/7_0").exists()


@pytest.mark.full
def test_a_killed_job_of_slurm_is_told_in_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise UncompletedJobError("Job 7_1 (task: 0)\nhas not produced any output\nError stream produced:\n...")

    monkeypatch.setattr("eigencam.running.run.run", killed)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert main(["run", f"paths.results={tmp_path}"]) == 1
    *_, told, then = capsys.readouterr().err.splitlines()  # Hydra names the overrides before them
    assert told == "eigencam: Job 7_1 (task: 0) has not produced any output"
    assert "run the command again for what is missing" in then


@pytest.mark.full
def test_a_failed_job_of_a_sweep_does_not_stop_the_others(tmp_path: Path) -> None:
    settings = [*SMALL, "model=scenes_vgg", "dataset.count=-1,4", f"paths.results={tmp_path}"]
    done = call("run", "-m", *settings)
    assert done.returncode == 2
    assert "count" in done.stderr
    assert set(states(tmp_path)["state"]) == {"done"}


def test_each_job_holds_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = [SimpleNamespace(uuid=f"test-{os.getpid()}-{k}") for k in range(2)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", names.__getitem__)

    def third() -> str:
        with sweep.free_gpu() as device:
            return device

    with ThreadPoolExecutor(1) as threads, sweep.free_gpu() as one:
        with sweep.free_gpu() as other:
            assert (one, other) == ("cuda:0", "cuda:1")
            waiting = threads.submit(third)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        assert waiting.result(timeout=20) == "cuda:1"


def test_without_a_gpu_the_processor_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with sweep.free_gpu() as device:
        assert device == "cpu"
