"""Cost of an evaluator per image, compared in the same run with an implementation by the usual libraries.

    python scripts/benchmark_evaluators.py --out results/evaluator_speed.csv
    python scripts/benchmark_evaluators.py --together --out results/evaluators_together.csv
    python scripts/benchmark_evaluators.py --together --against ../before/.venv/bin/python

Both alternate on the same maps, from the raw map to the image's row. The relevant number is the ratio of the CPU times
for the same map: machines are shared and noisy, and milliseconds are hardly comparable between them. The steps of
wsolevaluation, detection-proposals, TorchRay, RISE and pytorch-grad-cam's ROAD are copied in `reference_evaluators.py`
(`authors`); `lean` is wsolevaluation's without the work repeated for each threshold. For insertion and deletion, only
the ranks and the masks of all points are measured, and for ROAD only the filling: the network, which takes nearly all
of the time, is the same for both.

`--together` measures the cost in a run, resizing included: the rows of five maps per image, for all evaluators of
ILSVRC together, for all of VOC together, and for each evaluator alone. `--against` names the interpreter of another
checkout: both alternate, each in a process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import files
from subprocess import PIPE
from typing import Any, get_args

import cv2
import measuring
import numpy as np
import torch
import yaml
from reference_evaluators import (
    HOSANG,
    IOUS,
    SIZE,
    Values,
    boxes_of_a_grid,
    coco,
    curve,
    filled,
    filled_by_a_direct_solve,
    hosang,
    many_boxes,
    max_box_acc,
    meshgrid,
    one_box,
    proposals_loops,
    pxap,
    removed,
    removed_step_by_step,
    sums_in_masks,
    sums_of_classes,
    two_channels,
)
from scipy import ndimage

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import asks_network, is_joint
from eigencam.evaluation.evidence import Evidence
from eigencam.evaluation.foreground import Foreground
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.localization_tuned import TunedLocalization
from eigencam.evaluation.maps import Rule, ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Energy, Pointing
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.segmentation import Segmentation
from eigencam.evaluation.sparseness import Sparseness
from eigencam.store.build import instantiate
from eigencam.store.environment import keep_freed_memory


@dataclass(frozen=True, slots=True)
class Case:
    """One line: an evaluator and its reference on the same maps, at most `most` maps if the reference is slow."""

    name: str
    row: Callable[[ScoreMap, Truth], object]
    kind: str
    reference: str = ""
    call: Callable[[ScoreMap, Truth], object] | None = None
    most: int = 1000


def blobs(rng: np.random.Generator, n: int) -> Values:
    y, x = np.mgrid[:n, :n] / n
    parts = [
        rng.uniform(0.3, 1)
        * np.exp(-((x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2) / (2 * rng.uniform(0.08, 0.25) ** 2))
        for _ in range(rng.integers(1, 4))
    ]
    return (sum(parts) + 0.05 * rng.normal(size=(n, n))).astype(np.float32)


KINDS: dict[str, Callable[[np.random.Generator], Values]] = {
    "blobs 14": lambda rng: blobs(rng, 14),
    "blobs 7": lambda rng: blobs(rng, 7),
    "random 14": lambda rng: rng.random((14, 14), np.float32),
    "random 28": lambda rng: rng.random((28, 28), np.float32),
    "smooth 224": lambda rng: ndimage.gaussian_filter(rng.normal(size=(224, 224)), 4).astype(np.float32),
    "noise 224": lambda rng: rng.random((224, 224), np.float32),
}


def truth_of(rng: np.random.Generator) -> Truth:
    n = int(rng.integers(1, 4))
    x, y = (np.sort(rng.integers(0, end, (n, 2)), axis=1) for end in (SIZE[1], SIZE[0]))
    mask = np.zeros(SIZE, np.uint8)
    for (x1, x2), (y1, y2) in zip(x, y, strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 4
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)
    return Truth("a", SIZE, 3, boxes, np.full(n, 3), mask=mask)


def cases() -> list[Case]:
    v1, v2 = MaxBoxAcc(), MaxBoxAcc("all", IOUS)
    lines = []
    for kind in KINDS:
        lines += [
            Case("localization", Localization().row, kind, "cv2 components", one_box),
            Case(
                "localization_fong", TunedLocalization().row, kind, "cv2 boundingRect, 20 thresholds", boxes_of_a_grid
            ),
            Case("segmentation", Segmentation().row, kind, "sklearn curve + jaccard", curve, 8),
            Case("segmentation", Segmentation().row, kind, "np.sum of 21 classes, no curve", sums_of_classes, 8),
            Case("pointing", Pointing().row, kind, "authors (TorchRay), meshgrid", meshgrid),
            Case("energy", Energy().row, kind, "numpy masks", sums_in_masks),
            Case("pxap", PxAP().row, kind, "authors", pxap),
            Case("foreground", Foreground().row, kind, "authors (Chefer), sklearn", two_channels),
            Case("proposals", Proposals().row, kind, "cv2 components + plain loops", proposals_loops, 8),
            Case("insertion_deletion", removed, kind, "authors (RISE)", removed_step_by_step),
            Case("road", filled, kind, "authors (pytorch-grad-cam)", filled_by_a_direct_solve, 8),
            Case("sparseness", Sparseness().row, kind),
            Case("evidence", Evidence().row, kind),
            Case("maxboxacc_plain", MaxBoxAcc(form="plain").row, kind),
        ]
    lines += [
        Case("proposals", Proposals().row, "blobs 14", "cv2 components + pycocotools", coco),
        Case(
            "proposals_hosang",
            lambda score_map, truth: HOSANG.row_of_boxes(many_boxes(score_map), truth),
            "blobs 14",
            "authors, 3000 boxes",
            hosang,
        ),
    ]
    for kind in KINDS:
        few = {"random 28": 5, "smooth 224": 5, "noise 224": 2}.get(kind, 12)
        for name, evaluator, every in (("maxboxacc", v1, False), ("maxboxacc_v2", v2, True)):
            noise = kind == "noise 224"  # the authors' step takes minutes per map
            if not noise:
                authors, lean = max_box_acc(0.001, every), max_box_acc(0.001, every, True)
                lines.append(Case(name, evaluator.row, kind, "authors, step 0.001", authors, few))
                lines.append(Case(name, evaluator.row, kind, "lean, step 0.001", lean, few))
            lines.append(Case(name, evaluator.row, kind, "authors, step 0.01", max_box_acc(0.01, every), few))
    named = {case.name for case in lines}
    return lines + [Case(name, row, "blobs 14") for name, row in without_network().items() if name not in named]


def without_network() -> dict[str, Callable[[ScoreMap, Truth], object]]:
    """By name, `row` of each packaged evaluator that runs no network; one that takes several maps gets one."""
    rows: dict[str, Callable[[ScoreMap, Truth], object]] = {}
    for file in sorted((files("eigencam.configs") / "evaluator").iterdir(), key=lambda file: file.name):
        for name, node in yaml.safe_load(file.read_text()).items():
            evaluator = instantiate(node)
            if is_joint(evaluator):
                rows[name] = lambda score_map, truth, row=evaluator.joint_row: row([score_map], [truth])
            elif not asks_network(evaluator):
                rows[name] = evaluator.row
    return rows


def together(name: str) -> dict[str, Any]:
    """The evaluators that a dataset has ground truth for: ILSVRC has no masks, VOC also has lists for protocols."""
    shared = {"localization": Localization(), "proposals": Proposals(), "pointing": Pointing(), "energy": Energy()}
    if name == "voc":
        masks = {"segmentation": Segmentation(), "pxap": PxAP(), "foreground": Foreground()}
        stl = Proposals(max_boxes=1000, budgets=(1, 5, 10, 100, 1000), over="classes")
        return {**shared, **masks, "proposals_hosang": HOSANG, "proposals_stl": stl}
    tuned = {f"localization_fong_{rule}": TunedLocalization(rule) for rule in get_args(Rule) if rule != "max"}
    boxes = {"maxboxacc": MaxBoxAcc(), "maxboxacc_v2": MaxBoxAcc("all", IOUS), "plain": MaxBoxAcc(form="plain")}
    return {**shared, "localization_cam": Localization(threshold=0.2), **tuned, **boxes}


def serve(images: int) -> None:
    """For each input line, a dataset and an evaluator or `all`, print the CPU milliseconds per map."""
    shares = "image_memo" in ScoreMap.__dataclass_fields__  # an earlier checkout may not have it
    for line in sys.stdin:
        dataset, only = line.split()
        rng, known = np.random.default_rng(0), together(dataset)
        evaluators = known.values() if only == "all" else [known[only]]
        kinds = [kind for kind in KINDS if kind.startswith("blobs")]
        made = [(truth_of(rng), [KINDS[kinds[k % 2]](rng) for k in range(5)]) for _ in range(images)]
        if dataset == "ilsvrc":
            made = [(replace(truth, mask=None), maps) for truth, maps in made]
        start = time.process_time()
        for truth, maps in made:
            memo: list[Any] = [{}] if shares else []
            for values in maps:
                score_map = ScoreMap(values, SIZE, None, *memo)
                for evaluator in evaluators:
                    evaluator.row(score_map, truth)
        print(1000 * (time.process_time() - start) / (5 * images), flush=True)


def race(args: argparse.Namespace) -> None:
    """Measure all evaluators of each dataset together and each alone; with another checkout, measure that as well."""
    faults, command = measuring.faults(args), [__file__, "--serve", "--maps", str(args.maps)]
    pythons = [sys.executable, *([args.against] if args.against else [])]
    names = ["dataset", "evaluators", "n", "median_ms", "min_ms", "max_ms"]
    names += ["before_median_ms", "before_min_ms", "before_max_ms", "ratio", "ratio_min", "ratio_max"][
        : 6 * len(pythons[1:])
    ]
    lines = []
    with ExitStack() as stack:
        served = [
            stack.enter_context(subprocess.Popen([python, *command], stdin=PIPE, stdout=PIPE, text=True))
            for python in pythons
        ]
        for dataset in ("ilsvrc", "voc"):
            known = together(dataset)
            for only in ("all", *known):
                times: list[list[float]] = []
                for _ in range(args.repeats + 1):  # the first compiles
                    times.append([])
                    for process in served:
                        pipes: Any = process  # both ends are pipes
                        print(dataset, only, file=pipes.stdin, flush=True)
                        times[-1].append(float(pipes.stdout.readline()))
                sides = [cell for side in zip(*times[1:], strict=True) for cell in measuring.spread(side)]
                ratios = measuring.spread([turn[1] / turn[0] for turn in times[1:]]) if args.against else []
                lines.append([dataset, f"all {len(known)}" if only == "all" else only, args.repeats, *sides, *ratios])
                print(*lines[-1], sep="  ", flush=True)
    if args.out:
        about = f"one thread, CPU time per map, enlarging included; {args.maps} images of five maps per measurement"
        measuring.write(args.out, faults, f"{about}; ratio: before / now", names, lines)


def milliseconds(call: Callable[[ScoreMap, Truth], object], values: Values, truth: Truth, repeats: int) -> float:
    """CPU time of the fastest of several calls, each with a new map, so that nothing is cached between them."""
    best = float("inf")
    for _ in range(repeats):
        score_map = ScoreMap(values, SIZE)
        start = time.process_time()
        call(score_map, truth)
        best = min(best, time.process_time() - start)
    return 1000 * best


def measure(case: Case, count: int, repeats: int) -> list[str]:
    rng = np.random.default_rng(0)
    own, other = [], []
    case.row(ScoreMap(KINDS[case.kind](rng), SIZE), truth_of(rng))  # compiles
    for _ in range(min(count, case.most)):
        values, truth = KINDS[case.kind](rng), truth_of(rng)
        own.append(milliseconds(case.row, values, truth, repeats))
        if case.call:
            other.append(milliseconds(case.call, values, truth, 1 if case.most < 10 else repeats))
    line = [case.name, case.kind, *measuring.spread(own), case.reference]
    if other:
        ratios = [b / a for a, b in zip(own, other, strict=True)]
        line += [*measuring.spread(other), *measuring.spread(ratios, 1)]
    else:
        line += [""] * 6
    return [*line, str(len(own))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=30, help="of each kind; fewer if the other side is slow")
    parser.add_argument("--only", default="", help="evaluators whose names start with this")
    parser.add_argument("--together", action="store_true", help="all evaluators of a dataset, as in a run")
    parser.add_argument("--against", metavar="PYTHON", help="with --together: the interpreter of another checkout")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    measuring.add_arguments(parser)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does; the other side has it, too
    if args.serve:
        serve(args.maps)
    elif args.together:
        race(args)
    else:
        table(args)


def table(args: argparse.Namespace) -> None:
    """Measure each case, and write the table."""
    faults, lines = measuring.faults(args), []
    times = ["median_ms", "min_ms", "max_ms", "reference"]
    times += [f"reference_{time}" for time in times[:3]]
    names = ["evaluator", "maps", *times, "ratio_median", "ratio_min", "ratio_max", "n"]
    for case in cases():
        if case.name.startswith(args.only):
            lines.append(measure(case, args.maps, args.repeats))
            print(*lines[-1], sep="  ", flush=True)
    beside = [line for line in lines if line[9]]
    measuring.say_slower(f"{line[0]} ({line[1]}, {line[5]}: {line[9]})" for line in beside if float(line[9]) < 1)
    if args.out:
        about = f"one thread, CPU time, fastest of {args.repeats} calls per map; OpenCV {cv2.__version__}; "
        about += f"{SIZE[0]} x {SIZE[1]} images; medians and ranges over n maps; ratio: reference / own"
        measuring.write(args.out, faults, about, names, lines)


if __name__ == "__main__":
    main()
