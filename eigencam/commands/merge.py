"""`eigencam merge`: results of several folders into one, without data, weights or torch.

    eigencam merge machine_a machine_b --into whole        shards of machines that share no disk
    eigencam merge theirs.zip results/runs --into both     another group's bundle: marked as claimed until reproduced
    eigencam merge runs/*/ --into whole                    processes that each wrote a folder of its own

The rows of a result are united, and the result is summarised if no image is missing. If two rows for the same image
differ, that result is refused, and the others are still merged. A result of a bundle is also refused if its numbers are
not those of its rows.
"""

import argparse
from pathlib import Path

from eigencam.commands.bundle import named, opened
from eigencam.configuring.results_options import add_trust, trust_of
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
        help="folder of results to write; made if it is missing; results in it are merged, too",
    )
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Merge and print the outcome; return 1 if a result was refused, is damaged or could not be summarised.

    A result that only has missing images, listed as unfinished, does not count.
    """
    keep_out(args.into)
    with opened(args.results) as (folders, names):
        merged = merge(folders, args.into, trust_of(args))
    for line in merged.faults:
        print(one_line(named(line, names)))
    for line in merged.unfinished:
        print(one_line(f"unfinished: {named(line, names)}"))
    print(f"{merged.complete} complete results in {args.into}, {len(merged.unfinished)} unfinished")
    return int(bool(merged.faults))
