"""`eigencam prune`: list results that no table shows any more, and with `--yes` remove them.

    eigencam prune
    eigencam prune --results results/runs --yes

    superseded   a later version of the same method, evaluator, network or dataset reader has a complete result
    damaged      a file has changed since it was written; the next run would compute it again
    old          another format, which this program does not read
    orphaned     unfinished, and superseded or without an identity, so no run would continue it

A result that a process is writing is never listed.
"""

import argparse
import shutil
from pathlib import Path

from eigencam.configuring.results_options import default_results
from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import listed
from eigencam.store.locks import is_held, take
from eigencam.store.reader import Stored, is_result, newest, read_all
from eigencam.store.schema import CONFIG, DAMAGED, RUNS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam prune`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("--yes", action="store_true", help="remove the listed results")


def main(args: argparse.Namespace) -> int:
    """Print what can be removed, and remove it if requested; returns 0."""
    found = prunable(args.results)
    if not found:
        print(f"{args.results}: nothing to prune")
        return 0
    print(listed([(why, folder.name, text) for folder, why, text in found], ("why", "result", "")))
    if args.yes:
        removed = [folder for folder, _, _ in found if _remove(folder)]
        print(f"{len(removed)} results removed from {args.results}")
    else:
        print(f"{len(found)} results in {args.results}; --yes removes them")
    return 0


def prunable(root: Path) -> list[tuple[Path, str, str]]:
    """Return folder, reason and explanation of each removable result below `root`, sorted by name.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    results = [stored for stored in read_all(root, hashed=True) if not stored.running]
    whole = [stored for stored in results if stored.state in ("done", "left out")]
    latest, superseded = newest(whole)
    by_meaning = {stored.meaning: stored for stored in latest}
    found = [(stored.folder, "superseded", f"by {by_meaning[stored.meaning].folder.name}") for stored in superseded]
    for stored in results:
        if stored.state == "damaged":
            found.append((stored.folder, "damaged", "; ".join(stored.faults)))
        elif stored.state == "old":
            found.append((stored.folder, "old", stored.old))
        elif stored.state == "partial" and (later := _later(stored, by_meaning)):
            found.append((stored.folder, "orphaned", f"unfinished; superseded by {later.folder.name}"))
    known = {stored.folder for stored in read_all(root)}
    others = [folder for folder in root.iterdir() if folder.is_dir() and is_result(folder.name) and folder not in known]
    unclaimed = [folder for folder in others if not any(map(is_held, folder.glob(".lock*")))]  # no run begins there
    left = [(folder, "orphaned", "no identity in it") for folder in unclaimed if _holds_nothing_else(folder)]
    return sorted([*found, *left])


def _holds_nothing_else(folder: Path) -> bool:
    """Whether a folder holds only files of a run; a folder with a result's name may hold something else."""
    ours = ("error*.json", CONFIG, RUNS, DAMAGED, ".lock*", ".writing-*")
    return all(any(path.match(pattern) for pattern in ours) for path in folder.iterdir())


def _remove(folder: Path) -> bool:
    """Remove a result, unless a run has begun to write it; if the folder is a link, remove only the link."""
    if folder.is_symlink():
        folder.unlink()
        return True
    finishing = folder / ".lock-finish"  # a run that begins waits for it, and checks again whether its folder exists
    with take(finishing, wait=True, needed=False):
        if any(is_held(path) for path in folder.glob(".lock*") if path != finishing):
            print(one_line(f"{folder.name}: a run is writing it; left as it is"))
            return False
        shutil.rmtree(folder)
    return True


def _later(stored: Stored, by_meaning: dict[str, Stored]) -> Stored | None:
    """The complete result of a later version of the same thing."""
    other = by_meaning.get(stored.meaning)
    return other if other and other.folder != stored.folder and newest([stored, other])[0] == [other] else None
