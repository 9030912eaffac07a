"""`eigencam card RESULT`: where the numbers of a result come from, on one page.

Examples:
    eigencam card results/runs/scenes-scenes_resnet-gradcam-localization-0123456789
    eigencam card results/runs
"""

import argparse
from pathlib import Path

from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import wrapped
from eigencam.reporting.card import card
from eigencam.store.reader import read, results_in
from eigencam.store.trust import keep_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam card`."""
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="folder of one result or of several")


def main(args: argparse.Namespace) -> int:
    """Print a page for each result; returns 1 if one is damaged."""
    damaged = 0
    for root in args.results:
        keep_out(root)
        found = [stored for folder in results_in(root) if (stored := read(folder, hashed=True))]
        if not found:
            raise FileNotFoundError(f"{root}: no result there; `eigencam status` lists those of a folder")
        for stored in found:
            print(wrapped("\n".join(map(one_line, card(stored)))), end="\n\n")
            damaged += stored.state in ("damaged", "refused")
    return int(damaged > 0)
