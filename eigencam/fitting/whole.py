"""Training of a whole network, as the fits `cam_loss` and `wsol` do it.

A copy of the job's network is trained in training mode: batch normalisation learns its statistics, dropout is on. All
random numbers of a step come from a generator seeded with (seed, step), so that an interrupted training ends with the
same weights as an uninterrupted one. If the dataset's classes are not the network's, the last layer is replaced by a
new one: weights with standard deviation 0.01, biases 0, as in `wsolevaluation`.

The file holds all weights, and `model.head=FILE` loads it (`eigencam.networks.classifier`).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import Job
from eigencam.fitting.pictures import seed_of
from eigencam.fitting.sgd import Descent
from eigencam.networks.classifier import Place, find_place, put
from eigencam.networks.network import Network
from eigencam.passes.calls import network_logits
from eigencam.running.loading import Batch
from eigencam.transfer import to_device

Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True, slots=True)
class Trainee:
    """A network in training.

    Attributes:
        module: the copy.
        layer: whose output is read besides the logits.
        place: its last layer.
    """

    module: nn.Module
    layer: str
    place: Place

    def passed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and the layer's output (N, C, h, w), both with their graph."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            seen.append(out)

        hook = self.module.get_submodule(self.layer).register_forward_hook(keep)
        try:
            logits = network_logits(self.module, images)
        finally:
            hook.remove()
        return logits, seen[-1]

    def descent(self, optimizer: Optimizer, fast: Sequence[str], ratio: float, lr: float, decay: float) -> Descent:
        """Return the state before a training of all parameters; its checkpoints keep the buffers, too.

        Args:
            optimizer: `sgd` (momentum 0.9, Nesterov) or `adam`.
            fast: prefixes of the parameters whose learning rate is larger.
            ratio: by this factor.
            lr: learning rate of the others.
            decay: weight decay of all.
        """
        named = dict(self.module.named_parameters())
        quick = {name for name in named if name.startswith(tuple(f"{prefix}." for prefix in fast))}
        groups = [
            {"params": [p for name, p in named.items() if (name in quick) == chosen], "factor": factor}
            for chosen, factor in ((False, 1), (True, ratio))
        ]
        groups = [group for group in groups if group["params"]]
        if optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True, weight_decay=decay)
        else:
            made = torch.optim.Adam(groups, lr, weight_decay=decay)
        return Descent(self.module.state_dict(keep_vars=True), made)


def trainee(job: Job, layer: str, seed: int) -> Trainee:
    """Return a copy of the job's network with a last layer for the dataset's classes, in training mode."""
    network, classes = job.network, job.dataset.classes
    place = find_place(network.module, network.preprocess.shape)
    module = copy.deepcopy(network.module)
    last: Any = module.get_submodule(place.layer)
    if network.classes == job.dataset.class_space:
        place = Place(place.layer)  # a ReLU behind the layer stays
        weight = last.weight.detach().flatten(1).clone()
        bias = torch.zeros(len(weight)) if last.bias is None else last.bias.detach().clone()
    else:
        with random_steps(seed_of(seed, 0, "last layer"), network.device):
            weight = 0.01 * torch.randn(len(classes), last.weight.shape[1])
        bias = torch.zeros(len(classes))
    put(module, place, weight, bias)
    return Trainee(module.train().requires_grad_(True), layer, place)


def head_notes(job: Job, place: Place, label: str) -> dict[str, Any]:
    """Return the metadata of a file with a whole network; `label` distinguishes it from the untrained one in tables."""
    ids = job.dataset.ids
    return {
        "rectifier": place.rectifier,
        "class_space": job.dataset.class_space,
        "classes": list(job.dataset.classes),
        "whole": True,
        "fitted_on": [name for i, name in enumerate(ids) if i not in job.bad],
        "held_out": [],
        "label": label,
    }


def batch_on_device(job: Job, pictures: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return normalised images (N, C, H, W) and their class labels (N,).

    Raises:
        ValueError: an image has no label.
    """
    labels = [truth.label for truth in batch.truths]
    for truth in batch.truths:
        if not 0 <= truth.label < len(job.dataset.classes):
            raise ValueError(f"{job.dataset.name}, image {truth.image_id}: label {truth.label}; leave the image out")
    there, classes = to_device(job.network.device, pictures, torch.tensor(labels))
    return job.network.preprocess.normalize(there, job.network.dtype), classes


@contextmanager
def random_steps(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside the block, and restore them after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        yield


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the top-1 accuracy, for the log."""
    return (logits.detach().argmax(1) == labels).float().mean()


def label_faults(network: Network, dataset: Dataset) -> Iterator[str]:
    """Yield faults: a network with a head, or a dataset whose images do not have one class each."""
    if network.head:
        yield "fit: model.head is set; a network is trained from weights (model.weights), not from a fitted head"
    if len(dataset.classes) < 2 or dataset.truth(0).foreground != "label":
        yield f"fit: the images of {dataset.name} are not labelled with one class each; scenes, ILSVRC, CUB are"
