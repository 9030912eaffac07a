"""`eigencam fit`: train a method that learns (L-CAM, BroadCAM) for a network.

    config ──► all faults at once ──► pictures ──► fitter ──► <results>/fitted/METHOD-NETWORK.safetensors

A fitter is an object of the config's group `fit` with the members of `Fitter`. The result is a function of the config:
the order of the pictures and their augmentation depend on (seed, epoch, position in the dataset) alone, so no state of
a random generator has to be kept. Training goes on from the last checkpoint, which lies beside the file.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import filelock
import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from eigencam import fitted, tail
from eigencam.datasets.base import BadImageError, Dataset, Truth
from eigencam.forward import Forward, evaluating, logits_of
from eigencam.identity import VERSION, canonical, checksum, describe
from eigencam.methods.broadcam import KIND, broad_weights
from eigencam.methods.lcam import Loss, attention_logits, masked_picture
from eigencam.methods.randomness import uniform
from eigencam.network import Network, Preprocess, check_layer, load_network
from eigencam.prepare import attempt, build_node, chosen_device, machine_faults, model_faults, stop, typed
from eigencam.run import Batch, Pictures, collate, die_with_parent

MARGIN = 8 / 7
"""Side of the picture that is decoded over the side of a random crop: 256 over 224."""

SAVE_S = 300.0
"""Seconds between two checkpoints within an epoch."""


@dataclass
class FitConfig:
    """The keys of a fit's config; see `configs/fit.yaml`."""

    paths: Any = MISSING
    model: Any = MISSING
    dataset: Any = MISSING
    fit: Any = MISSING
    device: str = "auto"
    workers: Any = "auto"


@dataclass(slots=True)
class Job:
    """A checked fit.

    Attributes:
        network: whose activations are read.
        dataset: the pictures to learn from.
        fitter: what learns.
        about: goes into the file; its checksum tells fits apart.
        workers: processes that decode pictures.
        say: gets the few lines meant for a person.
        bad: by position, pictures that could not be decoded.
    """

    network: Network
    dataset: Dataset
    fitter: "Fitter"
    about: dict[str, Any]
    workers: Any
    say: Callable[[str], None]
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of what changes the weights."""
        return checksum(self.about)

    @property
    def checkpoint(self) -> Path:
        """Beside the file."""
        file = Path(self.fitter.file)
        return file.with_name(f"{file.stem}-{self.key}.checkpoint")

    def batches(self, positions: Iterable[Sequence[int]], preprocess: Preprocess) -> Iterator[Batch]:
        """Decoded pictures, batch by batch; those that cannot be decoded are left out and noted.

        Raises:
            Exception: whatever else a dataset raises for a picture.
        """
        chosen = [list(batch) for batch in positions]
        workers = self.workers
        if workers == "auto":
            workers = min(8, os.cpu_count() or 1) if len(chosen) > 4 else 0
        loader = DataLoader(
            Pictures(self.dataset, preprocess),
            batch_sampler=chosen,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.network.device.type == "cuda",
            worker_init_fn=die_with_parent,
            generator=torch.Generator().manual_seed(0),  # else it draws from the process's own
        )
        for batch in loader:
            for i, error in batch.bad.items():
                if not isinstance(error, BadImageError):
                    raise error
                self.bad[i] = str(error)
            if batch.index:
                yield batch


class Fitter(Protocol):
    """What learns. `file` is where the weights go."""

    file: str

    @property
    def kind(self) -> str:
        """Name of the method that reads the file."""
        ...

    def layers_of(self, network: Network) -> list[str]:
        """The layers whose activations are read."""
        ...

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Why it cannot learn from the two."""
        ...

    def fit(self, job: Job) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The weights and the log."""
        ...


def fit(composed: DictConfig, *, say: Callable[[str], None] = print) -> Path:
    """Check, train what is not there yet, and write the weights.

    Args:
        composed: a config of the form of `configs/fit.yaml`.
        say: gets the few lines meant for a person.

    Returns:
        The file.

    Raises:
        ValueError: the config's faults, one a line, before anything is computed.
    """
    job = prepare(composed, say)
    file = Path(job.fitter.file)
    title = f"{job.fitter.kind} for {job.network.name} on {len(job.dataset.ids)} pictures of {job.dataset.name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file.with_name(f".{file.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(f"{file}: another process is fitting it") from None
    with lock:
        if _fitted_already(job, file):
            say(f"{title}: nothing to do, {file} is there")
            return file
        tensors, log = job.fitter.fit(job)
        if bad := [job.bad[i] for i in sorted(job.bad)]:
            say("\n".join(["  left out:", *bad]))
        fitted.write(file, tensors, job.about | {"log": log, "bad_images": len(bad)})
        job.checkpoint.unlink(missing_ok=True)
    say(f"{title}: {file}")
    return file


def prepare(composed: DictConfig, say: Callable[[str], None] = print) -> Job:
    """Check a composed config and build what it names.

    Raises:
        ValueError: with one line for each fault found.
    """
    faults: list[str] = []
    config = typed(composed, FitConfig, faults)
    stop(faults)
    assert config  # a config without faults
    faults += machine_faults(config.device, config.workers)
    dataset = attempt("dataset", faults, build_node, "dataset", config.dataset)
    if dataset and "test" in (identity := dataset.identity()).values():
        part = next(key for key, value in identity.items() if value == "test")
        faults.append(f"dataset.{part}=test: these pictures are for evaluation; fit on others (dataset=scenes_train)")
    fitter = attempt("fit", faults, build_node, "fit", config.fit)
    faults += model_faults(config.model)
    stop(faults)
    device = chosen_device(config.device)
    network = attempt("model", faults, load_network, config.model, device=device)
    stop(faults)
    faults += _network_faults(fitter, network)
    stop(faults)
    faults += fitter.faults(network, dataset)
    stop(faults)
    options = describe(config.fit)
    del options["file"]
    about = {
        "version": VERSION,
        "kind": fitter.kind,
        "network": network.identity,
        "layers": fitter.layers_of(network),
        "dataset": {"name": dataset.name, **dataset.identity()},
        "fit": options,
    }
    return Job(network, dataset, fitter, json.loads(canonical(about)), config.workers, say)


def _network_faults(fitter: Fitter, network: Network) -> Iterator[str]:
    for layer in fitter.layers_of(network):
        try:
            check_layer(network.module, layer, f"fit: model {network.name}")
        except ValueError as error:
            yield str(error)
    if network.classes is None:
        yield f"fit: its maps are for classes, and {network.name} has no classifier"


def _fitted_already(job: Job, file: Path) -> bool:
    """Whether the file is there and of the same config."""
    if not file.is_file():
        return False
    try:
        about = fitted.read(file).about
    except ValueError:
        return False
    return checksum({name: about.get(name) for name in job.about}) == job.key


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
            left = self._order(job, epoch).split(self.batch_size)[state.step % steps :]
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

    def _order(self, job: Job, epoch: int) -> Tensor:
        positions = torch.arange(len(job.dataset.ids))
        return uniform(positions, (1,), _key(self.seed, epoch, "order"))[:, 0].argsort(stable=True)

    def _step(self, job: Job, state: "_State", batch: Batch, epoch: int) -> dict[str, float]:
        """One step; returns the loss's terms."""
        pictures, size = batch.pictures, job.network.preprocess.size
        if self.augment:
            pictures = augmented(pictures, torch.tensor(batch.index), size, _key(self.seed, epoch, "augment"))
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


def _key(seed: int, epoch: int, use: str) -> int:
    """The seed of one use of randomness in one epoch."""
    return int(checksum({"seed": seed, "epoch": epoch, "use": use}), 16)


def widened(preprocess: Preprocess) -> Preprocess:
    """Preprocessing to the larger square that random crops of the input's size are taken from.

    With `crop` it is the centred square of the short side, otherwise the whole picture, squashed to 8/7 of the size.
    """
    crop = preprocess.resize == "crop"
    return replace(preprocess, size=preprocess.short_side if crop else round(preprocess.size * MARGIN))


def augmented(pictures: Tensor, index: Tensor, size: int, seed: int) -> Tensor:
    """Random crops, half of them mirrored: (N, 3, size, size) of (N, 3, S, S), a function of `index` and `seed`."""
    u = uniform(index, (3,), seed)
    start = (u[:, :2] * (pictures.shape[2] - size + 1)).long()
    along = torch.arange(size).expand(len(pictures), size)
    rows = start[:, 0, None] + along
    columns = start[:, 1, None] + torch.where(u[:, 2, None] < 0.5, along.flip(1), along)
    picture = torch.arange(len(pictures))[:, None, None]
    return pictures[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class BroadCAMFit:
    """Regresses BroadCAM's weights in one pass over the pictures; see `eigencam.methods.broadcam`.

    Attributes:
        file: where the weights go.
        layers: whose activations are read; none: the network's target layer.
        share: of the pictures that is used.
        alpha: penalty of the ridge regressions.
        step: channels of an enhancement node.
        batch_size: pictures at once.
        seed: of the choice of the pictures.
    """

    file: str
    layers: Sequence[str] = ()
    share: float = 1.0
    alpha: float = 50.0
    step: int = 256
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"fit.share={self.share}; allowed: above 0, up to 1")
        if not self.alpha > 0:
            raise ValueError(f"fit.alpha={self.alpha}; allowed: above 0")
        for name in ("step", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}={getattr(self, name)}; allowed: 1 or more")

    @property
    def kind(self) -> str:
        """`broadcam`."""
        return KIND

    def layers_of(self, network: Network) -> list[str]:
        """All layers, in order."""
        return list(self.layers) or [network.layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Labels that are not the network's classes."""
        if network.classes != dataset.class_space:
            yield (
                f"fit: the classes of {dataset.name} ({dataset.class_space}) are not those of {network.name} "
                f"({network.classes}), so its maps could be asked for none of them"
            )

    def chosen(self, dataset: Dataset) -> list[int]:
        """Positions of the pictures that are used, in order; those of a smaller share are among them."""
        n = len(dataset.ids)
        order = uniform(torch.arange(n), (1,), self.seed)[:, 0].argsort(stable=True)
        return sorted(order[: math.ceil(self.share * n)].tolist())

    def fit(self, job: Job) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Average the channels of every picture, then regress, in float64."""
        layers, positions = self.layers_of(job.network), self.chosen(job.dataset)
        grid = [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]
        features, labels = [], []
        with tqdm(total=len(positions), desc=f"{KIND} for {job.network.name}", unit="img") as bar:
            for batch in job.batches(grid, job.network.preprocess):
                forward = job.network.forward(batch.pictures, layers=layers)
                means = [forward.activations(layer).relu().mean((2, 3)).double().cpu() for layer in layers]
                features.append(torch.cat(means, 1))
                labels += [multi_hot(truth, len(job.dataset.classes)) for truth in batch.truths]
                bar.update(len(batch.index))
        if not features:
            raise ValueError("no picture could be decoded")
        weight = broad_weights(torch.cat(features), torch.stack(labels), self.alpha, self.step)
        return {"weight": weight.float()}, [{"pictures": len(labels), "channels": weight.shape[1]}]


def multi_hot(truth: Truth, classes: int) -> Tensor:
    """(classes,) float64: 1 for the picture's classes; the one it is labelled with, or all where any is sought."""
    present = np.unique(truth.box_labels) if truth.foreground == "any" else np.array([truth.label])
    labels = torch.zeros(classes, dtype=torch.float64)
    labels[torch.from_numpy(present[present >= 0])] = 1
    return labels
