"""`eigencam fit fit=broadcam`: regress BroadCAM's weights; see `eigencam.methods.broadcam`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import FitJob
from eigencam.fitting.training_images import multi_hot
from eigencam.methods.broadcam import KIND, broad_weights
from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.methods.randomness import uniform
from eigencam.networks.network import Network
from eigencam.transfer import to_host


@dataclass(frozen=True, slots=True)
class BroadCAMFit:
    """Regresses BroadCAM's weights in one pass over the images; see `eigencam.methods.broadcam`.

    Attributes:
        file: where the weights go.
        layers: the layers whose activations are read; empty: the network's target layer.
        share: fraction of the images that is used.
        alpha: penalty of the ridge regressions.
        step: channels of an enhancement node.
        batch_size: images per batch.
        seed: seed of the selection of images.
    """

    file: str
    layers: Sequence[str] = ()
    share: float = 1.0
    alpha: float = 50.0
    step: int = 256
    batch_size: int = 64
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        above_zero(self, "share", most=1, prefix="fit.")
        above_zero(self, "alpha", prefix="fit.")
        at_least(self, 1, "step", "batch_size", prefix="fit.")

    @property
    def kind(self) -> str:
        """`broadcam`."""
        return KIND

    def layers_of(self, network: Network) -> list[str]:
        """All layers, in order."""
        return list(self.layers) or [network.layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield a fault if the labels are not the network's classes."""
        if network.classes != dataset.class_space:
            yield (
                f"fit: the classes of {dataset.name} ({dataset.class_space}) are not those of {network.name} "
                f"({network.classes}), so it has no maps for them"
            )

    def chosen(self, dataset: Dataset) -> list[int]:
        """Return the positions of the images that are used, in order; a smaller share uses a subset of these."""
        n = len(dataset.ids)
        order = uniform(torch.arange(n), (1,), self.seed)[:, 0].argsort(stable=True)
        return sorted(order[: math.ceil(self.share * n)].tolist())

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Average the channels over the positions of every image, then fit the regression, in float64."""
        layers, positions = self.layers_of(job.network), self.chosen(job.dataset)
        grid = [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]
        features, labels = [], []
        with tqdm(total=len(positions), desc=f"{KIND} for {job.network.name}", unit="img") as bar:
            for batch in job.batches(grid, job.network.preprocess):
                forward = job.network.forward(batch.images, layers=layers)
                means = to_host(*(forward.activations(layer).relu().mean((2, 3)) for layer in layers))()
                features.append(torch.cat(means, 1).double())
                labels += [multi_hot(truth, len(job.dataset.classes)) for truth in batch.truths]
                bar.update(len(batch.index))
        if not features:
            raise ValueError("no image could be decoded")
        weight = broad_weights(torch.cat(features), torch.stack(labels), self.alpha, self.step)
        return {"weight": weight.float()}, [{"pictures": len(labels), "channels": weight.shape[1]}]
