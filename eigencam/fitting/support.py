"""`eigencam fit fit=support`: the mean embedding of a few images of each class; see `eigencam.methods.fam`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eigencam.datasets.base import Dataset
from eigencam.datasets.completeness import some
from eigencam.fitting.job import FitJob
from eigencam.methods.fam import SUPPORT
from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import uniform
from eigencam.networks.network import Network
from eigencam.transfer import to_host


@dataclass(frozen=True, slots=True)
class SupportFit:
    """Averages the embeddings of `shots` images of each class; an embedding is the layer's mean over positions.

    Attributes:
        file: where the embeddings go.
        shots: number of images of each class.
        layer: the embedding's layer; None: the network's target layer.
        batch_size: images per batch.
        seed: seed of the selection of images.
    """

    file: str
    shots: int = 5
    layer: str | None = None
    batch_size: int = 64
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "shots", "batch_size", prefix="fit.")

    @property
    def kind(self) -> str:
        """`support`."""
        return SUPPORT

    def layers_of(self, network: Network) -> list[str]:
        """The layer whose activations are read, as a tuple of one."""
        return [self.layer or network.layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield a fault if the labels are not the network's classes."""
        if network.classes != dataset.class_space:
            yield (
                f"fit: the classes of {dataset.name} ({dataset.class_space}) are not those of {network.name} "
                f"({network.classes}), so it has no maps for them"
            )

    def chosen(self, dataset: Dataset) -> list[tuple[int, int]]:
        """Position and class of the images that are used: the first ones of each class, ordered by a hash.

        Raises:
            ValueError: a class has fewer images.
        """
        order = uniform(torch.arange(len(dataset.ids)), (1,), self.seed)[:, 0].argsort(stable=True).tolist()
        found: list[list[int]] = [[] for _ in dataset.classes]
        lacking = len(found)
        for i in order:
            label = dataset.truth(i).label
            if label >= 0 and len(found[label]) < self.shots:
                found[label].append(i)
                lacking -= len(found[label]) == self.shots
            if not lacking:
                break
        if lacking:
            few = [str(dataset.classes[k]) for k, images in enumerate(found) if len(images) < self.shots]
            raise ValueError(f"fit.shots={self.shots}: {dataset.name} has fewer images of {some(few)}")
        return sorted((i, label) for label, images in enumerate(found) for i in images)

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Average in float64, each class over its images that can be decoded."""
        (layer,) = self.layers_of(job.network)
        chosen = dict(self.chosen(job.dataset))
        positions = list(chosen)
        grid = [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]
        labels, embeddings = list[int](), list[Tensor]()
        with tqdm(total=len(positions), desc=f"{SUPPORT} for {job.network.name}", unit="img") as bar:
            for batch in job.batches(grid, job.network.preprocess):
                forward = job.network.forward(batch.images, layers=[layer])
                (means,) = to_host(forward.activations(layer).mean((2, 3)))()
                embeddings.append(means.double())
                labels += [chosen[i] for i in batch.index]
                bar.update(len(batch.index))
        if lost := sorted(set(range(len(job.dataset.classes))) - set(labels)):
            raise ValueError(f"no image of {some([str(job.dataset.classes[k]) for k in lost])} could be decoded")
        places = torch.tensor(labels)
        every = torch.cat(embeddings)
        total = torch.zeros(len(job.dataset.classes), every.shape[1], dtype=torch.float64).index_add_(0, places, every)
        mean = total / places.bincount(minlength=len(total))[:, None]
        return {"embedding": mean.float()}, [{"images": len(labels), "channels": every.shape[1]}]
