"""`eigencam fit fit=lcam_fm` (or `lcam_img`): train L-CAM's attention; see `eigencam.methods.lcam`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from eigencam.datasets.base import Dataset
from eigencam.fitting.job import FitJob
from eigencam.fitting.sgd import Descent, descend
from eigencam.methods.lcam import Loss, attention_logits, masked_image
from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.networks.network import Network
from eigencam.passes import tail
from eigencam.passes.calls import network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.readings import CHANNELS_FIRST
from eigencam.running.loading import Batch


@dataclass(frozen=True, slots=True)
class LCAMFit:
    """Trains L-CAM's attention by stochastic gradient descent (momentum 0.9, Nesterov); see `eigencam.methods.lcam`.

    Attributes:
        file: where the weights go.
        masked: `features` for L-CAM-Fm, `image` for L-CAM-Img.
        layer: the layer whose activations are read; None: the network's target layer.
        epochs: passes over the images.
        batch_size: images per step.
        lr: learning rate of the weights; that of the bias is twice as high.
        decay: factor of the learning rate, per epoch.
        decay_until: the last epoch, from 0, in which the learning rate decays; None: all.
        weight_decay: weight decay of weights and bias.
        loss: the factors of `eigencam.methods.lcam.Loss`.
        quirk: follow the authors' loss, which is over the maps of all labels in the batch.
        augment: random crops and mirrors.
        seed: seed of the initial weights (PyTorch's for a convolution), the order of the images and the augmentation.
    """

    file: str
    masked: Literal["features", "image"] = "features"
    layer: str | None = None
    epochs: int = 8
    batch_size: int = 64
    lr: float = 1e-2
    decay: float = 0.75
    decay_until: int | None = None
    weight_decay: float = 5e-4
    loss: dict[str, float] = field(default_factory=dict)
    quirk: bool = False
    augment: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        if self.masked not in ("features", "image"):
            raise ValueError(f"fit.masked={self.masked!r}; allowed: features, image")
        at_least(self, 1, "epochs", "batch_size", prefix="fit.")
        above_zero(self, "lr", prefix="fit.")
        above_zero(self, "decay", most=1, prefix="fit.")
        if unknown := set(self.loss) - set(Loss.__dataclass_fields__):
            names = ", ".join(Loss.__dataclass_fields__)
            raise ValueError(f"fit.loss.{sorted(unknown)[0]}: unknown; allowed: {names}")

    @property
    def kind(self) -> str:
        """`lcam_fm` or `lcam_img`."""
        return "lcam_fm" if self.masked == "features" else "lcam_img"

    def layers_of(self, network: Network) -> list[str]:
        """The layer whose activations are read, as a list of one."""
        return [self.layer or network.layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield a fault for `masked=features` if the layer's layout does not fit, or no cut is possible after it."""
        del dataset
        if self.masked == "image":
            return
        layer = self.layers_of(network)[0]
        if (reading := network.reading(layer)) != CHANNELS_FIRST:
            yield f"fit.masked=features: it needs (N, C, h, w), and {layer} is {reading}; fit=lcam_img does not"
        elif fault := tail.fault(network.module, layer, network.preprocess.shape):
            yield f"fit.masked=features: {fault}; fit=lcam_img does not cut"

    def rate(self, epoch: int) -> float:
        """The learning rate of the weights in an epoch, counted from 0."""
        return self.lr * self.decay ** (epoch if self.decay_until is None else min(epoch, self.decay_until))

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train, resuming from the last checkpoint."""
        state = self.first(job)
        descend(job, self, state)
        job.listed = [name for i, name in enumerate(job.dataset.ids) if i not in job.bad]
        return state.tensors, state.log

    def first(self, job: FitJob) -> Descent:
        """The attention before the first step."""
        (layer,) = self.layers_of(job.network)
        black = torch.zeros(1, *job.network.preprocess.input_shape, dtype=torch.uint8)
        forward = job.network.forward(black, layers=[layer])
        channels, classes = forward.activations(layer).shape[1], forward.logits.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            conv = torch.nn.Conv2d(channels, classes, 1)
        weight = conv.weight.detach().flatten(1).to(job.network.device).requires_grad_()
        bias = conv.bias.detach().to(job.network.device).requires_grad_()  # type: ignore[union-attr]
        groups = [{"params": [weight], "factor": 1}, {"params": [bias], "factor": 2}]
        optimizer = torch.optim.SGD(groups, self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        return Descent({"weight": weight, "bias": bias}, optimizer)

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss's terms; the labels are the network's own predictions."""
        del batch
        (layer,) = self.layers_of(job.network)
        with torch.no_grad():
            forward = job.network.forward(pixels, layers=[layer])
        return self._terms(job, forward, state, forward.logits.argmax(1))

    def _terms(self, job: FitJob, forward: Forward, state: Descent, labels: Tensor) -> dict[str, Tensor]:
        (layer,) = self.layers_of(job.network)
        activations = forward.activations(layer)
        weight, bias = state.tensors["weight"], state.tensors["bias"]
        masks = attention_logits(activations, weight, bias, labels).sigmoid()
        if self.masked == "features":
            rest = tail.tail(job.network.module, layer, tuple(forward.images.shape[2:]))
            logits = network_logits(rest, masks[:, None] * activations)
        else:
            logits = network_logits(job.network.module, masked_image(forward.images, masks, forward.black))
        every = masks[:, None]
        if self.quirk:
            each = torch.einsum("kc,nchw->nkhw", weight[labels], activations)
            every = (each + bias[labels, None, None]).sigmoid()
        return Loss(**self.loss)(logits, labels, every)
