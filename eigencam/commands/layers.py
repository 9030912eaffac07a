"""`eigencam layers`: a network's layers: which ones are maps, how they are read, and which one is the default.

Examples:
    eigencam layers resnet50
    eigencam layers timm/vit_base_patch16_224 --all
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eigencam.configuring import method_names
from eigencam.evaluation.escaping import one_line
from eigencam.evaluation.tables import listed, wrapped

if TYPE_CHECKING:
    from eigencam.networks.default_layer import Choice
    from eigencam.networks.layers import Finding
    from eigencam.networks.network import Network

HEADER = ("layer", "shape", "read as", "map", "score", "feeds", "")
MOST_FED = 3
"""Maximum number of modules listed in the column `feeds`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam layers`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="an option of `model`, timm/NAME, torchvision/NAME, or my_module.build")
    add("inputs", nargs="*", metavar="key=value", help="settings (model.preprocess.size=384, model.layer=layer3)")
    add("--weights", default="", metavar="FILE", help="a weights file for it, or a torchvision weights name")
    add("--all", action="store_true", help="also layers that are bypassed or no maps, with the reason")


def main(args: argparse.Namespace) -> int:
    """Print the table; returns 0."""
    from omegaconf import OmegaConf

    from eigencam.configuring.compose import compose
    from eigencam.networks.default_layer import Choice, NoAnswerError, choose
    from eigencam.networks.network import load_network

    if strange := [item for item in args.inputs if "=" not in item]:
        raise ValueError(f"{' '.join(strange)}: allowed after the network: settings, key=value")
    config = compose(
        "run", method_names.quoted([*method_names.model_overrides(args.model, args.weights), *args.inputs])
    )
    description = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(description, dict)
    network = load_network({str(k): v for k, v in description.items()}, choose=False)
    try:
        choice, why = choose(network.module, network.examined(), classifier=network.classes is not None), ""
    except NoAnswerError as error:
        choice, why = Choice(None, None, {}), str(error)
    print(wrapped(f"{network.label}, input {network.preprocess}"), end="\n\n")
    print(listed(rows(network, choice, every=args.all), HEADER))
    print(wrapped("\n".join(notes(choice, why))))
    return 0


def rows(network: Network, choice: Choice, *, every: bool = False) -> Iterator[tuple[str, ...]]:
    """The layers in the order in which they run; the default and the network's own target are marked.

    Args:
        network: the network.
        choice: the choice of the default layer.
        every: whether to list layers that are no maps, and maps that a path bypasses.
    """
    examined = network.examined()
    for found in examined.findings.values():
        target = found.layer == network.layer
        if every or target or (found.reading and not examined.through.isdisjoint(found.values)):
            feeds = examined.feeds(found)
            more = f", {len(feeds) - MOST_FED} more" if len(feeds) > MOST_FED else ""
            marks = [*_marks(found, choice, network.classes is not None), *(["model.layer"] if target else [])]
            cells = (*_cells(found), ", ".join(feeds[:MOST_FED]) + more, "; ".join(marks))
            yield tuple(one_line(cell) for cell in cells)


def _cells(finding: Finding) -> tuple[str, ...]:
    shape = " x ".join(map(str, finding.shape))
    if finding.reading is None:
        return finding.layer, shape, "", "", ""
    h, w = finding.reading.size((0, *finding.shape))
    return (
        finding.layer,
        shape,
        str(finding.reading),
        f"{h} x {w}",
        "undecided" if finding.state == "undecided" else f"{finding.score:.2f}",
    )


def _marks(finding: Finding, choice: Choice, classifier: bool) -> Iterator[str]:
    if finding.reading is None:
        yield f"no map: {finding.reason}"
    elif choice.doubtful is None and choice.chosen is not None and finding.layer == choice.chosen.layer:
        yield "default"
    elif fault := next((c.fault(classifier) for f, c in choice.carried.items() if f.values == finding.values), ""):
        yield fault


def notes(choice: Choice, why: str = "") -> Iterator[str]:
    """Lines below the table; `why`: the reason why no default layer could be determined."""
    yield ""
    yield "score: how well the response follows a stimulus that moves over the input, at most 1"
    if why:
        yield f"no default: {why}"
    elif choice.doubtful is not None:
        yield f"no default: {choice.doubtful.layer} may be a map and cannot be read with certainty; set model.layer"
    elif choice.chosen is None:
        yield "no default: no layer is a map that all paths pass through; set model.layer"
