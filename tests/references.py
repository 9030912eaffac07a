"""Methods compared with independent code on the same network and images; used by `scripts/agreement.py` and by tests.

A family of methods has a module `references_FAMILY.py` with a list `PAIRS`. A `Pair` names a method, the code or
formula that it is compared with, and the function that makes the reference's maps of a `Case`. Everything is in
float64, so differences come from definitions and not from rounding.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from eigencam.configuring.compose import compose
from eigencam.methods.base import Method, maps_of, needs_gradient, tapped
from eigencam.methods.refusal import refusal
from eigencam.networks.network import Network
from eigencam.passes.forward import Forward
from eigencam.running.prepare import prepare

OWN = "own float64 formula"
NEEDED = ("method=[random]", "evaluator=[energy]", "target=predicted")  # a run names some of each


@dataclass(frozen=True, slots=True)
class Case:
    """Images for which the maps of a method are compared.

    Attributes:
        network: in float64.
        images: (N, 3, H, W) uint8 RGB of the network's input size.
        targets: (N,) int64 classes.
        originals: the images' files, (H, W, 3) uint8 of any size, for methods that start from files; empty without
        files.
    """

    network: Network
    images: Tensor
    targets: Tensor
    originals: tuple[NDArray[np.uint8], ...] = ()

    @property
    def inputs(self) -> Tensor:
        """(N, 3, H, W) float64, normalised."""
        return self.network.preprocess.normalize(self.images, torch.float64)

    def forward(self) -> Forward:
        """The pass of the network, with gradients with respect to the target layer."""
        return self.network.forward(self.images, gradients=True)

    def module(self) -> nn.Module:
        """A copy of the network without in-place operations, for code that sets hooks or changes modules."""
        module = copy.deepcopy(self.network.module)
        for each in module.modules():
            if hasattr(each, "inplace"):
                each.inplace = False  # type: ignore[assignment]
        return module.eval()


def case_of(model: str, images: int, overrides: Sequence[str] = ()) -> Case:
    """Return images spread over a dataset, with a network's predicted classes as targets.

    Args:
        model: an option of the model group, optionally followed by overrides.
        images: number of images.
        overrides: Hydra overrides, including the dataset.
    """
    name, *words = model.split()
    job = prepare(compose("run", [f"model={name}", *NEEDED, *words, *overrides]))
    job.network.module.double()
    rows = np.linspace(0, len(job.dataset.ids) - 1, images).astype(int).tolist()
    originals = tuple(job.dataset.image(row) for row in rows)
    inputs = torch.stack([torch.from_numpy(job.network.preprocess(image)[0]) for image in originals])
    return Case(job.network, inputs, job.network.forward(inputs).logits.argmax(1), originals)


@dataclass(frozen=True, slots=True)
class Pair:
    """A method and its reference.

    Attributes:
        name: the method as in `configs/method`, with parameters that differ: `lrp_zplus bias=drop`.
        method: with these parameters.
        reference: the source of the reference with its version, or `OWN`.
        maps: makes the reference's maps (N, h, w) of a case.
        package: an optional distribution that the reference needs.
        unfit: why the reference cannot run on a network; "" if it can.
    """

    name: str
    method: Method
    reference: str
    maps: Callable[[Case], Tensor]
    package: str = ""
    unfit: Callable[[Network], str] = lambda _network: ""

    def refusal(self, network: Network) -> str:
        """Return why the two cannot be compared on a network; "" if they can."""
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return self.unfit(network) or refusal(self.method, network)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two sets of N maps agree.

    Attributes:
        rhos: Spearman's rank correlation over the map's positions, of each image; NaN where a map is constant.
        differences: largest absolute difference of each image, relative to the reference's largest absolute value.
    """

    rhos: tuple[float, ...]
    differences: tuple[float, ...]


def compare(pair: Pair, case: Case) -> Agreement:
    """Return how a method's maps agree with the reference's."""
    layers = tapped(pair.method)
    forward = case.network.forward(case.images, layers=layers, gradients=needs_gradient(pair.method))
    forward.population = len(case.images), lambda k: case.images[k].numpy()
    if case.originals:
        forward.original = case.originals.__getitem__
        forward.regions = tuple((0.0, 0.0, float(file.shape[1]), float(file.shape[0])) for file in case.originals)
    return agreement(maps_of(pair.method, forward, case.targets), pair.maps(case))


def agreement(ours: Tensor, theirs: Tensor) -> Agreement:
    """Return how maps (N, h, w) agree with a reference's of the same shape."""
    if ours.shape != theirs.shape:
        raise ValueError(f"maps of {tuple(ours.shape)} cannot be compared with a reference's {tuple(theirs.shape)}")
    found = ours.detach().double().cpu().flatten(1), theirs.detach().double().cpu().flatten(1)
    rhos, differences = list[float](), list[float]()
    for mine, reference in zip(*found, strict=True):
        varies = all(float(x.max() - x.min()) > 0 for x in (mine, reference))
        rhos.append(rank_correlation(mine, reference) if varies else torch.nan)
        scale = float(reference.abs().max()) or 1.0
        differences.append(float((mine - reference).abs().max()) / scale)
    return Agreement(tuple(rhos), tuple(differences))


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's correlation of two vectors; equal values share their mean rank."""
    first, second = (torch.from_numpy(rankdata(x.numpy())) for x in (a, b))
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def one_by_one(maps: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable[[Case], Tensor]:
    """Return a reference from a function that makes one image's map (1, h, w) from (module, inputs, targets)."""
    return partial(_one_by_one, maps)


def _one_by_one(maps: Callable[[nn.Module, Tensor, Tensor], Tensor], case: Case) -> Tensor:
    made: Sequence[Tensor] = [
        maps(case.module(), x[None], y[None]) for x, y in zip(case.inputs, case.targets, strict=True)
    ]
    return torch.cat([one.detach() for one in made])
