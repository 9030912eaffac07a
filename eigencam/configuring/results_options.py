"""The results folder and trust: options shared by several commands."""

import argparse
import os
from pathlib import Path

from eigencam.datasets.reading import expand
from eigencam.store.trust import Trust


def default_results() -> Path:
    """Return the folder that runs write to by default."""
    return expand(os.environ.get("EIGENCAM_RESULTS", "results/runs"))


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which of the user's own code stored results may use."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own configs, as for `eigencam run`")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="a module of your own that results may use"
    )


def trust_of(args: argparse.Namespace) -> Trust:
    """Return what a command trusts in addition to this package's code."""
    return Trust.of(args.config_dir, args.trust)
