"""What a method costs, as a multiple of a bare forward pass, in one run.

    python scripts/benchmark_methods.py --out results/cost_of_methods.csv

Every measured call stands between two bare passes of the same process; its ratio is its time over their mean. Printed
are the median, the smallest and the largest ratio: machines are shared and noisy, and seconds mean nothing across
them. Weights are random: the cost does not depend on them (Lanczos stops after a fixed number of steps either way).
"""

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from eigencam.environment import git
from eigencam.maps import Method, compute_maps
from eigencam.methods.cam import CAM
from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.network import Network, load_network

NETWORKS = {"vgg16": "features.29", "resnet50": "layer4", "googlenet": "inception5b"}
SETS: dict[str, dict[str, Method]] = {
    "eigencam": {"eigencam": EigenCAM()},
    "gradcam": {"gradcam": GradCAM()},
    "eigencam + gradcam": {"eigencam": EigenCAM(), "gradcam": GradCAM()},
    "eigencam + gradcam + gradcampp": {"eigencam": EigenCAM(), "gradcam": GradCAM(), "gradcampp": GradCAMPlusPlus()},
    "cam": {"cam": CAM()},
}


def load(name: str, device: str) -> Network:
    args = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    description = {"name": name, "_target_": f"torchvision.models.{name}", "args": args, "layer": NETWORKS[name]}
    return load_network({**description, "classes": "imagenet"}, device=device)


def seconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(network: Network, methods: dict[str, Method], pictures: torch.Tensor, repeats: int) -> list[float]:
    device = network.device.type

    def bare() -> None:
        with torch.inference_mode():
            network.module(network.preprocess.normalize(pictures.to(network.device), network.dtype))

    def measured() -> None:
        compute_maps(network, methods, pictures)

    measured()
    times = [seconds(bare, device)]
    for _ in range(repeats):
        times += [seconds(measured, device), seconds(bare, device)]
    return [2 * times[i] / (times[i - 1] + times[i + 1]) for i in range(1, len(times), 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet50"], choices=NETWORKS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pictures = torch.randint(0, 256, (args.batch_size, 3, 224, 224), dtype=torch.uint8)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = []
    for name in args.networks:
        network = load(name, args.device)
        for label, methods in SETS.items():
            if any(getattr(m, "unsupported", lambda _: "")(network) for m in methods.values()):
                continue
            found = ratios(network, methods, pictures, args.repeats)
            line = [name, label, *(f"{f(found):.3f}" for f in (statistics.median, min, max)), args.repeats]
            print(f"{name:10} {label:32} {line[2]}  ({line[3]} to {line[4]})", flush=True)
            lines.append(line)
    if args.out:
        with args.out.open("w", newline="") as file:
            file.write(f"# command: python {' '.join(sys.argv)}\n")
            file.write(f"# {machine}, {platform.machine()}, torch {torch.__version__}, code {git()['git_commit']}; ")
            file.write(f"batch {args.batch_size}, 224 px, float32; time as a multiple of a bare forward pass\n")
            csv.writer(file).writerows([["network", "methods", "median", "min", "max", "repeats"], *lines])


if __name__ == "__main__":
    main()
