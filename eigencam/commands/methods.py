"""`eigencam methods`: all methods, and what each needs.

Examples:
    eigencam methods
    eigencam methods --format markdown
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from eigencam.configuring.catalogue import HEADER, Entry, catalogue, pages
from eigencam.configuring.printed_names import printed
from eigencam.evaluation.tables import listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam methods`."""
    parser.add_argument(
        "--format",
        choices=("terminal", "markdown", "names"),
        default="terminal",
        help="of the printed table; names: no table, but one line of the printed names",
    )
    parser.add_argument("--pages", action="store_true", help="with the methods' paper pages (Markdown)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own configs, as for `eigencam run`")


def main(args: argparse.Namespace) -> int:
    """Print the table; returns 0."""
    found = catalogue(args.config_dir)
    if args.pages:
        print(pages(found), end="")
    elif args.format == "names":
        print(names(found))
    elif args.format == "markdown":
        print(tabulate([entry.row for entry in found], HEADER, "pipe", disable_numparse=True))
    else:
        print(listed([entry.row for entry in found], HEADER))
    return 0


def names(entries: list[Entry]) -> str:
    """Return the printed names in one line: methods, those that give boxes, baselines; without other libraries'."""
    from eigencam.methods.base import gives_boxes, is_baseline  # imports torch, which takes time

    found: dict[str, list[str]] = {"maps": [], "boxes": [], "baselines": []}
    for entry in entries:
        if "/" not in entry.option:
            kind = "baselines" if is_baseline(entry.target) else "boxes" if gives_boxes(entry.target) else "maps"
            found[kind].append(printed("method", entry.option))
    return "; ".join(f"{kind}: {' · '.join(sorted(listed, key=str.casefold))}" for kind, listed in found.items())
