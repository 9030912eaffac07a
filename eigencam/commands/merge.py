"""`eigencam merge`: results of several folders into one, without data, weights or torch.

    eigencam merge machine_a machine_b --into whole        shards of machines that share no disk
    eigencam merge theirs.zip results/runs --into both     a bundle of another group, claimed until it is made again
    eigencam merge runs/*/ --into whole                    processes that each wrote a folder of its own

Rows of one result are put together, and summed up where no image is missing. Of the same image two different rows are a
contradiction, which costs that result alone.
"""

import argparse
from pathlib import Path

from eigencam.commands.bundle import named, opened
from eigencam.configuring.results import add_trust, trust_of
from eigencam.evaluation.escaping import one_line
from eigencam.store.merge import merge
from eigencam.store.trust import keep_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam merge`."""
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="FOLDER", help="folder of results, one result, or a bundle"
    )
    parser.add_argument(
        "--into",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="folder of results to write; made where it is missing, and what is there takes part",
    )
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Merge, and say what has become of the results; returns 1 where one was refused, damaged or not summed up."""
    keep_out(args.into)
    with opened(args.results) as (folders, names):
        merged = merge(folders, args.into, trust_of(args))
    for line in merged.faults:
        print(one_line(named(line, names)))
    for line in merged.unfinished:
        print(one_line(f"unfinished: {named(line, names)}"))
    print(f"{merged.complete} complete results in {args.into}, {len(merged.unfinished)} unfinished")
    return int(bool(merged.faults))
