"""How the evaluators' rate grows with the number of workers, threads or processes, from maps to rows.

    python scripts/benchmark_scaling.py --out results/scaling_of_evaluators.csv
    python scripts/benchmark_scaling.py --workers 1 2 4 8 16 --dataset voc --out results/scaling_of_evaluators_voc.csv

In each measurement, all evaluators that apply to a dataset compute the rows of `--images` images with five maps each,
as a run's workers do, and return them to the main process. Threads and processes alternate, with every number of
workers, `--repeats` times. The table has images per second of wall-clock time, and the ratio to the rate of one worker
of the same kind in the same turn. Each line has the number of cores, which surplus workers share; the efficiency is the
ratio divided by the number of workers or of cores, whichever is smaller. Decoding and the network are not included.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import cv2
import measuring
import numpy as np
import torch
from benchmark_evaluators import KINDS, SIZE, Values, together, truth_of

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Row
from eigencam.evaluation.maps import ScoreMap
from eigencam.store.environment import cores, keep_freed_memory

MAPS = 5
PART = 16
"""Images given to a worker at a time, like a batch of a run."""

EVALUATORS: list[Any] = []
IMAGES: list[tuple[Truth, list[Values]]] = []
"""Made before the workers, so that processes inherit them."""


def make(dataset: str, count: int) -> None:
    """Images with smooth maps and the dataset's kind of truth."""
    rng = np.random.default_rng(0)
    kinds = [make for name, make in KINDS.items() if name.startswith("blobs")]
    EVALUATORS[:] = together(dataset).values()
    IMAGES[:] = [(truth_of(rng), [kinds[k % 2](rng) for k in range(MAPS)]) for _ in range(count)]
    if dataset == "ilsvrc":
        IMAGES[:] = [(replace(truth, mask=None), maps) for truth, maps in IMAGES]


def rows_of(part: Iterable[int]) -> list[Row]:
    """The rows of some images."""
    rows = []
    for k in part:
        truth, maps = IMAGES[k]
        memo: dict[Hashable, Any] = {}
        for values in maps:
            score_map = ScoreMap(values, SIZE, None, memo)
            rows += [evaluator.row(score_map, truth) for evaluator in EVALUATORS]
    return rows


def pool(kind: str, workers: int) -> Executor:
    """Threads, or processes forked from this one."""
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    forks = get_context("fork")
    return ProcessPoolExecutor(workers, mp_context=forks, initializer=torch.set_num_threads, initargs=(1,))


def rate(kind: str, workers: int) -> float:
    """Images per second."""
    parts = [range(start, min(start + PART, len(IMAGES))) for start in range(0, len(IMAGES), PART)]
    with pool(kind, workers) as executor:
        list(executor.map(rows_of, [range(1)] * workers))  # starts them
        start = time.perf_counter()
        made = sum(map(len, executor.map(rows_of, parts)))
        seconds = time.perf_counter() - start
    if made != len(IMAGES) * MAPS * len(EVALUATORS):
        raise RuntimeError(f"{made} rows were made of {len(IMAGES)} images")
    return len(IMAGES) / seconds


def table(
    kinds: Iterable[str], workers: list[int], repeats: int, measure: Callable[[str, int], float] = rate
) -> list[list[object]]:
    """A line for each kind and number of workers, one of which is 1."""
    available, turns = cores(), list[dict[tuple[str, int], float]]()
    for _ in range(repeats):
        turns.append({(kind, n): measure(kind, n) for n in workers for kind in kinds})
        print(*(f"{kind} {n}: {found:.1f}" for (kind, n), found in turns[-1].items()), sep="  ", flush=True)
    lines: list[list[object]] = []
    for kind, n in turns[0]:
        ratios = [turn[kind, n] / turn[kind, 1] for turn in turns]
        efficiency = statistics.median(ratios) / min(n, available)
        rates = measuring.spread([turn[kind, n] for turn in turns], 1)
        lines.append([kind, n, available, repeats, *rates, *measuring.spread(ratios), f"{efficiency:.2f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("ilsvrc", "voc"), default="ilsvrc")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--kinds", nargs="+", choices=("threads", "processes"), default=["threads", "processes"])
    parser.add_argument("--images", type=int, default=512)
    measuring.add_arguments(parser)
    args = parser.parse_args()
    if min(args.workers) < 1 or args.images < 1:
        sys.exit(f"--workers {args.workers} --images {args.images}: allowed are numbers from 1")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed_memory()
    faults = measuring.faults(args)
    make(args.dataset, args.images)
    rows_of(range(1))  # compiles
    lines = table(args.kinds, sorted({1, *args.workers}), args.repeats)
    for line in lines:
        print(*line, sep="  ")
    if (most := max(args.workers)) > cores():
        print(f"{cores()} cores: the effect of more workers, up to {most}, cannot be measured here")
    if args.out:
        names = [f"{what}{end}" for what in ("images_a_second", "times_one_worker") for end in ("", "_min", "_max")]
        about = f"{len(EVALUATORS)} evaluators of {args.dataset}, {args.images} images of {MAPS} maps per measurement, "
        about += (
            f"wall clock, {cores()} of {os.cpu_count()} cores usable; efficiency: over the cores that workers can use"
        )
        measuring.write(args.out, faults, about, ["kind", "workers", "cores", "n", *names, "efficiency"], lines)


if __name__ == "__main__":
    main()
