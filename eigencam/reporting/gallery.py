"""Images for a report: their selection, and every method's maps, computed again from the results' own configs.

Out of thousands of images a few dozen are shown: for each method its largest wins and losses, hits and misses
evenly spread, and images that the network got wrong. Their maps are computed again from the `config.yaml` of
each result, and only if network, dataset and method still match the result. Maps are stored at the network's
resolution, a few hundred bytes each; the page enlarges and colours them.
"""

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from eigencam.configuring.stored_config import changed as _changed
from eigencam.datasets.base import Truth
from eigencam.datasets.checks import checked_truth
from eigencam.evaluation import states
from eigencam.evaluation.base import Metric, headline_of
from eigencam.files import first_line
from eigencam.store.canonical import canonical
from eigencam.store.reader import Stored, read_all
from eigencam.store.schema import CONFIG
from eigencam.store.trust import Trust, UntrustedError, packaged_target

Item = tuple[str, int]
"""(image id, class of the row)."""

SIDE, CELLS, BOXES = 256, 32, 5
"""Longest side of an image and of a map in the report, in pixels; maximum number of boxes shown per method."""


@dataclass(slots=True)
class Scores:
    """The scores of each image in the results for one dataset.

    Attributes:
        graded: by (network, method), then by `evaluator metric`: a value per item, in percent if the unit is %.
        better: `lower` or `higher`, by `evaluator metric`.
        hits: by `evaluator metric`, for metrics of hits and misses: what the metric is about.
        boxes: by (network, method): (x1, y1, x2, y2) per item, if the rows have them.
        right: by network: per item, whether the top-1 class is the label, if the rows say so.
        folders: by (network, method): a result's folder.
        items: the items of the first result.
    """

    graded: dict[tuple[str, str], dict[str, pd.Series]] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)
    hits: dict[str, str] = field(default_factory=dict)
    boxes: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    right: dict[str, pd.Series] = field(default_factory=dict)
    folders: dict[tuple[str, str], str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    def add(self, result: Mapping[str, Any], evaluator: Any, rows: pd.DataFrame) -> None:
        """Add the rows of one result."""
        key = result["network"], result["method"]
        index = pd.MultiIndex.from_frame(rows[["image", "label"]])
        self.folders.setdefault(key, result["folder"])
        self.items = self.items or index.tolist()
        if "x1" in rows:
            self.boxes.setdefault(key, rows[["x1", "y1", "x2", "y2"]].set_axis(index))
        answered = ~states.no_answer(rows)
        if result["network"] not in self.right and answered.any() and all(map(len, rows["top5"][answered])):
            first = np.array([top[0] if len(top) else -1 for top in rows["top5"]])
            self.right[result["network"]] = pd.Series(answered & (first == rows["label"].to_numpy()), index)
        metrics = {m.name: m for m in evaluator.summary(rows)}
        for names in headline_of(evaluator):
            metric = next(
                (metrics[n] for n in names.split("|") if n in metrics and metrics[n].value == metrics[n].value), None
            )
            if metric is None or metric.better not in ("lower", "higher") or metric.about == "network":
                continue
            values = of_images(metric, rows)
            if values is not None:
                name = f"{result['evaluator']} {metric.name}"
                self.better[name] = metric.better
                if metric.hit:
                    self.hits[name] = metric.about
                self.graded.setdefault(key, {})[name] = pd.Series(values, index)

    @property
    def hit(self) -> str:
        """The metric that gives hit or miss per image; "" if there is none."""
        return min(self.hits, key=lambda name: (self.hits[name] != "method", name), default="")

    @property
    def main(self) -> str:
        """The metric by which images are chosen: a graded one if there is one."""
        return next((name for name in sorted(self.better) if name not in self.hits), "") or self.hit

    def frame(self, metric: str) -> pd.DataFrame:
        """Items x (network, method), signed so that larger is better."""
        sense = -1 if self.better[metric] == "lower" else 1
        columns = {key: sense * values[metric] for key, values in self.graded.items() if metric in values}
        return pd.DataFrame(columns)


def of_images(metric: Metric, rows: pd.DataFrame) -> NDArray[np.float64] | None:
    """(N,) the metric's value per row, in percent if the unit is %, NaN without a value; None if rows do not have it.

    If the evaluator leaves rows out, the metric's samples say which (`eigencam.evaluation.statistics.of_rows`).
    """
    if metric.sample is None or metric.sample.statistic is not None:
        return None
    parts = np.asarray(metric.sample.parts, np.float64) * (100 if metric.unit == "%" else 1)
    if len(parts) == len(rows):
        return parts
    if metric.sample.rows is None:
        return None
    values = np.full(len(rows), np.nan)
    values[metric.sample.rows] = parts
    return values


def choose(scores: Scores, count: int, baselines: Iterable[str] = ()) -> list[Item]:
    """Return at most `count` items, the most informative first.

    Taken in turn: each method's largest wins over the mean of the others and its largest losses; hits and misses evenly
    spread; images that the network got wrong. If all metrics are over the whole set, items are spread evenly.
    """
    from eigencam.reporting.explained_dataset import spread

    if not scores.better:  # all metrics are over the whole set
        return [scores.items[k] for k in spread(len(scores.items), count)]
    frame = scores.frame(scores.main)
    queues: list[list[Item]] = []
    for network in frame.columns.unique(0):
        scored = pd.DataFrame(frame[network])
        for method in scored.columns.difference(list(baselines), sort=False) if scored.shape[1] > 1 else ():
            others = scored.drop(columns=method).mean(axis="columns")
            lead = (scored[method] - others).dropna().sort_values(kind="stable")
            queues += [list(lead.index[::-1]), list(lead.index)]
    ranked = frame.mean(axis="columns").dropna().sort_values(kind="stable").index
    even = [ranked[k] for k in spread(len(ranked), count)]
    queues.append(even)
    queues += [list(right.index[~right.to_numpy(bool)]) for right in scores.right.values()]
    # The even spread is used as often as all other criteria together.
    turns = zip_longest(*queues, even[::-1])
    return list(dict.fromkeys(item for item in chain.from_iterable(turns) if item is not None))[:count]


def entries(
    root: Path,
    scores: Scores,
    items: Sequence[Item],
    settings: Sequence[str],
    trust: Trust,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the selected images with every network's and method's map, JSON-ready, for the page's gallery.

    Args:
        root: folder of the results.
        scores: of one dataset.
        items: the most informative first; their order is kept.
        settings: `key=value` that override the configs, e.g. where the images are now.
        trust: what the results' configs may build.
        say: called with what could not be shown, and why.
    """
    found: dict[Item, dict[str, Any]] = {}
    metrics = list(scores.better)
    for network in dict.fromkeys(network for network, _ in scores.folders):
        folders = {method: folder for (net, method), folder in scores.folders.items() if net == network}
        try:
            job, names = _job(root, folders, settings, trust, say)
        except Exception as error:  # any error caused by a foreign config
            say(f"no images of {network}: {first_line(error)}")
            continue
        place = {image: i for i, image in enumerate(job.dataset.ids)}
        index = pd.MultiIndex.from_tuples(items, names=["image", "label"])
        graded = {m: pd.DataFrame(scores.graded.get((network, m), {}), index).reindex(columns=metrics) for m in folders}
        boxes = {m: frame.reindex(index).to_numpy(np.float64) for (n, m), frame in scores.boxes.items() if n == network}
        right = scores.right[network].reindex(index).tolist() if network in scores.right else [None] * len(items)
        for k, item in enumerate(items):
            image, label = item
            try:
                seen = _seen(job, place[image], label)
            except Exception as error:  # an image that cannot be decoded, a method that raises
                say(f"{image}: {first_line(error)}")
                continue
            entry = found.setdefault(item, seen.entry(job))
            entry["networks"][network] = {
                "predicted": seen.predicted,
                "right": bool(right[k]) if right[k] in (True, False) else None,
                "methods": {
                    method: seen.of_method(key, boxes[method][k : k + 1] if method in boxes else None)
                    | {"scores": [_number(value) for value in graded[method].iloc[k]]}
                    for key, method in names.items()
                },
            }
    return {
        "metrics": [{"name": m, "better": scores.better[m]} for m in metrics],
        "hit": metrics.index(scores.hit) if scores.hit else None,
        "main": metrics.index(scores.main) if metrics else None,
        "images": [found[item] for item in items if item in found],
    }


@dataclass(frozen=True, slots=True)
class _Seen:
    """One image through one network."""

    image: NDArray[np.uint8]
    truth: Truth
    region: tuple[float, float, float, float]
    maps: Mapping[str, NDArray[np.float32]]
    boxes: Mapping[str, NDArray[np.float64]]
    predicted: str

    def entry(self, job: Any) -> dict[str, Any]:
        """The fields that are the same for all networks."""
        height, width = self.truth.size
        scale = min(1.0, SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shown = Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS)
        label = self.truth.label
        made: dict[str, Any] = {
            "id": self.truth.image_id,
            "class": job.dataset.classes[label] if label >= 0 else "",
            "size": [width, height],
            "src": _uri(shown, "webp", quality=62, method=6),
            "boxes": _rounded(self.truth.boxes[self.truth.sought()]),
            "networks": {},
        }
        if self.truth.mask is not None:
            veil = Image.fromarray(self.truth.sought_pixels().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
            veil.putpalette([0, 0, 0, 0, 0, 0])
            made["veil"] = _uri(veil, "png", transparency=bytes([170, 0]), bits=1, optimize=True)
        return made

    def of_method(self, key: str, box: NDArray[np.float64] | None) -> dict[str, Any]:
        """A method's boxes; or its map and `box` (1, 4), by default that at `draw.THRESHOLD`."""
        from eigencam.evaluation.maps import ScoreMap, box_of
        from eigencam.reporting.draw import THRESHOLD

        if key in self.boxes:
            return {"boxes": _rounded(self.boxes[key][:BOXES, :4])}
        score_map = ScoreMap(self.maps[key], self.truth.size, self.region)
        box = box_of(score_map, "max", THRESHOLD)[None] if box is None else box
        values = _shrunk(score_map.values) / max(score_map.peak, np.finfo(np.float32).tiny)
        levels = (np.clip(np.nan_to_num(values, posinf=0, neginf=0), 0, 1) * 255).round().astype(np.uint8)
        made = {
            "boxes": _rounded(box),
            "map": base64.b64encode(levels.tobytes()).decode(),
            "cells": [levels.shape[1], levels.shape[0]],
        }
        height, width = self.truth.size
        whole = self.region == (0.0, 0.0, float(width), float(height))
        return made if whole else made | {"region": [round(x, 1) for x in self.region]}


def _job(
    root: Path, folders: Mapping[str, str], settings: Sequence[str], trust: Trust, say: Callable[[str], None]
) -> tuple[Any, dict[str, str]]:
    """The job that computes maps of one network's methods, and the method by its key in the job.

    Raises:
        ValueError: the config has faults or names untrusted code, or network or dataset no longer match the
            results.
    """
    from omegaconf import OmegaConf

    from eigencam.running.prepare import prepare

    by_name = {stored.folder.name: stored for stored in read_all(root, set(folders.values()))}
    found = {method: by_name[folder] for method, folder in folders.items()}
    configs = {method: stored.config() for method, stored in found.items()}
    names, nodes = dict[str, str](), dict[str, Any]()
    for k, method in enumerate(folders):
        node = _method_node(configs[method], found[method])
        try:
            trust.check(node, CONFIG)
        except UntrustedError as error:
            say(f"no images of {method}: {error}")
        else:
            names[f"m{k}"], nodes[f"m{k}"] = method, node
    if not names:
        raise ValueError("no method is trusted")
    content = next(iter(configs.values()))
    content |= {"method": nodes, "on_unsupported": "skip", "device": "auto"}
    content["on_bad_truth"] = "skip"  # images with an invalid truth have no row
    content["evaluator"] = {"localization": {"_target_": packaged_target("evaluator", "Localization")}}
    job = prepare(_changed(OmegaConf.create(trust.confined(content, CONFIG)), settings))
    expected = next(iter(found.values())).identity
    for what in ("network", "dataset"):
        now = next(iter(job.results.values())).identity[what]
        if canonical(now) != canonical(expected[what]):
            raise ValueError(f"the {what} is no longer that of the results")
    for key, method in list(names.items()):
        now = job.results[key, "localization"].identity["method"]
        same = canonical(now) == canonical(found[method].identity["method"])
        if key in job.unsupported or not same:
            say(f"no images of {method}: {job.unsupported.get(key, 'it is no longer the method of the results')}")
            del names[key], job.methods[key]
    return job, names


def _method_node(config: Mapping[str, Any], stored: Stored) -> Any:
    """The method of a result, as its config describes it."""
    methods, name = config.get("method"), stored.names[2]
    if not isinstance(methods, Mapping) or name not in methods:
        raise ValueError(f"{stored.folder / CONFIG}: it describes no method {name}")
    return methods[name]


def _seen(job: Any, i: int, label: int) -> _Seen:
    """Run image `i` through the network, with every method's map for the class of its row."""
    from dataclasses import replace

    import torch

    from eigencam.reporting.explained_dataset import class_names
    from eigencam.running.batch_maps import compute_maps

    image, truth = job.dataset.image(i), replace(checked_truth(job.dataset, i), label=label)
    resized, region = job.network.preprocess(image)
    by_label = job.comparable and job.config.target != "predicted"
    found = compute_maps(
        job.network,
        job.methods,
        torch.from_numpy(resized)[None],
        labels=[max(label, 0)] if by_label else None,
        index=[i],
        ids=[truth.image_id],
        original=lambda _n: image,
        regions=[region],
        population=(len(job.dataset.ids), lambda k: job.network.preprocess(job.dataset.image(k))[0]),
        chunk=job.config.chunk,
    )
    known, first = class_names(job), found.top5[0][:1]
    predicted = next((known[k].split(",")[0] if k < len(known) else f"class {k}" for k in first), "")
    maps = {name: batch[0] for name, batch in found.maps.items()}
    boxes = {name: batch[0] for name, batch in found.boxes.items()}
    return _Seen(image, truth, region, maps, boxes, predicted)


def fitting(galleries: Sequence[dict[str, Any]], limit: int) -> int:
    """Drop the least informative images until all fit into `limit` bytes of JSON; return how many were dropped."""
    sizes = [[len(json.dumps(image)) for image in gallery["images"]] for gallery in galleries]
    dropped, total = 0, sum(map(sum, sizes))
    while total > limit and any(sizes):
        k = max(range(len(sizes)), key=lambda k: len(sizes[k]))
        total -= sizes[k].pop()
        galleries[k]["images"].pop()
        dropped += 1
    return dropped


def _shrunk(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map of at most `CELLS` per side, averaged over cells if it is larger."""
    height, width = values.shape
    if max(height, width) <= CELLS or not np.isfinite(values).all():
        return values[:CELLS, :CELLS]
    scale = CELLS / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX), np.float32)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    partial(image.save, buffer, kind)(**options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rounded(boxes: NDArray[np.float64]) -> list[list[float]]:
    """Boxes as rounded lists, without NaN boxes."""
    return [[round(x, 1) for x in box] for box in boxes.tolist() if np.isfinite(box).all()]


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 2)
