"""What a run computes and what it finds out on the way: what failed, what it cost, which rows are in the making."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from eigencam.evaluation.base import Row
from eigencam.running.faults import PartError, blame
from eigencam.running.prepare import Job
from eigencam.running.rows import Key, Scored, rows_of
from eigencam.store.records import Result

Made = tuple[dict[Key, list[Row]], dict[Key, PartError]]
"""The rows of a batch by result, and what raised."""


@dataclass(slots=True)
class Work:
    """What a run computes, and what it finds out on the way.

    Attributes:
        bad: images that could not be decoded, by id, with the reason.
        costs: of each method in the timed batches, in multiples of a forward pass.
        size: images that go through the network at once; halved where memory runs out, as is `chunk`.
        pictures: how many were scored, in so many seconds.
        failed: why results are left out from then on: their method or evaluator raised.
        launched: what gives the maps of batches that the device may be at work on, and the results that they are for.
        waiting: number of images, rows in the making, and the images that each result lacks, of the latest batches.
    """

    job: Job
    todo: Mapping[Key, Result]
    bad: dict[str, str] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    size: int = 0
    chunk: int = 0
    batches: int = 0
    pictures: int = 0
    seconds: float = 0.0
    failed: dict[Key, str] = field(default_factory=dict)
    launched: deque[tuple[Callable[[], Scored], list[Key], dict[Key, set[str]]]] = field(default_factory=deque)
    waiting: deque[tuple[int, Future[Made], dict[Key, set[str]]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.size, self.chunk = self.job.config.batch_size, self.job.config.chunk
        self.costs = {name: [] for name in self.job.methods}

    def alive(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the results that have not failed."""
        return [key for key in keys if key not in self.failed]

    def fail(self, keys: Sequence[Key], error: BaseException) -> None:
        """Note why results are left out; what is kept of them stays."""
        for key in keys:
            self.failed[key] = str(error)
            self.todo[key].fail(error)

    def fail_method(self, name: str, error: Exception, images: Sequence[str]) -> None:
        """Leave a method out that raised. Where smaller batches may fit into the memory, the error passes through."""
        if isinstance(error, torch.OutOfMemoryError) and not self.size == self.chunk == 1:
            raise error
        keys = self.alive(key for key in self.todo if key[0] == name)
        self.fail(keys, blame(f"method {name}", error, images))

    def fail_evaluator(self, key: Key, error: Exception, images: Sequence[str]) -> None:
        """Leave an evaluator of one method out that raised; see `fail_method`."""
        if isinstance(error, torch.OutOfMemoryError) and not self.size == self.chunk == 1:
            raise error
        self.fail([key], blame(f"evaluator {key[1]}, of method {key[0]}", error, images))

    def flush(self) -> None:
        """Write what is kept of every result."""
        for key, result in self.todo.items():
            try:
                result.flush()
            except (OSError, MemoryError):
                raise
            except Exception as error:  # a row that is no row
                if key not in self.failed:
                    self.fail_evaluator(key, error, [])

    def hand_on(self, threads: Executor, limit: int) -> None:
        """Have threads make the rows of the oldest batches until at most so many are in flight."""
        while len(self.launched) > limit:
            scored, wanted, lacking = self.launched.popleft()
            made = scored()
            future = threads.submit(rows_of, self.job, made, self.alive(wanted))
            self.waiting.append((len(made.batch.index), future, lacking))

    def collect(self, limit: int, bar: "tqdm[Any]") -> None:
        """Keep the oldest rows until at most so many batches are waiting."""
        while len(self.waiting) > limit:
            count, future, lacking = self.waiting.popleft()
            rows, faults = future.result()
            for key, made in rows.items():
                self.todo[key].add(row for row in made if row["image"] in lacking[key])
            for key in self.alive(faults):
                self.fail([key], faults[key])
            bar.set_postfix_str("", refresh=False)
            bar.update(count)
            self.pictures += count
