"""The run loop: one pass over the images serves all methods and all evaluators.

    decode ──► network ──► methods ──► evaluators ──► rows ──► parts on disk ──► rows.parquet, metrics.json

Batches are a fixed grid over the dataset's order, so a killed run computes the same batches as an uninterrupted one
and ends in identical rows. A batch is computed if any result lacks one of its images, and only for the methods whose
results lack it.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from eigencam.files import first_line, one_line, unique_name
from eigencam.methods.base import caveat_of, is_baseline
from eigencam.running.accuracy import accuracy_line
from eigencam.running.bad_images import note_bad, refuse_changed, refuse_gaps
from eigencam.running.batch_pass import is_timed, scored_batch
from eigencam.running.faults import PartlyFailedError
from eigencam.running.loading import InputImages, load
from eigencam.running.loggers import tell
from eigencam.running.prepare import Job, prepare
from eigencam.running.row_pool import RowPool
from eigencam.running.rows import Key
from eigencam.running.run_state import Work
from eigencam.store.canonical import plain
from eigencam.store.environment import environment, keep_freed_memory
from eigencam.store.finish import Plan
from eigencam.store.image_digests import KnownDigests, known_images
from eigencam.store.image_positions import Positions
from eigencam.store.locks import HeldError
from eigencam.store.merge import merge
from eigencam.store.records import Result
from eigencam.store.schema import SUMMARY
from eigencam.store.shards import Shard
from eigencam.store.summing import summed_up

FLUSHES = 50
"""Least time between two writes of finished rows, in multiples of the time of one (0.3 s for 55 results)."""

LONGEST = 600.0
"""Seconds after which they are written in any case."""

IN_FLIGHT = 1
"""Number of batches that a GPU may be computing while the host decodes, copies and launches the next one."""


def run(composed: DictConfig, *, say: Callable[[str], None] = print) -> Job:
    """Check, compute what is missing, summarise. A second run of the same config computes nothing.

    Args:
        composed: a config of the form of `configs/run.yaml`.
        say: prints the few lines that are meant for the user.

    Raises:
        ValueError: the config's faults, one per line, before anything is computed.
        BadImageError: with `on_bad_image=fail`.
        BadTruthError: with `on_bad_truth=fail`, or if all truths are invalid.
        PartlyFailedError: a method or evaluator raised. Its results are left out, the others are complete.
    """
    keep_freed_memory()
    job = prepare(composed)
    if job.config.own_folder:
        _move_to_own_folder(job, say)
    text = OmegaConf.to_yaml(composed, resolve=True)
    seen = job.network.head.seen(job.dataset) if job.network.head else frozenset[str]()
    fitted = f", on {len(seen)} of which the classifier was fitted" if seen else ""
    title = f"{job.network.label} on {job.dataset.name}, {len(job.dataset.ids)} images{fitted}"
    refuse_gaps(job)
    shard = Shard.parse(job.config.shard)
    where = environment(str(job.network.device)) | {
        "weights_sha256": job.network.sha256,
        "dataset": next(iter(job.results.values())).identity["dataset"],
    }
    _mend(job, text, where, shard, say)
    for result in job.results.values():
        try:
            result.sum_up_again(job.evaluators[result.names[-1]])
        except Exception as error:  # a read-only folder, or rows that the evaluator cannot read
            say(f"  {result.folder}: not summarised again: {first_line(error)}")
    todo = _to_do(job)
    plan = Plan.of(job.dataset.ids, seen)
    with ExitStack() as stack:
        for (method, _), result in todo.items():
            known = replace(plan, baseline=is_baseline(job.methods[method]), caveat=caveat_of(job.methods[method]))
            result.open(text, where, shard, known)
            stack.callback(result.close)
        todo = _to_do(job)  # once more: another run may have completed some before the locks were taken
        for (method, _), result in todo.items():
            if method in job.unsupported:
                result.leave_out(job.unsupported[method])
        todo = {key: result for key, result in todo.items() if key[0] not in job.unsupported}
        for method, reason in job.unsupported.items():
            say(f"{title}: {method} left out: {reason}")
        if not todo:
            say(f"{title}: nothing to compute, {len(job.results)} results are there")
            return job
        work = Work(job, todo)
        try:
            _compute(work, shard, plan.positions, title, say)
            finished = sum([_finish(work, key, result, say) for key, result in todo.items()])
        except BaseException as error:
            with suppress(OSError):  # a full disk: the first error says it already
                work.flush()
                if not isinstance(error, KeyboardInterrupt | SystemExit):  # the latter when a scheduler stops the job
                    work.fail(work.alive(todo), error)
            raise
    _report(work, title, finished, say)
    return job


def _move_to_own_folder(job: Job, say: Callable[[str], None]) -> None:
    """Write the results to a folder of this process's own; rows left by other processes are copied into it."""
    common = next(iter(job.results.values())).root
    own = common / f"{unique_name()}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    job.results = {key: replace(result, root=own, alone=True) for key, result in job.results.items()}
    names = {result.folder.name for result in job.results.values()}
    folders = [common, *common.iterdir()] if common.is_dir() else []
    others = [folder for folder in folders if folder.is_dir() and any((folder / name).is_dir() for name in names)]
    for line in merge(others, own, only=names).faults:
        say(f"  {line}")
    say(f"results go to {own}; `eigencam merge {common}/*/ --into DIR` puts those of all processes together")


def _report(work: Work, title: str, finished: int, say: Callable[[str], None]) -> None:
    """Print the outcome. Raises PartlyFailedError if some results failed."""
    job, todo = work.job, work.todo
    complete = len(job.results) - len(todo)
    folder = next(iter(job.results.values())).root
    say(f"{title}: {finished} results completed, {complete} were there; folder {folder}")
    if waiting := len(todo) - finished - len(work.failed):
        say(f"  shard {job.config.shard} is done; {waiting} results wait for the other shards")
    for line in dict.fromkeys(line for result in todo.values() for line in result.repaired):
        say(f"  {line}")
    for reason in work.bad.values():
        say(f"  left out: {reason}")
    if line := accuracy_line(job):
        say(f"  {line}")
    if work.failed:
        reasons = dict.fromkeys(work.failed.values())
        raise PartlyFailedError("\n".join([f"{title}: {len(work.failed)} results failed", *reasons]))


def _to_do(job: Job) -> dict[Key, Result]:
    """The results that are not complete, except those already recorded as left out."""
    noted = {key for key, result in job.results.items() if key[0] in job.unsupported and result.summary}
    return {key: result for key, result in job.results.items() if key not in noted and not result.complete}


def _mend(job: Job, config: str, where: Mapping[str, Any], shard: Shard, say: Callable[[str], None]) -> None:
    """Set aside damaged files of complete results, and remove what a killed process left there."""
    for result in job.results.values():
        if not (result.folder / SUMMARY).exists() or result.whole:
            continue
        try:
            result.open(config, where, shard)
        except HeldError:  # the process that writes it has just finished it
            continue
        except OSError as error:  # somebody else's folder: undamaged files can still be read
            say(f"  {one_line(error)}")
            continue
        result.close()
        for line in result.repaired:
            say(f"  {line}")
        result.repaired.clear()


def _compute(work: Work, shard: Shard, positions: Positions, title: str, say: Callable[[str], None]) -> None:
    """Compute the results' rows: the network runs one batch while a pool makes the rows of earlier ones.

    A GPU has a batch in flight while the host prepares the next one.
    """
    job, todo = work.job, work.todo
    ids, size = job.dataset.ids, job.config.batch_size
    missing = {key: result.lacking(positions) for key, result in todo.items()}
    any_missing = np.any(list(missing.values()), axis=0)
    grid = shard.pick([range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)])
    batches = [list(batch) for batch in grid if any_missing[batch].any()]
    first = next(iter(todo.values()))
    known = (
        known_images(first.root, plain(first.identity["dataset"]), positions) if batches else KnownDigests(positions)
    )
    images = InputImages(job.dataset, job.network.preprocess)
    loaded = load(images, batches, workers=job.config.workers)
    in_flight = IN_FLIGHT if job.network.device.type == "cuda" else 0
    start = time.monotonic()
    due = start + job.config.flush_s
    with (
        tqdm(total=sum(map(len, grid)), desc=title.split(",")[0], unit="img", mininterval=0.5) as bar,
        RowPool.of(job) as pool,
    ):
        bar.update(bar.total - sum(map(len, batches)))
        try:
            for batch in loaded:
                if len(work.failed) == len(todo):
                    break
                refuse_changed(known, batch, first.root)
                note_bad(work, batch)
                lacking = {key: {ids[i] for i in batch.index if missing[key][i]} for key in todo}
                wanted = [key for key in work.alive(todo) if lacking[key]]
                if timed := is_timed(work):
                    work.hand_on(pool, 0)
                    work.collect(0, bar)  # nothing else runs during timing
                for scored in scored_batch(work, batch, wanted, timed, partial(_show, bar), say) if wanted else ():
                    work.launched.append((scored, wanted, lacking))
                    work.hand_on(pool, in_flight)
                bar.update(len(batch.bad))
                work.collect(2 * pool.size, bar)
                if time.monotonic() > due:
                    due = _flushed(work)
            work.hand_on(pool, 0)
            work.collect(0, bar)
        finally:
            try:
                work.hand_on(pool, 0)
            finally:
                work.collect(0, bar)  # rows of earlier batches are kept, whatever stops the run
    work.seconds = time.monotonic() - start
    work.flush()
    for key in work.alive(todo):
        todo[key].succeed()


def _flushed(work: Work) -> float:
    """Write the kept rows; return when to do it again: after `flush_s`, or later if writing takes long."""
    start = time.monotonic()
    work.flush()
    now = time.monotonic()
    return now + max(work.job.config.flush_s, min(FLUSHES * (now - start), LONGEST) if work.job.config.flush_s else 0)


def _show(bar: "tqdm[Any]", method: str, count: int) -> None:
    """Show the number of inputs of a method's own passes next to the progress bar."""
    name, _, before = (bar.postfix or "").partition(": ")
    total = count + (int(before.split()[0]) if name == method else 0)
    bar.set_postfix_str(f"{method}: {total} inputs", refresh=False)
    if time.time() - bar.last_print_t > bar.mininterval:
        bar.refresh()
        bar.last_print_t = time.time()


def _finish(work: Work, key: Key, result: Result, say: Callable[[str], None]) -> bool:
    """Summarise a result if all images are done, by this process or another; return whether they are."""
    if key in work.failed:
        return False
    job, costs = work.job, work.costs[key[0]]
    measured: dict[str, float] = {"seconds": round(work.seconds, 2), "images": work.images}
    if taken := costs[1:] or costs:
        measured |= {"cost": float(np.median(taken)), "batches": len(taken)}
    with result.finishing():
        result.measured(measured)
        if result.complete:
            return True
        try:
            gathered = result.gathered()
        except ValueError as error:  # no image could be scored, or somebody else's parts
            work.fail([key], error)
            return False
        if gathered is None:
            return False
        try:
            summary, metrics = summed_up(job.evaluators[key[1]], gathered.rows)
        except Exception as error:  # an evaluator may raise anything
            work.fail_evaluator(key, error, [])
            return False
        result.publish(gathered, summary)
        result.keep_curves(job.evaluators[key[1]])
    tell(job.loggers, result, metrics, say)
    return True
