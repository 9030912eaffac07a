"""From the maps of one batch to rows: numpy alone, so that threads do it while the network has the next batch."""

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
from eigencam.running.faults import PartError, blame
from eigencam.running.loading import Batch
from eigencam.running.maps import Maps
from eigencam.running.prepare import Job
from eigencam.running.probe import BatchProbe
from eigencam.store.gather import DIGEST

Key = tuple[str, str]
"""(method, evaluator)."""


def pairs_of(job: Job, batch: Batch) -> list[tuple[int, int]]:
    """(position in the batch, class) of each row, by position."""
    each = job.config.target == "each"
    return [
        (n, label)
        for n, truth in enumerate(batch.truths)
        for label in (truth.objects() if each else []) or [truth.label]
    ]


@dataclass(frozen=True, slots=True)
class Scored:
    """What the rows of one batch are made of; all but `batch` of length M, the number of rows.

    Attributes:
        batch: its images are not needed any more.
        picture: positions in the batch.
        truths: with the class that a row is for as `label`.
        regions: the part of each original image that its map covers.
        maps: (M, h, w) by method.
        boxes: M times (K, 5) by method.
        targets: classes that class-specific maps are for.
        top5: the network's first classes.
        answers: states of the network's answers.
        asked: the rows of evaluators that ask the network.
    """

    batch: Batch
    picture: Sequence[int]
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
    failed: Callable[[Key, Exception], None],
) -> Scored:
    """Maps with the images that they belong to, after all that needs the network has been asked.

    `failed` is told the results whose evaluator raised.
    """
    picture = [n for n, _ in pairs]
    # With `each` a row is about one class, also where the dataset seeks objects of any class (VOC).
    truths = [replace(batch.truths[n], label=label) for n, label in pairs]
    if job.config.target == "each":
        truths = [replace(truth, foreground="label") for truth in truths]
    regions = [batch.regions[n] for n in picture]
    beside = tuple(job.methods[name] for name in found.maps)
    follows = not job.comparable or job.config.target == "predicted"
    asked: dict[Key, Sequence[Row]] = {}
    for name, e in wanted:
        if asks_network(evaluator := job.evaluators[e]):
            of = zip(found.maps[name], truths, regions, strict=True)
            score_maps = [ScoreMap(values, truth.size, region) for values, truth, region in of]
            found.forward.progress = partial(progress, name)
            probe = BatchProbe(found.forward, job.methods[name], found.asked, score_maps, truths, beside, follows)
            try:
                asked[name, e] = evaluator.rows(found.maps[name], probe)
            except Exception as error:  # whatever an evaluator may raise
                failed((name, e), error)
    of_pass = (found.maps, found.boxes, found.targets, found.top5, found.answers)
    return Scored(batch, picture, truths, regions, *of_pass, asked)


def rows_of(job: Job, scored: Scored, wanted: Iterable[Key]) -> tuple[dict[Key, list[Row]], dict[Key, PartError]]:
    """The rows of one batch, and what went wrong.

    Image by image, and map by map of each: one map at a time is at the size of its image, and what evaluators make of
    the image alone is made once for all methods.
    """
    rows: dict[Key, list[Row]] = {key: [] for key in wanted}
    faults: dict[Key, PartError] = {}
    evaluators = {name: [e for m, e in rows if m == name] for name in dict.fromkeys(name for name, _ in rows)}
    for n, group in groupby(range(len(scored.picture)), scored.picture.__getitem__):
        own, memo = list(group), dict[Hashable, Any]()
        for name in evaluators:
            score_maps = _score_maps(scored, name, own, memo) if name in scored.maps else []
            for e in evaluators[name]:
                if (name, e) in faults:
                    continue
                try:
                    rows[name, e] += _rows_of_one(job, scored, (name, e), own, score_maps)
                except Exception as error:  # whatever an evaluator may raise
                    image = scored.batch.truths[n].image_id
                    faults[name, e] = blame(f"evaluator {e}, of method {name}", error, [image])
    return {key: made for key, made in rows.items() if key not in faults}, faults


def _rows_of_one(job: Job, scored: Scored, key: Key, own: Sequence[int], score_maps: Sequence[ScoreMap]) -> list[Row]:
    """The rows of one evaluator about one image; `own`: their positions."""
    name, e = key
    evaluator = job.evaluators[e]
    starts = [_start(job, scored, name, k) for k in own]
    truths = [scored.truths[k] for k in own]
    if is_joint(evaluator):
        joint = {"label": scored.batch.truths[scored.picture[own[0]]].label, "target": -1}
        return [{**starts[0], **joint, **evaluator.joint_row(score_maps, truths)}]
    if key in scored.asked:
        found = [scored.asked[key][k] for k in own]
    elif name in scored.boxes:
        boxes = [scored.boxes[name][k][:, :4] for k in own]
        found = [evaluator.row_of_boxes(b, truth) for b, truth in zip(boxes, truths, strict=True)]
    else:
        found = [evaluator.row(m, truth) for m, truth in zip(score_maps, truths, strict=True)]
    return [{**start, **row} for start, row in zip(starts, found, strict=True)]


def _start(job: Job, scored: Scored, method: str, k: int) -> Row:
    """The columns that all evaluators' rows have.

    `target` is the class the map is for, in the dataset's classes, -1 where it is of others, or where it should be of
    the predicted class and the network has no answer. A map without a class serves for every class, so for the true
    one, unless the dataset seeks objects of any class. `answer_state` is the state of the network's answer,
    `constant_by_design` whether the method means a constant map; see `evaluation/states.py`. `digest` tells the image
    from another one of its name.
    """
    truth, of, answer = scored.truths[k], job.methods[method], scored.answers[k]
    specific = is_class_specific(of)
    if not specific and truth.foreground == "label":
        target = truth.label
    elif specific and job.config.target == "predicted" and answer in DEGENERATE:
        target = -1
    else:
        target = scored.targets[k] if job.comparable else -1
    top5 = scored.top5[k] if job.comparable else []
    shared = {"image": truth.image_id, "label": truth.label, "target": target, "top5": top5}
    shared[DIGEST] = scored.batch.digests[scored.picture[k]]
    return {**shared, "answer_state": answer, "constant_by_design": is_constant_by_design(of)}


def _score_maps(scored: Scored, method: str, own: Sequence[int], memo: dict[Hashable, Any]) -> list[ScoreMap]:
    """Those of one image; the same object where the values are the same: it is enlarged once."""
    values = scored.maps[method]
    made: list[ScoreMap] = []
    for k in own:
        again = made and np.array_equal(values[k], values[k - 1])
        made.append(made[-1] if again else ScoreMap(values[k], scored.truths[k].size, scored.regions[k], memo))
    return made
