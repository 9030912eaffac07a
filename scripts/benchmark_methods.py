"""Cost of methods in time and memory, as multiples of a bare forward pass, beside other libraries in the same run.

    python scripts/benchmark_methods.py --out results/cost_of_methods.csv

Time: every measured call is between two bare passes in the same process; its ratio is its time over their mean. The
table has the median, smallest and largest ratio: machines are shared and noisy, and seconds are not comparable between
them.

Memory: a call's peak minus the resident memory before it, relative to that of a bare pass. Each is measured in a
separate process after a first call (`VmHWM`, Linux; on a GPU, the allocator's own count). There, the C library is told
to return freed blocks at once; where times are measured, to keep them, as a run does.

Methods with passes of their own (`forwards`): their time, divided by the number of network inputs they use and by a
bare pass's time per input, in batches of the same size. Each explains one image: Score-CAM with all channels of the
layer, as other libraries do, RISE with 256 masks, Shap-CAM with 2 permutations. A library's inputs are counted where
the network is called.

At the end it lists the methods that took longer than another library's; `benchmark_evaluators.py` lists evaluators.

Weights are random: the cost does not depend on them.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import torch

from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.base import Method
from eigencam.methods.cam import CAM
from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.fem import FEM
from eigencam.methods.finer import FinerCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import LayerCAM, XGradCAM
from eigencam.methods.refusal import refusal
from eigencam.methods.rise import RISE
from eigencam.methods.scorecam import ScoreCAM
from eigencam.methods.shapcam import ShapCAM
from eigencam.methods.smoothing import EigenSmooth
from eigencam.networks.network import Network, load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.store.environment import keep_freed_memory

NETWORKS = {"vgg16": "features.29", "resnet18": "layer4", "resnet50": "layer4", "googlenet": "inception5b"}
FIVE: dict[str, Method] = {
    "eigencam": EigenCAM(),
    "gradcam": GradCAM(),
    "gradcampp": GradCAMPlusPlus(),
    "xgradcam": XGradCAM(),
    "layercam": LayerCAM(),
}
TEN: dict[str, Method] = {
    "fem": FEM(),
    "fem_share": FEM(weights="share"),
    "finercam": FinerCAM(GradCAM()),
    "finercam_mean": FinerCAM(GradCAM(), 0.6, weights="equal"),
    "finercam_gradcampp": FinerCAM(GradCAMPlusPlus()),
    "finercam_layercam": FinerCAM(LayerCAM()),
    "finercam_xgradcam": FinerCAM(XGradCAM()),
    "eigen_smooth": EigenSmooth(GradCAM()),
    "eigen_smooth_gradcampp": EigenSmooth(GradCAMPlusPlus()),
    "eigen_smooth_layercam": EigenSmooth(LayerCAM()),
}
OURS: dict[str, dict[str, Method]] = {name: {name: method} for name, method in FIVE.items()} | {
    "cam": {"cam": CAM()},
    "five": FIVE,
    "finercam": {"finercam": FinerCAM(GradCAM())},
    "eigen_smooth": {"eigen_smooth": EigenSmooth(GradCAM())},
    "ten": TEN,
    "ablationcam": {"ablationcam": AblationCAM()},
}
PEERS: dict[str, dict[str, tuple[str, ...]]] = {
    "pytorch-grad-cam": {
        "eigencam": ("EigenCAM",),
        "gradcam": ("GradCAM",),
        "gradcampp": ("GradCAMPlusPlus",),
        "five": ("EigenCAM", "GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM"),
    },
    "torchcam": {
        "gradcam": ("GradCAM",),
        "gradcampp": ("GradCAMpp",),
        "four of the five": ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM"),
    },
    "captum": {"gradcam": ("LayerGradCam",)},
}
MANY: dict[str, Method] = {
    "scorecam": ScoreCAM(),
    "rise": RISE(masks=256),
    "shapcam": ShapCAM(permutations=2),
}
PEERS_OF_MANY: dict[str, dict[str, tuple[str, ...]]] = {
    "pytorch-grad-cam": {"scorecam": ("ScoreCAM",)},
    "torchcam": {"scorecam": ("ScoreCAM",)},
}
"""Methods that run the network on one input per channel of the layer; these inputs are counted."""

SMALL_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Call = Callable[[], object]


def load(name: str, device: str) -> Network:
    args = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    description = {"name": name, "_target_": f"torchvision.models.{name}", "args": args, "layer": NETWORKS[name]}
    return load_network({**description, "classes": "imagenet"}, device=device)


def bare(network: Network, images: torch.Tensor) -> Call:
    """One forward pass under inference mode, preprocessing included."""

    def call() -> None:
        with torch.inference_mode():
            network.module(network.preprocess.normalize(images.to(network.device), network.dtype))

    return call


def ours(network: Network, methods: Mapping[str, Method], images: torch.Tensor) -> Call:
    return lambda: compute_maps(network, methods, images)


def peer(library: str, names: tuple[str, ...], network: Network, pixels: torch.Tensor) -> Call:
    """Another library's own calls for the same maps, as its documentation shows them."""
    images = network.preprocess.normalize(pixels.to(network.device), network.dtype)
    module, layer = network.module, network.module.get_submodule(network.layer)
    classes = [0] * len(images)

    def pytorch_grad_cam() -> None:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        for name in names:
            with getattr(pytorch_grad_cam, name)(model=module, target_layers=[layer]) as cam:
                cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in classes])

    def torchcam() -> None:
        import torchcam.methods

        for name in names:
            with getattr(torchcam.methods, name)(module, target_layer=network.layer) as cam:
                cam(classes, module(images))

    def captum() -> None:
        import captum.attr

        for name in names:
            getattr(captum.attr, name)(module, layer).attribute(images, target=classes)

    return {"pytorch-grad-cam": pytorch_grad_cam, "torchcam": torchcam, "captum": captum}[library]


def calls_of(network: Network, images: torch.Tensor) -> dict[tuple[str, str], Call]:
    """The calls to measure, by (library, methods)."""
    found: dict[tuple[str, str], Call] = {}
    for label, methods in OURS.items():
        if not any(refusal(method, network) for method in methods.values()):
            found["this", label] = ours(network, methods, images)
    for library, sets in PEERS.items():
        found |= {(library, label): peer(library, names, network, images) for label, names in sets.items()}
    return found


def seconds(call: Call, device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(call: Call, base: Call, repeats: int, device: str, scale: float = 1.0) -> list[float]:
    """Time over that of the bare passes before and after it, divided by `scale`."""
    call()
    base()
    times = [seconds(base, device)]
    for _ in range(repeats):
        times += [seconds(call, device), seconds(base, device)]
    return [2 * times[i] / (times[i - 1] + times[i + 1]) / scale for i in range(1, len(times), 2)]


def peak(call: Call, device: str) -> int:
    """Peak memory of a second call, minus the memory held before it, in bytes."""
    call()
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def peak_elsewhere(args: argparse.Namespace, network: str, library: str, label: str) -> int:
    """`peak` in a process of its own."""
    options = ["--networks", network, "--batch-size", str(args.batch_size), "--device", args.device]
    command = [sys.executable, __file__, *options, "--peak", library, label]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **SMALL_BLOCKS})
    return int(done.stdout.split()[-1])


class Shares:
    """Peaks of memory as multiples of a bare pass's, which is measured along with the first of them."""

    def __init__(self, args: argparse.Namespace, network: str, base: Call) -> None:
        self.args, self.network, self.base, self.whole = args, network, base, 0

    def _peak(self, library: str, label: str, call: Call) -> int:
        if self.args.device == "cpu":
            return peak_elsewhere(self.args, self.network, library, label)
        return peak(call, self.args.device)

    def __call__(self, library: str, label: str, call: Call) -> str:
        """With two digits; "" if memory is not measured."""
        if self.args.no_memory:
            return ""
        self.whole = self.whole or self._peak("bare", "bare", self.base)
        return f"{self._peak(library, label, call) / self.whole:.2f}"


def many(network: Network, method: Method, label: str, repeats: int) -> list[float]:
    """Time over the number of inputs times a bare pass's time per input."""
    chunk, count = 16, [0]
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)

    def call() -> None:
        count[0] = len(images)
        compute_maps(
            network,
            {label: method},
            images,
            chunk=chunk,
            progress=lambda _name, n: count.__setitem__(0, count[0] + n),
        )

    call()
    batch = torch.randint(0, 256, (chunk, 3, 224, 224), dtype=torch.uint8)
    return ratios(call, bare(network, batch), repeats, network.device.type, count[0] / chunk)


def many_of_peer(network: Network, library: str, names: tuple[str, ...], repeats: int) -> list[float]:
    """The same for another library, on one image; counts the inputs that the network is called with."""
    chunk, count = 16, [0]
    pixels = torch.randint(0, 256, (chunk, 3, 224, 224), dtype=torch.uint8)
    call = peer(library, names, network, pixels[:1])

    def note(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        count[0] += len(inputs[0])

    with network.module.register_forward_pre_hook(note):
        call()
    return ratios(call, bare(network, pixels), repeats, network.device.type, count[0] / chunk)


def many_of(network: Network, repeats: int) -> dict[tuple[str, str], Callable[[], list[float]]]:
    """By (library, methods): what measures methods with passes of their own."""
    own = {("this", label): partial(many, network, method, label, repeats) for label, method in MANY.items()}
    others = {
        (library, label): partial(many_of_peer, network, library, names, repeats)
        for library, sets in PEERS_OF_MANY.items()
        for label, names in sets.items()
    }
    return own | others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet50"], choices=NETWORKS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--only", nargs="+", metavar="METHODS", help="sets of methods: eigencam five scorecam; by default all"
    )
    measuring.add_arguments(parser)
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--resume", action="store_true", help="measure only what is missing in the file of --out")
    parser.add_argument("--peak", nargs=2, metavar=("LIBRARY", "METHODS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    images = torch.randint(0, 256, (args.batch_size, 3, 224, 224), dtype=torch.uint8)
    if args.peak:
        network = load(args.networks[0], args.device)
        calls = calls_of(network, images) | {("bare", "bare"): bare(network, images)}
        print(peak(calls[args.peak[0], args.peak[1]], args.device))
        return
    known = [*OURS, *(label for sets in PEERS.values() for label in sets), *MANY]
    if unknown := [label for label in args.only or () if label not in known]:
        parser.error(f"--only {' '.join(unknown)}: allowed are {', '.join(dict.fromkeys(known))}")
    chosen, args.faults = args.only or known, measuring.faults(args)
    keep_freed_memory()  # as a run does, here for all libraries
    lines: list[list[Any]] = _measured(args.out) if args.resume else []
    done = [line[:3] for line in lines]

    def add(*line: object) -> None:
        print(*line, sep="\t", flush=True)
        lines.append(list(line))
        if args.out:
            _write(args, lines)

    for name in args.networks:
        network = load(name, args.device)
        base = bare(network, images)
        shares = Shares(args, name, base)
        for (library, label), call in calls_of(network, images).items():
            if label not in chosen or [name, library, label] in done:
                continue
            found = ratios(call, base, args.repeats, args.device)
            held = shares(library, label, call)
            add(name, library, label, "pass", *(f"{f(found):.3f}" for f in (statistics.median, min, max)), held)
        for (library, label), measure in many_of(network, args.repeats).items():
            if label not in chosen or [name, library, label] in done:
                continue
            found = measure()
            add(name, library, label, "forwards", *(f"{f(found):.3f}" for f in (statistics.median, min, max)), "")
    measuring.say_slower(slower(lines))


def slower(lines: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Our methods that took longer than another library's on the same network."""
    times = {(network, library, label): float(took) for network, library, label, _unit, took, *_ in lines}
    for (network, library, label), took in times.items():
        if library != "this" and (own := times.get((network, "this", label), 0.0)) > took:
            yield f"{label} on {network} ({own:.2f}, {library} {took:.2f})"


HEADER = ["network", "library", "methods", "unit", "time", "time_min", "time_max", "memory"]


def _measured(path: Path | None) -> list[list[Any]]:
    """The rows that the file already has."""
    if path is None or not path.is_file():
        return []
    with path.open(newline="") as file:
        return [line for line in csv.reader(text for text in file if not text.startswith("#")) if line != HEADER]


def _write(args: argparse.Namespace, lines: list[list[Any]]) -> None:
    """All lines so far."""
    machine = f"CPU, {torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    about = f"{machine}, torch {torch.__version__}; batch {args.batch_size}, 224 px, float32, n = {args.repeats}; "
    measuring.write(args.out, args.faults, f"{about}multiples of a bare forward pass", HEADER, lines)


if __name__ == "__main__":
    main()
