"""What an evaluator costs for a picture, beside an implementation of the same with the usual libraries, in one run.

    python scripts/benchmark_evaluators.py --out results/evaluator_speed.csv

Both take turns on the same maps, from the raw map to the picture's row. The ratio of two CPU times of one map is
what counts: machines are shared and noisy, and milliseconds mean little across them. The steps of wsolevaluation,
detection-proposals, TorchRay and RISE are written here as they are there, `authors`; `lean` has wsolevaluation's
without what is computed again for each threshold. Of insertion and deletion it is the ranks and masks of all points:
the network, which takes nearly all of the time, is the same for both.
"""

import argparse
import contextlib
import csv
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_recall_curve

from eigencam.datasets.base import Truth
from eigencam.environment import git, processor
from eigencam.evaluation.boxes import to_xywh
from eigencam.evaluation.faithfulness import ranks_of
from eigencam.evaluation.foreground import Foreground
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pointing import Energy, Pointing
from eigencam.evaluation.proposals import Proposals
from eigencam.evaluation.pxap import PxAP
from eigencam.evaluation.segmentation import Segmentation
from eigencam.evaluation.tuned import TunedLocalization
from eigencam.evaluation.wsol import MaxBoxAcc

Values = NDArray[np.float32]
SIZE = (375, 500)
IOUS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, slots=True)
class Case:
    """One line: an evaluator's row, the maps it gets, and what it is held against; `most` maps, where that is slow."""

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


def normalised(score_map: ScoreMap) -> NDArray[np.float64]:
    full = cv2.resize(score_map.values.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
    full -= full.min()
    full /= full.max()
    return full


def ious(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    a, b = a[:, None], b[None]
    sides = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1)
    common = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0] + 1) * (box[..., 3] - box[..., 1] + 1) for box in (a, b))
    return common / (area_a + area_b - common)


def max_box_acc(step: float, every: bool, lean: bool = False) -> Callable[[ScoreMap, Truth], object]:
    """The steps of wsolevaluation for one picture."""
    thresholds = list(np.arange(0, 1, step))

    def boxes_at(image: NDArray[np.uint8], threshold: int) -> list[list[int]]:
        binary = cv2.threshold(image, threshold, 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not contours:
            return [[0, 0, 0, 0]]
        found = contours if every else [max(contours, key=cv2.contourArea)]
        return [[x, y, min(x + w, 223), min(y + h, 223)] for x, y, w, h in map(cv2.boundingRect, found)]

    def call(score_map: ScoreMap, truth: Truth) -> object:
        image = (normalised(score_map) * 255).astype(np.uint8)[:, :, None]
        wanted = (truth.boxes[truth.sought()] * 224.0 / np.array(truth.size[::-1] * 2)).astype(np.int64)
        found = [boxes_at(image, int(t * (255 if lean else np.max(image)))) for t in thresholds]
        overlap = ious(np.array([box for boxes in found for box in boxes]), wanted)
        ends = np.cumsum([len(boxes) for boxes in found])
        if lean:
            best = np.maximum.reduceat(overlap.max(1), np.append(0, ends[:-1]))
        else:
            best = np.array([max(overlap.max(1)[end - len(b) : end]) for end, b in zip(ends, found, strict=True)])
        return [best >= iou for iou in IOUS]

    return call


def pxap(score_map: ScoreMap, truth: Truth) -> object:
    """The steps of wsolevaluation for one picture, the mask decoded."""
    assert truth.mask is not None
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    mask = cv2.resize(truth.mask, (224, 224), interpolation=cv2.INTER_NEAREST)
    full = normalised(score_map)
    return [np.histogram(full[mask == value], bins=edges)[0] for value in (4, 0)]


def two_channels(score_map: ScoreMap, truth: Truth) -> object:
    """The steps of Chefer et al. for one picture, with scikit-learn's scores."""
    assert truth.mask is not None
    target = np.asarray(Image.fromarray(truth.mask).resize((224, 224), Image.Resampling.NEAREST)) == 4
    full = F.interpolate(torch.from_numpy(score_map.values)[None, None], (224, 224), mode="bilinear")[0, 0].numpy()
    full = (full - full.min()) / (full.max() - full.min())
    found = full > full.mean()
    values, hot = np.stack([1 - full, full]).ravel(), np.stack([~target, target]).ravel()
    return average_precision_score(hot, values), f1_score(target.ravel(), found.ravel()), (found == target).sum()


def enlarged(score_map: ScoreMap) -> Values:
    return cv2.resize(score_map.values, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_LINEAR).astype(
        np.float32, copy=False
    )


def one_box(score_map: ScoreMap, truth: Truth) -> object:
    full = enlarged(score_map)
    stats = cv2.connectedComponentsWithStats((full > 0.15 * full.max()).astype(np.uint8))[2][1:]
    x, y, w, h, _ = stats[stats[:, cv2.CC_STAT_AREA].argmax()].tolist()
    return ious(np.array([[x, y, x + w - 1, y + h - 1]]), truth.boxes.astype(np.int64)).max()


def boxes_of_a_grid(score_map: ScoreMap, truth: Truth) -> object:
    full = enlarged(score_map)
    low, high = float(full.min()), float(full.max())
    rects = [cv2.boundingRect((full > low + t * (high - low)).astype(np.uint8)) for t in np.arange(0, 1, 0.05)]
    return ious(np.array([[x, y, x + w - 1, y + h - 1] for x, y, w, h in rects]), truth.boxes.astype(np.int64))


def curve(score_map: ScoreMap, truth: Truth) -> object:
    assert truth.mask is not None
    full, wanted = enlarged(score_map).ravel(), truth.mask.ravel() == 4
    return precision_recall_curve(wanted, full), jaccard_score(wanted, full > 0.2 * full.max())


def coco(score_map: ScoreMap, truth: Truth) -> object:
    """Boxes of the components at nine thresholds, and COCO's evaluation of them."""
    full = enlarged(score_map)
    cuts = [full > t * full.max() for t in np.arange(0.1, 1, 0.1)]
    boxes = [cv2.connectedComponentsWithStats(cut.astype(np.uint8))[2][1:, :4] for cut in cuts]
    found = np.unique(np.concatenate(boxes), axis=0)[:100].tolist()
    wanted = to_xywh(truth.boxes).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        gt: Any = COCO()
        base = {"image_id": 1, "category_id": 1}
        annotations = [
            {**base, "id": i + 1, "iscrowd": 0, "bbox": b, "area": b[2] * b[3]} for i, b in enumerate(wanted)
        ]
        gt.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": 1}], "info": {}}
        gt.createIndex()
        results = gt.loadRes([{**base, "bbox": b, "score": 1 - i / 1000} for i, b in enumerate(found)])
        evaluation = COCOeval(gt, results, "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
    return evaluation.evalImgs


def meshgrid(score_map: ScoreMap, truth: Truth) -> object:
    """TorchRay's test: the distance of every pixel of the picture, and the mask of filled boxes."""
    full, mask = torch.from_numpy(enlarged(score_map)), torch.zeros(SIZE, dtype=torch.bool)
    for x1, y1, x2, y2 in truth.boxes.astype(np.int64).tolist():
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    peak = int(full.argmax())
    v, u = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    return bool((mask & ((u - peak % SIZE[1]) ** 2 + (v - peak // SIZE[1]) ** 2 < 15**2)).any())


def sums_in_masks(score_map: ScoreMap, truth: Truth) -> object:
    full, mask = enlarged(score_map), np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in truth.boxes.astype(np.int64).tolist():
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    full = (full - full.min()) / (full.max() - full.min())
    cuts = [full > delta for delta in (0, 0.25, 0.5)]
    return full[mask].sum() / full.sum(), [(c & mask).sum() / (mask.sum() + (c & ~mask).sum()) for c in cuts]


def sums_of_classes(score_map: ScoreMap, truth: Truth) -> object:
    """TP, P and T of 21 classes by np.sum, as VOC's calculators have it; no curve."""
    assert truth.mask is not None
    full = enlarged(score_map)
    found, counted = np.where(full > 0.2 * full.max(), 4, 0), truth.mask < 255
    return [
        (np.sum((truth.mask == k) & (found == k) & counted), np.sum((found == k) & counted), np.sum(truth.mask == k))
        for k in range(21)
    ]


def greedy_loops(overlap: NDArray[np.float64]) -> list[float]:
    """detection-proposals' matching of (P, G), a loop over the rows."""
    rest, matched = overlap.T.copy(), [0.0] * overlap.shape[1]
    for _ in range(min(rest.shape)):
        row, column = divmod(int(rest.argmax()), rest.shape[1])
        matched[row] = float(rest[row, column])
        rest[row], rest[:, column] = -np.inf, -np.inf
    return matched


def proposals_loops(score_map: ScoreMap, truth: Truth) -> object:
    """Boxes of the components at nine thresholds one by one, sums in each box, overlaps pair by pair."""
    full = enlarged(score_map)
    found = set()
    for t in np.arange(0.1, 1, 0.1):
        stats = cv2.connectedComponentsWithStats((full > t * full.max()).astype(np.uint8))[2][1:, :4]
        found |= {tuple(box) for box in stats.tolist()}
    positive = np.maximum(full, 0)
    total, peak, ranked = positive.sum(), positive.max(), []
    for x, y, w, h in found:
        inside = positive[y : y + h, x : x + w].sum()
        share, mean = inside / total, inside / (w * h * peak)
        ranked.append((2 * share * mean / (share + mean), (x, y, x + w - 1, y + h - 1)))
    boxes = np.array([box for _, box in sorted(ranked, reverse=True)[:100]])
    overlap = ious(boxes, truth.boxes.astype(np.int64))
    return [greedy_loops(overlap[:k]) for k in (1, 10, 100)]


def many_boxes(score_map: ScoreMap) -> NDArray[np.float64]:
    """(3000, 4) boxes that belong to the map."""
    rng = np.random.default_rng(int(1e6 * abs(float(score_map.values.ravel()[0]))))
    x, y = (np.sort(rng.integers(0, end, (3000, 2)), axis=1) for end in (SIZE[1], SIZE[0]))
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)


def hosang(score_map: ScoreMap, truth: Truth) -> object:
    """detection-proposals' steps for one picture: the overlaps of each object, again for each budget."""
    boxes = many_boxes(score_map)
    _, first = np.unique(boxes, axis=0, return_index=True)
    boxes = boxes[np.sort(first)].astype(np.int64)
    wanted, found = truth.boxes.astype(np.int64), []
    for k in HOSANG.budgets:
        overlap = np.stack([ious(boxes[:k], wanted[g : g + 1])[:, 0] for g in range(len(wanted))], axis=1)
        found.append(greedy_loops(overlap))
    return found


def removed(score_map: ScoreMap, _truth: Truth) -> object:
    """The pixels that are gone at each of 29 points of an insertion or deletion, as the evaluator has them."""
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(score_map.values)[None, None], (224, 224), mode="bilinear", align_corners=False
    )
    ranks, gone = ranks_of(enlarged[0]), torch.linspace(0, 224 * 224, 29).round()
    return ranks < gone[:, None, None]


def removed_step_by_step(score_map: ScoreMap, _truth: Truth) -> object:
    """RISE's steps: argsort, then the next pixels of a copy at each point."""
    full = cv2.resize(score_map.values, (224, 224), interpolation=cv2.INTER_LINEAR)
    order = np.flip(np.argsort(full.reshape(1, -1), axis=1), axis=-1)
    state, states = np.zeros((1, 224 * 224), bool), []
    for i in range(29):
        states.append(state.copy())
        state[0, order[:, 224 * 8 * i : 224 * 8 * (i + 1)]] = True
    return np.stack(states)


HOSANG = Proposals(max_boxes=10000, difficult=True, budgets=(1, 3, 10, 32, 100, 316, 1000, 3162, 10000), unique=True)


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
            noise = kind == "noise 224"  # the authors' step takes minutes a map
            if not noise:
                authors, lean = max_box_acc(0.001, every), max_box_acc(0.001, every, True)
                lines.append(Case(name, evaluator.row, kind, "authors, step 0.001", authors, few))
                lines.append(Case(name, evaluator.row, kind, "lean, step 0.001", lean, few))
            lines.append(Case(name, evaluator.row, kind, "authors, step 0.01", max_box_acc(0.01, every), few))
    return lines


def milliseconds(call: Callable[[ScoreMap, Truth], object], values: Values, truth: Truth, repeats: int) -> float:
    """CPU time of the fastest of some calls, each with a map of its own: nothing is remembered between them."""
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
    line = [case.name, case.kind, f"{statistics.median(own):.2f}", f"{max(own):.2f}", case.reference]
    if other:
        ratios = [b / a for a, b in zip(own, other, strict=True)]
        line += [f"{statistics.median(other):.2f}", *(f"{f(ratios):.1f}" for f in (statistics.median, min, max))]
    else:
        line += [""] * 4
    return [*line, str(len(own))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=30, help="of each kind; fewer where the other side is slow")
    parser.add_argument("--repeats", type=int, default=3, help="calls a map, of which the fastest counts")
    parser.add_argument("--only", default="", help="evaluators whose names start with this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    times = ["median_ms", "max_ms", "reference", "reference_median_ms"]
    names = ["evaluator", "maps", *times, "ratio_median", "ratio_min", "ratio_max", "n"]
    lines = []
    for case in cases():
        if case.name.startswith(args.only):
            lines.append(measure(case, args.maps, args.repeats))
            print(
                "  ".join(f"{cell:>{w}}" for cell, w in zip(lines[-1], (18, 10, 7, 7, 32, 9, 7, 7, 7, 3), strict=True))
            )
            sys.stdout.flush()
    if args.out:
        with args.out.open("w", newline="") as file:
            file.write(f"# command: python {' '.join(sys.argv)}\n")
            file.write(f"# {processor()}, {os.cpu_count()} cores, one thread, CPU time, OpenCV {cv2.__version__}, ")
            file.write(f"code {git()['git_commit']}; {SIZE[0]} x {SIZE[1]} pictures; n: maps; ratio: reference / own\n")
            csv.writer(file).writerows([names, *lines])


if __name__ == "__main__":
    main()
