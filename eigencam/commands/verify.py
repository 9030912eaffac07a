"""`eigencam verify`: check stored results, with one line per fault.

    eigencam verify                              seals, n, metrics recomputed from the rows, versions
    eigencam verify runs/a whole --data          also the data at hand: truth and every image
    eigencam verify theirs.zip                   a bundle of another group
    eigencam verify --data paths.voc=/data/VOC   where the data are on this machine

Results are data: your own code is executed only if `--config-dir` or `--trust` names it.
"""

import argparse
from collections.abc import Iterator, Sequence

from eigencam.commands.bundle import named, opened
from eigencam.commands.path_arguments import settings_and_paths
from eigencam.configuring.results_options import add_trust, default_results, trust_of
from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import wrapped
from eigencam.store.canonical import canonical, checksum
from eigencam.store.image_digests import Known, said_of
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.trust import keep_out
from eigencam.store.verify import faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam verify`."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FOLDER, BUNDLE or key=value",
        help="folders of results, single results, bundles; with --data also settings such as paths.voc=DIR",
    )
    parser.add_argument("--data", action="store_true", help="also read the data, and compare every image")
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Print a line for each fault; returns 1 if there is one, 2 if there is nothing to verify."""
    settings, paths = settings_and_paths(args.inputs)
    roots = list(paths.values()) or [default_results()]
    if settings and not args.data:
        raise ValueError(f"{settings[0]}: a setting of the data; it needs --data")
    for root in roots:
        keep_out(root)
    trust = trust_of(args)
    with opened(roots) as (folders, names):
        results = [stored for root in folders for folder in results_in(root) if (stored := read(folder, hashed=True))]
        if not results:
            raise FileNotFoundError(f"{', '.join(map(str, roots))}: no results there; `eigencam run` makes them")
        said = [f"{stored.folder}: {fault}" for stored in results for fault in faults(stored, trust)]
        groups = _by_dataset(results)
        said += [line for same in groups for line in _between(same)]
        if args.data:
            from eigencam.reporting.data_check import data_faults

            said += [line for same in groups for line in data_faults(same, settings, trust)]
    for line in said:
        print(wrapped(one_line(named(line, names))))
    complete = sum(stored.summary is not None for stored in results)
    claimed = sum(stored.claim is not None and not stored.claim.confirmed for stored in results)
    claims = f", {claimed} claimed by others and not made again here" if claimed else ""
    print(wrapped(f"{len(results)} results, {complete} of them complete{claims}; {len(said) or 'no'} faults"))
    return int(bool(said))


def _by_dataset(results: Sequence[Stored]) -> list[list[Stored]]:
    """The complete results, grouped by dataset."""
    groups: dict[str, list[Stored]] = {}
    for stored in results:
        if stored.state == "done":
            groups.setdefault(canonical(stored.identity["dataset"]), []).append(stored)
    return list(groups.values())


def _between(results: Sequence[Stored]) -> Iterator[str]:
    """Images that differ between results of the same dataset."""
    known = Known()
    for stored in results:
        yield from known.add(stored.folder, said_of(stored.folder, checksum(stored.identity)))
