"""Compare MaxBoxAcc and MaxBoxAccV2 with the authors' steps using OpenCV, hit by hit at all 1000 thresholds.

    python scripts/wsol_agreement.py                                        generated maps of several kinds
    python scripts/wsol_agreement.py --images 40 model=vgg16 dataset=ilsvrc paths.ilsvrc=/data/ILSVRC \
        method=[eigencam,gradcam]                                           maps of a network as well
    python scripts/wsol_agreement.py --count 4 --write tests/wsol_golden.npz     reference data of the tests

The exit status is 1 if a hit differs.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmark_evaluators import IOUS, KINDS, SIZE, max_box_acc, truth_of
from numpy.typing import NDArray

from eigencam.configuring.compose import compose
from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.running.batch_maps import compute_maps
from eigencam.running.prepare import prepare

STEP = 0.001
LEVELS = (np.arange(0, 1, STEP) * 255).astype(np.int64)
EVALUATORS = (MaxBoxAcc("largest", IOUS), MaxBoxAcc("all", IOUS))
Hits = NDArray[np.bool_]


def generated(count: int) -> Iterator[tuple[str, ScoreMap, Truth]]:
    """`count` maps of each kind, but none of noise at 224, for which the authors' steps take minutes per map."""
    for kind, make in KINDS.items():
        rng = np.random.default_rng(1)
        for _ in range(count if kind != "noise 224" else 0):
            yield kind, ScoreMap(make(rng), SIZE), truth_of(rng)


def of_network(images: int, overrides: list[str]) -> Iterator[tuple[str, ScoreMap, Truth]]:
    """Maps of all methods for images spread over the dataset; undefined maps and images without a box are left out."""
    job = prepare(compose("run", [*overrides, "evaluator=[maxboxacc]"]))
    for i in np.linspace(0, len(job.dataset.ids) - 1, images).astype(int).tolist():
        resized, region = job.network.preprocess(job.dataset.image(i))
        truth = job.dataset.truth(i)
        labels = [truth.label] if job.comparable and job.config.target == "ground_truth" else None
        found = compute_maps(job.network, job.methods, torch.from_numpy(resized)[None], labels=labels)
        for method, values in found.maps.items():
            score_map = ScoreMap(values[0], truth.size, region)
            if score_map.state == "ok" and truth.sought().any():
                yield method, score_map, truth


def theirs(score_map: ScoreMap, truth: Truth) -> Hits:
    """(2, 3, 1000): by evaluator, IoU and threshold."""
    return np.array([max_box_acc(STEP, every)(score_map, truth) for every in (False, True)])


def ours(score_map: ScoreMap, truth: Truth) -> Hits:
    """(2, 3, 1000): by evaluator, IoU and threshold."""
    rows = [evaluator.row(score_map, truth) for evaluator in EVALUATORS]
    hits = [[np.unpackbits(row[f"hits_{100 * iou:g}"], count=255)[LEVELS] for iou in IOUS] for row in rows]
    return np.array(hits, bool)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=70, help="generated maps of each of five kinds")
    parser.add_argument("--images", "--pictures", type=int, default=0, help="dataset images; maps of each method")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the small maps and the authors' hits")
    args, overrides = parser.parse_known_args()
    cv2.setNumThreads(1)
    differing, kinds = 0, list[str]()
    kept: dict[str, NDArray[np.generic]] = {}
    for kind, score_map, truth in (
        *generated(args.count),
        *(of_network(args.images, overrides) if args.images else ()),
    ):
        wanted = theirs(score_map, truth)
        different = int((ours(score_map, truth) != wanted).sum())
        differing += different > 0
        if different:
            print(f"{kind}, map {kinds.count(kind)}: {different} of {wanted.size} hits differ")
        if args.write and score_map.values.size <= 28**2:
            n = len(kept) // 4
            kept |= {f"map_{n}": score_map.values, f"boxes_{n}": truth.boxes[truth.sought()]}
            kept |= {f"size_{n}": np.array(truth.size), f"hits_{n}": np.packbits(wanted, axis=-1)}
        kinds.append(kind)
    print(f"{len(kinds)} maps, {', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))}: ", end="")
    print(f"{differing} differ from OpenCV {cv2.__version__} in a hit at any of 1000 thresholds and 3 overlaps")
    if args.write:
        np.savez_compressed(args.write, allow_pickle=False, **kept)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
