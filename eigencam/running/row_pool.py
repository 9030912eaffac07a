"""The threads or processes that make the rows of a batch while the network computes the next one.

Threads share one interpreter, and most evaluators spend half of their time in it: on two cores, two threads make 1.5
times as many rows as one, two processes 1.95 times (`scripts/benchmark_scaling.py`). A network on the CPU needs the
cores itself, so threads are enough there; a GPU waits for the rows.
"""

import os
import pickle
import signal
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods, get_context
from typing import Any, Literal

import cv2
import torch

from eigencam.evaluation.base import Row
from eigencam.running.faults import KilledError, PartError, blame
from eigencam.running.loading import die_with_parent
from eigencam.running.prepare import Job
from eigencam.running.rows import Key, ScoredBatch, rows_of
from eigencam.store.environment import cores

Made = tuple[dict[Key, list[Row]], dict[Key, PartError]]
"""The rows of a batch by result, and the errors."""

_JOBS: list[Job] = []
"""In a process of the pool: the run's job, inherited by the fork."""


@dataclass(frozen=True, slots=True)
class RowPool:
    """Makes rows in other threads or processes; `size` is their number."""

    job: Job
    executor: Executor
    size: int

    @classmethod
    def of(cls, job: Job) -> "RowPool":
        """Return the pool that the run's key `rows_in` asks for."""
        ours = all(type(one).__module__.split(".")[0] == "eigencam" for one in job.evaluators.values())
        if kind_of(job.config.rows_in, job.network.device.type, ours) == "threads":
            return cls(job, ThreadPoolExecutor(size := max(2, cores())), size)
        pool = ProcessPoolExecutor(size := cores(), get_context("fork"), _begin, (job, os.getpid()))
        try:
            pool.submit(os.getpid)  # all start now, before the network has made threads of its own
        except BaseException:  # the system allows no more processes, or Ctrl-C
            _kill(pool)
            raise
        return cls(job, pool, size)

    def submit(self, scored: ScoredBatch, wanted: Sequence[Key]) -> "Future[Made]":
        """Make the rows of a batch for some results; `made` waits for them."""
        if not isinstance(self.executor, ProcessPoolExecutor):
            return self.executor.submit(rows_of, self.job, scored, wanted)
        batch = replace(scored.batch, images=torch.empty(0), bad={})
        try:
            packed = pickle.dumps((replace(scored, batch=batch), wanted), pickle.HIGHEST_PROTOCOL)
        except Exception:  # an object of a user's dataset or evaluator that cannot be pickled
            here: Future[Made] = Future()
            here.set_result(rows_of(self.job, scored, wanted))
            return here
        try:
            future: Future[Any] = self.executor.submit(_rows, packed)
        except BrokenProcessPool as error:  # one was killed while it had nothing to do
            raise KilledError from error
        future.add_done_callback(self._kill_if_broken)
        return future

    def __enter__(self) -> "RowPool":
        self.executor.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if getattr(self.executor, "_broken", False):
            _kill(self.executor)
        self.executor.shutdown()

    def _kill_if_broken(self, future: "Future[Any]") -> None:
        if not future.cancelled() and isinstance(future.exception(), BrokenProcessPool):
            _kill(self.executor)


def kind_of(rows_in: str, device: str, ours: bool) -> Literal["threads", "processes"]:
    """Return what a value of `rows_in` stands for.

    Args:
        rows_in: the run's key.
        device: type of the network's device.
        ours: whether all evaluators are this package's. One of your own may keep something from row to row, which a
            process would not share.
    """
    if rows_in == "auto":
        can = ours and cores() > 2 and "fork" in get_all_start_methods()
        return "processes" if device == "cuda" and can else "threads"
    return "processes" if rows_in == "processes" else "threads"


def _kill(executor: Executor) -> None:
    """End the processes of a pool, which ignore the signal that the executor sends them."""
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.kill()


def made(future: "Future[Any]") -> Made:
    """Wait for the rows of a batch."""
    try:
        found = future.result()
    except BrokenProcessPool as error:
        raise KilledError from error
    return pickle.loads(found) if isinstance(found, bytes) else found


def _begin(job: Job, parent: int) -> None:
    """Set up a process of the pool."""
    die_with_parent(0)
    if os.getppid() != parent:
        os._exit(1)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT"):  # the run alone stops or is requeued
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _JOBS[:] = [job]


def _rows(packed: bytes) -> bytes:
    """`rows_of` in a process of the pool."""
    scored, wanted = pickle.loads(packed)
    rows, faults = rows_of(_JOBS[0], scored, wanted)
    for fault in faults.values():
        fault.add_note("".join(traceback.format_exception(fault.__cause__)))  # the cause itself stays here
    return _packed(rows, faults)


def _packed(rows: Mapping[Key, list[Row]], faults: Mapping[Key, PartError]) -> bytes:
    """Both as bytes; rows of an evaluator that cannot be pickled are replaced by an error."""
    try:
        return pickle.dumps((rows, faults), pickle.HIGHEST_PROTOCOL)
    except Exception:
        kept, named = dict(rows), dict(faults)
        for key, found in rows.items():
            try:
                pickle.dumps(found)
            except Exception as error:
                named[key] = blame(f"evaluator {key[1]}, of method {key[0]}", error, [])
                del kept[key]
        return pickle.dumps((kept, named), pickle.HIGHEST_PROTOCOL)
