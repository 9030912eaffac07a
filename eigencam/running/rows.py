"""From the maps of one batch to rows.

`score` does what needs the network; `rows_of` uses only NumPy, so it can run while the network computes the next batch.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Row, asks_network, is_joint
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.states import DEGENERATE
from eigencam.methods.base import is_class_specific, is_constant_by_design
from eigencam.networks.preprocess import Region
from eigencam.running.batch_maps import Maps
from eigencam.running.faults import PartError, blame, is_stop
from eigencam.running.loading import Batch
from eigencam.running.prepare import Job
from eigencam.running.probe import BatchProbe
from eigencam.store.finish import DIGEST

Key = tuple[str, str]
"""(method, evaluator)."""


def pairs_of(job: Job, batch: Batch) -> list[tuple[int, int]]:
    """(position in the batch, class) of each row, ordered by position."""
    each = job.config.target == "each"
    return [
        (n, label)
        for n, truth in enumerate(batch.truths)
        for label in (truth.objects() if each else []) or [truth.label]
    ]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Everything that the rows of one batch are computed from; M is the number of (image, class) pairs.

    `image`, `truths`, `regions`, `targets`, `top5` and `answers` have length M.

    Attributes:
        batch: its pixels are no longer needed.
        image: position of each row's image in the batch.
        truths: with the class of the row as `label`.
        regions: the part of each original image that its map covers.
        maps: (M, h, w) by method.
        boxes: M times (K, 5) by method.
        targets: classes that class-specific maps are for.
        top5: the network's top classes.
        answers: states of the logits.
        asked: M rows by (method, evaluator), of the evaluators that run the network.
    """

    batch: Batch
    image: Sequence[int]
    truths: Sequence[Truth]
    regions: Sequence[Region]
    maps: Mapping[str, NDArray[np.float32]]
    boxes: Mapping[str, Sequence[NDArray[np.float64]]]
    targets: Sequence[int]
    top5: Sequence[Sequence[int]]
    answers: Sequence[str]
    asked: Mapping[Key, Sequence[Row]]


def score(
    job: Job,
    batch: Batch,
    pairs: Sequence[tuple[int, int]],
    found: Maps,
    wanted: Iterable[Key],
    progress: Callable[[str, int], None],
    failed: Callable[[Key, BaseException], None],
) -> ScoredBatch:
    """Run the evaluators that need the network, and collect what the rows of the others are computed from.

    `failed` is called with the key of a result whose evaluator raised, and with the error.
    """
    image = [n for n, _ in pairs]
    # With `each` a row is about one class, even if the dataset seeks objects of any class (VOC).
    truths = [replace(batch.truths[n], label=label) for n, label in pairs]
    if job.config.target == "each":
        truths = [replace(truth, foreground="label") for truth in truths]
    regions = [batch.regions[n] for n in image]
    beside = tuple(job.methods[name] for name in found.maps)
    follows = not job.comparable or job.config.target == "predicted"
    asked: dict[Key, Sequence[Row]] = {}
    for name, e in wanted:
        if asks_network(evaluator := job.evaluators[e]):
            items = zip(found.maps[name], truths, regions, strict=True)
            score_maps = [ScoreMap(values, truth.size, region) for values, truth, region in items]
            found.forward.progress = partial(progress, name)
            probe = BatchProbe(found.forward, job.methods[name], found.asked, score_maps, truths, beside, follows)
            try:
                asked[name, e] = evaluator.rows(found.maps[name], probe)
            except (Exception, SystemExit) as error:  # an evaluator may raise anything
                if is_stop(error):
                    raise
                failed((name, e), error)
    of_pass = (found.maps, found.boxes, found.targets, found.top5, found.answers)
    return ScoredBatch(batch, image, truths, regions, *of_pass, asked)


def rows_of(job: Job, scored: ScoredBatch, wanted: Iterable[Key]) -> tuple[dict[Key, list[Row]], dict[Key, PartError]]:
    """Return the rows of one batch, and the errors.

    The loop is over images, then over the maps of each. Only one map at a time is enlarged to its image size, and what
    evaluators compute from the image alone is computed once for all methods.
    """
    rows: dict[Key, list[Row]] = {key: [] for key in wanted}
    faults: dict[Key, PartError] = {}
    evaluators = {name: [e for m, e in rows if m == name] for name in dict.fromkeys(name for name, _ in rows)}
    for n, group in groupby(range(len(scored.image)), scored.image.__getitem__):
        own, memo = list(group), dict[Hashable, Any]()
        for name in evaluators:
            score_maps = _score_maps(scored, name, own, memo) if name in scored.maps else []
            for e in evaluators[name]:
                if (name, e) in faults:
                    continue
                try:
                    rows[name, e] += _rows_of_one(job, scored, (name, e), own, score_maps)
                except (Exception, SystemExit) as error:  # an evaluator may raise anything
                    if is_stop(error):
                        raise
                    image = scored.batch.truths[n].image_id
                    faults[name, e] = blame(f"evaluator {e}, of method {name}", error, [image])
    return {key: made for key, made in rows.items() if key not in faults}, faults


def _rows_of_one(
    job: Job, scored: ScoredBatch, key: Key, positions: Sequence[int], score_maps: Sequence[ScoreMap]
) -> list[Row]:
    """The rows of one evaluator for one image; `positions`: the image's indices among the M pairs of `scored`."""
    name, e = key
    evaluator = job.evaluators[e]
    starts = [_start(job, scored, name, k) for k in positions]
    truths = [scored.truths[k] for k in positions]
    if is_joint(evaluator):
        joint = {"label": scored.batch.truths[scored.image[positions[0]]].label, "target": -1}
        return [_joined({**starts[0], **joint}, evaluator.joint_row(score_maps, truths))]
    if key in scored.asked:
        found = [scored.asked[key][k] for k in positions]
    elif name in scored.boxes:
        boxes = [scored.boxes[name][k][:, :4] for k in positions]
        found = [evaluator.row_of_boxes(b, truth) for b, truth in zip(boxes, truths, strict=True)]
    else:
        found = [evaluator.row(m, truth) for m, truth in zip(score_maps, truths, strict=True)]
    return [_joined(start, row) for start, row in zip(starts, found, strict=True)]


def _joined(start: Row, row: Row) -> Row:
    """A row with the shared columns. Raises ValueError if it has one of these itself."""
    if taken := start.keys() & row.keys():
        raise ValueError(f"a row has the column {min(taken)}, which every row has already; give it another name")
    return {**start, **row}


def _start(job: Job, scored: ScoredBatch, method: str, k: int) -> Row:
    """The columns shared by all evaluators' rows.

    `target` is the class that the map is for, in the dataset's classes; -1 if it is a class of another space, or if
    it should be the predicted class and there are no valid logits. A class-agnostic map counts for every class, so for
    the true one, unless the dataset seeks objects of any class. `answer_state` is the state of the logits, and
    `constant_by_design` says whether the method returns a constant map on purpose; see `evaluation/states.py`. `digest`
    distinguishes the image from another one with its name.
    """
    truth, built, answer = scored.truths[k], job.methods[method], scored.answers[k]
    specific = is_class_specific(built)
    if not specific and truth.foreground == "label":
        target = truth.label
    elif specific and job.config.target == "predicted" and answer in DEGENERATE:
        target = -1
    else:
        target = scored.targets[k] if job.comparable else -1
    top5 = scored.top5[k] if job.comparable else []
    shared = {"image": truth.image_id, "label": truth.label, "target": target, "top5": top5}
    shared[DIGEST] = scored.batch.digests[scored.image[k]]
    return {**shared, "answer_state": answer, "constant_by_design": is_constant_by_design(built)}


def _score_maps(
    scored: ScoredBatch, method: str, positions: Sequence[int], memo: dict[Hashable, Any]
) -> list[ScoreMap]:
    """The score maps of one image; one object for equal values, so that it is enlarged once."""
    values = scored.maps[method]
    made: list[ScoreMap] = []
    for k in positions:
        again = made and np.array_equal(values[k], values[k - 1])
        made.append(made[-1] if again else ScoreMap(values[k], scored.truths[k].size, scored.regions[k], memo))
    return made
