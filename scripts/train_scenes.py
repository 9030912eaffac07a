"""Trains one of the small networks on generated scenes, on a CPU in seven minutes to an hour.

    python scripts/train_scenes.py scenes_vgg --epochs 10
    python scripts/train_scenes.py scenes_resnet
    python scripts/train_scenes.py scenes_vit --epochs 8 --train 10000 --held-out 2000 --batch 32 --lr 0.0015
    python scripts/train_scenes.py scenes_vig --epochs 5 --train 10000 --held-out 2000 --batch 32 --lr 0.002
    python scripts/train_scenes.py scenes_resnet --permuted --train 400 --epochs 60 --batch 32 --lr 0.002

It writes `eigencam/networks/weights/NAME.safetensors` (matrices as float16) and this network's rows of
`results/scenes_networks.csv`: one row per epoch, with the accuracy on the first 500 held-out scenes, and a last one,
epoch `saved`, with the accuracy of the saved, rounded weights on all of them. Held-out scenes are from the test split;
they are not used to choose an epoch or weights.

`--permuted` trains on labels permuted among the scenes, for the sanity check of J. Adebayo et al. ("Sanity Checks for
Saliency Maps", NeurIPS 2018, section 3.3). There is nothing to learn, only to memorise, so there is no augmentation, no
label smoothing and no weight decay. NAME is then `NETWORK_permuted`; the last row also has the accuracy on the training
scenes with their permuted labels.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eigencam.datasets.scenes import VERSION, Scenes, Split
from eigencam.files import replacing
from eigencam.networks import scenes as nets
from eigencam.networks.scenes_transformers import ScenesViG, ScenesViT

ROOT = Path(__file__).parents[1]
LOG = ROOT / "results" / "scenes_networks.csv"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "scenes_vgg": lambda: nets.ScenesVGG(batch_norm=True),
    "scenes_resnet": nets.ScenesResNet,
    "scenes_vit": ScenesViT,
    "scenes_vig": ScenesViG,
}
COLUMNS = ["network", "epoch", "train_loss", "held_out_top1_percent", "n", "seconds", "command", "train_top1_percent"]


def _squashed(job: tuple[int, Split, int, int]) -> tuple[NDArray[np.uint8], list[int]]:
    seed, split, first, last = job
    scenes = Scenes(last, seed, split)
    images = np.empty((last - first, 3, *nets.PREPROCESS.shape), np.uint8)
    labels = []
    for i in range(first, last):
        images[i - first] = nets.PREPROCESS(scenes.image(i))[0]
        labels.append(scenes.truth(i).label)
    return images, labels


def scenes(seed: int, split: Split, count: int, cache: Path, workers: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 112, 112) uint8 and labels (count,) int64 of the first scenes of a split."""
    file = cache / f"scenes-v{VERSION}-{split}-{seed}-{count}-{nets.PREPROCESS.size}.npz"
    if not file.is_file():
        edges = np.linspace(0, count, 4 * workers + 1).astype(int).tolist()
        jobs = [(seed, split, a, b) for a, b in pairwise(edges)]
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(_squashed, jobs))
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, pictures=np.concatenate([p for p, _ in parts]), labels=np.concatenate([x for _, x in parts]))
    with np.load(file) as data:
        return torch.from_numpy(data["pictures"]), torch.from_numpy(data["labels"])


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, shift, scale, recolour and cut rectangles out of (N, 3, S, S) normalised images."""
    n, _, size, _ = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    scale, mirror = uniform(0.85, 1.2), torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale * uniform(0.9, 1.1)
    theta[:, :, 2] = uniform(-0.12, 0.12, 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    x = x * uniform(0.75, 1.25, 3, 1, 1) + uniform(-0.25, 0.25, 3, 1, 1)
    x = x[:, torch.randperm(3, generator=generator)]
    at, side = uniform(0, size, 2), uniform(0.05, 0.22, 2) * size
    axis = torch.arange(size)
    inside = ((axis - at[..., None]).abs() < side[..., None] / 2) & (uniform(0, 1) < 0.4)[:, None, None]
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return torch.where(hole[:, None], uniform(-1.5, 1.5, 3, 1, 1), x)


def folded(network: nn.Module) -> nn.Module:
    """The network to package: a `ScenesVGG` with batch normalisations folded into convolutions, others unchanged."""
    if not isinstance(network, nets.ScenesVGG):
        return network
    plain = nets.ScenesVGG()
    convolutions = iter(m for m in plain.features if isinstance(m, nn.Conv2d))
    for conv, norm in pairwise(network.features):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            target = next(convolutions)
            fused = nn.utils.fuse_conv_bn_eval(conv.eval(), norm.eval())
            target.load_state_dict(fused.state_dict())
    plain.classifier.load_state_dict(network.classifier.state_dict())
    return plain


@torch.inference_mode()
def top1(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in percent, evaluation mode, float32."""
    network.eval()
    guesses = torch.cat([network(nets.PREPROCESS.normalize(batch)).argmax(1) for batch in images.split(200)])
    return 100 * (guesses == labels).float().mean().item()


def train(args: argparse.Namespace, command: str) -> list[dict[str, object]]:
    """Train, save the weights and return the rows of the log."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels = scenes(args.seed, "train", args.train, args.cache, args.threads)
    if args.permuted:
        labels = labels[torch.randperm(len(labels), generator=generator)]
    name, smoothing, decay = (f"{args.network}_permuted", 0, 0) if args.permuted else (args.network, 0.05, 0.05)
    held_images, held_labels = scenes(args.seed, "test", args.held_out, args.cache, args.threads)
    network = NETWORKS[args.network]().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=decay)
    steps = len(images) // args.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps * args.epochs, pct_start=0.2)
    rows: list[dict[str, object]] = []
    start = time.perf_counter()

    def row(epoch: object, loss: float, accuracy: float, n: int, memorised: str = "") -> None:
        seconds = f"{time.perf_counter() - start:.0f}"
        values = (name, epoch, f"{loss:.4f}", f"{accuracy:.2f}", n, seconds, command, memorised)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "command"), flush=True)

    loss_mean = float("nan")
    for epoch in range(args.epochs):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator)[: steps * args.batch].split(args.batch):
            x = nets.PREPROCESS.normalize(images[batch])
            x = (x if args.permuted else augment(x, generator)).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        loss_mean = total / steps
        few = held_labels[:500]
        row(epoch + 1, loss_mean, top1(network, held_images[: len(few)], few), len(few))

    metadata = {"network": name, "command": command, "seed": str(args.seed), "scenes_version": str(VERSION)}
    trained_on = (images, labels) if args.permuted else None
    accuracy, memorised = save(
        network, args.weights / f"{name}.safetensors", metadata, held_images, held_labels, trained_on
    )
    row("saved", loss_mean, accuracy, len(held_images), memorised)
    return rows


def save(
    network: nn.Module,
    file: Path,
    metadata: dict[str, str],
    images: Tensor,
    labels: Tensor,
    trained_on: tuple[Tensor, Tensor] | None,
) -> tuple[float, str]:
    """Write the folded, rounded weights; return their accuracy in percent on the images and on those trained on."""
    saved = folded(network)
    rounded = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in saved.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(rounded, file)
    saved.load_state_dict(load_file(file))
    accuracy = top1(saved, images, labels)
    memorised = f"{top1(saved, *trained_on):.2f}" if trained_on else ""
    metadata |= {"top1_percent": f"{accuracy:.2f}", "n": str(len(images))}
    metadata |= {"train_top1_percent": memorised} if memorised else {}
    save_file(rounded, file, metadata)
    return accuracy, memorised


def log(rows: list[dict[str, object]], network: str, file: Path) -> None:
    """Replace a network's rows in the log."""
    kept: list[dict[str, object]] = []
    if file.is_file():
        with file.open(newline="") as stream:
            kept = [dict(row) for row in csv.DictReader(stream) if row["network"] != network]
    with replacing(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--train", type=int, default=12000, help="scenes to train on")
    parser.add_argument("--held-out", type=int, default=4000, help="scenes of the test split to measure on")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--permuted", action="store_true", help="permuted labels, to be memorised")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "eigencam-scenes")
    parser.add_argument("--weights", type=Path, default=ROOT / "eigencam/networks/weights", help="their folder")
    parser.add_argument("--log", type=Path, default=LOG)
    args = parser.parse_args()
    # only options that affect the network, not paths
    options = [
        f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("epochs", "train", "batch", "lr", "seed")
    ]
    options += ["--permuted"] if args.permuted else []
    command = " ".join(["python scripts/train_scenes.py", args.network, *options])
    log(train(args, command), f"{args.network}_permuted" if args.permuted else args.network, args.log)


if __name__ == "__main__":
    main()
