r"""`eigencam fit fit=cam_loss`: CAM-loss (Wang et al., ICCV 2021): train a network to be active where its CAM is.

With A the output (C, h, w) of the layer before global average pooling, w the weights of the linear layer that follows,
y the true class, mm the min-max normalization of an image's map to 0..1, and sg(.) the stop-gradient:

$$\mathrm{CAAM} = \sum_k A_k,\quad \mathrm{CAM} = \sum_k \mathrm{sg}(w_{y,k})\, A_k,\quad
L = \mathrm{CE} + \alpha\, \mathrm{mean}\, |\mathrm{mm}(\mathrm{CAM}) - \mathrm{mm}(\mathrm{CAAM})|$$

The mean is over images and positions. The gradient of the second term reaches A through both maps, and never reaches w.
A constant map cannot be normalized: the term of its image is 0, and the log has the fraction of such images
(`constant`).

With `teacher`, the second term is CAAM-CAM distillation: the student's CAAM is pulled towards the CAM of a fixed
network. That CAM is resized (bilinear) to the student's map if their sizes differ.

Reference: C. Wang, J. Xiao, Y. Han, Q. Yang, S. Song, G. Huang, "Towards Learning Spatially Discriminative Feature
Representations", ICCV 2021 (arXiv 2109.01359). Only its abstract was accessible. alpha = 3 and Adam at 1e-4 are
those of sihyeong671/PyTorch_CAM-loss@2a1843e, on MNIST, and so is the option to train the first epochs without the term
(`warmup`, 0 by default).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import FitJob
from eigencam.fitting.sgd import Descent, Scheduled, descend
from eigencam.fitting.training_images import seed_of
from eigencam.fitting.whole_network import (
    Optimizer,
    Trainee,
    accuracy,
    batch_on_device,
    head_notes,
    label_faults,
    random_steps,
    trainee,
)
from eigencam.methods.cam import CAM, find_pooled_classifier
from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.networks.classifier import find_last_layer
from eigencam.networks.network import Network, load_network
from eigencam.running.loading import Batch


class Term(NamedTuple):
    """The mean distance of two maps, a scalar, and the fraction of images in which one of the maps is constant."""

    distance: Tensor
    constant: Tensor


def scaled(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, h, w) maps min-max normalized to 0..1, constant ones as 0; and (N,) whether each is constant."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    constant = high == low
    return (maps - low) / torch.where(constant, 1.0, high - low), constant.flatten()


def distance(first: Tensor, second: Tensor) -> Term:
    """Return the mean over images and positions of |mm(first) - mm(second)|, both (N, h, w)."""
    (a, flat_a), (b, flat_b) = scaled(first), scaled(second)
    flat = flat_a | flat_b
    each = (a - b).abs().mean((1, 2))
    return Term(torch.where(flat, 0.0, each).mean(), flat.float().mean())


def cam_term(activations: Tensor, weight: Tensor, labels: Tensor) -> Term:
    """Return CAM-loss's second term.

    Args:
        activations: (N, C, h, w).
        weight: (K, C) of the linear layer; gets no gradient.
        labels: (N,) the true classes.
    """
    cams = torch.einsum("nc,nchw->nhw", weight.detach()[labels], activations)
    return distance(cams, activations.sum(1))


@dataclass(frozen=True, slots=True)
class CAMLossFit:
    """Trains a network with CAM-loss, starting from the weights of `model`; see the module.

    Attributes:
        file: where the weights go; `{dataset}` is the dataset's name.
        alpha: factor of the second term; 0 trains with the cross-entropy alone.
        warmup: number of first epochs without the second term.
        teacher: the description of a network, a `model` node, for distillation.
        layer: the one before the pooling; None: the network's target layer.
        epochs: passes over the images.
        batch_size: images per step.
        optimizer: `adam` or `sgd`.
        lr: learning rate.
        decay: factor of the learning rate, per epoch.
        weight_decay: weight decay of all parameters.
        augment: random crops and mirrors.
        seed: seed of a new last layer, the order of the images, the augmentation and dropout.
    """

    file: str
    alpha: float = 3.0
    warmup: int = 0
    teacher: Mapping[str, Any] | None = None
    layer: str | None = None
    epochs: int = 5
    batch_size: int = 32
    optimizer: Optimizer = "adam"
    lr: float = 1e-4
    decay: float = 1.0
    weight_decay: float = 0.0
    augment: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"fit.optimizer={self.optimizer}; allowed: adam, sgd")
        at_least(self, 0, "alpha", "warmup", "weight_decay", prefix="fit.")
        above_zero(self, "lr", prefix="fit.")
        above_zero(self, "decay", most=1, prefix="fit.")
        at_least(self, 1, "epochs", "batch_size", prefix="fit.")

    @property
    def kind(self) -> str:
        """`cam_loss`."""
        return "cam_loss"

    @property
    def label(self) -> str:
        """Name of the network in tables."""
        if not self.alpha:
            return "cross-entropy"
        return "CAM-loss" if self.teacher is None else f"CAM-loss, teacher {self.teacher['name']}"

    def identity(self) -> dict[str, Any]:
        """Return what changes the weights besides the parameters: the teacher's identity."""
        if self.teacher is None:
            return {}
        return {"teacher": load_network(self.teacher).identity}

    def layers_of(self, network: Network) -> list[str]:
        """Return the last layer."""
        return [find_last_layer(network.module, network.preprocess.shape).layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults of the data, the network and the teacher.

        These are images without a class; networks that have no global average pooling and one linear layer, or rectify
        the class maps before the pooling; a teacher of other classes or of another image size.
        """
        yield from label_faults(network, dataset)
        yield from self._head_faults(network, self.layer or network.layer)
        if self.teacher is None:
            return
        teacher = load_network(self.teacher)
        yield from self._head_faults(teacher, teacher.layer)
        if teacher.classes != dataset.class_space:
            yield f"fit.teacher: {teacher.name} is of {teacher.classes}, {dataset.name} of {dataset.class_space}"
        mine, theirs = ((n.preprocess.shape, n.preprocess.resize) for n in (network, teacher))
        if mine != theirs:
            yield f"fit.teacher: {teacher.name} takes images of {theirs}, {network.name} of {mine}; set preprocess.size"

    @staticmethod
    def _head_faults(network: Network, layer: str) -> Iterator[str]:
        if reason := CAM(layer).unsupported(network):
            yield f"fit: {network.name}: {reason}"
        elif find_pooled_classifier(network.module, layer, network.preprocess.shape, network.reading(layer)).positive:
            yield f"fit: {network.name} rectifies its class maps before the pooling; the loss is for linear layers"

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr * self.decay**epoch

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train, resuming from the last checkpoint."""
        made = trainee(job, self.layer or job.network.layer, self.seed)
        state = made.descent(self.optimizer, (), 1, self.lr, self.weight_decay)
        descend(job, _Learner(self, made, self._rectified(job), self._teacher(job)), state)
        job.notes["head"] = head_notes(job, made.place, self.label)
        return state.tensors, state.log

    def _teacher(self, job: FitJob) -> Network | None:
        return None if self.teacher is None else load_network(self.teacher, device=job.network.device)

    def _rectified(self, job: FitJob) -> bool:
        network, layer = job.network, self.layer or job.network.layer
        return find_pooled_classifier(network.module, layer, network.preprocess.shape, network.reading(layer)).rectified


@dataclass(frozen=True, slots=True)
class _Learner(Scheduled):
    """The model that `descend` trains; `rectified` says whether a ReLU follows the layer."""

    options: CAMLossFit
    trainee: Trainee
    rectified: bool
    teacher: Network | None

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy and second term; for the log, the accuracy and the fraction of constant maps."""
        images, labels = batch_on_device(job, pixels, batch)
        with random_steps(seed_of(self.seed, state.step, "step"), job.network.device):
            logits, activations = self.trainee.passed(images)
        activations = activations.relu() if self.rectified else activations
        last: Any = self.trainee.module.get_submodule(self.trainee.place.layer)
        if self.teacher is None:
            term = cam_term(activations, last.weight.flatten(1), labels)
        else:
            with torch.no_grad():
                cams = CAM()(self.teacher.forward(pixels), labels)[:, None].to(activations)
            size = (activations.shape[2], activations.shape[3])
            large = cams if cams.shape[2:] == size else F.interpolate(cams, size, mode="bilinear")
            term = distance(large[:, 0], activations.sum(1))
        alpha = self.options.alpha if len(state.log) >= self.options.warmup else 0.0
        seen = {"accuracy": accuracy(logits, labels), "distance": term.distance.detach(), "constant": term.constant}
        return {"ce": F.cross_entropy(logits, labels), "cam": alpha * term.distance, **seen}
