"""`eigencam score`: evaluate boxes or maps made by any other program.

    eigencam score boxes.txt.gz --format devkit --truth ILSVRC           # ILSVRC's localization errors
    eigencam score boxes.json --format coco --truth instances_val.json   # proposals; localization by the first box
    eigencam score EdgeBoxes/mat --format mat --truth VOCdevkit --set 2007/Main/test --protocol hosang
    eigencam score maps/ --format maps --truth VOCdevkit --set 2012/Segmentation/val

Nothing here needs torch.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from tabulate import tabulate
from tqdm import tqdm

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import Boxes
from eigencam.datasets.ilsvrc_truth import read_truth
from eigencam.datasets.subset import chosen_positions
from eigencam.evaluation import predictions
from eigencam.evaluation.base import Evaluator, Metric, Row
from eigencam.evaluation.localization import Localization, row_of_boxes
from eigencam.evaluation.maps import ComponentRule, Rule, ScoreMap
from eigencam.evaluation.proposal_files import READERS, Order
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.segmentation import Segmentation
from eigencam.reporting.score_truths import Truths, check, left_out, open_truths


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The output: metrics, number of images, and the protocol in words and numbers."""

    metrics: list[Metric]
    n: int
    protocol: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam score`."""
    add = parser.add_argument
    add("predictions", type=Path, metavar="FILE_OR_FOLDER", help="boxes or maps to score; files may be gzipped")
    add(
        "--format",
        required=True,
        default=argparse.SUPPRESS,  # otherwise --help would show a default of None
        choices=tuple(_SCORERS),
        help="devkit: line k for image k, up to five times `label x1 y1 x2 y2`; coco: JSON list of results; "
        "mat: folder of <image id>.mat in detection-proposals' form; txt: lines `image x1 y1 x2 y2 score`, or a "
        "folder of <image id>.txt without the image; maps: folder of <image id>.npy or .png",
    )
    add(
        "--truth",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="ILSVRC or VOC folder, or a COCO instances JSON",
    )
    add("--json", action="store_true", help="print JSON")
    _add_images(parser)
    _add_boxes(parser)
    _add_maps(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which images, and which of their objects, are scored."""
    add = partial(_add, parser)
    add(
        "--set",
        help="which images: ilsvrc, or VOC's YEAR/TASK/IMAGE_SET such as 2007/Main/test; auto: the only set there is",
    )
    add(
        "--on-bad-truth",
        choices=("fail", "skip"),
        help="images with an invalid truth: stop at the first, or leave them out and count them",
    )
    add("--allow-missing", action="store_true", help="leave out images whose files or maps are missing")
    add("--difficult", action="store_true", help="difficult objects (or COCO crowds) are proposals' objects, too")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N images: the first ones, or with --seed a random sample"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the random sample")
    parser.add_argument("--images", metavar="FILE", help="only the images of a list, one id per line")


def _add_boxes(parser: argparse.ArgumentParser) -> None:
    """Add the options of files of boxes, and of proposals."""
    add = partial(_add, parser)
    add("--labels", choices=("devkit", "sorted"), help="classes of a devkit file: ids 1-1000, or 0-999 by WordNet id")
    add(
        "--protocol",
        choices=tuple(_PROTOCOLS),
        help="for proposals: coco: recall and average recall over objects at 1, 10 and 100 boxes; hosang: Hosang et "
        "al.'s, up to 10,000 boxes, with difficult objects; stl: self-taught localization's mean recall over classes",
    )
    add("--order", choices=get_args(Order), help="good scores of a mat or txt file: high, low, or ignored (file)")
    add(
        "--origin",
        type=int,
        choices=(0, 1),
        help="index of the first pixel in a mat or txt file; the default is 1 for mat, 0 for txt",
    )


def _add_maps(parser: argparse.ArgumentParser) -> None:
    """Add the options of maps."""
    add = partial(_add, parser)
    add("--rule", choices=get_args(Rule), help="reference of a map's thresholds")
    add("--threshold", type=float, help="threshold of a map for its box")
    add("--mask-threshold", type=float, help="threshold of a map for segmentation")
    add("--component", choices=get_args(ComponentRule), help="part of the foreground that the box encloses")


def _add(parser: argparse.ArgumentParser, option: str, **described: Any) -> None:
    """Add an option with the default that `_OPTIONS` has."""
    default, _ = _OPTIONS[option.removeprefix("--").replace("-", "_")]
    parser.add_argument(option, default=default, **described)


def main(args: argparse.Namespace) -> int:
    """Score and print; returns 0. Raises ValueError or FileNotFoundError for wrong input."""
    _refuse_unread(args)
    scored = _SCORERS[args.format](args)
    print(as_json(scored) if args.json else as_text(scored))
    return 0


def _refuse_unread(args: argparse.Namespace) -> None:
    """Raise ValueError if an option of `_OPTIONS` is set that the format does not use."""
    for name, (default, formats) in _OPTIONS.items():
        if (value := getattr(args, name)) != default and args.format not in formats:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option}{'' if value is True else f' {value}'}: --format {args.format} does not use it; it is for "
                f"{', '.join(formats)}"
            )


def _score_devkit(args: argparse.Namespace) -> ScoreResult:
    guesses = predictions.read_devkit(args.predictions)
    truth = read_truth(args.truth, keep_faults=True)
    chosen = chosen_positions(truth.ids, args.limit, args.seed, args.images)
    faults = {name: truth.faults[name] for name in (truth.ids[i] for i in chosen) if name in truth.faults}
    check(faults, args.on_bad_truth)
    invalid = left_out(faults, len(chosen))
    scored = [i for i in chosen if truth.ids[i] not in faults]
    metrics = predictions.devkit_metrics(args.predictions, guesses, truth, args.labels, scored)
    protocol = {
        "pictures": f"{len(scored)} of ILSVRC, {len(truth.ids) - len(scored) or 'none'} left out",
        **invalid,
        "hit": "right label and inclusive IoU >= 0.5 with any box of the image; the best of the guesses counts",
        "box_error": "the first box is wrong, its label ignored",
        "labels": args.labels,
    }
    return ScoreResult(metrics, len(scored), protocol)


def _open(args: argparse.Namespace) -> Truths:
    maps = args.format == "maps"
    return open_truths(args.truth, args.set, args.on_bad_truth, maps=maps, allow_missing=args.allow_missing)


def _score_coco(args: argparse.Namespace) -> ScoreResult:
    truths = _open(args)
    return _score_boxes(args, truths, predictions.read_coco_boxes(args.predictions, truths.ids))


def _score_files(args: argparse.Namespace) -> ScoreResult:
    truths = _open(args)
    read, first = READERS[args.format]
    origin = first if args.origin is None else args.origin
    return _score_boxes(args, truths, read(args.predictions, truths.ids, args.order, origin))


def _score_boxes(args: argparse.Namespace, truths: Truths, boxes: dict[str, Boxes]) -> ScoreResult:
    """Evaluate boxes by image, best first, as proposals; the first of each image also as localization."""
    proposals = _proposals(args)
    truths = truths.part(args.limit, args.seed, args.images)
    rows: list[list[Row]] = [[], []]
    for truth in truths.of(truths.ids):
        found = boxes.get(truth.image_id, np.zeros((0, 4)))
        rows[0].append(_row(truth, row_of_boxes(found, truth)))
        rows[1].append(_row(truth, proposals.row_of_boxes(found, truth)))
    protocol = {
        "pictures": f"{len(rows[0])} of {truths.name}",
        **left_out(truths.left_out, len(truths.ids)),
        "without boxes": f"{len(set(truths.ids) - boxes.keys() - truths.left_out.keys())}: their objects are missed",
        "box_error": "the box of the highest score, with any object sought",
    }
    return _scored([Localization(), proposals], rows, protocol)


def _score_maps(args: argparse.Namespace) -> ScoreResult:
    evaluators: list[Evaluator] = [
        Localization(args.rule, args.threshold, args.component),
        _proposals(args),
    ]
    files = predictions.find_maps(args.predictions)
    truths = _open(args)
    found = predictions.maps_of(truths.ids, files)
    truths = truths.part(args.limit, args.seed, args.images)
    if truths.masks:
        evaluators.insert(1, Segmentation(args.rule, args.mask_threshold))
    missing = [name for name in truths.ids if name not in found]
    if missing and (len(missing) == len(truths.ids) or not args.allow_missing):
        raise FileNotFoundError(
            f"{args.predictions}: {len(missing)} of {len(truths.ids)} images of {truths.name} have no map, e.g. "
            f"{predictions.some(missing)}; there are {predictions.some(files)}"
            + ("" if args.allow_missing else "; --allow-missing leaves images out")
        )
    used = set(found.values())
    extra = [key for key, path in files.items() if path not in used]
    rows: list[list[Row]] = [[] for _ in evaluators]
    for truth in tqdm(truths.of(found), total=len(truths.ids) - len(missing), unit="maps", disable=None):
        score_map = ScoreMap(predictions.read_map(found[truth.image_id]), truth.size)
        for evaluator, own in zip(evaluators, rows, strict=True):
            own.append(_row(truth, evaluator.row(score_map, truth)))
    protocol = {
        "pictures": f"{len(rows[0])} of the {len(truths.ids)} of {truths.name}",
        **left_out(truths.left_out, len(truths.ids)),
        "without map": f"{len(missing)}, left out: {predictions.some(missing)}" if missing else "0",
        "maps of no image": f"{len(extra)}, not used: {predictions.some(extra)}" if extra else "0",
        "box_error": "any object sought; the gt-known error if the maps are for the true class",
    }
    return _scored(evaluators, rows, protocol)


def _proposals(args: argparse.Namespace) -> Proposals:
    """The evaluator of `configs/evaluator` that `--protocol` names, with `--difficult` and a map's rule applied."""
    name = _PROTOCOLS[args.protocol]
    text = (files("eigencam.configs") / "evaluator" / f"{name}.yaml").read_text()
    node = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))[name]
    chosen = {key: value for key, value in node.items() if key != "_target_"}
    return replace(Proposals(**chosen), rule=args.rule, difficult=args.difficult or chosen["difficult"])


def as_json(scored: ScoreResult) -> str:
    """Metrics and intervals by name in percent with two decimals (null: not defined), notes, n and the protocol."""
    metrics = scored.metrics
    return json.dumps(
        {
            "metrics": {m.name: _rounded(m.value) for m in metrics},
            "interval95": {m.name: [_rounded(m.low), _rounded(m.high)] for m in metrics},
            "n": scored.n,
            "denominators": {m.name: m.n for m in metrics},
            "thresholds": {m.name: m.threshold for m in metrics if m.threshold},
            "notes": {m.name: m.note for m in metrics if m.note},
            "protocol": scored.protocol,
        },
        indent=2,
    )


def as_text(scored: ScoreResult) -> str:
    """A table with 95 % intervals, then the protocol."""
    columns = {
        "metric": [m.name for m in scored.metrics],
        "%": [f"{m.value:.2f}" for m in scored.metrics],
        "95 % interval": ["" if math.isnan(m.low) else f"{m.low:.2f} .. {m.high:.2f}" for m in scored.metrics],
        "n": [m.n for m in scored.metrics],
        "threshold": [m.threshold for m in scored.metrics],
        "note": ["; ".join(filter(None, (m.note, m.caution))) for m in scored.metrics],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    align = ["right" if name in ("%", "n") else "left" for name in columns]
    return "\n".join([tabulate(columns, "keys", disable_numparse=True, colalign=align), "", *_lines(scored.protocol)])


def _lines(protocol: dict[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in protocol.items():
        nested = isinstance(value, dict)
        lines.append(f"{indent}{name}:" if nested else f"{indent}{name}: {value}")
        lines += _lines(value, indent + "  ") if nested else []
    return lines


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def _row(truth: Truth, row: Row) -> Row:
    """The evaluator's row with the image's id and label; no `target`, since the class of a foreign map is unknown."""
    return {"image": truth.image_id, "label": truth.label, **row}


def _scored(evaluators: list[Evaluator], rows: list[list[Row]], protocol: dict[str, Any]) -> ScoreResult:
    metrics: list[Metric] = []
    for evaluator, own in zip(evaluators, rows, strict=True):
        # Errors that need a classifier are not defined here, and not shown.
        metrics += [m for m in evaluator.summary(pd.DataFrame(own)) if not m.undefined]
    words = [dict(evaluator.protocol()) for evaluator in evaluators]
    return ScoreResult(metrics, len(rows[0]), {**protocol, **{str(own.pop("evaluator")): own for own in words}})


_BOXES = ("coco", "mat", "txt")
_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "set": ("auto", (*_BOXES, "maps")),
    "labels": ("devkit", ("devkit",)),
    "rule": ("max", ("maps",)),
    "threshold": (0.15, ("maps",)),
    "mask_threshold": (0.2, ("maps",)),
    "component": ("largest", ("maps",)),
    "difficult": (False, (*_BOXES, "maps")),
    "protocol": ("coco", (*_BOXES, "maps")),
    "order": ("falling", ("mat", "txt")),
    "origin": (None, ("mat", "txt")),
    "on_bad_truth": ("fail", ("devkit", *_BOXES, "maps")),
    "allow_missing": (False, (*_BOXES, "maps")),
}
"""By option: its default, and the formats that read it; for other formats it is refused."""
_PROTOCOLS = {"coco": "proposals", "hosang": "proposals_hosang", "stl": "proposals_stl"}
_SCORERS: dict[str, Callable[[argparse.Namespace], ScoreResult]] = {
    "devkit": _score_devkit,
    "coco": _score_coco,
    "mat": _score_files,
    "txt": _score_files,
    "maps": _score_maps,
}
