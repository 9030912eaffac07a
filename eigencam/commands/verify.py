"""`eigencam verify`: whether stored results are as they say, a line for each fault.

    eigencam verify                              seals, n, metrics made again from the rows, versions
    eigencam verify runs/a whole --data          also the data at hand: truth and every image
    eigencam verify --data paths.voc=/data/VOC   where the data are on this machine

Results are data: code of a person's own is run only where `--config-dir` or `--trust` names it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from eigencam.configuring.results import add_trust, default_results, trust_of
from eigencam.datasets.reading import expand
from eigencam.evaluation.escaping import one_line
from eigencam.store.canonical import canonical
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.trust import Trust, keep_out
from eigencam.store.verify import faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam verify`."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FOLDER or key=value",
        help="folders of results, or single results; with --data also settings such as paths.voc=DIR",
    )
    parser.add_argument("--data", action="store_true", help="also read the data, and compare every image")
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Print a line for each fault; returns 1 where there is one, 2 where there is nothing to verify."""
    settings = [item for item in args.inputs if "=" in item and not Path(item).exists()]
    roots = [expand(item) for item in args.inputs if item not in settings] or [default_results()]
    if settings and not args.data:
        raise ValueError(f"{settings[0]}: a setting of the data; give --data too")
    for root in roots:
        keep_out(root)
    trust = trust_of(args)
    results = [stored for root in roots for folder in results_in(root) if (stored := read(folder, hashed=True))]
    if not results:
        raise FileNotFoundError(f"{', '.join(map(str, roots))}: no results there; `eigencam run` makes them")
    said = [f"{stored.folder}: {fault}" for stored in results for fault in faults(stored, trust)]
    said += _of_data(results, settings, trust) if args.data else []
    for line in said:
        print(one_line(line))
    complete = sum(stored.summary is not None for stored in results)
    print(f"{len(results)} results, {complete} of them complete; {len(said) or 'no'} faults")
    return int(bool(said))


def _of_data(results: Sequence[Stored], settings: Sequence[str], trust: Trust) -> list[str]:
    """What differs from the data of the results, one dataset after the other."""
    from eigencam.reporting.data import data_faults

    groups: dict[str, list[Stored]] = {}
    for stored in results:
        if stored.state == "done":
            groups.setdefault(canonical(stored.identity["dataset"]), []).append(stored)
    return [line for same in groups.values() for line in data_faults(same, settings, trust)]
