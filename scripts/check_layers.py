"""Check readings of layers with known answers, and the default layers of the networks that have a config.

    python scripts/check_layers.py                     # scripts/known_layers.txt; needs the extra `timm`
    python scripts/check_layers.py --only vit swin     # networks whose name has one of these
    python scripts/check_layers.py --configs           # the networks of configs/model, untrained

The list was written from the networks' code before the check. Weights are random. The script prints each result that
differs from the list or is supported only by the operations (`undecided`), then the counts. It exits with 1 if a layer
that is not a map is accepted, or if a map is read wrongly or refused.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torchvision
from torch import nn

from eigencam.configuring.compose import compose
from eigencam.networks.default_layer import choose
from eigencam.networks.layers import Finding, examine
from eigencam.networks.network import load_network
from eigencam.passes.readings import CHANNELS_FIRST, CHANNELS_LAST, Reading

LIST = Path(__file__).parent / "known_layers.txt"
NEEDING_MORE = ("custom", "library")
"""Configs that users fill in."""
CONFIGS = Path(__file__).parents[1] / "configs" / "model"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="of a network's name")
    parser.add_argument("--configs", action="store_true", help="the networks of configs/model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.configs:
        return check_configs(args.only)
    known = read_known(LIST)
    counts: Counter[str] = Counter()
    for (name, size), layers in known.items():
        if args.only and not any(part in name for part in args.only):
            continue
        start = time.perf_counter()
        found = examine(built(name, size), size).findings
        print(f"{name} {size[0]}x{size[1]}: {len(layers)} layers, {time.perf_counter() - start:.1f} s", flush=True)
        for layer, answer in layers.items():
            outcome = judged(found[layer], answer)
            counts[outcome] += 1
            if outcome not in ("map: right", "no map: refused"):
                print(
                    f"  {outcome}: {layer} {found[layer].shape}, {answer}: {found[layer].reading} {found[layer].reason}"
                )
    print(", ".join(f"{outcome} {n}" for outcome, n in sorted(counts.items())))
    return int(any(outcome.isupper() for outcome in counts))


def read_known(path: Path) -> dict[tuple[str, tuple[int, int]], dict[str, str]]:
    """The answer by layer, by network and input size."""
    known: dict[tuple[str, tuple[int, int]], dict[str, str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            head, answer, layers = (part.strip() for part in line.split("|"))
            name, size = head.split()
            height, width = map(int, size.split("x"))
            known.setdefault((name, (height, width)), {}).update(dict.fromkeys(layers.split(), answer))
    return known


def judged(found: Finding, answer: str) -> str:
    """The outcome, in capitals if it is wrong."""
    if answer.startswith("none"):
        return "NO MAP: ACCEPTED" if found.reading else "no map: refused"
    if found.reading is None:
        return "MAP: REFUSED"
    if found.reading != expected(answer):
        return "MAP: READ WRONGLY"
    return "map: right" if found.state == "follows" else "map: undecided"


def expected(answer: str) -> Reading:
    """The reading in an answer that has one."""
    if answer in ("chw", "hwc"):
        return CHANNELS_FIRST if answer == "chw" else CHANNELS_LAST
    _, grid, front, behind = answer.split()
    height, width = map(int, grid.split("x"))
    return Reading((1,), (height, width), int(front), int(behind))


def built(name: str, size: tuple[int, int]) -> nn.Module:
    """A network with random weights."""
    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "torchvision":
        return torchvision.models.get_model(short, weights=None).eval()
    import timm
    from timm.layers.config import set_fused_attn

    set_fused_attn(False)  # so that attention matrices are outputs of a module
    try:
        return timm.create_model(short, img_size=size).eval()
    except TypeError:  # a convolutional network takes any size
        return timm.create_model(short).eval()


def check_configs(only: list[str]) -> int:
    """Compare each config's layer with the default one."""
    wrong = 0
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.stem in NEEDING_MORE or (only and not any(part in path.stem for part in only)):
            continue
        network = load_network(compose("run", [f"model={path.stem}", "model.weights=null"]).model)
        examined = network.examined()
        choice = choose(network.module, examined, classifier=network.classes is not None)
        config = examined.findings[network.layer]
        default = choice.chosen.layer if choice.chosen and not choice.doubtful else "none"
        same = choice.chosen is not None and choice.chosen.values == config.values
        passed = "all passes" if not examined.through.isdisjoint(config.values) else "something passes by"
        print(
            f"{path.stem}: {network.layer} is read as {config.reading}, {config.state}, {config.score:.2f}, {passed}; "
            f"default {'the same' if same else default}",
            flush=True,
        )
        wrong += config.reading is None
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
