"""Where runs write, and what a command trusts: the options that several commands share."""

import argparse
import os
from pathlib import Path

from eigencam.datasets.reading import expand
from eigencam.store.trust import Trust


def default_results() -> Path:
    """Where runs write unless told otherwise."""
    return expand(os.environ.get("EIGENCAM_RESULTS", "results/runs"))


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The options that say which code of a person's own stored results may have built."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="configs of your own, as of `eigencam run`")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="a module of your own that results may use"
    )


def trust_of(args: argparse.Namespace) -> Trust:
    """What a command trusts beside this package's own code."""
    return Trust.of(args.config_dir, args.trust)
