"""The run loop: one pass over the pictures serves all methods and all evaluators.

    decode ──► network ──► methods ──► evaluators ──► rows ──► parts on disk ──► rows.parquet, metrics.json

Batches are a fixed grid over the dataset's order, so a run that was killed computes the same batches as one that was
not, and ends in identical rows. A batch is computed when any result lacks one of its pictures, for the methods whose
results lack it.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from eigencam.datasets.base import BadImageError, Dataset, Truth
from eigencam.environment import environment
from eigencam.evaluation.base import JointEvaluator, Row
from eigencam.evaluation.boxes import Boxes
from eigencam.evaluation.maps import ScoreMap
from eigencam.maps import BatchProbe, Maps, Method, compute_maps, is_class_specific
from eigencam.network import Preprocess, Region
from eigencam.prepare import Job, asks_network, is_joint, prepare
from eigencam.records import Result

Key = tuple[str, str]
"""(method, evaluator)."""

TIMED_BATCHES = 3
"""In so many batches every method makes a pass of its own, timed beside a bare forward pass."""


def run(composed: DictConfig, *, say: Callable[[str], None] = print) -> Job:
    """Check, compute what is missing, summarise. A second run of the same thing computes nothing.

    Args:
        composed: a config of the form of `configs/run.yaml`.
        say: gets the few lines meant for a person.

    Raises:
        ValueError: the config's faults, one a line, before anything is computed.
        BadImageError: with `on_bad_image=fail`.
    """
    job = prepare(composed)
    text = OmegaConf.to_yaml(composed, resolve=True)
    title = f"{job.network.name} on {job.dataset.name}, {len(job.dataset.ids)} pictures"
    todo = _to_do(job)
    if job.config.on_bad_image == "fail":
        _refuse_gaps(job)
    where = environment(str(job.network.device)) | {
        "weights_sha256": job.network.sha256,
        "dataset": job.dataset.identity(),
    }
    with ExitStack() as stack:
        for result in todo.values():
            result.open(text, where)
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
        try:
            bad, costs = _compute(job, todo, title)
            for key, result in todo.items():
                _finish(job, key, result, bad, costs[key[0]])
        except BaseException as error:
            for result in todo.values():
                result.flush()
                if not isinstance(error, KeyboardInterrupt):
                    result.fail(error)
            raise
    there = len(job.results) - len(todo)
    say(f"{title}: {len(todo)} results computed, {there} were there; folder {job.config.paths['results']}")
    for reason in bad.values():
        say(f"  left out: {reason}")
    return job


def _to_do(job: Job) -> dict[Key, Result]:
    """The results that are not complete, but for those already noted as left out."""
    noted = {key for key, result in job.results.items() if key[0] in job.unsupported and result.summary}
    return {key: result for key, result in job.results.items() if key not in noted and not result.complete}


def _refuse_gaps(job: Job) -> None:
    """ValueError when results that are there were made without some pictures."""
    summaries = [result.summary for result in job.results.values() if result.complete]
    if reasons := {reason for summary in summaries if summary for reason in summary["bad_images"].values()}:
        raise ValueError("\n".join(["results are there without pictures that could not be decoded:", *sorted(reasons)]))


@dataclass(slots=True)
class Batch:
    """Decoded pictures of one batch.

    Attributes:
        index: positions in the dataset of the pictures that could be decoded.
        pictures: (N, 3, H, W) uint8.
        regions: the part of each original picture that the network sees.
        truths: what is known of each.
        bad: by position, why a picture could not be decoded.
    """

    index: list[int]
    pictures: Tensor
    regions: list[Region]
    truths: list[Truth]
    bad: dict[int, Exception]

    def pin_memory(self) -> "Batch":
        """What the loader calls before a copy to a GPU."""
        self.pictures = self.pictures.pin_memory()
        return self


def _compute(job: Job, todo: Mapping[Key, Result], title: str) -> tuple[dict[str, str], dict[str, list[float]]]:
    """Fill the results' rows.

    Returns:
        The pictures that could not be decoded, by id, with the reason; and what each method cost in the timed batches,
        as multiples of a bare forward pass.
    """
    ids, size = job.dataset.ids, job.config.batch_size
    missing = {key: _missing(ids, result.done()) for key, result in todo.items()}
    any_missing = np.any(list(missing.values()), axis=0)
    grid = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]
    batches = [list(batch) for batch in grid if any_missing[batch].any()]
    bad: dict[str, str] = {}
    costs: dict[str, list[float]] = {name: [] for name in job.methods}
    written = time.monotonic()
    with tqdm(total=len(ids), desc=title.split(",")[0], unit="img", mininterval=0.5) as bar:
        bar.update(len(ids) - sum(map(len, batches)))
        for batch in _load(job, batches):
            for i, error in batch.bad.items():
                if job.config.on_bad_image == "fail" or not isinstance(error, BadImageError):
                    raise error
                bad[ids[i]] = str(error)
            if batch.index:
                lacking = {key: {ids[i] for i in batch.index if missing[key][i]} for key in todo}
                wanted = {key for key in todo if lacking[key]}
                for key, rows in _rows(job, batch, wanted, costs, partial(_show, bar)).items():
                    todo[key].add(row for row in rows if row["image"] in lacking[key])
            if time.monotonic() - written > job.config.flush_s:
                for result in todo.values():
                    result.flush()
                written = time.monotonic()
            bar.set_postfix_str("", refresh=False)
            bar.update(len(batch.index) + len(batch.bad))
    for result in todo.values():
        result.flush()
    return bad, costs


def _missing(ids: Sequence[str], done: set[str]) -> NDArray[np.bool_]:
    """(n,) bool: the pictures without a row."""
    return np.array([image not in done for image in ids], bool)


def _load(job: Job, batches: Sequence[list[int]]) -> Iterator[Batch]:
    """Batches in order, decoded by worker processes when there are several."""
    workers = job.config.workers
    if workers == "auto":
        workers = min(8, os.cpu_count() or 1) if len(batches) > 4 else 0
    pictures = Pictures(job.dataset, job.network.preprocess)
    pin = job.network.device.type == "cuda"
    return iter(
        DataLoader(
            pictures,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin,
            worker_init_fn=die_with_parent,
        )
    )


def die_with_parent(_worker: int) -> None:
    """Have Linux end a loader process when the run is killed; it would wait for ever to hand over its last batch."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Pictures(torch.utils.data.Dataset[Any]):
    """The dataset as the loader sees it: picture `i` decoded and resized, or why not."""

    dataset: Dataset
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.dataset.ids)

    def __getitem__(self, i: int) -> tuple[int, NDArray[np.uint8], Region, Truth] | tuple[int, Exception]:
        try:
            image, truth = self.dataset.image(i), self.dataset.truth(i)
        except (ValueError, FileNotFoundError) as error:
            return i, error  # raised by the loop: a loader process would bury the message in its traceback
        if image.shape[:2] != truth.size:
            shown, said = (f"{w} x {h}" for h, w in (image.shape[:2], truth.size))
            fault = f"{truth.image_id}: the picture is {shown} pixels, its boxes and masks are for {said}"
            return i, ValueError(fault)
        return i, *self.preprocess(image), truth


def collate(items: Sequence[tuple[Any, ...]]) -> Batch:
    """What the loader makes a batch of."""
    good = [item for item in items if len(item) == 4]
    pictures = torch.from_numpy(np.stack([item[1] for item in good])) if good else torch.empty(0)
    bad = {item[0]: item[1] for item in items if len(item) == 2}
    return Batch([item[0] for item in good], pictures, [item[2] for item in good], [item[3] for item in good], bad)


def _show(bar: "tqdm[Any]", method: str, count: int) -> None:
    """Count the inputs of a method's own passes beside the bar."""
    name, _, before = (bar.postfix or "").partition(": ")
    total = count + (int(before.split()[0]) if name == method else 0)
    bar.set_postfix_str(f"{method}: {total} inputs", refresh=False)
    if time.time() - bar.last_print_t > bar.mininterval:
        bar.refresh()
        bar.last_print_t = time.time()


def _rows(
    job: Job, batch: Batch, wanted: set[Key], costs: dict[str, list[float]], progress: Callable[[str, int], None]
) -> dict[Key, list[Row]]:
    """The rows of one batch: one forward pass, every wanted method's maps, every wanted evaluator's rows."""
    methods = {name: method for name, method in job.methods.items() if any(m == name for m, _ in wanted)}
    pairs = [(n, label) for n, truth in enumerate(batch.truths) for label in _labels(job, truth)]
    by_label = job.comparable and job.config.target != "predicted"
    maps_of = partial(
        compute_maps,
        job.network,
        pictures=batch.pictures,
        labels=[max(label, 0) for _, label in pairs] if by_label else None,
        rows=[n for n, _ in pairs],
        index=batch.index,
        ids=[truth.image_id for truth in batch.truths],
        original=lru_cache(lambda n: job.dataset.image(batch.index[n])),
        regions=batch.regions,
        chunk=job.config.chunk,
        progress=progress,
    )
    timed = any(len(costs[name]) < TIMED_BATCHES for name in methods)
    found = _timed(maps_of, methods, costs) if timed else maps_of(methods)
    truths = [replace(batch.truths[n], label=label) for n, label in pairs]
    regions = [batch.regions[n] for n, _ in pairs]
    targets = torch.tensor(found.targets, device=job.network.device)
    rows: dict[Key, list[Row]] = {}
    for name, method in methods.items():
        scored = _scored(found, name, truths, regions)
        score_maps = [one for one in scored if isinstance(one, ScoreMap)]
        probe = BatchProbe(found.forward, method, targets, score_maps, truths)
        found.forward.progress = partial(progress, name)
        starts = [
            {
                "image": truth.image_id,
                "label": truth.label,
                "target": _target(job, truth, target, is_class_specific(method)),
                "top5": top5 if job.comparable else [],
            }
            for truth, target, top5 in zip(truths, found.targets, found.top5, strict=True)
        ]
        for e in (e for m, e in wanted if m == name):
            evaluator = job.evaluators[e]
            if is_joint(evaluator):
                rows[name, e] = _joint(evaluator, batch.truths, [n for n, _ in pairs], starts, score_maps, truths)
                continue
            if asks_network(evaluator):
                own = evaluator.rows(found.maps[name], probe)
            else:
                own = [_row(evaluator, one, truth) for one, truth in zip(scored, truths, strict=True)]
            rows[name, e] = [{**start, **row} for start, row in zip(starts, own, strict=True)]
    return rows


def _labels(job: Job, truth: Truth) -> list[int]:
    """The classes that a picture has rows for."""
    return (truth.objects() if job.config.target == "each" else []) or [truth.label]


def _scored(found: Maps, method: str, truths: Sequence[Truth], regions: Sequence[Region]) -> list[ScoreMap | Boxes]:
    """What is evaluated for each row; the same object where a picture's rows have the same map: enlarged once."""
    if method in found.boxes:
        return [boxes[:, :4] for boxes in found.boxes[method]]
    made: list[ScoreMap | Boxes] = []
    values = found.maps[method]
    for k, (truth, region) in enumerate(zip(truths, regions, strict=True)):
        again = k and truths[k - 1].image_id == truth.image_id and np.array_equal(values[k], values[k - 1])
        made.append(made[-1] if again else ScoreMap(values[k], truth.size, region))
    return made


def _row(evaluator: Any, scored: ScoreMap | Boxes, truth: Truth) -> Row:
    """An evaluator's row of a map, or of boxes (K, 4), best first."""
    return evaluator.row(scored, truth) if isinstance(scored, ScoreMap) else evaluator.row_of_boxes(scored, truth)


def _joint(
    evaluator: JointEvaluator,
    pictures: Sequence[Truth],
    picture: Sequence[int],
    starts: Sequence[Row],
    score_maps: Sequence[ScoreMap],
    truths: Sequence[Truth],
) -> list[Row]:
    """One row for each picture, from the maps of all its classes; `picture`: which one each map is of."""
    rows: list[Row] = []
    for n, truth in enumerate(pictures):
        own = [k for k, of in enumerate(picture) if of == n]
        row = evaluator.joint_row([score_maps[k] for k in own], [truths[k] for k in own])
        rows.append({**starts[own[0]], "label": truth.label, "target": -1, **row})
    return rows


def _timed(maps_of: Callable[..., Maps], methods: Mapping[str, Method], costs: dict[str, list[float]]) -> Maps:
    """All methods' maps, each from a pass of its own that is timed beside a bare one; the maps are the same."""
    if not any(costs.values()):
        maps_of({})  # the first pass of all warms up
    found: list[Maps] = []
    for name, method in methods.items():
        start = time.perf_counter()
        maps_of({})
        middle = time.perf_counter()
        found.append(maps_of({name: method}))
        costs[name].append((time.perf_counter() - middle) / (middle - start))
    maps = {name: score_map for part in found for name, score_map in part.maps.items()}
    return replace(found[0], maps=maps, boxes={name: boxes for part in found for name, boxes in part.boxes.items()})


def _target(job: Job, truth: Truth, target: int, specific: bool) -> int:
    """The class the map is for, in the dataset's classes; -1 where it is of others.

    A map without a class serves for every class, so for the true one, unless the dataset seeks objects of any class.
    """
    if not specific and truth.foreground == "label":
        return truth.label
    return target if job.comparable else -1


def _finish(job: Job, key: Key, result: Result, bad: Mapping[str, str], costs: Sequence[float]) -> None:
    evaluator = job.evaluators[key[1]]
    order = {image: k for k, image in enumerate(i for i in job.dataset.ids if i not in bad)}
    rows = result.rows()
    rows = rows.assign(order=rows["image"].map(order)).dropna(subset="order")
    if len(gone := order.keys() - set(rows["image"])):
        raise ValueError(f"{result.folder}: rows of {len(gone)} pictures are missing; run again")
    rows = rows.sort_values(["order", "label"], kind="stable", ignore_index=True).drop(columns="order")
    summary = {
        "n": len(order),
        "bad_images": dict(bad),
        "target": job.config.target,
        "protocol": dict(evaluator.protocol()),
        "headline": list(getattr(evaluator, "headline", ())),
    }
    if costs:
        result.measured({"cost": float(np.median(costs)), "batches": len(costs)})
    result.finish(rows, summary, evaluator.summary(rows) if len(rows) else [])
