"""`eigencam fit fit=lcam_fm` (or `lcam_img`): train L-CAM's attention; see `eigencam.methods.lcam`."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from eigencam import tail
from eigencam.datasets.base import Dataset
from eigencam.fit import Job
from eigencam.fit_pictures import augmented, seed_of, shuffled, widened
from eigencam.forward import Forward, evaluating, logits_of
from eigencam.loading import Batch
from eigencam.methods.lcam import Loss, attention_logits, masked_picture
from eigencam.network import Network

SAVE_S = 300.0
"""Seconds between two checkpoints within an epoch."""


@dataclass(frozen=True, slots=True)
class LCAMFit:
    """Trains L-CAM's attention by stochastic gradient descent (momentum 0.9, Nesterov); see `eigencam.methods.lcam`.

    Attributes:
        file: where the weights go.
        masked: `features` for L-CAM-Fm, `image` for L-CAM-Img.
        layer: whose activations are read; the network's target layer when None.
        epochs: passes over the pictures.
        batch_size: pictures a step.
        lr: rate of the weights; that of the bias is twice as high.
        decay: factor of the rate, an epoch.
        decay_until: the last epoch, from 0, that the rate falls in; None: all.
        weight_decay: of weights and bias.
        loss: the factors of `eigencam.methods.lcam.Loss`.
        quirk: the authors' loss over the maps of all labels in the batch.
        augment: random crops and mirrors.
        seed: of the first weights (PyTorch's for a convolution), the order and the augmentation.
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

    def __post_init__(self) -> None:
        if self.masked not in ("features", "image"):
            raise ValueError(f"fit.masked={self.masked!r}; allowed: features, image")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}={getattr(self, name)}; allowed: 1 or more")
        if not (self.lr > 0 and 0 < self.decay <= 1):
            raise ValueError(f"fit.lr={self.lr}, fit.decay={self.decay}; allowed: above 0, and above 0 up to 1")
        if unknown := set(self.loss) - set(Loss.__dataclass_fields__):
            names = ", ".join(Loss.__dataclass_fields__)
            raise ValueError(f"fit.loss.{sorted(unknown)[0]}: unknown; allowed: {names}")

    @property
    def kind(self) -> str:
        """`lcam_fm` or `lcam_img`."""
        return "lcam_fm" if self.masked == "features" else "lcam_img"

    def layers_of(self, network: Network) -> list[str]:
        """The one layer."""
        return [self.layer or network.layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """A network that cannot be cut behind the layer."""
        del dataset
        if self.masked == "image":
            return
        if network.reshape:
            yield "fit.masked=features: it needs activations that are maps without model.reshape; fit=lcam_img does not"
        elif fault := tail.fault(network.module, self.layers_of(network)[0], network.preprocess.shape):
            yield f"fit.masked=features: {fault}; fit=lcam_img does not cut"

    def rate(self, epoch: int) -> float:
        """The weights' rate in an epoch, from 0."""
        return self.lr * self.decay ** (epoch if self.decay_until is None else min(epoch, self.decay_until))

    def fit(self, job: Job) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train from the last checkpoint on."""
        state = _State.first(self, job)
        steps = math.ceil(len(job.dataset.ids) / self.batch_size)
        if job.checkpoint.is_file():
            state.load(job.checkpoint)
            job.say(f"  going on from epoch {state.step // steps + 1}, step {state.step % steps + 1} of {steps}")
        preprocess = widened(job.network.preprocess) if self.augment else job.network.preprocess
        saved = time.monotonic()
        for epoch in range(state.step // steps, self.epochs):
            for group, factor in zip(state.optimizer.param_groups, (1, 2), strict=True):
                group["lr"] = factor * self.rate(epoch)
            left = shuffled(len(job.dataset.ids), self.seed, epoch).split(self.batch_size)[state.step % steps :]
            with tqdm(total=steps, initial=steps - len(left), desc=f"epoch {epoch + 1}/{self.epochs}") as bar:
                for batch in job.batches([positions.tolist() for positions in left], preprocess):
                    terms = self._step(job, state, batch, epoch)
                    bar.set_postfix(terms, refresh=False)
                    state.note(terms, len(batch.index))
                    state.step += 1
                    bar.update()
                    if time.monotonic() - saved > SAVE_S:
                        state.save(job.checkpoint)
                        saved = time.monotonic()
            state.step = (epoch + 1) * steps  # batches without a picture that can be decoded make no step
            job.say(f"  {state.close(epoch)}")
            state.save(job.checkpoint)
        return {"weight": state.weight, "bias": state.bias}, state.log

    def _step(self, job: Job, state: "_State", batch: Batch, epoch: int) -> dict[str, float]:
        """One step; returns the loss's terms."""
        pictures, size = batch.pictures, job.network.preprocess.size
        if self.augment:
            pictures = augmented(pictures, torch.tensor(batch.index), size, seed_of(self.seed, epoch, "augment"))
        (layer,) = self.layers_of(job.network)
        forward = job.network.forward(pictures, layers=[layer])
        labels = forward.logits.argmax(1)
        with evaluating(job.network.module), torch.enable_grad():
            terms = self._terms(job, forward, state, labels)
            loss = torch.stack(list(terms.values())).sum()
            state.optimizer.zero_grad()
            loss.backward()
        state.optimizer.step()
        return {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}

    def _terms(self, job: Job, forward: Forward, state: "_State", labels: Tensor) -> dict[str, Tensor]:
        (layer,) = self.layers_of(job.network)
        activations = forward.activations(layer)
        masks = attention_logits(activations, state.weight, state.bias, labels).sigmoid()
        if self.masked == "features":
            rest = tail.tail(job.network.module, layer, tuple(forward.images.shape[2:]))
            logits = logits_of(rest(masks[:, None] * activations))
        else:
            logits = logits_of(job.network.module(masked_picture(forward.images, masks, forward.black)))
        every = masks[:, None]
        if self.quirk:
            each = torch.einsum("kc,nchw->nkhw", state.weight[labels], activations)
            every = (each + state.bias[labels, None, None]).sigmoid()
        return Loss(**self.loss)(logits, labels, every)


@dataclass(slots=True)
class _State:
    """What a checkpoint keeps: attention, optimizer, steps done, sums of the epoch under way, log of the others."""

    weight: Tensor
    bias: Tensor
    optimizer: torch.optim.SGD
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    pictures: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def first(cls, fitter: LCAMFit, job: Job) -> "_State":
        """Before the first step."""
        (layer,) = fitter.layers_of(job.network)
        black = torch.zeros(1, 3, *job.network.preprocess.shape, dtype=torch.uint8)
        forward = job.network.forward(black, layers=[layer])
        channels, classes = forward.activations(layer).shape[1], forward.logits.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fitter.seed)
            conv = torch.nn.Conv2d(channels, classes, 1)
        device = job.network.device
        weight = conv.weight.detach().flatten(1).to(device).requires_grad_()
        bias = conv.bias.detach().to(device).requires_grad_()  # type: ignore[union-attr]
        groups = [{"params": [weight], "lr": fitter.lr}, {"params": [bias], "lr": 2 * fitter.lr}]
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=fitter.weight_decay)
        return cls(weight, bias, optimizer)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, self.weight.device, weights_only=True)
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.pictures, self.log = (state[k] for k in ("step", "sums", "pictures", "log"))

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        state: dict[str, Any] = {"weight": self.weight.detach(), "bias": self.bias.detach()}
        state["optimizer"] = self.optimizer.state_dict()
        state |= {k: getattr(self, k) for k in ("step", "sums", "pictures", "log")}
        torch.save(state, beside)
        beside.replace(path)

    def note(self, terms: dict[str, float], pictures: int) -> None:
        """Add a step's terms to the epoch's."""
        self.pictures += pictures
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * pictures

    def close(self, epoch: int) -> str:
        """Put the epoch's means into the log; returns them as a line."""
        means = {name: total / self.pictures for name, total in self.sums.items()}
        self.log.append({"epoch": epoch + 1, "pictures": self.pictures, **means})
        self.sums, self.pictures = {}, 0
        return ", ".join([f"epoch {epoch + 1}", *(f"{name} {value:.4f}" for name, value in means.items())])
