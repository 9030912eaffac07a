"""The default layer of hundreds of networks: `results/zoo.csv`, one network per line.

    nice python scripts/zoo.py                      # what is missing in results/zoo.csv; about two hours of one core
    nice python scripts/zoo.py --only swin vit      # networks whose name has one of these
    python scripts/zoo.py --page > docs/networks.md # the page that shows it

It covers every classification network of torchvision, and the smallest ones of each of timm's families. Weights are
random, and inputs have 160 or 224 pixels if the network's own are larger and it accepts these. For each network the
table has the default layer, its reading and the map's size, or why none is chosen; the verdict of a second stimulus,
with other noise than the one that chose the layer; and which methods report that they can run. For the first 48
networks of at most six million parameters it also has which of these methods gave no finite map of an image. If random
weights let no stimulus through, the check is repeated with calibrated normalisations (`calibrated`).

The table's header names the code's commit. A table that another commit began is not continued.
"""

import argparse
import csv
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from zoo_page import page

from eigencam.configuring.catalogue import catalogue
from eigencam.methods.base import Method, lack_of
from eigencam.methods.refusal import refusal
from eigencam.networks import libraries
from eigencam.networks.layers import watched
from eigencam.networks.libraries import Library
from eigencam.networks.network import Network, load_network
from eigencam.passes import moving_stimulus as moving
from eigencam.passes.calls import evaluating
from eigencam.passes.layer_items import items
from eigencam.running.batch_maps import compute_maps
from eigencam.running.named_methods import as_methods
from eigencam.store.environment import git

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results" / "zoo.csv"
FIELDS: tuple[str, ...] = (
    "library", "family", "network", "parameters", "input", "layer", "reading", "state", "score", "map", "reason",
    "second", "second_score", "calibrated", "methods", "refused", "tried", "failed", "seconds",
)  # fmt: skip
OF_A_FAMILY = 4
SIZES = (
    "test", "atto", "femto", "pico", "nano", "xxxs", "xxs", "xxtiny", "xs", "xtiny", "mini", "wee", "tiny", "ti", "t",
    "little", "s", "small", "medium", "m", "b", "base", "l", "large", "xl", "xlarge", "h", "huge", "so", "g", "giant",
    "gigantic", "enormous",
)  # fmt: skip
"""Words for sizes in timm's names, in ascending order."""
SIDES = (160, 224)
"""Input sides to try, in pixels."""
TRIED = 48
"""Number of networks that are explained by every method that reports that it can run."""
TRIED_PARAMETERS = 6_000_000
"""Largest number of parameters of a network that every method explains; some methods take a pass per channel."""
MOST_SECONDS = 200
"""Processor seconds for one network."""
SMALL = 0.5
"""Gains that are all equal and below this are learnt scales of branches, which start near zero."""
FEW = {
    "designs": 8,
    "sizes": 2,
    "samples": 2,
    "masks": 8,
    "permutations": 1,
    "steps": 2,
    "channels": 4,
    "window": 64,
    "stride": 64,
    "count": 20,
}
"""Parameters of methods that only set a number of repetitions."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="of a network's name")
    parser.add_argument("--out", type=Path, default=TABLE, metavar="FILE")
    parser.add_argument("--page", action="store_true", help="print docs/networks.md")
    args = parser.parse_args()
    if args.page:
        print(page(read(args.out)))
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    check_code(args.out)
    methods()  # a time limit inside an import would leave half a module behind
    rows = read(args.out)
    done = {(row["library"], row["network"]) for row in rows}
    tried = sum(bool(row["tried"]) for row in rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for library, family, name in chosen():
        if (library, name) in done or (args.only and not any(part in name for part in args.only)):
            continue
        row = apart(library, family, name, try_methods=tried < TRIED)
        tried += "tried" in row
        append(args.out, row)
        print(*(row.get(key, "") for key in ("library", "network", "layer", "map", "second", "reason")), flush=True)
    return 0


def apart(library: Library, family: str, name: str, *, try_methods: bool) -> dict[str, str]:
    """The row of one network, made in a process of its own, so that its memory is freed."""
    row = {"library": library, "family": family, "network": name}
    receive, send = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=fill, args=(row, try_methods, send))
    process.start()
    send.close()
    try:
        row = receive.recv()
    except EOFError:
        row["reason"] = "its process was killed"
    process.join()
    return row


def fill(row: dict[str, str], try_methods: bool, send: Connection) -> None:
    """Fill a row, and send it."""
    start = time.process_time()
    try:
        with limited(MOST_SECONDS):
            examine(cast("Library", row["library"]), row["network"], row, try_methods=try_methods)
    except (Exception, OutOfTimeError) as error:  # whatever a network may raise: it is a line of the table
        row["failed" if "tried" in row else "reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    row["seconds"] = f"{time.process_time() - start:.1f}"
    send.send(row)


def chosen() -> list[tuple[Library, str, str]]:
    """(library, family, name): all of torchvision, the smallest of each of timm's families; small ones first."""
    from timm.models import _registry
    from torchvision.models import get_model_builder, get_model_weights

    ranked: list[tuple[int, tuple[int, ...], Library, str, str]] = []
    for name in libraries.names("torchvision"):
        family = get_model_builder(name).__module__.rsplit(".", 1)[-1]
        parameters = next(iter(get_model_weights(name))).meta["num_params"]
        ranked.append((0 if parameters < 60e6 else OF_A_FAMILY, (parameters,), "torchvision", family, name))
    families: dict[str, list[str]] = {}
    for name in libraries.names("timm"):
        families.setdefault(_registry._model_to_module[name], []).append(name)
    for family, members in families.items():
        smallest = sorted(members, key=lambda name: (by_name(name), name))[:OF_A_FAMILY]
        for k, name in enumerate(smallest):
            ranked.append((k, by_name(name), "timm", family, name))
    return [(library, family, name) for _, _, library, family, name in sorted(ranked)]


def by_name(name: str) -> tuple[int, ...]:
    """Size of a network according to its name: by words, then by numbers (building it would take too long)."""
    parts = re.split(r"[_.]|(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])", name)
    words = [SIZES.index(part) for part in parts if part in SIZES]
    numbers = [int(part) for part in parts if part.isdigit()]
    return (min(words) if words else SIZES.index("s"), *numbers)


def examine(library: Library, name: str, row: dict[str, str], *, try_methods: bool = False) -> None:
    """Fill the cells of one network; those before a failure stay."""
    network = built(library, name)
    module, size = network.module, network.preprocess.shape
    row |= {"parameters": str(sum(p.numel() for p in module.parameters())), "input": "x".join(map(str, size))}
    try:
        network = network.with_default_layer()
    except ValueError as error:
        row["reason"] = str(error)
        return
    layer = network.layer
    found = network.examined().findings[layer]
    assert found.reading is not None  # a default layer is a map
    maps = found.reading.size((0, *found.shape))
    row |= {"layer": layer, "reading": str(found.reading), "state": found.state, "score": f"{found.score:.2f}"}
    row |= {"map": "x".join(map(str, maps)), "reason": found.reason if found.state == "undecided" else ""}
    second, score = again(network, seed=1)
    row |= {"second": second, "second_score": f"{score:.2f}"}
    able, refused = asked(network)
    row |= {"methods": str(len(able)), "refused": " ".join(refused)}
    if second == "undecided":
        verdict, score = again(calibrated(network), seed=1)
        row["calibrated"] = f"{verdict} {score:.2f}"
    if try_methods and int(row["parameters"]) <= TRIED_PARAMETERS:
        row["tried"] = str(len(able))
        row["failed"] = "; ".join(failing(network, able))


def built(library: Library, name: str) -> Network:
    """The network with random weights, for the smallest of `SIDES` that it takes, or for its own size."""
    node: dict[str, Any] = {"library": library, "name": name, "weights": None, "classes": "weights"}
    if library == "torchvision" and name in ("googlenet", "inception_v3"):
        node["args"] = {"init_weights": False}
    own = libraries.describe(library, name).preprocess.get("size", SIDES[-1])
    largest = own if isinstance(own, int) else max(own)
    for side in [side for side in SIDES if side < largest]:
        for args in ({},) if side == SIDES[0] else ({"img_size": side}, {}):
            if side == SIDES[0] and fixed(library, name):
                continue
            try:
                changed = {"args": {**node.get("args", {}), **args}, "preprocess": {"size": side}}
                made = load_network({**node, **changed}, choose=False)
                with torch.no_grad(), evaluating(made.module):
                    made.module(torch.zeros(1, made.preprocess.channels, side, side))
                return woken(made)
            except Exception:  # it accepts no other size
                continue
    return woken(load_network(node, choose=False))


def fixed(library: Library, name: str) -> bool:
    """Whether a network accepts only its own input size, as far as is known."""
    if library == "torchvision":
        return "vit" in name
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def woken(network: Network) -> Network:
    """Add noise to last layers that start at zero, so that methods have something to explain."""
    torch.manual_seed(0)
    for inner in network.module.modules():
        if isinstance(inner, nn.Linear) and not bool(inner.weight.any()):
            nn.init.normal_(inner.weight, std=0.02)
    return network


def again(network: Network, seed: int) -> tuple[str, float]:
    """Whether the layer's response follows another stimulus in the chosen reading, and its score."""
    stimulus = moving.Stimulus.make(network.preprocess.channels, network.preprocess.shape, seed)
    outs: list[Tensor] = []

    def keep(layer: str, out: Any) -> None:
        outs.extend(t for name, t in items(out, layer) if name == network.layer and len(t) == len(stimulus.batch))

    with evaluating(network.module), torch.no_grad(), watched(network.module, keep):
        network.module(stimulus.batch)
    reading = network.reading(network.layer)
    out = next(o for o in reversed(outs) if reading.fits(tuple(o.shape)))
    verdict = moving.check(stimulus, out, reading)
    if verdict.reading:
        return "follows", verdict.score
    return ("contradicts" if verdict.reason else "undecided"), verdict.score


@torch.no_grad()
def calibrated(network: Network) -> Network:
    """The same network, changed in place: batch statistics of noise, and scales of branches at 1."""
    for parameter in network.module.parameters():
        if parameter.numel() > 1 and 0 < parameter.min() == parameter.max() < SMALL:
            parameter.fill_(1)
    norms = [m for m in network.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
        if norm.weight is not None and not bool(norm.weight.any()):
            norm.weight.fill_(1)
    stimulus = moving.Stimulus.make(network.preprocess.channels, network.preprocess.shape, seed=2)
    network.module(stimulus.batch)
    for norm in norms:
        norm.training = False
    return network


@cache
def methods() -> dict[str, Method]:
    """Every method that can be built without a file, with few repetitions."""
    made: dict[str, Method] = {}
    for entry in catalogue():
        try:
            made |= as_methods([entry.option])
        except Exception:  # it needs a folder, or weights that were fitted
            continue
    return {name: few(method) for name, method in made.items() if not lack_of(method, ["image"])}


def few(method: Method) -> Method:
    """The same method with few repetitions."""
    from dataclasses import fields, is_dataclass, replace

    if not is_dataclass(method) or isinstance(method, type):
        return method
    names = {f.name: getattr(method, f.name) for f in fields(method)}
    less = {k: v for k, v in FEW.items() if isinstance(names.get(k), int) and names[k] > v}
    return replace(method, **less) if less else method


def asked(network: Network) -> tuple[list[str], list[str]]:
    """The methods that report that they can run, and the others."""
    able, refused = [], []
    for name, method in methods().items():
        try:
            reason = refusal(method, network)
        except Exception as error:  # an error in the network's pass
            reason = str(error)
        (refused if reason else able).append(name)
    return able, refused


def failing(network: Network, names: list[str]) -> list[str]:
    """The methods that report that they can run, but raise on an image or give values that are not finite."""
    high, wide = network.preprocess.shape
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (high, wide, network.preprocess.channels), dtype=np.uint8)
    told: dict[str, str] = {}
    found = compute_maps(
        network,
        {name: methods()[name] for name in names},
        torch.from_numpy(image).permute(2, 0, 1)[None],
        labels=[1],
        ids=["image"],
        original=lambda _n: image,
        regions=[(0.0, 0.0, float(wide), float(high))],
        population=(2, lambda i: random.integers(0, 256, image.transpose(2, 0, 1).shape, dtype=np.uint8)),
        failed=lambda name, error: told.update({name: f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"}),
    )
    told |= {name: "not finite" for name, maps in found.maps.items() if not np.isfinite(maps).all()}
    return [f"{name}: {why}" for name, why in sorted(told.items())]


class OutOfTimeError(BaseException):
    """One network's time limit is reached; not an `Exception`, since libraries and methods catch these."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """OutOfTimeError inside the block after this many processor seconds."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)  # repeated, in case Python ignores the first exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@cache
def code() -> str:
    """The code's commit, for the header; the table itself may have changed."""
    others = [".", f":!{TABLE.relative_to(ROOT)}"]
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "-uno", "--", *others]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"code {git()['git_commit']}{', files changed' if changed else ''}"


def check_code(path: Path) -> None:
    """Exit if the table was begun by other code."""
    if path.is_file() and not path.read_text(encoding="utf-8").partition("\n")[0].endswith(f"; {code()}"):
        sys.exit(f"{path} is of other code than this, {code()}: move it away, or name another file by --out")


def read(path: Path) -> list[dict[str, str]]:
    """The table's rows; empty if there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(text for text in file if not text.startswith("#")))


def append(path: Path, row: dict[str, str]) -> None:
    """Append a row."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            libraries_here = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
            file.write(f"# command: python scripts/zoo.py; {code()}\n")
            file.write(f"# {libraries_here}; CPU, one thread; random weights; seconds of the processor\n")
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
