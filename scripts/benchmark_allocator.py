"""What it costs that the C library gives large blocks back after each layer, and what `keep_freed_memory` saves of it.

    python scripts/benchmark_allocator.py --out results/cost_of_allocation.csv

Forward passes of ResNet-50, 16 pictures of 224 x 224, one thread, in processes of their own, by turns with and without
`keep_freed_memory` of eigencam.store.environment. CPU seconds, which other jobs disturb less than the clock: of the
program, of the system on its behalf, and the pages that the system had to fetch, a pass; the largest resident size in
MiB.
"""

import argparse
import csv
import platform
import resource
import subprocess
import sys
from pathlib import Path

from eigencam.files import replacing
from eigencam.store.environment import git, keep_freed_memory, processor

PASSES = 4


def measure(keep: bool) -> list[float]:
    """Seconds of the program and of the system, pages, a pass; MiB."""
    import torch
    import torchvision

    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    network, pictures = torchvision.models.resnet50().eval(), torch.rand(16, 3, 224, 224)
    with torch.inference_mode():
        network(pictures)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(PASSES):
            network(pictures)
        after = resource.getrusage(resource.RUSAGE_SELF)
    spent = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt)
    return [*(value / PASSES for value in spent), after.ru_maxrss / 1024]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=("keep", "give back"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*measure(args.one == "keep"))
        return
    rows = []
    for _ in range(args.repeats):
        for how in ("give back", "keep"):
            command = [sys.executable, __file__, "--one", how]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            user, system, pages, peak = map(float, found)
            rows.append([how, f"{user:.2f}", f"{system:.2f}", f"{pages:.0f}", f"{peak:.0f}"])
            print(*rows[-1], sep="\t", flush=True)
    if args.out:
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {' '.join(sys.argv)}\n")
            file.write(
                f"# {processor()}, {platform.libc_ver()}, code {git()['git_commit']}; a pass, {PASSES} passes each\n"
            )
            header = ["freed_blocks", "program_seconds", "system_seconds", "pages", "peak_mib"]
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
