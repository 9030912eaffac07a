"""`eigencam fit fit=cross_entropy`: any network with a classifier, trained as a whole with the cross-entropy.

AdamW; the rate rises linearly over `warmup` epochs, then falls towards 0 along half a cosine; labels are smoothed. If a
network's logits are the sum of several heads (`model=dual_cross`), the loss is the mean of the heads' cross-entropies,
as its authors train it. Their further techniques for 300 epochs of ImageNet (mixup, CutMix, RandAugment, erasing, drop
path, averaged weights) are left out.

Images are squashed to 8/7 of the input's size, cut at random and mirrored at random. In a run, `model.head=FILE` loads
the fitted network.

Reference: rates, decay and smoothing of 92dun/DCNN@66921ac (Xiao et al., arXiv 2405.04093).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import FitJob
from eigencam.fitting.sgd import Descent, Scheduled, descend
from eigencam.fitting.training_images import seed_of
from eigencam.fitting.whole_network import (
    Trainee,
    accuracy,
    batch_on_device,
    head_notes,
    label_faults,
    last_layer_of,
    random_steps,
    trainee,
)
from eigencam.networks.classifier import summed_heads
from eigencam.networks.network import Network
from eigencam.running.loading import Batch


@dataclass(frozen=True, slots=True)
class CrossEntropyFit:
    """Trains a network as a whole; see the module.

    Attributes:
        file: where the weights go; `{dataset}` is the dataset's name.
        epochs: passes over the images.
        warmup: epochs in which the rate rises.
        batch_size: images per step.
        lr: the highest rate.
        weight_decay: weight decay of all parameters.
        smoothing: share of a label that is spread evenly over all classes, at least 0 and below 1.
        augment: random crops and mirrors.
        seed: seed of all random numbers.
    """

    file: str
    epochs: int = 20
    warmup: int = 3
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    augment: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"fit.{name}={getattr(self, name)}; allowed: {least} or more")
        if not self.lr > 0 or self.weight_decay < 0 or not 0 <= self.smoothing < 1:
            seen = f"fit.lr={self.lr}, fit.weight_decay={self.weight_decay}, fit.smoothing={self.smoothing}"
            raise ValueError(f"{seen}; allowed: above 0, 0 or more, 0 to below 1")

    @property
    def kind(self) -> str:
        """`cross_entropy`."""
        return "cross_entropy"

    def layers_of(self, network: Network) -> list[str]:
        """Return the last layer; if the network adds the outputs of several, the first of them."""
        return [last_layer_of(network).layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Report a fitted head, and images without one class each; a missing last layer has been reported earlier."""
        yield from label_faults(network, dataset)

    def rate(self, epoch: int) -> float:
        """Return the learning rate in an epoch; epochs are counted from 0."""
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / self.warmup
        left = max(self.epochs - self.warmup, 1)
        return self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / left)) / 2

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train, resuming from the last checkpoint."""
        made = trainee(job, last_layer_of(job.network).layer, self.seed)
        state = made.descent("adamw", (), 1, self.lr, self.weight_decay)
        descend(job, _Learner(self, made), state)
        job.notes["head"] = head_notes(job, made.place, "cross-entropy")
        return state.tensors, state.log


@dataclass(frozen=True, slots=True)
class _Learner(Scheduled):
    """What `descend` trains."""

    options: CrossEntropyFit
    trainee: Trainee

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of the heads' cross-entropies, and for the log the accuracy of their sum."""
        images, labels = batch_on_device(job, pixels, batch)
        heads = summed_heads(self.trainee.module)
        with random_steps(seed_of(self.seed, state.step, "step"), job.network.device):
            logits, read = self.trainee.read(images, heads)
        answers = [read[name].made for name in heads] or [logits]
        smoothing = self.options.smoothing
        losses = [F.cross_entropy(answer, labels, label_smoothing=smoothing) for answer in answers]
        return {"ce": torch.stack(losses).mean(), "accuracy": accuracy(logits, labels)}
