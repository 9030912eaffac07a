"""`eigencam networks`: networks by name, ours and those of libraries, and the description of their weights.

Examples:
    eigencam networks
    eigencam networks timm/vit_*
"""

import argparse
import fnmatch
from collections.abc import Iterator

from eigencam.evaluation.tables import listed, wrapped
from eigencam.networks import libraries
from eigencam.networks.libraries import LIBRARIES, Library, describe

HEADER = ("model=", "weights", "outputs", "top-1 %", "input")
MOST = 40
"""Maximum number of networks whose weights are described; above it, only names are listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam networks`."""
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="part of a name, or *resnet*50")


def main(args: argparse.Namespace) -> int:
    """Print the networks whose name matches the pattern; returns 0, or 1 if there are none."""
    for library in LIBRARIES:
        try:
            libraries.names(library)
        except ValueError as error:
            print(f"{library}: {error}")
    found = list(matching(args.pattern))
    if not found:
        print(
            wrapped(f"no network is called {args.pattern!r}; near matches: {', '.join(near(args.pattern)) or 'none'}")
        )
        return 1
    if len(found) > MOST:
        print("\n".join(found))
        print(
            wrapped(f"{len(found)} networks; for at most {MOST}, `eigencam networks PATTERN` describes their weights")
        )
        return 0
    print(listed(map(row, found), HEADER))
    note = (
        "top-1: on ILSVRC's validation images, as the library reports it; other weights: model.weights=NAME or a file, "
        "null: untrained"
    )
    print(wrapped(note))
    return 0


def installed() -> list[Library]:
    """The installed libraries."""
    return [library for library in LIBRARIES if library != "timm" or libraries.has_timm()]


def matching(pattern: str) -> Iterator[str]:
    """The options of `model` that match a pattern, ours first; an exact name is returned alone."""
    from eigencam.configuring.compose import options

    everything = [name for name in options("model") if name != "library"]
    everything += [f"{library}/{name}" for library in installed() for name in libraries.names(library)]
    whole = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    yield from (name for name in everything if fnmatch.fnmatch(name, whole) or name == pattern)


def near(name: str) -> list[str]:
    """Names of library networks that are similar to another name."""
    bare = name.rpartition("/")[2]
    return [f"{library}/{found}" for library in installed() for found in libraries.near(library, bare)]


def row(name: str) -> tuple[str, ...]:
    """The description of a network's weights; for our own configs the name only."""
    from eigencam.networks.preprocess import Preprocess

    library, _, bare = name.partition("/")
    if library not in LIBRARIES:
        return name, "in its config", "", "", ""
    said = describe(library, bare)
    every = [w for w in libraries.weights_of(library, bare) if w != said.weights]
    also = f" (also {', '.join(every[:3])}{', ...' if len(every) > 3 else ''})" if every else ""
    weights = (said.weights or "none") + also
    try:
        shown = str(Preprocess(**said.preprocess)) if "size" in said.preprocess else "set model.preprocess.size"
    except ValueError as error:
        shown = str(error)
    top1 = "" if said.top1 is None else f"{said.top1:.2f}"
    return name, weights, "" if said.outputs is None else str(said.outputs), top1, shown
