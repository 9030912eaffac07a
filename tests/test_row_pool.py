"""Rows made in processes are those made in threads, and so are the errors."""

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config, tables

from eigencam.running import row_pool
from eigencam.running.faults import KilledError, PartlyFailedError
from eigencam.running.loading import Batch
from eigencam.running.prepare import prepare
from eigencam.running.rows import ScoredBatch
from eigencam.running.run import run

SMALL = ["dataset.count=8", "batch_size=4", "timing=false", "method=[eigencam,gradcam]"]
MINE = """import os, signal, threading
from eigencam.evaluation.localization import Localization


class Raises(Localization):
    def row(self, score_map, truth):
        return {"lock": 1 / 0}


class Unwritable(Localization):
    def row(self, score_map, truth):
        return {**super().row(score_map, truth), "lock": threading.Lock()}


class Killed(Localization):
    def row(self, score_map, truth):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Localization):
    def row(self, score_map, truth):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return {**super().row(score_map, truth), "pid": os.getpid()}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Evaluators of one's own that go wrong."""
    (tmp_path / "odd_rows.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("odd_rows")
    del sys.modules["odd_rows"]


def own(name: str) -> str:
    return f"+evaluator.mine={{_target_:odd_rows.{name}}}"


def test_rows_of_processes_are_those_of_threads(tmp_path: Path) -> None:
    evaluators = "evaluator=[localization,segmentation,maxboxacc,insertion_deletion,class_segmentation]"
    options = [*SMALL, "target=each", evaluators]
    for kind in ("threads", "processes"):
        run(config(tmp_path / kind, *options, f"rows_in={kind}"))
    assert tables(tmp_path / "threads") == tables(tmp_path / "processes")


def test_each_process_makes_rows_through_the_schedulers_signal(tmp_path: Path, mine: Any) -> None:
    job = run(config(tmp_path / "a", *SMALL, "evaluator=[]", own("Slow"), "rows_in=processes"))
    (found,) = {frozenset(result.rows()["pid"]) for result in job.results.values()}
    assert os.getpid() not in found


@pytest.mark.parametrize("name", ["Raises", "Unwritable"])
def test_an_evaluator_that_fails_is_named_and_the_others_go_on(tmp_path: Path, mine: Any, name: str) -> None:
    said = []
    for kind in ("threads", "processes"):
        with pytest.raises(PartlyFailedError) as error:
            run(config(tmp_path / kind, *SMALL, "evaluator=[localization]", own(name), f"rows_in={kind}"))
        said.append(str(error.value))
        assert len(tables(tmp_path / kind)) == 2
    if name == "Raises":
        assert said[0] == said[1]
        folder = next((tmp_path / "processes").glob("*mine*"))
        assert "ZeroDivisionError" in json.loads((folder / "error.json").read_text())["traceback"]
    assert all("evaluator mine, of method eigencam" in text for text in said)


def test_a_process_that_is_killed_is_said_and_the_run_continues_later(tmp_path: Path, mine: Any) -> None:
    options = [*SMALL, "evaluator=[localization]"]
    with pytest.raises(KilledError, match="a process that makes rows was killed") as error:
        run(config(tmp_path / "a", *options, own("Killed"), "rows_in=processes"))
    assert error.value.status == 1
    run(config(tmp_path / "a", *options))
    assert len(tables(tmp_path / "a")) == 2


def test_what_cannot_be_sent_is_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise TypeError("cannot pickle")

    monkeypatch.setattr(row_pool.pickle, "dumps", refuse)
    run(config(tmp_path / "a", *SMALL, "evaluator=[localization]", "rows_in=processes"))
    monkeypatch.undo()
    run(config(tmp_path / "b", *SMALL, "evaluator=[localization]", "rows_in=threads"))
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


@pytest.mark.parametrize(
    ("rows_in", "device", "cores", "ours", "kind"),
    [
        ("auto", "cpu", 16, True, "threads"),
        ("auto", "cuda", 16, True, "processes"),
        ("auto", "cuda", 16, False, "threads"),
        ("auto", "cuda", 2, True, "threads"),
        ("processes", "cpu", 2, False, "processes"),
        ("threads", "cuda", 16, True, "threads"),
    ],
)
def test_a_gpu_gets_processes(
    monkeypatch: pytest.MonkeyPatch, rows_in: str, device: str, cores: int, ours: bool, kind: str
) -> None:
    monkeypatch.setattr(row_pool, "cores", lambda: cores)
    assert row_pool.kind_of(rows_in, device, ours) == kind


def test_a_process_killed_while_it_waits_is_said(tmp_path: Path) -> None:
    nothing = ScoredBatch(Batch([], torch.empty(0), [], [], {}), [], [], [], {}, {}, [], [], [], {})
    with row_pool.RowPool.of(prepare(config(tmp_path, *SMALL, "rows_in=processes"))) as pool:
        row_pool._kill(pool.executor)

        def several() -> None:
            for _ in range(1000):
                row_pool.made(pool.submit(nothing, []))

        with pytest.raises(KilledError):
            several()
    assert not active_children()


def test_a_pool_that_cannot_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, made = os.fork, list[int]()

    def first_alone() -> int:
        if made:
            raise BlockingIOError("Resource temporarily unavailable")
        made.append(fork())
        return made[0]

    job = prepare(config(tmp_path, *SMALL, "rows_in=processes"))
    monkeypatch.setattr(row_pool, "cores", lambda: 2)
    monkeypatch.setattr(os, "fork", first_alone)
    with pytest.raises(BlockingIOError):
        row_pool.RowPool.of(job)
    assert made
    for process in active_children():
        process.join(5)
    assert not active_children()
