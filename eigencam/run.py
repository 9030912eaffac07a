"""The run loop: one pass over the pictures serves all methods and all evaluators.

    decode ──► network ──► methods ──► evaluators ──► rows ──► parts on disk ──► rows.parquet, metrics.json

Batches are a fixed grid over the dataset's order, so a run that was killed computes the same batches as one that was
not, and ends in identical rows. A batch is computed when any result lacks one of its pictures, for the methods whose
results lack it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from eigencam.datasets.base import BadImageError
from eigencam.environment import environment, keep_freed_memory
from eigencam.evaluation.base import Row
from eigencam.evaluation.statistics import by_picture
from eigencam.loading import Batch, Pictures, load
from eigencam.loggers import tell
from eigencam.maps import compute_maps
from eigencam.prepare import Job, prepare
from eigencam.records import Result, Shard
from eigencam.rows import Key, Scored, pairs_of, rows_of, score

TIMED_BATCHES = 3
"""In so many batches, from the second on, the time of every method is taken alone."""

EVALUATING = 2
"""Threads that make rows; numpy and numba let them run beside each other and beside the network."""


def run(composed: DictConfig, *, say: Callable[[str], None] = print) -> Job:
    """Check, compute what is missing, summarise. A second run of the same thing computes nothing.

    Args:
        composed: a config of the form of `configs/run.yaml`.
        say: gets the few lines meant for a person.

    Raises:
        ValueError: the config's faults, one a line, before anything is computed.
        BadImageError: with `on_bad_image=fail`.
    """
    keep_freed_memory()
    job = prepare(composed)
    text = OmegaConf.to_yaml(composed, resolve=True)
    seen = f", on {n} of which the classifier was fitted" if (n := len(_fitted_on(job))) else ""
    title = f"{job.network.name} on {job.dataset.name}, {len(job.dataset.ids)} pictures{seen}"
    todo = _to_do(job)
    if job.config.on_bad_image == "fail":
        _refuse_gaps(job)
    shard = Shard.parse(job.config.shard)
    where = environment(str(job.network.device)) | {
        "weights_sha256": job.network.sha256,
        "dataset": job.dataset.identity(),
    }
    with ExitStack() as stack:
        for result in todo.values():
            result.open(text, where, shard)
            stack.callback(result.close)
        todo = _to_do(job)  # again: another run may have completed some before the locks were taken
        for (method, _), result in todo.items():
            if method in job.unsupported:
                result.leave_out(job.unsupported[method])
        todo = {key: result for key, result in todo.items() if key[0] not in job.unsupported}
        for method, reason in job.unsupported.items():
            say(f"{title}: {method} left out: {reason}")
        if not todo:
            say(f"{title}: nothing to compute, {len(job.results)} results are there")
            return job
        work = _Work(job, todo)
        try:
            _compute(work, shard, title, say)
            finished = sum([_finish(work, key, result, say) for key, result in todo.items()])
        except BaseException as error:
            for result in todo.values():
                result.flush()
                if not isinstance(error, KeyboardInterrupt | SystemExit):  # the latter when a scheduler stops the job
                    result.fail(error)
            raise
    there = len(job.results) - len(todo)
    say(f"{title}: {finished} results completed, {there} were there; folder {job.config.paths['results']}")
    if finished < len(todo):
        say(f"  shard {job.config.shard} is done; {len(todo) - finished} results wait for the other shards")
    for reason in work.bad.values():
        say(f"  left out: {reason}")
    return job


def _to_do(job: Job) -> dict[Key, Result]:
    """The results that are not complete, but for those already noted as left out."""
    noted = {key for key, result in job.results.items() if key[0] in job.unsupported and result.summary}
    return {key: result for key, result in job.results.items() if key not in noted and not result.complete}


def _fitted_on(job: Job) -> frozenset[str]:
    """The pictures that the network's classifier was fitted on."""
    return job.network.head.seen(job.dataset) if job.network.head else frozenset()


def _refuse_gaps(job: Job) -> None:
    """ValueError when results that are there were made without some pictures."""
    summaries = [result.summary for result in job.results.values() if result.complete]
    if reasons := {reason for summary in summaries if summary for reason in summary["bad_images"].values()}:
        raise ValueError("\n".join(["results are there without pictures that could not be decoded:", *sorted(reasons)]))


@dataclass(slots=True)
class _Work:
    """What a run computes, and what it finds out on the way.

    Attributes:
        bad: pictures that could not be decoded, by id, with the reason.
        costs: of each method in the timed batches, in multiples of a forward pass.
        size: pictures that go through the network at once; halved where memory runs out, as is `chunk`.
        pictures: how many were scored, in so many seconds.
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

    def __post_init__(self) -> None:
        self.size, self.chunk = self.job.config.batch_size, self.job.config.chunk
        self.costs = {name: [] for name in self.job.methods}


def _compute(work: _Work, shard: Shard, title: str, say: Callable[[str], None]) -> None:
    """Fill the results' rows: the network has one batch while threads make rows of those before."""
    job, todo = work.job, work.todo
    ids, size = job.dataset.ids, job.config.batch_size
    missing = {key: _missing(ids, result.done()) for key, result in todo.items()}
    any_missing = np.any(list(missing.values()), axis=0)
    grid = shard.pick([range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)])
    batches = [list(batch) for batch in grid if any_missing[batch].any()]
    pictures = Pictures(job.dataset, job.network.preprocess)
    loaded = load(pictures, batches, workers=job.config.workers, pin=job.network.device.type == "cuda")
    start = written = time.monotonic()
    waiting: deque[tuple[int, Future[dict[Key, list[Row]]], dict[Key, set[str]]]] = deque()
    with (
        tqdm(total=sum(map(len, grid)), desc=title.split(",")[0], unit="img", mininterval=0.5) as bar,
        ThreadPoolExecutor(EVALUATING) as threads,
    ):
        bar.update(bar.total - sum(map(len, batches)))

        def collect(limit: int) -> None:
            """Take the oldest rows until at most so many batches are waiting."""
            while len(waiting) > limit:
                count, future, lacking = waiting.popleft()
                for key, rows in future.result().items():
                    todo[key].add(row for row in rows if row["image"] in lacking[key])
                bar.set_postfix_str("", refresh=False)
                bar.update(count)
                work.pictures += count

        for batch in loaded:
            _note_bad(work, batch)
            lacking = {key: {ids[i] for i in batch.index if missing[key][i]} for key in todo}
            wanted = [key for key in todo if lacking[key]]
            if timed := _timed(work):
                collect(0)  # nothing else runs beside what is timed
            for scored in _scored(work, batch, wanted, timed, partial(_show, bar), say):
                future = threads.submit(rows_of, job, scored, wanted)
                waiting.append((len(scored.batch.index), future, lacking))
            bar.update(len(batch.bad))
            collect(2 * EVALUATING)
            if time.monotonic() - written > job.config.flush_s:
                for result in todo.values():
                    result.flush()
                written = time.monotonic()
        collect(0)
    work.seconds = time.monotonic() - start
    for result in todo.values():
        result.flush()
        result.succeed()


def _missing(ids: Sequence[str], done: set[str]) -> NDArray[np.bool_]:
    """(n,) bool: the pictures without a row."""
    return np.array([image not in done for image in ids], bool)


def _note_bad(work: _Work, batch: Batch) -> None:
    for i, error in batch.bad.items():
        if work.job.config.on_bad_image == "fail" or not isinstance(error, BadImageError):
            raise error
        image = work.job.dataset.ids[i]
        work.bad[image] = str(error)
        for result in work.todo.values():
            result.add_bad(image, str(error))


def _timed(work: _Work) -> bool:
    """Whether the next batch is timed; the first one warms up, and counts where it is the only one."""
    return work.job.config.timing and work.batches <= TIMED_BATCHES and TIMED_BATCHES > 0


def _scored(
    work: _Work,
    batch: Batch,
    wanted: Sequence[Key],
    timed: bool,
    progress: Callable[[str, int], None],
    say: Callable[[str], None],
) -> Iterator[Scored]:
    """The maps of one batch. Where memory runs out, of half as many pictures at a time, from then on."""
    done, fits = 0, True
    while done < len(batch.index):
        part = batch if work.size >= len(batch.index) else batch.part(done, done + work.size)
        try:
            scored = _through_network(work, part, wanted, timed, progress)
        except torch.OutOfMemoryError:
            if work.size == work.chunk == 1:
                raise
            fits = False
        else:
            if not fits:
                say(f"out of memory; going on with batch_size={work.size} chunk={work.chunk}")
            fits = True
            done += len(part.index)
            yield scored
            continue
        # Only here, behind the handler, the failed pass is no longer referred to.
        work.size, work.chunk = max(1, min(work.size, len(part.index)) // 2), max(1, work.chunk // 2)
        if work.job.network.device.type == "cuda":
            torch.cuda.empty_cache()
    work.batches += bool(batch.index)


def _through_network(
    work: _Work, batch: Batch, wanted: Sequence[Key], timed: bool, progress: Callable[[str, int], None]
) -> Scored:
    """One forward pass, every wanted method's maps, and what evaluators ask the network."""
    job = work.job
    methods = {name: method for name, method in job.methods.items() if any(m == name for m, _ in wanted)}
    pairs = pairs_of(job, batch)
    by_label = job.comparable and job.config.target != "predicted"
    found = compute_maps(
        job.network,
        methods,
        batch.pictures,
        labels=[max(label, 0) for _, label in pairs] if by_label else None,
        rows=[n for n, _ in pairs],
        index=batch.index,
        ids=[truth.image_id for truth in batch.truths],
        original=lru_cache(lambda n: job.dataset.image(batch.index[n])),
        regions=batch.regions,
        chunk=work.chunk,
        progress=progress,
        clock=timed,
    )
    scored = score(job, batch, pairs, found, wanted, progress)
    if timed:
        for name in methods:
            work.costs[name].append(1 + found.seconds[name] / found.seconds[""])
    return scored


def _show(bar: "tqdm[Any]", method: str, count: int) -> None:
    """Count the inputs of a method's own passes beside the bar."""
    name, _, before = (bar.postfix or "").partition(": ")
    total = count + (int(before.split()[0]) if name == method else 0)
    bar.set_postfix_str(f"{method}: {total} inputs", refresh=False)
    if time.time() - bar.last_print_t > bar.mininterval:
        bar.refresh()
        bar.last_print_t = time.time()


def _finish(work: _Work, key: Key, result: Result, say: Callable[[str], None]) -> bool:
    """Sum a result up once all pictures are done, by this process or another; whether they are."""
    job, costs = work.job, work.costs[key[0]]
    measured: dict[str, float] = {"seconds": round(work.seconds, 2), "pictures": work.pictures}
    if taken := costs[1:] or costs:
        measured |= {"cost": float(np.median(taken)), "batches": len(taken)}
    result.measured(measured)
    with result.finishing():
        if result.complete:
            return True
        there, noted = result.done(), result.bad()
        bad = {image: noted[image] for image in job.dataset.ids if image in noted and image not in there}
        order = {image: k for k, image in enumerate(i for i in job.dataset.ids if i not in bad)}
        if not order.keys() <= there:
            return False
        rows = result.rows()
        rows = rows.assign(order=rows["image"].map(order)).dropna(subset="order")
        rows = rows.sort_values(["order", "label"], kind="stable", ignore_index=True).drop(columns="order")
        rows = rows.drop_duplicates(["image", "label"], ignore_index=True)
        evaluator = job.evaluators[key[1]]
        summary = {
            "n": len(order),
            "bad_images": bad,
            "target": job.config.target,
            "protocol": dict(evaluator.protocol()),
            "headline": list(getattr(evaluator, "headline", ())),
        }
        if seen := len(_fitted_on(job) & order.keys()):
            summary["fitted_on"] = seen
        metrics = by_picture(evaluator.summary(rows), rows) if len(rows) else []
        result.finish(rows, summary, metrics)
    tell(job.loggers, result, metrics, say)
    return True
