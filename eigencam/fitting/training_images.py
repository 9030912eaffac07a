"""Order, augmentation and labels of the images that a fitter learns from.

All are functions of (seed, epoch, position in the dataset), so that no random generator's state has to be saved.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from eigencam.datasets.base import Truth
from eigencam.methods.randomness import uniform
from eigencam.networks.network import Preprocess
from eigencam.store.canonical import checksum

MARGIN = 8 / 7
"""Ratio of the decoded image's side to that of a random crop: 256 over 224."""


def seed_of(seed: int, epoch: int, use: str) -> int:
    """The seed of one random choice in one epoch."""
    return int(checksum({"seed": seed, "epoch": epoch, "use": use}), 16)


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """(n,) int64: the positions in the order of one epoch."""
    return uniform(torch.arange(n), (1,), seed_of(seed, epoch, "order"))[:, 0].argsort(stable=True)


def widened(preprocess: Preprocess) -> Preprocess:
    """Preprocessing to a larger input, from which random crops of the input's size are taken.

    If the preprocessing crops, the larger input is the centre at the short side, otherwise the whole image at 8/7 the
    size.
    """
    whole = preprocess.resize == "squash"
    scale = MARGIN if whole else preprocess.short_side / min(preprocess.shape)
    high, wide = (round(side * scale) for side in preprocess.shape)
    return replace(preprocess, size=(high, wide))


def augmented(images: Tensor, index: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """Random crops, half of them mirrored: (N, C, h, w) of (N, C, H, W), a function of `index` and `seed`."""
    u = uniform(index, (3,), seed)
    room = torch.tensor([images.shape[2] - size[0] + 1, images.shape[3] - size[1] + 1])
    start = (u[:, :2] * room).long()
    along = torch.arange(size[1]).expand(len(images), size[1])
    rows = start[:, 0, None] + torch.arange(size[0])
    columns = start[:, 1, None] + torch.where(u[:, 2, None] < 0.5, along.flip(1), along)
    image = torch.arange(len(images))[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def multi_hot(truth: Truth, classes: int) -> Tensor:
    """(classes,) float64: 1 for the image's label, or for all its classes if it has no single one."""
    present = np.unique(truth.box_labels) if truth.foreground == "any" else np.array([truth.label])
    labels = torch.zeros(classes, dtype=torch.float64)
    labels[torch.from_numpy(present[present >= 0])] = 1
    return labels


def class_labels(truth: Truth, classes: int) -> Tensor:
    """(classes,) int64: 1 for the image's classes, -1 for classes with only difficult objects, 0 for the others.

    The classes are as in `multi_hot`; for an image without boxes, those of its mask.
    """
    labels = torch.zeros(classes, dtype=torch.int64)
    if truth.foreground == "label":
        labels[[truth.label] if truth.label >= 0 else []] = 1
    elif len(truth.box_labels):
        labels[torch.from_numpy(truth.box_labels[truth.difficult])] = -1
        labels[torch.from_numpy(truth.box_labels[~truth.difficult])] = 1
    else:
        labels[truth.objects()] = 1
    return labels
