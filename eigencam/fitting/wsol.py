"""`eigencam fit fit=wsol`: the training of wsolevaluation (Choe et al., CVPR 2020): CAM, HaS, ACoL, SPG, ADL, CutMix.

A classifier is trained with the cross-entropy while images or features are erased (`eigencam.fitting.erasing`), so that
it looks at more than the most distinctive part of an object; its CAM localizes the object. ACoL trains two classifiers,
on networks of that form (`eigencam.networks.acol`); SPG trains side heads beside it (`eigencam.fitting.spg`).

SGD with Nesterov's momentum 0.9; the rate falls to a tenth whenever the number of an epoch, from 1, is a multiple of
`frequency`; the rate of new layers is `ratio` times as high. Images are squashed to 8/7 of the input's size, cut at
random and mirrored at random.

After each epoch, accuracy and MaxBoxAccV2 of the true class's CAM (for ACoL, of its own map) are measured on a
validation split, if there is one (`dataset@fit.validation=...`). `select=best` keeps the weights of the epoch with the
best MaxBoxAccV2 (the first of equal ones), `select=last` those of the last epoch, which the authors report.

Differences from clovaai/wsolevaluation@96f4b88: random numbers are functions of (seed, step) or (seed, epoch, image);
`best` does not consider the network before the first epoch; HaS covers the full width and height, whereas the authors'
code uses the height for both (no difference for square images).

References: J. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020; K. K. Singh,
Y. J. Lee, "Hide-and-Seek", ICCV 2017 (grids of 16, 32, 44, 56 or no squares, one drawn for each image:
kkanshul/Hide-and-Seek@b4c8518); S. Yun et al., "CutMix", ICCV 2019; J. Choe, H. Shim, "Attention-based dropout layer
for weakly supervised object localization", CVPR 2019 (t 0.5, rate 0.75: junsukchoe/ADL@dab2e78).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.datasets.base import Dataset
from eigencam.fitting.erasing import attention_dropout, cut_box, hide, mixed, squares
from eigencam.fitting.job import FitJob
from eigencam.fitting.selection import MAX_BOX_ACC_V2, Validation
from eigencam.fitting.sgd import Descent, Scheduled, descend
from eigencam.fitting.spg import SPG, SideHeads, SideLoss, head_of
from eigencam.fitting.training_images import seed_of
from eigencam.fitting.whole_network import (
    BESIDE,
    Trainee,
    accuracy,
    batch_on_device,
    head_notes,
    label_faults,
    random_steps,
    trainee,
)
from eigencam.methods import acol
from eigencam.methods.cam import CAM
from eigencam.methods.parameter_checks import above_zero, at_least, one_of
from eigencam.methods.randomness import uniform
from eigencam.networks.acol import ACoL
from eigencam.networks.classifier import find_last_layer
from eigencam.networks.network import Network, check_layer
from eigencam.running.loading import Batch
from eigencam.running.prepare import build_node
from eigencam.transfer import to_device

Method = Literal["cam", "has", "acol", "spg", "cutmix", "adl"]
NAMES = {"cam": "CAM", "has": "HaS", "acol": "ACoL", "spg": "SPG", "cutmix": "CutMix", "adl": "ADL"}
ADL_LAYERS = {
    "vgg16": ("features.16", "features.22", "features.29"),
    "resnet50": ("layer3.0", "layer4.0", "layer4.2"),
}
"""Layers followed by ADL in the authors' code, by network; those of `eigencam.networks.wsol` have their own."""


@dataclass(frozen=True, slots=True)
class HaS:
    """Hide-and-Seek: side of the squares in pixels (one is drawn from a list for each image), and the share hidden."""

    grid: int | Sequence[int] = 4
    rate: float = 0.5


@dataclass(frozen=True, slots=True)
class CutMix:
    """Parameter of the Beta distribution, and the probability that a batch is mixed."""

    beta: float = 1.0
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class ADL:
    """Threshold as a fraction of the maximum, rate of the drop mask, layers (empty: the authors' or the target)."""

    threshold: float = 0.9
    rate: float = 0.75
    layers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WSOLFit:
    """Trains a network for localization without boxes; see the module.

    Attributes:
        file: where the weights go; `{dataset}` is the dataset's name.
        method: what is erased, or trained beside the classifier.
        has: the fields of `HaS`.
        cutmix: the fields of `CutMix`.
        adl: the fields of `ADL`.
        spg: the fields of `SPG`.
        validation: a `dataset` node: images with boxes to measure each epoch on.
        select: `last` epoch, or `best` by MaxBoxAccV2 on the validation split.
        new_layers: prefixes of the parameters with the larger learning rate; empty: the network's own, or its last
            layer.
        ratio: ratio of their learning rate to that of the other parameters.
        epochs: passes over the images.
        frequency: epochs between two falls of the learning rate to a tenth.
        batch_size: images per step.
        lr: learning rate.
        weight_decay: weight decay of all parameters.
        augment: random crops and mirrors.
        seed: seed of all random numbers.
    """

    file: str
    method: Method = "cam"
    has: Mapping[str, Any] = field(default_factory=dict)
    cutmix: Mapping[str, Any] = field(default_factory=dict)
    adl: Mapping[str, Any] = field(default_factory=dict)
    spg: Mapping[str, Any] = field(default_factory=lambda: asdict(SPG()))
    validation: Mapping[str, Any] | None = None
    select: Literal["last", "best"] = "last"
    new_layers: Sequence[str] = ()
    ratio: float = 10.0
    epochs: int = 10
    frequency: int = 3
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 5e-4
    augment: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        for name, allowed in (("method", get_args(Method)), ("select", ("last", "best"))):
            one_of(self, name, allowed, prefix="fit.")
        above_zero(self, "lr", "ratio", prefix="fit.")
        at_least(self, 0, "weight_decay", prefix="fit.")
        at_least(self, 1, "epochs", "batch_size", "frequency", prefix="fit.")
        if self.select == "best" and self.validation is None:
            raise ValueError("fit.select=best: it needs images with boxes: dataset@fit.validation=...")
        for name, form in (("has", HaS), ("cutmix", CutMix), ("adl", ADL), ("spg", SPG)):
            if unknown := set(getattr(self, name)) - set(form.__dataclass_fields__):
                known = ", ".join(form.__dataclass_fields__)
                raise ValueError(f"fit.{name}.{sorted(unknown)[0]}: unknown; allowed: {known}")
        self._check_options()

    def _check_options(self) -> None:
        SPG(**self.spg)
        shares = {"has.rate": HaS(**self.has).rate, "cutmix.probability": CutMix(**self.cutmix).probability}
        shares |= {"adl.rate": ADL(**self.adl).rate, "adl.threshold": ADL(**self.adl).threshold}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"fit.{name}={value}; allowed: 0 to 1")
        if not CutMix(**self.cutmix).beta > 0:
            raise ValueError(f"fit.cutmix.beta={CutMix(**self.cutmix).beta}; allowed: above 0")
        if not (grids := self.grids) or min(grids) < 0:
            raise ValueError(f"fit.has.grid={HaS(**self.has).grid}; allowed: 0 or more, or a list of such")

    @property
    def kind(self) -> str:
        """`wsol`."""
        return "wsol"

    @property
    def grids(self) -> list[int]:
        """Return the sides of the squares that HaS draws from."""
        grid = HaS(**self.has).grid
        return [grid] if isinstance(grid, int) else list(grid)

    def validated(self) -> Validation | None:
        """Return the validation split. ValueError if it cannot be built."""
        if self.validation is None:
            return None
        return Validation(self.validation, build_node("fit.validation", self.validation))

    def identity(self) -> dict[str, Any]:
        """Return what changes the weights besides the parameters: the content of the validation split."""
        split = self.validated()
        return {"validation": split.identity} if split else {}

    def layers_of(self, network: Network) -> list[str]:
        """Return the last layer."""
        return [find_last_layer(network.module, network.preprocess.shape).layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults: a network without CAM, unknown layers, or a validation split that cannot be used."""
        yield from label_faults(network, dataset)
        if reason := self.map_method.unsupported(network):
            yield f"fit: {network.name}: {reason}"
        elif self.method == "spg" and (reason := SPG(**self.spg).fault(network)):
            yield reason
        elif self.method != "acol" and isinstance(network.module, ACoL):
            yield f"fit.method={self.method} leaves the second classifier of {network.name} untrained; acol trains both"
        try:
            for layer in self.adl_layers(network) if self.method == "adl" else ():
                check_layer(network.module, layer, "fit.adl.layers")
            split = self.validated()
        except (ValueError, OSError) as error:
            yield str(error)
            return
        if split and split.dataset.class_space != dataset.class_space:
            spaces = f"{split.dataset.name} is of {split.dataset.class_space}, {dataset.name} of {dataset.class_space}"
            yield f"fit.validation: {spaces}"
        if split and "test" in split.dataset.identity().values():
            yield f"fit.validation: {split.dataset.name} with these options is for evaluation; take another split"

    @property
    def map_method(self) -> CAM | acol.ACoL:
        """Return the method whose maps the training is for."""
        return acol.ACoL() if self.method == "acol" else CAM()

    def adl_layers(self, network: Network) -> list[str]:
        """Return the layers that ADL follows."""
        said = getattr(network.module, "adl_layers", ()) or ADL_LAYERS.get(network.name, ())
        return list(ADL(**self.adl).layers or said or [network.layer])

    def fast(self, made: Trainee, network: Network) -> list[str]:
        """Return the prefixes of the parameters with the larger rate."""
        form = SPG(**self.spg).form(network) if self.method == "spg" else None
        said = form.new_layers if form else getattr(made.module, "new_layers", ())
        heads = [BESIDE] if form and form.new_heads else []
        return [*(self.new_layers or said or [made.place.layer]), *heads]

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** ((epoch + 1) // self.frequency)

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train, resuming from the last checkpoint; return the weights of the selected epoch."""
        made, split = trainee(job, job.network.layer, self.seed), self.validated()
        if self.method == "spg":
            with random_steps(seed_of(self.seed, 0, "side heads"), job.network.device):
                heads = SideHeads(job.network, SPG(**self.spg))
            made = replace(made, beside=heads.to(job.network.device, job.network.dtype))
        state = made.descent("sgd", self.fast(made, job.network), self.ratio, self.lr, self.weight_decay)

        def after() -> dict[str, float]:
            found = split.measured(job, made.module, self.map_method) if split else {}
            if self.select == "best":
                state.keep_best(found[MAX_BOX_ACC_V2])
            return found

        with ExitStack() as hooks:
            if self.method == "adl":
                _add_adl(made.module, self.adl_layers(job.network), ADL(**self.adl), hooks)
            descend(
                job, _Learner(self, made, self.method == "spg" and head_of(job.network).rectified), state, after=after
            )
        job.notes["head"] = head_notes(job, made.place, NAMES[self.method])
        return made.weights(state.best if self.select == "best" else state.tensors), state.log


def _add_adl(module: nn.Module, layers: Sequence[str], options: ADL, hooks: ExitStack) -> None:
    """Insert ADL after layers, in training mode; each layer and batch has one random choice."""

    def changed(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        if not module.training:
            return out
        return attention_dropout(out, options.threshold, bool(torch.rand(()) < options.rate))

    for layer in layers:
        hooks.callback(module.get_submodule(layer).register_forward_hook(changed).remove)


@dataclass(frozen=True, slots=True)
class _Learner(Scheduled):
    """The model that `descend` trains; `rectified` says whether a ReLU follows the layer that a CAM reads."""

    options: WSOLFit
    trainee: Trainee
    rectified: bool = False

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy; for the log, the accuracy on the images as they were given."""
        images, labels = batch_on_device(job, pixels, batch)
        others, share = labels, 1.0
        if self.options.method == "has":
            images = self._hidden(images, batch, len(state.log))
        elif self.options.method == "cutmix":
            images, others, share = self._mixed(images, labels, state.step)
        with random_steps(seed_of(self.seed, state.step, "step"), job.network.device):
            logits, more = self._passed(job, images, labels)
        loss = share * F.cross_entropy(logits, labels)
        if share < 1:
            loss = loss + (1 - share) * F.cross_entropy(logits, others)
        return {"ce": loss, **more, "accuracy": accuracy(logits, labels)}

    def _passed(self, job: FitJob, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the loss's terms other than their cross-entropy."""
        module = self.trainee.module
        if self.options.method == "acol":
            assert isinstance(module, ACoL)  # `faults` reports any other
            logits, second = module.both(images, labels)
            return logits, {"ce_second": F.cross_entropy(second, labels)}
        if self.options.method == "spg":
            return self._guided(job, images, labels)
        return self.trainee.passed(images)[0], {}

    def _guided(self, job: FitJob, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and SPG's terms."""
        network, made, options = job.network, self.trainee, SPG(**self.options.spg)
        assert made.beside is not None
        sides, last = options.form(network).layers, made.module.get_submodule(made.place.layer)
        logits, read = made.read(images, [*sides, made.layer, made.place.layer])
        if isinstance(last, nn.Conv2d):
            features, maps = read[made.place.layer]
            maps = maps[torch.arange(len(maps), device=maps.device), labels]
        else:
            features, weight = read[made.layer].made, last.weight
            features = features.relu() if self.rectified else features
            maps = torch.einsum("nc,nchw->nhw", weight[labels], features)  # type: ignore[index]
        b1, b2, c = made.beside(*(read[name].made for name in sides), features)
        return logits, SideLoss(options)(b1, b2, c, maps)

    def _hidden(self, images: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Images with hidden squares, a function of seed, epoch and position in the dataset."""
        options, grids, index = HaS(**self.options.has), self.options.grids, torch.tensor(batch.index)
        chosen = (uniform(index, (1,), seed_of(self.seed, epoch, "grid"))[:, 0] * len(grids)).long()
        made, rate = [], options.rate
        for n, k in enumerate(chosen.tolist()):
            count = [max(squares(side, grids[k]), 1) for side in images.shape[2:]]
            drawn = uniform(index[n : n + 1], (count[0], count[1]), seed_of(self.seed, epoch, "hide"))
            (u,) = to_device(images.device, drawn)
            made.append(hide(images[n : n + 1], u, grids[k], rate))
        return torch.cat(made)

    def _mixed(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor, float]:
        """Mixed images, the labels of the pasted images, and the fraction of each image that remained."""
        options, random = CutMix(**self.options.cutmix), np.random.default_rng(seed_of(self.seed, step, "cutmix"))
        if random.random() >= options.probability:
            return images, labels, 1.0
        share, size = random.beta(options.beta, options.beta), (images.shape[2], images.shape[3])
        box = cut_box(size, share, [int(random.integers(side)) for side in size])
        (order,) = to_device(images.device, torch.from_numpy(random.permutation(len(images))))
        return mixed(images, order, box), labels[order], box.outside
