"""Common part of measurements in `scripts/`: an idle machine, a clean tree, five repeats or more, median and range.

A script writes its table itself, with the command, the code and the machine in the header. It refuses to do so if more
than half a core is busy with something else, files of the clone are changed, or fewer than five repeats are requested.
With `--anyway` it measures nevertheless, and the header says why the numbers are not comparable.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from eigencam.files import replacing
from eigencam.store.environment import git, processor

IDLE = 0.5
"""Maximum number of busy cores of an idle machine."""
LEAST = 5
"""Smallest number of measurements for a median."""
SECONDS = 3.0
"""Duration for which the machine is observed."""


def add_arguments(parser: argparse.ArgumentParser, repeats: int = LEAST) -> None:
    """The options that every script has."""
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements, in turn")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table")
    parser.add_argument(
        "--anyway", action="store_true", help="also on a busy machine, with changed code, or with few repeats"
    )


def faults(args: argparse.Namespace) -> list[str]:
    """Why a table of these numbers would be unreliable; refused unless `--anyway` is given."""
    if not args.out:
        return []
    found = []
    if (load := busy_cores()) > IDLE:
        found.append(f"{load:.1f} cores were busy with something else")
    if git()["git_dirty"] is not False:
        found.append("the code is not that of a commit: files are changed")
    if args.repeats < LEAST:
        found.append(f"n = {args.repeats}")
    if found and not args.anyway:
        sys.exit(f"{args.out} is not written: {'; '.join(found)}; --anyway measures, and says so in the header")
    return found


def busy_cores(seconds: float = SECONDS) -> float:
    """Number of busy cores while this process waits; without `/proc/stat`, the system's load."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return os.getloadavg()[0]
    before = _ticks(stat)
    time.sleep(seconds)
    busy, whole = (after - early for after, early in zip(_ticks(stat), before, strict=True))
    return (os.cpu_count() or 1) * busy / max(whole, 1)


def _ticks(stat: Path) -> tuple[int, int]:
    """Busy ticks, and all ticks, of all cores since the machine started."""
    user, nice, system, idle, waiting, *rest = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return user + nice + system + sum(rest[:3]), user + nice + system + idle + waiting + sum(rest[:3])


def spread(values: Sequence[float], digits: int = 2) -> list[str]:
    """Median, smallest and largest."""
    return [f"{of(values):.{digits}f}" for of in (statistics.median, min, max)]


def say_slower(found: Iterable[str]) -> None:
    """Print the names of everything slower than its reference."""
    slower = list(found)
    print(f"slower than its reference: {', '.join(slower) or 'nothing'}", flush=True)


def write(
    path: Path, found: Sequence[str], about: str, names: Sequence[str], lines: Iterable[Sequence[object]]
) -> None:
    """Write a table.

    Args:
        path: of the file.
        found: the result of `faults` before the measurement.
        about: description of the columns and of the relevant properties of the machine.
        names: of the columns.
        lines: of the table.
    """
    with replacing(path) as beside, beside.open("w", newline="") as file:
        file.write(f"# command: python {' '.join(sys.argv)}\n")
        file.write(f"# {processor()}, {os.cpu_count()} cores, code {git()['git_commit']}; {about}\n")
        if found:
            file.write(f"# not to be compared: {'; '.join(found)}\n")
        csv.writer(file).writerows([names, *lines])
