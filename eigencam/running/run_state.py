"""The state of a run: what it computes, what failed, what it cost, and rows in progress."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from eigencam.running.faults import blame
from eigencam.running.prepare import Job
from eigencam.running.row_pool import Made, RowPool, made
from eigencam.running.rows import Key, ScoredBatch
from eigencam.store.records import Result


@dataclass(slots=True)
class Work:
    """What a run computes, and what it learns on the way.

    Attributes:
        bad: images that were left out, by id, with the reason.
        costs: costs of each method in the timed batches, in multiples of a forward pass.
        size: number of images per batch; halved if memory runs out, as is `chunk`.
        images: number of images scored, in `seconds`.
        failed: the reason by result, for results left out because their method or evaluator raised.
        launched: functions that return the maps of batches in flight on the device, with the keys of their results.
        waiting: for the latest batches: number of images, rows in progress, and the images that each result lacks.
    """

    job: Job
    todo: Mapping[Key, Result]
    bad: dict[str, str] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    size: int = 0
    chunk: int = 0
    batches: int = 0
    images: int = 0
    seconds: float = 0.0
    failed: dict[Key, str] = field(default_factory=dict)
    launched: deque[tuple[Callable[[], ScoredBatch], list[Key], dict[Key, set[str]]]] = field(default_factory=deque)
    waiting: deque[tuple[int, Future[Made], dict[Key, set[str]]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.size, self.chunk = self.job.config.batch_size, self.job.config.chunk
        self.costs = {name: [] for name in self.job.methods}

    def alive(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the results that have not failed."""
        return [key for key in keys if key not in self.failed]

    def fail(self, keys: Sequence[Key], error: BaseException) -> None:
        """Record why results are left out; their existing rows stay."""
        for key in keys:
            self.failed[key] = str(error)
            self.todo[key].fail(error)

    def fail_method(self, name: str, error: BaseException, images: Sequence[str]) -> None:
        """Leave out a method that raised. An out-of-memory error is raised again while smaller batches are possible."""
        if isinstance(error, torch.OutOfMemoryError) and not self.size == self.chunk == 1:
            raise error
        keys = self.alive(key for key in self.todo if key[0] == name)
        self.fail(keys, blame(f"method {name}", error, images))

    def fail_evaluator(self, key: Key, error: BaseException, images: Sequence[str]) -> None:
        """Leave out an evaluator of one method that raised; see `fail_method`."""
        if isinstance(error, torch.OutOfMemoryError) and not self.size == self.chunk == 1:
            raise error
        self.fail([key], blame(f"evaluator {key[1]}, of method {key[0]}", error, images))

    def flush(self) -> None:
        """Write the kept rows of every result."""
        for key, result in self.todo.items():
            try:
                result.flush()
            except (OSError, MemoryError):
                raise
            except Exception as error:  # an invalid row
                if key not in self.failed:
                    self.fail_evaluator(key, error, [])

    def hand_on(self, pool: RowPool, limit: int) -> None:
        """Have the pool make the rows of the oldest batches until at most `limit` are in flight."""
        while len(self.launched) > limit:
            scored, wanted, lacking = self.launched.popleft()
            maps = scored()
            future = pool.submit(maps, self.alive(wanted))
            self.waiting.append((len(maps.batch.index), future, lacking))

    def collect(self, limit: int, bar: "tqdm[Any]") -> None:
        """Keep the oldest rows until at most `limit` batches are waiting."""
        while len(self.waiting) > limit:
            wait([self.waiting[0][1]])  # Ctrl-C while waiting loses no batch
            count, future, lacking = self.waiting.popleft()
            rows, faults = made(future)
            for key, found in rows.items():
                self.todo[key].add(row for row in found if row["image"] in lacking[key])
            for key in self.alive(faults):
                self.fail([key], faults[key])
            bar.set_postfix_str("", refresh=False)
            bar.update(count)
            self.images += count
