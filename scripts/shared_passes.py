"""Cost of ten methods together, compared with the most expensive of them alone: operations and CPU time.

    python scripts/shared_passes.py --out results/shared_passes.csv

Methods of one pass share what they have in common: the forward pass, the backward pass of the logit, the recorded pass
of a transformer. The bound is 1.2 times the most expensive method alone plus one bare forward pass.

`operations` are multiplications and additions of matrix products and convolutions (`torch.utils.flop_counter`): the
same in every run. `cpu` is the process's CPU time, median of the repeats, in each of which all sets are measured in
turn. Both are multiples of a bare forward pass of the same images.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import measuring
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from eigencam.configuring.compose import compose
from eigencam.methods.base import Method
from eigencam.networks.network import Network, load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.store.build import instantiate

TEN = {
    "vit_b_16": (
        "gae",
        "transformer_attribution",
        "legrad",
        "attnlrp",
        "cp_lrp",
        "finercam",
        "finercam_mean",
        "fem",
        "fem_share",
        "eigen_smooth",
    ),
    "scenes_resnet": (
        "finercam",
        "fem",
        "refinecam",
        "reciprocam",
        "groupcam",
        "liftcam",
        "relevance_cam",
        "zoomcam",
        "polycam",
        "eigen_smooth",
    ),
}
TEN["scenes_vit"] = TEN["vit_b_16"]
UNTRAINED = {"vit_b_16": ("model.weights=null", "+model.args.image_size=112", "model.preprocess.size=112")}
"""The cost does not depend on the weights."""
BOUND = 1.2
HEADER = ["network", "methods", "operations", "cpu", "cpu_min", "cpu_max"]
Call = Callable[[], object]


def built(network: str, device: str = "cpu") -> tuple[Network, dict[str, Method]]:
    """The network and its ten methods, as the package has them."""
    config: Any = compose(
        "run", [f"model={network}", *UNTRAINED.get(network, ()), f"method=[{','.join(TEN[network])}]"]
    )
    return load_network(config.model, device=device), {str(k): instantiate(node) for k, node in config.method.items()}


def calls(network: Network, methods: Mapping[str, Method], count: int) -> dict[str, Call]:
    """What is measured, by name: a bare pass, each method alone, all of them."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *network.preprocess.input_shape), dtype=torch.uint8, generator=draws)
    labels = [k % 3 for k in range(count)]

    def bare() -> None:
        with torch.inference_mode():
            network.module(network.preprocess.normalize(images, network.dtype))

    sets = {name: {name: method} for name, method in methods.items()} | {"together": dict(methods)}
    of: dict[str, Call] = {
        name: lambda chosen=chosen: compute_maps(network, chosen, images, labels=labels)
        for name, chosen in sets.items()
    }
    return {"bare": bare, **of}


class Counted(TorchDispatchMode):
    """Context in which the multiplications and additions of matrix products and convolutions are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation, backward passes included."""
        kwargs, count = kwargs or {}, flop_registry.get(func._overloadpacket)
        if count is None:
            with self:  # a composite operation, which inference mode does not decompose
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.total += count(*args, **kwargs, out_val=out)
        return out


def operations(call: Call) -> int:
    """Multiplications and additions of a call; fused attention is off, as its operations are not counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with Counted() as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.total


def cpu_seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def lines(name: str, count: int, repeats: int) -> list[list[str]]:
    """The rows of a network, and as the last two the bound and the ratio to it."""
    network, methods = built(name)
    measured = calls(network, methods, count)
    for call in measured.values():
        call()  # fills caches
    counted = {key: operations(call) for key, call in measured.items()}
    times: dict[str, list[float]] = {key: [] for key in measured}
    for _ in range(repeats):
        for key, call in measured.items():
            times[key].append(cpu_seconds(call))
    base = statistics.median(times["bare"])
    rows, alone = [], [key for key in measured if key not in ("bare", "together")]
    share = {key: counted[key] / counted["bare"] for key in measured}
    spent = {key: statistics.median(found) / base for key, found in times.items()}
    for key in measured:
        ends = [f"{end(times[key]) / base:.2f}" for end in (min, max)]
        rows.append([name, key, f"{share[key]:.2f}", f"{spent[key]:.2f}", *ends])
    bounds = [BOUND * max(found[key] for key in alone) + 1 for found in (share, spent)]
    rows.append([name, "bound", *(f"{bound:.2f}" for bound in bounds), "", ""])
    ratios = [found["together"] / bound for found, bound in zip((share, spent), bounds, strict=True)]
    return [*rows, [name, "together over bound", *(f"{ratio:.2f}" for ratio in ratios), "", ""]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(TEN), choices=TEN)
    parser.add_argument("--images", type=int, default=4)
    measuring.add_arguments(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faults = measuring.faults(args)
    found = []
    for name in args.networks:
        for line in lines(name, args.images, args.repeats):
            print(*line, sep="\t", flush=True)
            found.append(line)
    if args.out:
        about = f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}; {args.images} images, float32, "
        measuring.write(args.out, faults, f"{about}n = {args.repeats}; multiples of a bare forward pass", HEADER, found)


if __name__ == "__main__":
    main()
