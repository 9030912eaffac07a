"""Golden numbers of code in evaluators and shared parts that the fixed maps and truths do not reach."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from golden_evaluators import rows_of, samples
from golden_file import Case, numbers
from golden_methods import Cases, inputs, network, nodes
from golden_rare import Coloured, constants, waves

from eigencam.datasets.base import Truth
from eigencam.evaluation import component_tree, intervals, part_scores, proposal_matching, statistics
from eigencam.evaluation import maps as score_maps
from eigencam.evaluation.adversarial import Adversarial
from eigencam.evaluation.attacks import DeepFool, deepfool
from eigencam.evaluation.infidelity import Infidelity
from eigencam.evaluation.pointing import Pointing
from eigencam.evaluation.proposals import Proposals, recall_curve
from eigencam.methods import blur
from eigencam.passes import forward, tape
from eigencam.store.build import instantiate


def _gapless() -> Case:
    """Thresholds where the order of a sum might decide: equal values at the end of a share."""
    equal = score_maps.ScoreMap(np.ones((4, 5), np.float32) / 4, (4, 5))
    stairs = np.repeat(np.arange(1, 5, dtype=np.float32), 5).reshape(4, 5)
    steps, none = score_maps.ScoreMap(stairs, (4, 5)), score_maps.ScoreMap(-stairs, (4, 5))
    rules = [(one, rule) for one in (equal, steps, none) for rule in ("max", "mean", "energy")]
    found = [score_maps.cuts(one, rule, (0.4, 0.8, 0.9)) for one, rule in rules]  # type: ignore[arg-type]
    return {"cuts": numbers(np.nan_to_num(np.stack(found), posinf=9))}


def _single_pixels() -> Case:
    levels = np.zeros((7, 9), np.uint8)
    levels[2, 3], levels[5, 6:8], levels[5, 2] = 90, 200, 40
    nodes = component_tree.outer(levels)
    return {"nodes": numbers(nodes), "largest": numbers(component_tree.largest_by_area(nodes, levels))}


def _few_points() -> Case:
    """A row for one point and for two, by masks; near the mask, far from it, and without one."""
    case = Case()
    truth = samples()[1][1]
    found = Pointing(objects="mask", tolerance=4)
    rows, columns = np.nonzero(truth.sought_pixels())
    left, top = int(columns.min()), int(rows[columns.argmin()])
    for name, x, y in (
        ("near", [left - 3], [top]),
        ("far", [left - 5], [top]),
        ("corner", [0], [0]),
        ("two", [left - 3, 0], [top, 0]),
    ):
        row = found.row_of_points(np.array(x), np.array(y), truth)
        case[name] = [float(row[key]) for key in ("x", "y", "hit")]
    row = Pointing(tolerance=4).row_of_points(np.array([left - 3]), np.array([top]), truth, "nonfinite")
    case["boxes"] = [float(row["hit"])]
    return case


def _recall_curve() -> Case:
    lists = [np.array([0.5, 0.83]), np.zeros(0), np.array([0.97, 1.0, 0.2])]
    rows = pd.DataFrame({"matched_10": lists, "map_state": ["ok", "ok", "ok"]})
    found = recall_curve(rows, 10)
    return {"iou": numbers(found["iou"].to_numpy()), "recall": numbers(found["recall"].to_numpy())}


def _clipped() -> Case:
    used = network("scenes_resnet")
    plain = inputs(64).double() / 255
    scale = used.forward(inputs(64))
    span = scale.white.double() - scale.black.double()
    low, high = torch.full_like(plain[:1], 0.3), torch.full_like(plain[:1], 0.6)
    found = deepfool(lambda x: used.module(x * span + scale.black), plain, num_classes=3, max_iter=2, clip=(low, high))
    return {"images": numbers(found.images - plain), "iterations": numbers(found.iterations)}


def _groups() -> Case:
    found = statistics.grouped(np.array([1.0, 2.0, 4.0, 7.0, 7.5]), np.array([0, 3]))
    return {name: numbers(values) for name, values in zip(("means", "counts", "squares"), found, strict=True)}


def _at_the_ends() -> Case:
    """Intervals that reach the ends of what is possible, and a change that is not 0."""
    low = np.zeros(120)
    low[[3, 40, 77]] = 0.2
    made = [statistics.mean("low", low), statistics.mean("high", 1 - low)]
    made += [statistics.change("change", np.array([1.0, 0, -1, 1, 1, 0, 0, 1]))]
    rows = pd.DataFrame({"image": np.arange(120) // 2})
    for name, some in (("ratio", low), ("inverse", 1 - low)):
        counts = np.stack([some, np.ones(120)], axis=1)
        made += statistics.by_image([one := statistics.pooled(name, counts, intervals.MeanRatio())], rows)
        made += [replace(one, name=f"{name} of rows")]
    return {metric.name: numbers(np.array([metric.value, metric.low, metric.high, metric.n])) for metric in made}


def _shares_of_pixels() -> Case:
    boxes = np.array([[0.48, 1.49, 5.2, 6.0], [0.4, 1.4, 5.9, 6.0], [0.52, 1.0, 5.3, 6.0]])
    return {"first": numbers(proposal_matching.first_of_equal(boxes))}


def _found_objects() -> Case:
    """Recall of overlaps between 0.7 and 0.735."""
    truth = Truth("a", (200, 200), 0, np.array([[0.0, 0, 99, 99]]), np.array([0]))
    case = Case()
    for over in ("objects", "classes"):
        proposals = Proposals(budgets=(1,), over=over)
        rows = pd.DataFrame([{"image": "a", **proposals.row_of_boxes(np.array([[0.0, 0, 99, 70]]), truth)}])
        for metric in proposals.summary(rows.assign(label=0)):
            case[f"{over} {metric.name}"] = [float(metric.value)]
    return case


def _undefined(option: str) -> Case:
    """The summary if the first map is not finite."""
    evaluator = instantiate(nodes("evaluator")[option])
    rows = rows_of(evaluator)[""]
    rows.loc[0, "map_state"] = "nonfinite"
    return {metric.name: numbers(np.array([metric.value, metric.n])) for metric in evaluator.summary(rows)}


def _parts() -> Case:
    """Scores of undefined maps, of a map that ties, and the pixels of a part."""
    rows = pd.DataFrame(
        {"sd": [0.3, 0.4], "parts": [3, 3], "map_state": ["nonfinite", "ok"], "answer_state": ["ok"] * 2}
    )
    flat, rising, there = torch.ones(1, 3), torch.arange(3.0)[None], torch.ones(1, 3, dtype=torch.bool)
    score, truth = samples()[3]
    labels, masks = part_scores._pixels_of(score, truth, (7, 7))
    return {
        "scores": numbers(part_scores._scores(rows, "sd")),
        "ties": numbers(part_scores._spearman(flat, rising, there, torch.ones(len(flat), 1))),
        "pixels": [*map(float, labels), *numbers(masks.astype(np.float64))],
    }


def _region_of_shares() -> Case:
    found = [score_maps._outside(7, start, stop) for start, stop in ((1.51, 4.52), (0.0, 6.51))]
    return {"outside": numbers(np.stack(found).astype(np.float64))}


def _colours() -> Case:
    kept = tape.record(Coloured().eval(), inputs(16).float() / 256)
    return {"steps": [f"{step.operation} {step.sources} {tuple(step.shape)}" for step in kept.steps]}


def _recovered() -> Case:
    """The pixels of images that are given normalised alone."""
    made = network("scenes_vgg").forward(inputs(32))
    made._pixels = None
    return {"pixels": numbers(made.pixels)}


def _box_blurs() -> Case:
    """Radii at which the side of Pillow's boxes is about to change."""
    image = waves(1, 20, 30).abs()
    return {f"radius {radius}": numbers(blur.pillow_blur(image, radius)) for radius in (3.4, 9.5)}


EVALUATORS: dict[Any, Cases] = {
    Adversarial: {"undefined": partial(_undefined, "adversarial_deepfool")},
    Infidelity: {"undefined": partial(_undefined, "infidelity")},
    part_scores.PartScores: {"parts": _parts, "constants": constants(part_scores, "THRESHOLDS", "IRRELEVANT")},
    Pointing: {"points": _few_points},
    Proposals: {"recall": _recall_curve, "objects": _found_objects},
}
"""By class of evaluators, with the rows' numbers."""

PARTS: dict[Any, Cases] = {
    blur: {"boxes": _box_blurs},
    component_tree: {"single pixels": _single_pixels},
    DeepFool: {"clipped": _clipped},
    forward: {"recovered": _recovered},
    proposal_matching: {"shares of pixels": _shares_of_pixels},
    score_maps: {"equal values": _gapless, "region": _region_of_shares},
    statistics: {
        "groups": _groups,
        "at the ends": _at_the_ends,
        "constants": constants(statistics, "MOST_IMAGES", "GROUPS", "RARE"),
    },
    tape: {"colours": _colours},
}
"""By module of a shared part, or class of an attack."""
