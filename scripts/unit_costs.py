"""Cost of a run per image besides decoding and the network, and from it a plan of very large runs.

    python scripts/unit_costs.py --rows 1000000 --decode 470 --forward 16.8 --out results/unit_costs.csv
    python scripts/unit_costs.py --rows 5000000 --repeats 1 --decode 470 --forward 16.8

The steps are measured alternately. *index*: reading the list of images and boxes (ILSVRC's csv layout, 50,000 lines).
*rows*: keeping localization rows and writing them in parts of 50,000. *resume*: finding out which images have rows.
*finish*: bringing all rows into the dataset's order, the metrics with their intervals, and the final file. *again*:
recomputing the metrics from that file. *verify*, *card*, *by_prediction* and *merge*: what these commands do with it.
For each step the table has microseconds of CPU time per image, the growth of peak memory in bytes per further image,
from a quarter of `--rows` to all of them (*index*: per line of the list), and its total growth in MiB. Time and total
growth are for all rows. Values are medians over `--repeats` pairs of processes, one for each number of rows.

`--decode` and `--forward` are images per second, as `benchmark_run.py` prints them. The plan then gives, for 14,197,122
images (ImageNet-21k) and for a billion, the hours of each step in one process and the memory of that process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, overload

import measuring
import numpy as np

from eigencam.datasets.base import Truth
from eigencam.datasets.ilsvrc_truth import read_truth
from eigencam.evaluation.base import Row
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.reporting.card import card
from eigencam.reporting.collect import collect
from eigencam.reporting.derived import by_prediction
from eigencam.store.finish import Plan
from eigencam.store.identity import describe
from eigencam.store.merge import merge
from eigencam.store.reader import read
from eigencam.store.records import Result
from eigencam.store.row_file import RowFile
from eigencam.store.schema import FORMAT, ROWS
from eigencam.store.summing import summed_up
from eigencam.store.verify import faults

IDENTITY: dict[str, Any] = {
    "format": FORMAT,
    "network": {"name": "net", "constructor": {"name": "Net", "version": 1}, "layer": "a", "sha256": "0"},
    "dataset": {"name": "data", "reader": {"name": "Data", "version": 1}},
    "evaluator": describe({"_target_": "eigencam.evaluation.localization.Localization"}),
    "method": {"name": "Method", "version": 1},
    "target": "ground_truth",
    "dtype": "float32",
}
RUN = ("index", "rows", "resume", "finish")
"""Steps of a run."""

INDEX = 50_000
PART = 50_000
PLANS = {"ImageNet-21k": 14_197_122, "a billion": 1_000_000_000}


def index(folder: Path) -> int:
    """Read the ground truth of 50,000 images; return their number."""
    wnids = [f"n{k:08d}" for k in range(1000)]
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} class\n" for wnid in wnids))
    lines = [f"ILSVRC2012_val_{i + 1:08d},{wnids[i % 1000]} 10 20 {200 + i % 99} 300 \n" for i in range(INDEX)]
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    with measured("index", INDEX):
        held = read_truth(folder, "csv")
    return len(held.ids)


def drawn(first: int, count: int) -> Iterator[Row]:
    """Localization rows with the columns of real ones; classes, boxes and IoUs are random, to compress as badly."""
    rng, evaluator = np.random.default_rng(first), Localization()
    truth = Truth("a", (375, 500), 0, np.array([[10.0, 20.0, 300.0, 200.0]]), np.array([0]))
    pattern = evaluator.row(ScoreMap(rng.random((7, 7), dtype=np.float32), truth.size), truth)
    classes = rng.integers(0, 1000, (count, 5)).tolist()
    boxes, overlaps = rng.integers(0, 300, (count, 4)).astype(np.float64).tolist(), rng.random(count).tolist()
    for k, (top5, (x1, y1, x2, y2), iou) in enumerate(zip(classes, boxes, overlaps, strict=True), first):
        yield {
            "image": f"{k:010d}",
            "label": top5[0],
            "target": top5[0],
            "top5": top5,
            **pattern,
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
            "iou": iou,
        }


@contextmanager
def measured(step: str, n: int) -> Iterator[None]:
    """Print the step, microseconds of CPU time per image, and by how many bytes the process's peak memory grows."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before, start = _kilobytes("VmRSS"), time.process_time()
    yield
    seconds = time.process_time() - start
    print(step, 1e6 * seconds / n, 1024 * max(_kilobytes("VmHWM") - before, 0), flush=True)


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


class Numbers(Sequence[str]):
    """Ids that take no memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, k: int) -> str: ...

    @overload
    def __getitem__(self, k: slice) -> Sequence[str]: ...

    def __getitem__(self, k: int | slice) -> str | Sequence[str]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(self.n))]
        if not 0 <= k < self.n:
            raise IndexError(k)
        return f"{k:010d}"


def one(n: int) -> None:
    """All steps, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        index(Path(folder))
        identity = {**IDENTITY, "dataset": {**IDENTITY["dataset"], "n": n}}
        result = Result(Path(folder, "results"), ("data", "net", "method", "localization"), identity)
        plan = Plan.of(Numbers(n))
        result.open("", {}, plan=plan)
        with measured("rows", n):
            for start in range(0, n, PART):
                result.add(drawn(start, min(PART, n - start)))
                result.flush()
        with measured("resume", n):
            if result.lacking(plan.positions).any():
                raise ValueError("rows are missing")
        with measured("finish", n):
            gathered = result.gathered()
            if gathered is None:
                raise ValueError("rows are missing")
            result.publish(gathered, summed_up(Localization(), gathered.rows)[0])
        with measured("again", n):
            summed_up(Localization(), RowFile(result.folder / ROWS, n))
        result.close()
        print("size", (result.folder / ROWS).stat().st_size / n, 0, flush=True)
        reading(result.folder, Path(folder, "merged"), n)


def reading(folder: Path, into: Path, n: int) -> None:
    """What commands do with a complete result."""
    with measured("verify", n):
        stored = read(folder, hashed=True)
        if stored is None:
            raise ValueError(f"{folder}: no result")
        if wrong := list(faults(stored)):
            raise ValueError(f"{folder}: {wrong}")
    with measured("card", n):
        card(stored)
    with measured("by_prediction", n):
        by_prediction(folder.parent, collect(folder.parent))
    with measured("merge", n):
        if merge([folder.parent], into).complete != 1:
            raise ValueError(f"{folder}: not merged")


def plan(found: dict[str, tuple[float, ...]], args: argparse.Namespace) -> Iterator[str]:
    """The cost of very large runs."""
    size = found.pop("size")[0]
    yield f"bytes on disk per localization row: {size:.1f}"
    for name, n in PLANS.items():
        hours = {step: n * us / 3.6e9 for step, (us, *_) in found.items() if step in RUN}
        hours |= {"decode": n / args.decode / 3600, "forward": n / args.forward / 3600}
        held = {step: mib / 1024 + n * each / 2**30 for step, (_, each, mib) in found.items() if step in RUN}
        most = held.pop("index") + max(held.values())
        shown = ", ".join(f"{step} {h:.1f} h" for step, h in hours.items())
        yield f"{name}, one process: {shown}; {n * size / 2**30:.1f} GiB of rows per result; {most:.1f} GiB of memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--decode", type=float, required=True, help="images per second")
    parser.add_argument("--forward", type=float, required=True, help="images per second")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    measuring.add_arguments(parser)
    args = parser.parse_args()
    if args.one:
        one(args.rows)
        return
    faults, steps = measuring.faults(args), dict[str, list[list[float]]]()
    for _ in range(args.repeats):
        few, many = (said(rows) for rows in (args.rows // 4, args.rows))
        for step, (us, rise) in many.items():
            further = rise / INDEX if step == "index" else (rise - few[step][1]) / (args.rows - args.rows // 4)
            steps.setdefault(step, []).append([us, max(further, 0), rise / 2**20])
            print(step, *steps[step][-1], flush=True)
    columns = {step: list(zip(*of, strict=True)) for step, of in steps.items()}
    notes = list(plan({step: tuple(map(median, of)) for step, of in columns.items()}, args))
    print("\n".join(notes))
    if args.out:
        names = [f"{what}{end}" for what in ("microseconds", "bytes_each", "mib") for end in ("", "_min", "_max")]
        lines = [
            [step, args.rows, args.repeats, *(cell for column in of for cell in measuring.spread(column, 1))]
            for step, of in columns.items()
            if step != "size"
        ]
        about = "CPU time and memory; " + " | ".join(notes)
        measuring.write(args.out, faults, about, ["step", "images", "n", *names], lines)


def said(rows: int) -> dict[str, tuple[float, float]]:
    """Measurements of a separate process: by step, microseconds per image and growth of peak memory in bytes."""
    command = [sys.executable, __file__, "--decode", "1", "--forward", "1", "--one", "--rows", str(rows)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return {step: (float(us), float(rise)) for step, us, rise in map(str.split, lines)}


if __name__ == "__main__":
    main()
