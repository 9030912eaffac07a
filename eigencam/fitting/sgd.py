"""Stochastic gradient descent over the images of a fit, with checkpoints that it resumes from.

Order and augmentation are functions of (seed, epoch, position), so an interrupted training ends with the same weights
as an uninterrupted one. The network stays in eval mode: batch normalisation keeps its statistics, dropout is off.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from eigencam.files import replacing
from eigencam.fitting.job import FitJob
from eigencam.fitting.training_images import augmented, seed_of, shuffled, widened
from eigencam.passes.calls import evaluating
from eigencam.running.loading import Batch
from eigencam.transfer import to_host

SAVE_S = 300.0
"""Seconds between two checkpoints within an epoch."""
KEPT = ("step", "sums", "images", "log", "best", "best_score")
"""The attributes that a checkpoint keeps besides the tensors and the optimizer."""


@dataclass(slots=True)
class Descent:
    """State that a checkpoint keeps.

    Attributes:
        tensors: the learned tensors, by name; leaves of the graph.
        optimizer: each of its groups has a `factor` of the learning rate.
        step: steps done.
        sums: sums of the loss's terms in the current epoch.
        images: number of images that `sums` is over.
        log: log of the finished epochs.
        best: copies of `tensors` after the best epoch so far, if the learner selects one.
        best_score: the score of that epoch.
    """

    tensors: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = -math.inf

    def load(self, path: Path) -> None:
        """Resume from a checkpoint."""
        state = torch.load(path, "cpu", weights_only=True)
        state.setdefault("images", state.get("pictures"))  # the key in files of version 0.1
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state["tensors"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in KEPT:
            setattr(self, name, state[name])

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state: dict[str, Any] = {"tensors": {name: tensor.detach() for name, tensor in self.tensors.items()}}
        state["optimizer"] = self.optimizer.state_dict()
        state |= {name: getattr(self, name) for name in KEPT}
        with replacing(path) as beside:
            torch.save(state, beside)

    def note(self, terms: dict[str, float], images: int) -> None:
        """Add a step's terms to the epoch's."""
        self.images += images
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images

    def keep_best(self, score: float) -> None:
        """Copy the tensors if this epoch's score is above that of all epochs before."""
        if score > self.best_score:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}
            self.best_score = score

    def close(self, epoch: int, measured: dict[str, float]) -> str:
        """Append the epoch's means and the measurements after it to the log; return them as a line."""
        means = {name: total / self.images for name, total in self.sums.items()} | measured
        self.log.append({"epoch": epoch + 1, "pictures": self.images, **means})
        self.sums, self.images = {}, 0
        return ", ".join([f"epoch {epoch + 1}", *(f"{name} {value:.4f}" for name, value in means.items())])


class Learner(Protocol):
    """The model to be trained: its schedule and its loss."""

    @property
    def epochs(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    def augment(self) -> bool: ...  # noqa: D102

    @property
    def seed(self) -> int: ...  # noqa: D102

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        ...

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss's terms of one batch of (N, 3, H, W) uint8 images.

        Those with a gradient are summed; the others only go into the log.
        """
        ...


class Scheduled:
    """Base of learners whose schedule comes from the options of a fit: epochs, batches, seed and learning rate."""

    __slots__ = ()
    options: Any

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return self.options.epochs

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.options.batch_size

    @property
    def augment(self) -> bool:
        """Whether images are cropped and flipped."""
        return self.options.augment

    @property
    def seed(self) -> int:
        """Seed of order and augmentation."""
        return self.options.seed

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.options.rate(epoch)


def descend(
    job: FitJob,
    learner: Learner,
    state: Descent,
    positions: Sequence[int] | None = None,
    after: Callable[[], dict[str, float]] = dict,
) -> None:
    """Train to the last epoch, from the last checkpoint or else from `state`.

    Args:
        job: the fit.
        learner: the model to be trained.
        state: before the first step; is changed.
        positions: positions of the images in the dataset; None: all.
        after: called after each epoch; its result goes into the log.
    """
    chosen = torch.tensor(range(len(job.dataset.ids)) if positions is None else positions)
    steps = math.ceil(len(chosen) / learner.batch_size)
    if job.checkpoint.is_file():
        state.load(job.checkpoint)
        job.say(f"  resuming from epoch {state.step // steps + 1}, step {state.step % steps + 1} of {steps}")
    preprocess = widened(job.network.preprocess) if learner.augment else job.network.preprocess
    saved = time.monotonic()
    for epoch in range(state.step // steps, learner.epochs):
        for group in state.optimizer.param_groups:
            group["lr"] = group["factor"] * learner.rate(epoch)
        order = chosen[shuffled(len(chosen), learner.seed, epoch)]
        left = order.split(learner.batch_size)[state.step % steps :]
        with tqdm(total=steps, initial=steps - len(left), desc=f"epoch {epoch + 1}/{learner.epochs}") as bar:
            for batch in job.batches([part.tolist() for part in left], preprocess):
                terms = _step(job, learner, state, batch, epoch)
                bar.set_postfix(terms, refresh=False)
                state.note(terms, len(batch.index))
                state.step += 1
                bar.update()
                if time.monotonic() - saved > SAVE_S and state.step % steps:  # the last step's follows below
                    state.save(job.checkpoint)
                    saved = time.monotonic()
        state.step = (epoch + 1) * steps  # a batch without decodable images makes no step
        job.say(f"  {state.close(epoch, after())}")
        state.save(job.checkpoint)


def _step(job: FitJob, learner: Learner, state: Descent, batch: Batch, epoch: int) -> dict[str, float]:
    """One step; returns the loss's terms."""
    images, size = batch.images, job.network.preprocess.shape
    if learner.augment:
        images = augmented(images, torch.tensor(batch.index), size, seed_of(learner.seed, epoch, "augment"))
    with evaluating(job.network.module), torch.enable_grad():
        terms = learner.terms(job, state, images, batch)
        loss = torch.stack([term for term in terms.values() if term.requires_grad]).sum()
        state.optimizer.zero_grad()
        loss.backward()
    (values,) = to_host(torch.stack([loss, *terms.values()]))()  # the one wait of a step
    seen = dict(zip(("loss", *terms), values.tolist(), strict=True))
    if not math.isfinite(seen["loss"]):
        raise ValueError(f"the loss is {seen['loss']} in epoch {epoch + 1}; try a fit.lr below {learner.rate(0)}")
    state.optimizer.step()
    return seen
