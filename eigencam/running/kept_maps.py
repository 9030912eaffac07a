"""The maps of a result as files, which `method=files` reads and which give the same rows.

Half precision is enough for most maps but not for all: a value close to the threshold may change sides. Every map is
therefore evaluated as it will be read, and a map whose row would differ is kept in single precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from eigencam.evaluation.base import asks_network
from eigencam.methods.base import gives_boxes
from eigencam.running.batch_maps import compute_maps
from eigencam.running.loading import Batch, InputImages, load
from eigencam.running.prepare import Job, prepare
from eigencam.running.rows import Key, ScoredBatch, pairs_of, rows_of, score
from eigencam.store.finish import first_difference


@dataclass(slots=True)
class Kept:
    """Number of maps written, and how many of them in single precision."""

    maps: int = 0
    single: int = 0


def keep_maps(composed: DictConfig, rows: pd.DataFrame, folder: Path) -> Kept:
    """Compute the maps of a result again and write them, `<image id>.npy`, (h, w) float16 or float32.

    Args:
        composed: the config of the result, with its method and evaluator only.
        rows: rows of the result.
        folder: folder of the files.

    Raises:
        ValueError: its method returns boxes or several maps per image, or the recomputed rows differ.
    """
    job = prepare(composed)
    [key] = job.results
    if job.config.target == "each" or gives_boxes(job.methods[key[0]]):
        reason = "one map for each class" if job.config.target == "each" else "boxes"
        raise ValueError(f"{key[0]}: it gives {reason} of an image; only one map per image can be kept")
    kept = Kept()
    for batch in _batches(job):
        scored = _scored(job, batch, key)
        whole = _rows(job, scored, key)
        if what := first_difference(rows, pd.DataFrame(whole)):
            raise ValueError(f"the recomputed rows differ: {what}")
        maps = scored.maps[key[0]]
        with np.errstate(over="ignore"):
            half = maps.astype(np.float16)
        rounded = replace(scored, maps={key[0]: half.astype(np.float32)})
        same = _same(whole, _rows(job, rounded, key)) & (not asks_network(job.evaluators[key[1]]))
        for k, truth in enumerate(scored.truths):
            path = folder / f"{truth.image_id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, half[k] if same[k] else maps[k])
        kept.maps += len(maps)
        kept.single += int((~same).sum())
    return kept


def _batches(job: Job) -> Iterator[Batch]:
    ids, size = job.dataset.ids, job.config.batch_size
    parts = [list(range(start, min(start + size, len(ids)))) for start in range(0, len(ids), size)]
    images = InputImages(job.dataset, job.network.preprocess)
    return (batch for batch in load(images, parts, workers=job.config.workers) if len(batch.index))


def _scored(job: Job, batch: Batch, key: Key) -> ScoredBatch:
    """The maps of one batch, computed as in a run."""
    pairs = pairs_of(job, batch)
    by_label = job.comparable and job.config.target != "predicted"
    found = compute_maps(
        job.network,
        {key[0]: job.methods[key[0]]},
        batch.images,
        labels=[max(label, 0) for _, label in pairs] if by_label else None,
        rows=[n for n, _ in pairs],
        index=batch.index,
        ids=[truth.image_id for truth in batch.truths],
        original=lru_cache(lambda n: job.dataset.image(batch.index[n])),
        regions=batch.regions,
        chunk=job.config.chunk,
    )
    return score(job, batch, pairs, found, [key], lambda *_: None, _fail)


def _rows(job: Job, scored: ScoredBatch, key: Key) -> list[dict[str, Any]]:
    made, faults = rows_of(job, scored, [key])
    for fault in faults.values():
        raise fault
    return made[key]


def _same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> NDArray[np.bool_]:
    pairs = zip(one, other, strict=True)
    return np.array([not first_difference(pd.DataFrame([a]), pd.DataFrame([b])) for a, b in pairs], bool)


def _fail(_key: Key, error: BaseException) -> None:
    raise error
