"""Whether `torch.compile` pays off for a bare forward pass: its time relative to a plain pass, and what it changes.

    python scripts/benchmark_compile.py --networks resnet50 vgg16 --out results/compiled_passes.csv
    python scripts/benchmark_compile.py --device cuda --mode reduce-overhead --out FILE      CUDA graphs

A compiled pass and a plain one alternate in one process. The ratio is the time of the compiled pass over the mean of
the plain ones before and after it. The table also has the CPU seconds of compiling, the number of images after
which compiling pays off, the largest difference of the logits, and whether a hook that is added after compiling is
still called: methods read layers through such hooks.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from typing import Any

import measuring
import torch
from benchmark_methods import NETWORKS, load, ratios, seconds

HEADER = [
    *("network", "batch", "n", "ratio", "ratio_min", "ratio_max", "compile_seconds", "pays_from_images"),
    *("logits_differ", "hook_arrives"),
]


def hook_arrives(layer: torch.nn.Module, compiled: Callable[[torch.Tensor], object], images: torch.Tensor) -> bool:
    """Whether a compiled pass calls a hook that was added to one of its layers after it was compiled."""
    seen: list[bool] = []
    with layer.register_forward_hook(lambda *_: seen.append(True)), torch.no_grad():
        compiled(images)
    return bool(seen)


def measure(name: str, args: argparse.Namespace) -> list[object]:
    """One line of the table."""
    network = load(name, args.device)
    pixels = torch.randint(0, 256, (args.batch_size, 3, 224, 224), dtype=torch.uint8)
    images = network.preprocess.normalize(pixels.to(network.device), network.dtype)
    compiled: Any = torch.compile(network.module, mode=args.mode)
    with torch.inference_mode():
        plain = network.module(images)
        start = sum(os.times()[:4])  # the C++ compiler runs in a separate process
        first = compiled(images)
        compiling = sum(os.times()[:4]) - start
        found = ratios(lambda: compiled(images), lambda: network.module(images), args.repeats, args.device)
        alone = min(seconds(lambda: network.module(images), args.device) for _ in range(2))
    spread = measuring.spread(found, 3)
    gain = alone * (1 - float(spread[0])) / args.batch_size
    return [
        *(name, args.batch_size, args.repeats, *spread, f"{compiling:.0f}"),
        f"{compiling / gain:.0f}" if gain > 0 else "never",
        f"{(first - plain).abs().max():.1e}",
        "yes" if hook_arrives(network.module.get_submodule(network.layer), compiled, images) else "no",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50"], choices=NETWORKS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mode", default="default", help="of torch.compile")
    measuring.add_arguments(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    faults, lines = measuring.faults(args), []
    for name in args.networks:
        lines.append(measure(name, args))
        print(*lines[-1], sep="  ", flush=True)
    if args.out:
        machine = f"CPU, {torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
        about = f"{machine}, torch {torch.__version__}, mode {args.mode}, 224 px, float32; ratio: compiled / plain"
        measuring.write(args.out, faults, about, HEADER, lines)


if __name__ == "__main__":
    main()
