"""`eigencam fit fit=classifier`: replace a network's classes by those of a dataset.

`eigencam.networks.classifier` finds the layer to replace. With `train=last` the inputs of the last layer are computed
once for all images, and logistic regression fits the layer to its minimum (`eigencam.fitting.logistic`). With
`train=all`, stochastic gradient descent then minimizes the same loss over all weights, starting from that fit; batch
normalisation keeps its statistics and dropout is off.

An image belongs to every class that has an object in it. If all objects of a class are flagged difficult, the image is
ignored for that class, in the loss and in average precision. If the dataset has one target class per image (ImageNet,
CUB), the image belongs to that class, and the loss is softmax cross-entropy. A share `held_out` of the images is not
fitted on; the log has the average precision on these. The ids of the other images are in the file, and in a .txt beside
it.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from eigencam.datasets.base import Dataset
from eigencam.evaluation.average_precision import average_precision
from eigencam.fitting.job import FitJob
from eigencam.fitting.logistic import loss, regress
from eigencam.fitting.sgd import Descent, Scheduled, descend
from eigencam.fitting.training_images import class_labels, seed_of
from eigencam.methods.parameter_checks import above_zero, at_least, one_of
from eigencam.methods.randomness import uniform
from eigencam.networks.classifier import KIND, LastLayer, find_last_layer, pooled, put
from eigencam.networks.network import Network
from eigencam.passes.calls import evaluating, logits_of, network_logits
from eigencam.running.loading import Batch
from eigencam.transfer import to_device


@dataclass(frozen=True, slots=True)
class ClassifierFit:
    """Fits the last layer, or all weights, to a dataset's classes.

    Attributes:
        file: where the weights go; `{dataset}` is the dataset's name.
        train: `last` layer, or `all` weights.
        held_out: fraction of the images that is not fitted on.
        l2: penalty of the last layer's weights, for standardised inputs.
        batch_size: images per batch.
        epochs: number of epochs of `all`.
        lr: learning rate of `all`.
        decay: factor of the learning rate, per epoch.
        weight_decay: weight decay of `all`.
        augment: random crops and mirrors in `all`.
        seed: seed of the held-out selection, the order of the images and the augmentation.
    """

    file: str
    train: Literal["last", "all"] = "last"
    held_out: float = 0.2
    l2: float = 1e-2
    batch_size: int = 32
    epochs: int = 5
    lr: float = 1e-4
    decay: float = 0.7
    weight_decay: float = 5e-4
    augment: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        one_of(self, "train", ("last", "all"), prefix="fit.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"fit.held_out={self.held_out}; allowed: 0 up to, not with, 1")
        above_zero(self, "l2", "lr", prefix="fit.")
        above_zero(self, "decay", most=1, prefix="fit.")
        at_least(self, 1, "epochs", "batch_size", prefix="fit.")

    @property
    def kind(self) -> str:
        """`classifier`."""
        return KIND

    def layers_of(self, network: Network) -> list[str]:
        """The last layer."""
        return [find_last_layer(network.module, network.preprocess.shape).layer]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults: a network with a head, or a dataset that does not give its images' classes."""
        if network.head:
            yield "fit: model.head is set; a classifier is fitted on the network itself (model.head=null)"
        if len(dataset.classes) < 2:
            yield f"fit: {dataset.name} has no classes to tell apart"
        if getattr(dataset, "difficult", True) is False:
            yield "dataset.difficult=false: images with only difficult objects would count as negative"

    def parts(self, n: int) -> tuple[list[int], list[int]]:
        """Positions of the images to fit on, and of the held-out ones, both ascending."""
        order = uniform(torch.arange(n), (1,), seed_of(self.seed, 0, "held out"))[:, 0].argsort(stable=True).tolist()
        held = math.floor(self.held_out * n)
        return sorted(order[held:]), sorted(order[:held])

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch of `all`, counted from 0."""
        return self.lr * self.decay**epoch

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Fit, then measure average precision on the held-out images."""
        place = find_last_layer(job.network.module, job.network.preprocess.shape)
        fitted_on, held = self.parts(len(job.dataset.ids))
        if self.train == "last":
            tensors, log = self._last(job, place, fitted_on)
            module = _headed(job, place, tensors)
        else:
            module, tensors, log = self._all(job, place, fitted_on)
        if held:
            log.append(_ranking(job, module, held, self.batch_size))
        ids = job.dataset.ids
        job.notes["head"] = {
            "rectifier": place.rectifier,
            "class_space": job.dataset.class_space,
            "classes": list(job.dataset.classes),
            "whole": self.train == "all",
            "fitted_on": [ids[i] for i in fitted_on if i not in job.bad],
            "held_out": [ids[i] for i in held if i not in job.bad],
        }
        return tensors, log

    def _last(
        self, job: FitJob, place: LastLayer, positions: Sequence[int]
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The last layer's weights, by their names in the network."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(pooled(args[0]).double().cpu())

        handle = job.network.module.get_submodule(place.layer).register_forward_pre_hook(keep)
        try:
            _, labels = _scores(job, job.network.module, positions, self.batch_size, "inputs of the last layer")
        finally:
            handle.remove()
        device = job.network.device
        found = regress(torch.cat(seen).to(device), labels.to(device), self.l2, _exclusive(job.dataset))
        if lacking := [job.dataset.classes[k] for k in (~found.fitted).nonzero()[:, 0].tolist()]:
            job.say(f"  not to be fitted, as all or none of the images have them: {', '.join(lacking)}")
        entry = {"pictures": len(labels), "inputs": found.weight.shape[1], "loss": found.loss, "lacking": lacking}
        entry |= {"gradient": found.gradient, "evaluations": found.evaluations}
        job.say(f"  last layer: {len(labels)} images, {entry['inputs']} inputs, loss {found.loss:.4f}")
        layer = job.network.module.get_submodule(place.layer)
        weight = found.weight.float().cpu()
        weight = weight[:, :, None, None] if isinstance(layer, nn.Conv2d) else weight
        return {f"{place.layer}.weight": weight, f"{place.layer}.bias": found.bias.float().cpu()}, [entry]

    def _all(
        self, job: FitJob, place: LastLayer, positions: Sequence[int]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Any]]]:
        """Train all weights; return the network, its weights and the log."""
        layer: Any = job.network.module.get_submodule(place.layer)
        k, log = len(job.dataset.classes), []
        head = {f"{place.layer}.weight": torch.zeros(k, layer.weight.shape[1]), f"{place.layer}.bias": torch.zeros(k)}
        if not job.checkpoint.is_file():  # which has all weights and the log
            head, log = self._last(job, place, positions)
        module = _headed(job, place, head)
        tensors = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        groups = [{"params": list(tensors.values()), "factor": 1}]
        optimizer = torch.optim.SGD(groups, self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        state = Descent(tensors, optimizer, log=log)
        descend(job, _Whole(self, module, _exclusive(job.dataset)), state, positions)
        module.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()}, strict=False)
        return module, dict(module.state_dict()), state.log


@dataclass(frozen=True, slots=True)
class _Whole(Scheduled):
    """The model that `descend` trains: all weights of a network with its new head."""

    options: ClassifierFit
    module: nn.Module
    exclusive: bool

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of the weights in `state`."""
        labels = torch.stack([class_labels(truth, len(job.dataset.classes)) for truth in batch.truths])
        pixels, labels = to_device(job.network.device, pixels, labels)
        images = job.network.preprocess.normalize(pixels, job.network.dtype)
        logits = logits_of(functional_call(self.module, state.tensors, (images,)))
        return {"ce": loss(logits, labels, self.exclusive)}


def _exclusive(dataset: Dataset) -> bool:
    """Whether each image belongs to exactly one class."""
    return dataset.truth(0).foreground == "label"


def _headed(job: FitJob, place: LastLayer, tensors: dict[str, Tensor]) -> nn.Module:
    """A copy of the network with the head, in eval mode and frozen."""
    module = copy.deepcopy(job.network.module)
    put(module, place, tensors[f"{place.layer}.weight"].flatten(1), tensors[f"{place.layer}.bias"])
    return module.eval().requires_grad_(False)


def _scores(job: FitJob, module: nn.Module, positions: Sequence[int], size: int, title: str) -> tuple[Tensor, Tensor]:
    """Logits and labels, (n, K) both, of those images that can be decoded."""
    grid = [positions[start : start + size] for start in range(0, len(positions), size)]
    scores, labels = [], []
    with tqdm(total=len(positions), desc=f"{job.network.name}, {title}", unit="img") as bar, evaluating(module):
        for batch in job.batches(grid, job.network.preprocess):
            (pixels,) = to_device(job.network.device, batch.images)
            images = job.network.preprocess.normalize(pixels, job.network.dtype)
            with torch.no_grad():
                scores.append(network_logits(module, images).float().cpu())
            labels += [class_labels(truth, len(job.dataset.classes)) for truth in batch.truths]
            bar.update(len(batch.index))
    if _exclusive(job.dataset) and (lacking := [i for i, y in enumerate(labels) if not y.any()]):
        raise ValueError(f"{len(lacking)} images of {job.dataset.name} are of no class; leave them out")
    if not labels:
        raise ValueError(f"none of {len(positions)} images of {job.dataset.name} could be decoded")
    return torch.cat(scores), torch.stack(labels)


def _ranking(job: FitJob, module: nn.Module, positions: Sequence[int], size: int) -> dict[str, Any]:
    """Print average precision on the held-out images, and return it as an entry of the log (fractions of 1)."""
    scores, labels = _scores(job, module, positions, size, "images held out")
    exclusive = _exclusive(job.dataset)
    ranks = scores.double().log_softmax(1) if exclusive else scores.double()
    each = [average_precision(s.numpy(), y.numpy()) for s, y in zip(ranks.T, labels.T, strict=True)]
    positives = (labels > 0).sum(0).tolist()
    defined = np.array([ap for ap, n in zip(each, positives, strict=True) if n])
    entry: dict[str, Any] = {"held_out": len(labels), "classes": len(defined)}
    if len(defined):
        entry |= {"mAP": float(defined[:, 0].mean()), "mAP_11": float(defined[:, 1].mean())}
    rows = zip(job.dataset.classes, positives, each, strict=True)
    entry["AP"] = {name: {"n": n, "all_points": ap[0], "11_points": ap[1]} for name, n, ap in rows if n}
    lines = [[name, ap["n"], ap["all_points"], ap["11_points"]] for name, ap in entry["AP"].items()]
    lines.append([f"mean of {len(defined)}", len(labels), entry.get("mAP"), entry.get("mAP_11")])
    shown = [[name, n, *(f"{100 * value:.1f}" for value in values if value is not None)] for name, n, *values in lines]
    table = tabulate(shown, ["class", "images", "AP %, all points", "11 points"], disable_numparse=True)
    job.say(f"  average precision on the {len(labels)} images held out\n{table}")
    if exclusive:
        entry["accuracy"] = float((scores.argmax(1) == labels.argmax(1)).double().mean())
        job.say(f"  first class right: {100 * entry['accuracy']:.1f} % of {len(labels)}")
    return entry
