"""The inputs of evaluators' golden numbers: fixed maps and truths and, for evaluators that use the network, a fixed
probe."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from golden_file import Case, Entry, numbers
from golden_methods import LABELS, Cases, entry, inputs, network, network_versions, nodes
from numpy.typing import NDArray
from torch import Tensor

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.maps import ScoreMap
from eigencam.passes.forward import Forward
from eigencam.running.probe import BatchProbe
from eigencam.store.build import find, instantiate
from eigencam.store.versions import summary_versions_of, versions_of

FEW: dict[str, Any] = {"size": 48, "steps": 5, "max_iter": 3, "num_classes": 3, "stages": 3, "structure": True}
"""Replacements for packaged parameters that only set a resolution or a number of repetitions."""

MORE: dict[str, dict[str, dict[str, Any]]] = {
    "Infidelity": {"slope": {"reading": "slope", "fill": "mean"}},
    "Segmentation": {"tuned": {"tune": 0.5}},
    "TunedLocalization": {"tuned": {"tune": 0.5}, "max": {"rule": "max"}, "energy": {"rule": "energy"}},
    "MaxSensitivity": {"seed": {"samples": 2, "seed": 1}},
}
"""Settings in addition to the packaged ones, by class, for code that these do not reach."""

CLASSES = 4
NUMBER = r"\d+(?:\.\d+)?"


@lru_cache(maxsize=1)
def samples() -> tuple[tuple[ScoreMap, Truth], ...]:
    """Maps and truths of twelve images: one map signed, one with a region, one constant, one not finite."""
    made = []
    for k in range(12):
        height, width = 60 + 5 * (k % 3), 90 - 10 * (k % 4)
        values = score_map(k, 9 + k % 4, 11 - k % 3)
        region = (5.0, 0.0, 65.0, 60.0) if k == 3 else None
        if k == 7:
            values = np.full_like(values, 0.5)
        if k == 9:
            values[2, 3] = np.nan
        made.append((ScoreMap(values, (height, width), region), truth(k, height, width)))
    return tuple(made)


def score_map(k: int, h: int, w: int) -> NDArray[np.float32]:
    """(h, w): two hills whose heights are multiples of 2^-12, so that every processor rounds them alike."""
    y, x = np.mgrid[:h, :w]
    values = np.exp(-((y - h * (0.3 + 0.04 * k)) ** 2 + (x - w * 0.4) ** 2) / (4.0 + k))
    values += 0.7 * np.exp(-((y - h * 0.75) ** 2 + (x - w * (0.85 - 0.03 * k)) ** 2) / 3.0)
    values += 0.05 * ((5 * y + 3 * x + k) % 7) - (0.3 if k == 5 else 0.0)
    return (np.round(4096 * values) / 4096).astype(np.float32)


def truth(k: int, height: int, width: int) -> Truth:
    """Up to three objects, some of them difficult, with a mask whose borders are void."""
    label = k % CLASSES
    boxes = np.array(
        [
            [8 + 2 * k, 10, 8 + 2 * k + width // 3, 10 + height // 2],
            [width // 2, height // 2, width - 8, height - 5 - k % 3],
            [2, height - 20, 20 + k, height - 4],
        ],
        np.float64,
    )[: 0 if k == 10 else 1 + k % 3]
    labels = np.array([label, label if k % 2 else (label + 1) % CLASSES, (label + 2) % CLASSES])[: len(boxes)]
    difficult = np.array([k == 6, k % 3 == 2, False])[: len(boxes)]
    mask = np.zeros((height, width), np.uint8)
    for (x1, y1, x2, y2), own in zip(boxes.astype(int), labels, strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = VOID
        mask[y1 + 2 : y2 - 1, x1 + 1 : x2] = 1 + own
    kind = "any" if k in (4, 11) else "label"
    return Truth(str(k), (height, width), label, boxes, labels, difficult, None if k in (8, 10) else mask, kind)


def frame(rows: Sequence[Row], labels: Sequence[int]) -> pd.DataFrame:
    """The rows with the columns that all evaluators share."""
    common = [
        {
            "image": str(k),
            "label": label,
            "target": label if k % 5 or k == 0 else (label + 1) % CLASSES,
            "top5": [(label + k % 3) % CLASSES, (label + 1 + k % 3) % CLASSES],
        }
        for k, label in enumerate(labels)
    ]
    return pd.DataFrame([{**one, **row} for one, row in zip(common, rows, strict=True)])


def weighted(forward: Forward, targets: Tensor) -> Tensor:
    """A method for probes: channels weighted by a wave with the class as its phase."""
    activations = forward.activations()
    place = torch.arange(activations.shape[1])
    return (activations * torch.cos(0.5 * place + targets[:, None])[..., None, None]).sum(1)


weighted.needs_gradient = False  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def probe() -> tuple[NDArray[np.float32], Callable[[], BatchProbe]]:
    """Maps of two images, and an unused probe."""
    used = network("scenes_resnet")
    images = inputs(used.preprocess.shape[0])
    targets = torch.tensor(LABELS[used.name])
    truths = [replace(own, label=int(t)) for (_, own), t in zip(samples()[:2], targets, strict=True)]

    def make() -> BatchProbe:
        forward = used.forward(images, chunk=16)
        maps = [ScoreMap(m, t.size) for m, t in zip(values, truths, strict=True)]
        return BatchProbe(forward, weighted, targets, maps, truths, (weighted,), True)

    values = weighted(used.forward(images), targets).numpy()
    return values, make


def rows_of(evaluator: Any) -> dict[str, pd.DataFrame]:
    """An evaluator's rows from maps and, if it accepts them, from boxes."""
    found: dict[str, pd.DataFrame] = {}
    if hasattr(evaluator, "rows"):
        maps, make = probe()
        found[""] = frame(evaluator.rows(maps, make()), [int(t) % CLASSES for t in LABELS["scenes_resnet"]])
    elif hasattr(evaluator, "joint_row"):
        pairs = [samples()[k : k + 2] for k in range(len(samples()) - 1)]
        rows = []
        for (one, own), (other, _) in pairs:
            second = replace(own, label=(own.label + 1) % CLASSES)
            again = ScoreMap(other.values, own.size, one.region)
            rows.append(evaluator.joint_row([one, again], [own, second]))
        found[""] = frame(rows, [own.label for (_, own), _ in pairs])
    else:
        usable = [(m, t) for m, t in samples() if not (getattr(evaluator, "objects", "") == "mask" and t.mask is None)]
        labels = [own.label for _, own in usable]
        found[""] = frame([evaluator.row(score, own) for score, own in usable], labels)
        if hasattr(evaluator, "row_of_boxes"):
            rows = [evaluator.row_of_boxes(boxes(k), own) for k, (_, own) in enumerate(usable)]
            found[" of boxes"] = frame(rows, labels)
    return found


def boxes(k: int) -> NDArray[np.float64]:
    """(K, 4) inclusive."""
    place = np.arange(1 + 5 * (k % 4))
    x, y = 4 + 7 * place % 40, 6 + 5 * place % 31
    return np.stack([x, y, x + 15 + 2 * place, y + 20 + place % 6], axis=1).astype(np.float64)


def row_case(evaluator: Any) -> Case:
    """The evaluator's own columns."""
    case: Case = {}
    for suffix, rows in rows_of(evaluator).items():
        for name in [str(column) for column in rows if column not in ("image", "label", "target", "top5")]:
            values = rows[name].tolist()
            if isinstance(values[0], str):
                case[name + suffix] = [" ".join(values)]
            elif isinstance(values[0], np.ndarray):
                case[name + suffix + " lengths"] = numbers(np.array([len(value) for value in values]))
                case[name + suffix] = numbers(np.concatenate(values).astype(np.float64))
            else:
                case[name + suffix] = [float(f"{float(value):.9g}") for value in values]
    return case


def summary_case(evaluator: Any) -> Case:
    """For each metric its value, interval, n, the numbers in its texts, and its sample; and the curves."""
    case: Case = {}
    for suffix, rows in rows_of(evaluator).items():
        for metric in evaluator.summary(rows):
            words = " | ".join((metric.unit, metric.better, *re.findall(NUMBER, f"{metric.threshold} {metric.note}")))
            values = [float(f"{v:.9g}") for v in (metric.value, metric.low, metric.high, metric.n)]
            case[metric.name + suffix] = [words, *values, *_sample(metric)]
        for n, curve in enumerate(getattr(evaluator, "curves", lambda _rows: [])(rows)):
            line = np.stack([curve.xs, curve.ys])
            mark = [float(f"{v:.9g}") for v in curve.mark or ()]
            case[f"curve {n}{suffix}"] = [*numbers(line), *mark]
    return case


def _sample(metric: Metric) -> list[float]:
    """The metric recomputed from its sample, and from half of it."""
    if metric.sample is None:
        return []
    parts = metric.sample.parts
    dense = np.asarray(parts if isinstance(parts, np.ndarray) else parts.toarray())
    if metric.sample.statistic is None:
        return [float(f"{np.nanmean(part):.9g}") for part in (dense, dense[::2]) if np.isfinite(part).any()]
    sums = np.stack([dense.sum(axis=0), dense[::2].sum(axis=0)])
    return [float(f"{value:.9g}") for value in metric.sample.statistic(sums)]


def evaluator_entries(more: Mapping[Any, Cases]) -> Iterator[tuple[str, partial[Entry]]]:
    """Name and function of two entries for each class: its rows, with more cases of some, and its summary."""
    by_class: dict[Any, dict[str, dict[str, Any]]] = {}
    for option, node in nodes("evaluator").items():
        thing = find(node["_target_"])
        if thing not in by_class:
            settings = MORE.get(thing.__name__, {})
            by_class[thing] = {name: {"_target_": node["_target_"], **extra} for name, extra in settings.items()}
        by_class[thing][option] = _few(node)
    for thing, settings in by_class.items():
        name = f"{thing.__name__}@{thing.version}"
        rows, summaries = (
            {option: partial(_of_settings, case, node) for option, node in settings.items()}
            for case in (row_case, summary_case)
        )
        parts = _parts(thing, settings)
        yield name, partial(_rows_entry, thing, rows | more.get(thing, {}), parts)
        yield f"{name} summary@{thing.summary_version}", partial(_summary_entry, thing, summaries, parts)


def _of_settings(case: Callable[[Any], Case], node: dict[str, Any]) -> Case:
    return case(instantiate(node))


def _few(node: dict[str, Any]) -> dict[str, Any]:
    made = {key: _few(value) if isinstance(value, dict) else FEW.get(key, value) for key, value in node.items()}
    return made | ({"structure": True} if "structure" in node else {})


def _rows_entry(thing: Any, cases: Cases, parts: dict[str, int]) -> Entry:
    made = entry(thing, cases)
    return replace(made, versions=made.versions | parts)


def _summary_entry(thing: Any, cases: Cases, parts: dict[str, int]) -> Entry:
    made = entry(thing, cases)
    return replace(made, versions=made.versions | parts | summary_versions_of(thing), defaults={})


def _parts(thing: Any, settings: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The versions of the attacks and, if the evaluator uses the network, of the network."""
    inner = [node["attack"]["_target_"] for node in settings.values() if "attack" in node]
    asked = network_versions("scenes_resnet") | versions_of(weighted) if hasattr(thing, "rows") else {}
    return {find(name).__name__: find(name).version for name in inner} | {
        k: v for k, v in asked.items() if k != "version"
    }
