"""Memory per image of a large dataset's lists, in bytes: resident memory before and after fabricated lists are built.

    python scripts/list_memory.py --images 14000000

`folder` has 21,841 class folders with names as in ImageNet-21k, and labels by folder; `tars` has the positions of the
images in shards of 10,000. Both are built as the readers build them, image by image.
"""

import argparse
import gc
import multiprocessing
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from eigencam.datasets.annotation_cache import FileIds, Files, Names

CLASSES = 21_841
TOP = Path("/data/imagenet21k")


def resident() -> int:
    """Return this process's resident memory that is not shared, in bytes."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/smaps_rollup: no Private_Dirty; Linux is needed")


def paths(n: int) -> Iterator[Path]:
    """Return files by class folder."""
    for code in range(CLASSES):
        folder = TOP / f"n{code:08}"
        for k in range(n * code // CLASSES, n * (code + 1) // CLASSES):
            yield folder / f"n{code:08}_{k % 2000}.JPEG"


def folder(n: int) -> object:
    """Return the lists of `dataset=folder` for images in class folders."""
    files = Files(paths(n))
    return files, FileIds(files, TOP), np.zeros(n, np.int32)


def tars(n: int) -> object:
    """Return the lists of `dataset=webdataset`."""
    ids = Names(f"n{k % CLASSES:08}_{k}" for k in range(n))
    return ids, np.arange(n, dtype=np.int32), np.arange(n), np.arange(n, dtype=np.int32), np.zeros(n, np.int32)


def measure(name: str, n: int, queue: "multiprocessing.Queue[tuple[float, float]]") -> None:
    """Build the lists `name` for `n` images, and put the bytes per image, held and at the peak, into the queue."""
    before = resident()
    held = globals()[name](n)
    after = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put(((after - before) / n, (peak - before) / n))
    del held


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=14_000_000)
    n = parser.parse_args().images
    for name in ("folder", "tars"):
        queue: multiprocessing.Queue[tuple[float, float]] = multiprocessing.Queue()
        process = multiprocessing.get_context("fork").Process(target=measure, args=(name, n, queue))
        process.start()
        held, peak = queue.get()
        process.join()
        print(f"{name}: {n} images, {held:.1f} bytes each, {peak:.1f} at the peak")


if __name__ == "__main__":
    main()
