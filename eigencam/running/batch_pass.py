"""One batch through the network: halved if memory runs out; the first batches are timed."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import torch

from eigencam.evaluation.base import asks_network
from eigencam.running.batch_maps import compute_maps
from eigencam.running.faults import SharedChangedError
from eigencam.running.loading import Batch
from eigencam.running.rows import Key, ScoredBatch, pairs_of, score
from eigencam.running.run_state import Work

TIMED_BATCHES = 3
"""Number of batches, from the second one on, in which every method is timed alone."""


def is_timed(work: Work) -> bool:
    """Whether the next batch is timed; the first one warms up, and counts only if it is the only one."""
    return work.job.config.timing and work.batches <= TIMED_BATCHES and TIMED_BATCHES > 0


def scored_batch(
    work: Work,
    batch: Batch,
    wanted: Sequence[Key],
    timed: bool,
    progress: Callable[[str, int], None],
    say: Callable[[str], None],
) -> Iterator[Callable[[], ScoredBatch]]:
    """Yield functions that return the maps of one batch: one function, or one for each part if memory ran out."""
    done, fits = 0, True
    while done < len(batch.index):
        part = batch if work.size >= len(batch.index) else batch.part(done, done + work.size)
        try:
            scored = _through_network(work, part, wanted, timed, progress)
        except SharedChangedError as error:  # the other methods' maps of this pass are invalid
            work.fail_method(error.method, error, [truth.image_id for truth in part.truths])
            continue
        except torch.OutOfMemoryError:
            if work.size == work.chunk == 1:
                raise
            fits = False
        else:
            if not fits:
                say(f"out of memory; continuing with batch_size={work.size} chunk={work.chunk}")
            fits = True
            done += len(part.index)
            yield scored
            continue
        # After the handler, nothing refers to the failed pass any more, so its memory can be freed.
        work.size, work.chunk = max(1, min(work.size, len(part.index)) // 2), max(1, work.chunk // 2)
        if work.job.network.device.type == "cuda":
            torch.cuda.empty_cache()
    work.batches += bool(batch.index)


def _through_network(
    work: Work, batch: Batch, wanted: Sequence[Key], timed: bool, progress: Callable[[str, int], None]
) -> Callable[[], ScoredBatch]:
    """Launch one forward pass and every requested method's maps, and compute what evaluators need from the network.

    Returns the function that waits for the maps.
    """
    job = work.job
    wanted = work.alive(wanted)
    methods = {name: method for name, method in job.methods.items() if any(m == name for m, _ in wanted)}
    pairs = pairs_of(job, batch)
    by_label = job.comparable and job.config.target != "predicted"
    images = [truth.image_id for truth in batch.truths]
    found = compute_maps(
        job.network,
        methods,
        batch.images,
        labels=[max(label, 0) for _, label in pairs] if by_label else None,
        rows=[n for n, _ in pairs],
        index=batch.index,
        ids=images,
        original=lru_cache(lambda n: job.dataset.image(batch.index[n])),
        regions=batch.regions,
        population=(len(job.dataset.ids), lambda k: job.network.preprocess(job.dataset.image(k))[0]),
        chunk=work.chunk,
        progress=progress,
        clock=timed,
        failed=lambda name, error: work.fail_method(name, error, images),
    )
    if timed:
        for name in set(methods) & set(found.seconds):
            work.costs[name].append(1 + found.seconds[name] / found.seconds[""])
    keys = work.alive(wanted)
    scored = partial(
        score, job, batch, pairs, found, keys, progress, lambda key, error: work.fail_evaluator(key, error, images)
    )
    if not timed and not any(asks_network(job.evaluators[e]) for _, e in keys):
        return scored
    made = scored()
    return lambda: made
