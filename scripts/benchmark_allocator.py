"""Cost of returning freed memory to the system after each layer, and how much of it `keep_freed_memory` saves.

    python scripts/benchmark_allocator.py --out results/cost_of_allocation.csv

Forward passes of ResNet-50, 16 images of 224 x 224, one thread, in separate processes that alternate with and without
`keep_freed_memory` of eigencam.store.environment. The table has, per pass, the user and system CPU seconds (which other
jobs affect less than wall-clock time) and the page faults; and the largest resident size in MiB.
"""

import argparse
import platform
import resource
import subprocess
import sys

import measuring

from eigencam.store.environment import keep_freed_memory

PASSES = 4


def measure(keep: bool) -> list[float]:
    """User seconds, system seconds and page faults, per pass; MiB."""
    import torch
    import torchvision

    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    network, images = torchvision.models.resnet50().eval(), torch.rand(16, 3, 224, 224)
    with torch.inference_mode():
        network(images)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(PASSES):
            network(images)
        after = resource.getrusage(resource.RUSAGE_SELF)
    spent = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt)
    return [*(value / PASSES for value in spent), after.ru_maxrss / 1024]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measuring.add_arguments(parser)
    parser.add_argument("--one", choices=("keep", "give back"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*measure(args.one == "keep"))
        return
    faults, found = measuring.faults(args), {how: list[list[float]]() for how in ("give back", "keep")}
    for _ in range(args.repeats):
        for how, rows in found.items():
            command = [sys.executable, __file__, "--one", how]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            rows.append([float(value) for value in said])
            print(how, *said, sep="\t", flush=True)
    if args.out:
        columns = ["program_seconds", "system_seconds", "pages", "peak_mib"]
        header = ["freed_blocks", *(f"{c}{end}" for c in columns for end in ("", "_min", "_max"))]
        lines = [
            [how, *(cell for column in zip(*rows, strict=True) for cell in measuring.spread(column))]
            for how, rows in found.items()
        ]
        about = f"{platform.libc_ver()}; a pass, medians of {args.repeats} processes of {PASSES} passes each"
        measuring.write(args.out, faults, about, header, lines)


if __name__ == "__main__":
    main()
