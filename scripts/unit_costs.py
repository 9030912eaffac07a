"""What a run costs for each picture beside decoding and the network, and from it the plan of very large runs.

    python scripts/unit_costs.py --rows 1000000 --decode 470 --forward 16.8 --out results/unit_costs.csv

Measured, in turn: *index*, reading the list of pictures and boxes (ILSVRC's csv layout, 50,000 lines, in rounds);
*rows*, keeping a localization row, writing it in parts of 50,000 and reading the parts' ids back, as a resumed run
does; *sum up*, reading all rows, ordering them, the metrics with their intervals, and the final file. Given for each:
microseconds and bytes of memory a picture, and bytes on disk. All are a single process's.

`--decode` and `--forward` are pictures a second, as `benchmark_run.py` prints them. The plan then says, for 14,197,122
pictures (ImageNet-21k) and for a billion, how many hours each step takes in one process, and what that process holds.
"""

import argparse
import csv
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eigencam.datasets.base import Truth
from eigencam.datasets.ilsvrc_truth import read_truth
from eigencam.evaluation.base import Row
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.files import replacing
from eigencam.store.environment import git
from eigencam.store.records import Result, summed_up

INDEX = 50_000
PART = 50_000
PLANS = {"ImageNet-21k": 14_197_122, "a billion": 1_000_000_000}


def index(folder: Path) -> int:
    """Read the truth of 50,000 pictures; how many there were."""
    wnids = [f"n{k:08d}" for k in range(1000)]
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} class\n" for wnid in wnids))
    lines = [f"ILSVRC2012_val_{i + 1:08d},{wnids[i % 1000]} 10 20 {200 + i % 99} 300 \n" for i in range(INDEX)]
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    with measured("index", INDEX):
        held = read_truth(folder, "csv")
    return len(held.ids)


def drawn(first: int, count: int) -> Iterator[Row]:
    """Localization rows, with the columns of real ones; every value drawn anew, as they compress badly."""
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


FOUND: list[tuple[str, float, float]] = []
"""(step, microseconds a picture, bytes of memory a picture)."""


@contextmanager
def measured(step: str, n: int) -> Iterator[None]:
    """Time, and by how much the process's peak rises."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    rise = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    FOUND.append((step, 1e6 * seconds / n, rise / n))
    print(f"{step}: {1e6 * seconds / n:.1f} us and {rise / n:.0f} bytes of memory a picture, n = {n}", flush=True)


def rows_on_disk(root: Path, n: int) -> float:
    """Write n rows in parts, sum them up; bytes of the final file a row."""
    result = Result(root, ("data", "net", "method", "localization"), {"n": n})
    result.open("", {})
    with measured("rows", n):
        for start in range(0, n, PART):
            result.add(drawn(start, min(PART, n - start)))
            result.flush()
        assert len(result.done()) == n
    order = {f"{i:010d}": i for i in range(n)}
    with measured("sum up", n):
        rows = result.rows()
        rows = rows.assign(order=rows["image"].map(order)).sort_values("order", ignore_index=True).drop(columns="order")
        told, _ = summed_up(Localization(), rows)
        result.finish(rows, {"n": n, **told})
    result.close()
    return (result.folder / "rows.parquet").stat().st_size / n


def plan(args: argparse.Namespace, size: float, say: Callable[[str], None]) -> None:
    per = {step: (us, held) for step, us, held in FOUND}
    for name, n in PLANS.items():
        hours = {step: n * us / 3.6e9 for step, (us, _) in per.items()}
        hours |= {"decode": n / args.decode / 3600, "forward": n / args.forward / 3600}
        held = sum(n * bytes_ for _, bytes_ in per.values()) / 2**30
        shown = ", ".join(f"{step} {h:.1f} h" for step, h in hours.items())
        say(f"{name}, one process: {shown}; {n * size / 2**30:.1f} GiB of rows a result; {held:.0f} GiB of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--decode", type=float, required=True, help="pictures a second")
    parser.add_argument("--forward", type=float, required=True, help="pictures a second")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        index(Path(folder))
        size = rows_on_disk(Path(folder, "results"), args.rows)
    notes.append(f"bytes on disk a localization row: {size:.1f}")
    plan(args, size, notes.append)
    print("\n".join(notes))
    if args.out:
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {' '.join(sys.argv)}\n# {platform.machine()}, code {git()['git_commit']}\n")
            file.writelines(f"# {note}\n" for note in notes)
            writer = csv.writer(file)
            writer.writerow(["step", "microseconds_a_picture", "bytes_of_memory_a_picture"])
            writer.writerows([step, f"{us:.2f}", f"{held:.0f}"] for step, us, held in FOUND)


if __name__ == "__main__":
    main()
