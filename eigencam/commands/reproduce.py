"""`eigencam reproduce TABLE …`: run the commands in a table's header into a fresh folder, and compare every cell.

For a folder of results or a bundle, it runs the commands of the claimed results (those from a bundle that nobody has
reproduced on this machine), or of the one result named, and compares rows and metrics. Once reproduced with the same
values, a result is no longer claimed.

    eigencam reproduce results/real_voc/tables.md paths.voc=/data/VOCdevkit paths.weights=/data/weights
    eigencam reproduce table_of_a_stranger.csv --limit 100
    eigencam reproduce results/both paths.ilsvrc=/data/ILSVRC

A table is untrusted data: no shell runs its commands. They are parsed and composed from this package alone, and unsafe
requests are refused (`eigencam.running.foreign_commands`).
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eigencam.commands.bundle import named as named_as
from eigencam.commands.bundle import opened
from eigencam.commands.path_arguments import settings_and_paths
from eigencam.datasets.reading import expand
from eigencam.evaluation.escaping import one_line
from eigencam.reporting.parsed_tables import Stated, StatedCell, read_stated
from eigencam.store.bundle import SUFFIX
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.trust import keep_out

if TYPE_CHECKING:
    from eigencam.reporting.reproduce import Verdict
    from eigencam.running.foreign_commands import Foreign

MACHINE = ("device", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam reproduce`."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="TABLE, RESULTS or key=value",
        help="tables that this program wrote (.md, .csv, .tex), folders of results, bundles; paths.NAME=DIR, device=",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N images per dataset; no verdict on larger datasets"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the new results, by default a fresh one; existing results are used",
    )
    parser.add_argument("--all", action="store_true", help="print a line for every cell, also for equal ones")


def main(args: argparse.Namespace) -> int:
    """Run and compare; returns the largest status of all inputs.

    The status of an input is 1 if a cell or a result differs, and 2 if nothing could be compared (for a table, only if
    none of its jobs finished either); else 0.
    """
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit {args.limit}; allowed: 1 or more")
    settings, named = settings_and_paths(args.inputs)
    folders = [path for path in named.values() if path.is_dir() or path.suffix == SUFFIX]
    tables = {item: read_stated(path) for item, path in named.items() if path not in folders}
    if not named:
        raise ValueError("no table; name a file that `eigencam table --out` wrote")
    root = args.out or Path(tempfile.mkdtemp(prefix="eigencam-reproduce-"))
    keep_out(root)
    status = _make_again(folders, _foreign(settings, root / "results"), args) if folders else 0
    groups: dict[tuple[str, ...], dict[str, Stated]] = {}
    for name, stated in tables.items():
        groups.setdefault(tuple(stated.commands), {})[name] = stated
    for k, (commands, same) in enumerate(groups.items(), 1):
        foreign = _foreign(settings, root / str(k) if len(groups) > 1 else root)
        status = max(status, _reproduce(commands, same, foreign, args))
    print(f"results are in {root}")
    return status


def _make_again(paths: Sequence[Path], foreign: "Foreign", args: argparse.Namespace) -> int:
    """Reproduce results, print the outcome of each, and record it for claimed ones; returns the exit status."""
    from eigencam.reporting.reproduce import DIFFERENT, NOT_RUN
    from eigencam.reporting.reproduce_results import claimed, make_again, note

    with opened(paths) as (roots, names):
        todo: list[Stored] = []
        for root in roots:
            keep_out(root)
            folders = results_in(root)
            found = [stored for folder in folders if (stored := read(folder, hashed=True)) and stored.summary]
            todo += found if root in folders else claimed(found)
        if not todo:
            print(one_line(f"{', '.join(map(str, paths))}: no claimed result that is still to be reproduced"))
            return 0
        verdicts = make_again(todo, foreign, args.limit, lambda line: print(one_line(line)))
        for stored in todo:
            verdict = verdicts[stored.folder.name]
            note(stored, verdict, "eigencam reproduce")
            why = f": {verdict.why}" if verdict.why else ""
            print(one_line(named_as(f"{verdict.kind}: {stored.folder}{why}", names)))
    kinds = Counter(verdict.kind for verdict in verdicts.values())
    print(f"{len(todo)} results: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    return 1 if kinds[DIFFERENT] else 2 if kinds[NOT_RUN] == kinds.total() else 0


def _foreign(settings: Sequence[str], results: Path) -> "Foreign":
    """What this command line grants to the commands of tables."""
    from eigencam.running.foreign_commands import Foreign

    paths, machine = dict[str, str](), dict[str, object]()
    for item in settings:
        key, _, value = item.partition("=")
        if key.startswith("paths.") and key != "paths.results":
            paths[key.removeprefix("paths.")] = str(expand(value))
        elif key in MACHINE:
            machine[key] = int(value) if value.isdecimal() else value
        else:
            raise ValueError(f"{item}: allowed are paths.NAME=FOLDER, {', '.join(f'{key}=' for key in MACHINE)}")
    return Foreign(paths, results, machine)


def _reproduce(
    commands: Sequence[str], tables: Mapping[str, Stated], foreign: "Foreign", args: argparse.Namespace
) -> int:
    """Run the commands of some tables, print the outcome of their cells; returns the exit status."""
    from eigencam.reporting.reproduce import DIFFERENT, NOT_RUN, compared, rerun

    ran = rerun(commands, foreign, args.limit, lambda line: print(one_line(line)))
    for where, reason in ran.reasons.items():
        print(one_line(f"not run: {where}: {reason}"))
    kinds: Counter[str] = Counter()
    for name, stated in tables.items():
        verdicts = compared(stated, foreign.results, ran)
        _print(name, verdicts, everything=args.all)
        kinds.update(verdict.kind for verdict in verdicts.values())
    return 1 if kinds[DIFFERENT] else 2 if kinds[NOT_RUN] == kinds.total() and not ran.jobs else 0


def _print(name: str, verdicts: "Mapping[StatedCell, Verdict]", *, everything: bool) -> None:
    """Print a line for each cell that differs, one per reason for cells not run, and the counts."""
    from eigencam.reporting.reproduce import NOT_RUN, SAME

    reasons: Counter[str] = Counter()
    for cell, verdict in verdicts.items():
        if everything or verdict.kind not in (SAME, NOT_RUN):
            print(one_line(f"{verdict.kind}: {cell.place}: {cell.text}{f'; {verdict.why}' if verdict.why else ''}"))
        elif verdict.kind == NOT_RUN:
            reasons[verdict.why] += 1
    for reason, count in reasons.items():
        print(one_line(f"not run: {count} cells: {reason}"))
    counts = Counter(verdict.kind for verdict in verdicts.values())
    print(one_line(f"{name}: {len(verdicts)} cells: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"))
