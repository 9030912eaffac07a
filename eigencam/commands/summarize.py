"""`eigencam summarize`: recompute summaries from stored rows, without data, network or torch.

    eigencam summarize
    eigencam summarize --results results/runs --all

A summary has a version of its own. If this program summarises rows differently from the one that made a result (a
better interval, another note), the result's metrics are recomputed; its rows, and so its identity, do not change.
"""

import argparse
from pathlib import Path

from eigencam.configuring.results_options import add_trust, default_results, trust_of
from eigencam.evaluation.escaping import one_line
from eigencam.files import first_line
from eigencam.store.reader import Stored, read_all
from eigencam.store.summing import is_outdated, sum_up_again
from eigencam.store.trust import Trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam summarize`."""
    parser.add_argument("--results", type=Path, default=default_results(), metavar="DIR", help="folder of results")
    parser.add_argument("--all", action="store_true", help="also results whose summary is of the current version")
    add_trust(parser)


def main(args: argparse.Namespace) -> int:
    """Summarise results of other versions again; returns 1 if a result could not be."""
    trust, made, failed = trust_of(args), 0, 0
    for stored in read_all(args.results, hashed=True):
        if stored.state == "done":
            try:
                made += again(stored, trust, always=args.all)
                continue
            except Exception as error:  # untrusted code, or any error that it raises on foreign rows
                print(one_line(f"{stored.folder.name}: {first_line(error)}"))
        elif stored.state == "damaged":
            print("\n".join(map(one_line, stored.faults)))
        else:
            continue
        failed += 1
    print(f"{made} results summarised again in {args.results}")
    return int(failed > 0)


def again(stored: Stored, trust: Trust, *, always: bool = False) -> bool:
    """Recompute one result's summary if necessary; return whether it was.

    Args:
        stored: a complete result, whose rows have been compared with their checksum.
        trust: what may be built.
        always: whether to recompute a summary of the current version, too.

    Raises:
        UntrustedError: the evaluator is not trusted, or is of another version than the rows.
    """
    evaluator, summary = stored.evaluator(trust), stored.summary
    if summary is None or not (always or is_outdated(stored.folder, summary, evaluator)):
        return False
    sum_up_again(stored.folder, summary, evaluator, stored.row_file(), always=always)
    return True
