"""Training of a whole network, as the fits `cam_loss`, `cross_entropy` and `wsol` do it.

A copy of the job's network is trained in training mode: batch normalisation learns its statistics, dropout is on. All
random numbers of a step come from a generator seeded with (seed, step), so that an interrupted training ends with the
same weights as an uninterrupted one. If the dataset's classes are not the network's, the last layer is replaced by a
new one: weights with standard deviation 0.01, biases 0, as in `wsolevaluation`.

The file holds all weights, and `model.head=FILE` loads it (`eigencam.networks.classifier`).
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import FitJob
from eigencam.fitting.sgd import Descent
from eigencam.fitting.training_images import seed_of
from eigencam.networks.classifier import LastLayer, find_last_layer, further_heads, put, summed_heads
from eigencam.networks.network import Network
from eigencam.passes.calls import network_logits
from eigencam.running.loading import Batch
from eigencam.transfer import to_device

Optimizer = Literal["sgd", "adam", "adamw"]
BESIDE = "beside"
"""Prefix of the names of modules that are trained beside a network."""


@dataclass(frozen=True, slots=True)
class Trainee:
    """A network in training.

    Attributes:
        module: the copy.
        layer: the layer whose output is read besides the logits.
        place: its last layer.
        beside: further modules that are trained with it; None: nothing.
    """

    module: nn.Module
    layer: str
    place: LastLayer
    beside: nn.Module | None = None

    def passed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and the layer's output (N, C, h, w), both with their graph."""
        logits, seen = self.read(images, [self.layer])
        return logits, seen[self.layer].made

    def read(self, images: Tensor, layers: Iterable[str]) -> tuple[Tensor, dict[str, "Read"]]:
        """Return logits (N, K) and, by layer, its input and output, all with their graph."""
        seen: dict[str, Read] = {}

        def keep(_module: nn.Module, args: tuple[Any, ...], out: Tensor, name: str) -> None:
            seen[name] = Read(args[0], out)

        with ExitStack() as hooks:
            for name in layers:
                hook = self.module.get_submodule(name).register_forward_hook(partial(keep, name=name))
                hooks.callback(hook.remove)
            logits = network_logits(self.module, images)
        return logits, seen

    def weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a training that belong to the network."""
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{BESIDE}.")}

    def descent(self, optimizer: Optimizer, fast: Sequence[str], ratio: float, lr: float, decay: float) -> Descent:
        """Return the state before a training of all parameters; its checkpoints keep the buffers, too.

        Args:
            optimizer: `sgd` (momentum 0.9, Nesterov), `adam` or `adamw`.
            fast: prefixes of the parameters with a larger learning rate; `BESIDE` is the prefix of further modules.
            ratio: the factor of that rate.
            lr: learning rate of the other parameters.
            decay: weight decay of all parameters.
        """
        more = {} if self.beside is None else {BESIDE: self.beside}
        named = dict(self.module.named_parameters())
        named |= {f"{prefix}.{name}": p for prefix, module in more.items() for name, p in module.named_parameters()}
        quick = {name for name in named if name.startswith(tuple(f"{prefix}." for prefix in fast))}
        groups = [
            {"params": [p for name, p in named.items() if (name in quick) == chosen], "factor": factor}
            for chosen, factor in ((False, 1), (True, ratio))
        ]
        groups = [group for group in groups if group["params"]]
        if optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True, weight_decay=decay)
        else:
            kind = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
            made = kind(groups, lr, weight_decay=decay)
        tensors = self.module.state_dict(keep_vars=True)
        for prefix, module in more.items():
            tensors |= module.state_dict(prefix=f"{prefix}.", keep_vars=True)
        return Descent(tensors, made)


class Read(NamedTuple):
    """Input and output of a layer."""

    given: Tensor
    made: Tensor


def trainee(job: FitJob, layer: str, seed: int) -> Trainee:
    """Return a copy of the job's network with a last layer for the dataset's classes, in training mode.

    In a network with `further_heads`, each of these is replaced by such a layer.
    """
    network, module = job.network, copy.deepcopy(job.network.module)
    place = last_layer_of(network)
    if network.classes == job.dataset.class_space:
        place = LastLayer(place.layer)  # a ReLU behind the layer stays
    for further in ("", *further_heads(module)):
        where = replace(place, layer=further) if further else place
        put(
            module,
            where,
            *_last_layer(job, module.get_submodule(where.layer), f"last layer{further and ' '}{further}", seed),
        )
    return Trainee(module.train().requires_grad_(True), layer, place)


def last_layer_of(network: Network) -> LastLayer:
    """Return a network's last layer; if it adds the outputs of several, the first of them."""
    summed = summed_heads(network.module)
    return LastLayer(summed[0]) if summed else find_last_layer(network.module, network.preprocess.shape)


def _last_layer(job: FitJob, last: Any, use: str, seed: int) -> tuple[Tensor, Tensor]:
    """Weights and biases: the existing ones if the classes are the network's, else new ones."""
    if job.network.classes == job.dataset.class_space:
        weight = last.weight.detach().flatten(1).clone()
        return weight, torch.zeros(len(weight)) if last.bias is None else last.bias.detach().clone()
    classes = len(job.dataset.classes)
    with random_steps(seed_of(seed, 0, use), job.network.device):
        return 0.01 * torch.randn(classes, last.weight.shape[1]), torch.zeros(classes)


def head_notes(job: FitJob, place: LastLayer, label: str) -> dict[str, Any]:
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


def batch_on_device(job: FitJob, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return normalised images (N, C, H, W) and their class labels (N,).

    Raises:
        ValueError: an image has no label.
    """
    labels = [truth.label for truth in batch.truths]
    for truth in batch.truths:
        if not 0 <= truth.label < len(job.dataset.classes):
            raise ValueError(f"{job.dataset.name}, image {truth.image_id}: label {truth.label}; leave the image out")
    on_device, classes = to_device(job.network.device, images, torch.tensor(labels))
    return job.network.preprocess.normalize(on_device, job.network.dtype), classes


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
