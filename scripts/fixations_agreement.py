"""Agreement of our CNN-Fixations boxes on GoogLeNet with the boxes that the authors published.

    python scripts/fixations_agreement.py --images ILSVRC_root [...] --truth metadata_root
        --published googleNet.txt --weights googlenet_bvlc.safetensors --out results/cnn_fixations_agreement.csv

`--published` is `bounding_box/googleNet.txt` of the authors' repository (val-iisc/cnn-fixations): line k for validation
image k. `--truth` is a folder with the ground truth and the sizes of all 50,000 images. An image whose size is not the
original one was resized as a whole; such images have rows of their own, and the crops restore their aspect ratio.

Pipelines, all with the network's colours:

    method            the whole image squashed to 224 x 224, the method's own points (outliers found at 224 x 224)
    squash            the same, but outliers found in the original image, as in all pipelines below
    centre_crop       short side to 256 without antialiasing, the centre 224 x 224
    five_crops        the authors' form: class by the mean probability of ten crops; points of the unmirrored crops
                      whose top-1 class it is. If there are none, the centre crop for the published class; in place of
                      the pipeline's own class, the centre crop's top-1 class
    five_crops_smooth the same with an antialiased resize
    all_five_crops    points of all five crops, for any top-1 class

The rule from points to a box is not in the authors' repository. Here it is the tight box around the points that are not
outliers: a point is kept if more than `share` of all points are within `radius` times the image's diagonal of it.
`class` says which class the points are for: the published one, or the pipeline's own.

Columns: percent of images whose published class is the pipeline's; mean and median IoU with the published box, for all
images; the mean for those with the same class; percent of images with an IoU of at least 0.5 and 0.9; percent of images
where our box, and the published one, has an IoU of at least 0.5 with a true box, for any class. The last rows for
images of original size, and those for resized ones, are baselines: boxes that do not depend on the network.
"""

import argparse
import csv
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from eigencam.datasets.boxes import iou_paired
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.evaluation.predictions import read_devkit
from eigencam.files import replacing
from eigencam.methods.fixations import CNNFixations, crowded, fixations
from eigencam.networks.network import Network, load_network
from eigencam.passes.forward import Forward, forward_pass
from eigencam.store.environment import git

PIPELINES = ("method", "squash", "centre_crop", "five_crops", "five_crops_smooth", "all_five_crops")
OUTLIERS = ((0.1, 0.05), (0.1, 0.0), (0.1, 0.02), (0.1, 0.1), (0.05, 0.05), (0.15, 0.05), (0.2, 0.05))
"""(radius, share); the first are the authors', a share of 0 keeps all."""
COLUMNS = [
    *("pictures", "pipeline", "radius", "share", "class", "n", "same_class", "mean_iou", "median_iou"),
    *("mean_iou_same_class", "iou_50", "iou_90", "hit", "published_hit"),
]
Points = NDArray[np.int64]


@dataclass
class Group:
    """Images of one kind: their points for each pipeline and class, and each pipeline's predicted classes."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    points: dict[tuple[str, str], list[Points]] = field(default_factory=dict)
    predicted: dict[str, list[int]] = field(default_factory=dict)

    def add(self, pipeline: str, kind: str, points: Points) -> None:
        """Keep the points of the next image."""
        self.points.setdefault((pipeline, kind), []).append(points)


def load(weights: Path) -> Network:
    description = {"name": "googlenet_bvlc", "_target_": "eigencam.networks.caffe.googlenet", "weights": str(weights)}
    return load_network({**description, "layer": "inception5b", "classes": "imagenet"})


def run(network: Network, images: Tensor) -> Forward:
    return forward_pass(network.module, images, network.layer)


def points_of(forward: Forward, target: int, offsets: Tensor, scale: Tensor) -> list[Points]:
    """Each view's points for a class, in pixels of the original image."""
    found = fixations(forward, torch.full((len(forward),), target))
    return [((p + o) / scale).long().numpy() for p, o in zip(found, offsets, strict=True)]


def squashed(network: Network, image: NDArray[np.uint8], size: tuple[int, int], wanted: int, group: Group) -> None:
    pixels, _ = network.preprocess(image)
    forward = run(network, network.preprocess.normalize(torch.from_numpy(pixels)[None]))
    own = int(forward.logits.argmax())
    scale = torch.tensor(network.preprocess.shape) / torch.tensor(size)
    found: dict[int, tuple[Points, Points]] = {}
    for target in {wanted, own}:
        kept = (CNNFixations().points(forward, torch.tensor([target]))[0] / scale).long().numpy()
        found[target] = points_of(forward, target, torch.zeros(1, 2), scale)[0], kept
    for kind, target in (("published", wanted), ("own", own)):
        group.add("squash", kind, found[target][0])
        group.add("method", kind, found[target][1])
    for pipeline in ("squash", "method"):
        group.predicted.setdefault(pipeline, []).append(own)


def cropped(
    network: Network, image: NDArray[np.uint8], size: tuple[int, int], wanted: int, group: Group, smooth: bool
) -> None:
    factor, side = 256 / min(size), network.preprocess.shape[0]
    new = (int(size[0] * factor), int(size[1] * factor))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, new, mode="bilinear", antialias=smooth)
    x = network.preprocess.normalize(pixels * 255)
    ends = [(0, 0), (0, new[1] - side), (new[0] - side, 0), (new[0] - side, new[1] - side)]
    corners = torch.tensor([*ends, ((new[0] - side) // 2, (new[1] - side) // 2)])
    views = torch.cat([x[:, :, top : top + side, left : left + side] for top, left in corners.tolist()])
    forward, mirrored = run(network, views), run(network, views.flip(3))
    mean = torch.cat([forward.logits, mirrored.logits]).softmax(1).mean(0)
    own, each = int(mean.argmax()), forward.logits.argmax(1)
    centre, name = int(each[4]), "five_crops_smooth" if smooth else "five_crops"
    asked = own if bool((each == own).any()) else centre
    scale = torch.tensor([factor, factor])
    found = {target: points_of(forward, target, corners, scale) for target in {wanted, asked, centre}}
    for kind, target in (("published", wanted), ("own", asked)):
        mine = np.flatnonzero(each.numpy() == target).tolist() or [4]
        group.add(name, kind, np.concatenate([found[target][k] for k in mine]))
        if not smooth:
            group.add("all_five_crops", kind, np.concatenate(found[target]))
            group.add("centre_crop", kind, found[wanted if kind == "published" else centre][4])
    group.predicted.setdefault(name, []).append(own)
    if not smooth:
        group.predicted.setdefault("all_five_crops", []).append(own)
        group.predicted.setdefault("centre_crop", []).append(centre)


def box(points: Points, size: tuple[int, int], outliers: tuple[float, float] | None) -> NDArray[np.float64]:
    """The tight box around the points that are not outliers; NaN without any."""
    if outliers is not None:
        radius, share = outliers
        places = torch.from_numpy(points)
        owner = torch.zeros(len(places), dtype=torch.long)
        points = points[crowded(owner, places, 1, radius * float(np.hypot(*size)), share).numpy()]
    if not len(points):
        return np.full(4, np.nan)
    (top, left), (bottom, right) = points.min(0), points.max(0)
    return np.array([left, top, right, bottom], np.float64)


def agreement(
    boxes: NDArray[np.float64], published: NDArray[np.float64], best: Callable[..., NDArray[np.float64]], same: Tensor
) -> list[str]:
    """The columns from `same_class` on."""
    overlap = iou_paired(boxes, published)
    alike = overlap[same.numpy()] if len(same) else np.zeros(0)
    numbers = [overlap.mean(), float(np.median(overlap)), alike.mean() if len(alike) else float("nan")]
    rates = [(overlap >= 0.5).mean(), (overlap >= 0.9).mean(), *((best(b) >= 0.5).mean() for b in (boxes, published))]
    known = f"{100 * same.float().mean():.2f}" if len(same) else ""
    return [known, *(f"{x:.4f}" if x == x else "" for x in numbers), *(f"{100 * x:.2f}" for x in rates)]


def lines_of(name: str, group: Group, truth: Ilsvrc, published: NDArray[np.float64], labels: Tensor) -> Iterator[list]:
    rows = np.array(group.rows)
    theirs, wanted = published[rows], labels[rows]

    def best(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        of = [iou_paired(b, truth.annotation.boxes_of(r)).max() for b, r in zip(boxes, group.rows, strict=True)]
        return np.array(of)

    for pipeline in PIPELINES:
        same = torch.tensor(group.predicted[pipeline]) == wanted
        for kind in ("published", "own"):
            for outliers in OUTLIERS[: 1 if kind == "own" or pipeline == "method" else None]:
                used = None if pipeline == "method" else outliers
                each = zip(group.points[pipeline, kind], group.sizes, strict=True)
                boxes = np.stack([box(p, size, used) for p, size in each])
                yield [name, pipeline, *outliers, kind, len(rows), *agreement(boxes, theirs, best, same)]
    height, width = np.array(group.sizes, np.float64).T
    for floor, area in (("whole_picture", 1.0), ("centre_box_of_half_the_area", 0.5)):
        left, top = (side * (1 - area**0.5) / 2 for side in (width, height))
        boxes = np.stack([left, top, width - 1 - left, height - 1 - top], 1)
        yield [name, floor, "", "", "", len(rows), *agreement(boxes, theirs, best, torch.zeros(0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", "--pictures", type=Path, nargs="+", required=True, help="ILSVRC roots")
    parser.add_argument("--truth", type=Path, required=True, help="folder with the truth of all 50,000 images")
    parser.add_argument("--published", type=Path, required=True, help="the authors' googleNet.txt, plain or .gz")
    parser.add_argument("--weights", type=Path, required=True, help="googlenet_bvlc.safetensors")
    parser.add_argument("--count", type=int, help="maximum number of images of a root, evenly sampled")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    network, truth, guesses = load(args.weights), Ilsvrc(args.truth, images=False), read_devkit(args.published)
    labels = torch.from_numpy(truth.annotation.synsets.index_by_devkit_id()[guesses.labels[:, 0]])
    row_of = {name: row for row, name in enumerate(truth.ids)}
    groups: dict[str, Group] = {}
    for root in args.images:
        images = Ilsvrc(root)
        if args.count and len(images.ids) > args.count:
            images = Ilsvrc(root, count=args.count)
        for i, name in enumerate(tqdm(images.ids, desc=str(root), mininterval=10)):
            row, image = row_of[name], images.image(i)
            size = (int(truth.annotation.sizes[row, 0]), int(truth.annotation.sizes[row, 1]))
            group = groups.setdefault("original" if image.shape[:2] == size else "resized to 227 x 227", Group())
            group.sizes.append(size)
            group.rows.append(row)
            wanted = int(labels[row])
            squashed(network, image, size, wanted, group)
            for smooth in (False, True):
                cropped(network, image, size, wanted, group, smooth)
    lines = [
        line for name, group in groups.items() for line in lines_of(name, group, truth, guesses.boxes[:, 0], labels)
    ]
    csv.writer(sys.stdout).writerows([COLUMNS, *lines])
    if args.out:
        command = " ".join(f".../{Path(a).name}" if Path(a).is_absolute() else a for a in sys.argv)
        counts = ", ".join(f"{len(group.rows)} {name}" for name, group in groups.items())
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {command}\n")
            file.write(f"# n: {counts}; {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, ")
            file.write(f"{platform.machine()}, torch {torch.__version__}, code {git()['git_commit']}\n")
            csv.writer(file).writerows([COLUMNS, *lines])


if __name__ == "__main__":
    main()
