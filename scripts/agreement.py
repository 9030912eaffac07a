"""Compare every method with independent code, in float64, on real networks and images: rank correlation and difference.

    EIGENCAM_WEIGHTS=FOLDER python scripts/agreement.py --models mobilenet_v2_tf,googlenet_bvlc --images 2 \
        --out results/agreement.csv dataset=ilsvrc paths.ilsvrc=FOLDER

The references are in `tests/references_*.py`. References of a library that is not installed are left out and listed, as
is authors' code that is not in the folder `EIGENCAM_AUTHORS` (`tests/references_authors.py`). Arguments after the
options are Hydra overrides, as for `eigencam run`. For each method, reference and network the table has the number of
images, the median and smallest Spearman correlation over an image's positions, and the largest difference relative to
the reference's largest absolute value. The classes are the predicted ones.
"""

import argparse
import csv
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import references_cam
import references_camfam
import references_camfam_more
import references_fixations
import references_gradients
import references_masks
import references_paths
import references_text
import references_transformers
import references_zennit
from references import Agreement, Case, Pair, case_of, compare

from eigencam.files import replacing
from eigencam.store.environment import git

PAIRS: list[Pair] = [*references_gradients.PAIRS, *references_fixations.PAIRS, *references_zennit.PAIRS]
PAIRS += [*references_cam.PAIRS, *references_masks.PAIRS, *references_camfam.PAIRS]
PAIRS += references_transformers.PAIRS
PAIRS += [*references_camfam_more.PAIRS, *references_paths.PAIRS, *references_text.PAIRS]
COLUMNS = ["method", "reference", "network", "n", "rho_median", "rho_least", "largest_difference"]


def line(pair: Pair, network: str, found: Agreement) -> list[object]:
    """A row of the table."""
    rhos = [rho for rho in found.rhos if rho == rho]
    middle, least = (f"{pick(rhos):.4f}" if rhos else "" for pick in (statistics.median, min))
    return [pair.name, pair.reference, network, len(found.rhos), middle, least, f"{max(found.differences):.1e}"]


def lines(case: Case, wanted: Sequence[str], notes: dict[str, None]) -> Iterator[list[object]]:
    """The rows of one network; `notes` collects what could not be compared, and why."""
    for pair in tqdm([p for p in PAIRS if not wanted or p.name.split()[0] in wanted], desc=case.network.name):
        if why := pair.refusal(case.network):
            notes[f"not compared: {pair.name} with {pair.reference} on {case.network.name}: {why}"] = None
        else:
            yield line(pair, case.network.name, compare(pair, case))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        required=True,
        help="options of `model`, separated by commas; a name may be followed by overrides, separated by spaces",
    )
    parser.add_argument("--images", type=int, default=2, help="number of images per network, spread over the dataset")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--out", type=Path, help="CSV; without it the table is printed only")
    args, overrides = parser.parse_known_args()
    wanted = [name for name in args.methods.split(",") if name]
    notes: dict[str, None] = {}
    table: list[list[object]] = []
    for model in args.models.split(","):
        table += lines(case_of(model, args.images, overrides), wanted, notes)
    table.sort(key=lambda row: [str(cell) for cell in row[:3]])
    csv.writer(sys.stdout).writerows([COLUMNS, *table])
    print(*notes, sep="\n", file=sys.stderr)
    if args.out:
        command = shlex.join(re.sub(r"(^|=)/\S*/", r"\1FOLDER/", word) for word in sys.argv)
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {command}\n# n: images of each network; {os.cpu_count()} CPU cores, ")
            file.write(f"{platform.machine()}, torch {torch.__version__}, code {git()['git_commit']}\n")
            file.writelines(f"# {note}\n" for note in notes)
            csv.writer(file).writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
