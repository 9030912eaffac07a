"""References of the CAM family since 2020: libraries, the authors' code, and independent formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_grad_cam
import pytorch_grad_cam.sess
import references_authors as authors
import torch
import torch.nn.functional as F
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from references import OWN, Case, Pair, one_by_one
from references_cam import (
    THEIRS,
    activations_of,
    at_layer,
    of_grad_cam,
    of_torchcam,
    one_by_one_at_layer,
    plus_plus,
    rectified,
)
from torch import Tensor, nn

from eigencam.methods.base import Method
from eigencam.methods.fem import FEM
from eigencam.methods.finer import FinerCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import LayerCAM
from eigencam.methods.group import GroupCAM
from eigencam.methods.randomness import normal
from eigencam.methods.recipro import ReciproCAM
from eigencam.methods.refine import RefineCAM
from eigencam.methods.smoothing import AugSmooth, EigenSmooth, Smooth
from eigencam.methods.stages import stages_of
from eigencam.networks.network import Network
from eigencam.passes.tail import tail


def unit(maps: Tensor) -> Tensor:
    """Return (N, ...) each scaled to 0..1."""
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    return ((flat.T - low) / (high - low)).T.view_as(maps)


class Scaled:
    """A method with its maps scaled to 0..1, as some codes return them.

    Args:
        method: the method.
        first: applied to its maps (N, h, w) first.
        enlarged: whether they are then enlarged to the input's size.
        last: scales them.
    """

    def __init__(
        self,
        method: Method,
        enlarged: bool = False,
        first: Callable[[Tensor], Tensor] = lambda maps: maps,
        last: Callable[[Tensor], Tensor] = unit,
    ) -> None:
        self.method, self.enlarged, self.first, self.last = method, enlarged, first, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def __call__(self, forward: Any, targets: Tensor) -> Tensor:
        found = self.first(self.method(forward, targets))  # type: ignore[arg-type]
        if self.enlarged:
            found = F.interpolate(found[:, None], forward.images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return self.last(found)


def finer(logits: Tensor, target: int) -> Tensor:
    """Return the score that pytorch-grad-cam's Finer-CAM explains, of (K,) logits."""
    away = logits.detach().numpy()
    order = np.argsort(np.abs(away - away[target]))
    assert order[0] == target
    return torch.as_tensor(FinerWeightedTarget(target, [int(k) for k in order[1:4]], 1)(logits))


def k_sigma(case: Case) -> Tensor:
    """Return FEM as Xplique computes it: channels last, mean and deviation by axes, binary masks times the means."""
    maps = activations_of(case).permute(0, 2, 3, 1).numpy()
    means, deviations = maps.mean((1, 2), keepdims=True), maps.std((1, 2), keepdims=True)
    return torch.from_numpy(((maps >= means + 2 * deviations).astype(maps.dtype) * means).sum(-1))


def names(network: Network) -> list[str]:
    """Return RefineCAM's layers."""
    return list(stages_of(network.examined(), network.layer))


def one_size(network: Network) -> str:
    """Return why a network has no stages; "" if it has."""
    return "" if len(names(network)) > 1 else "its maps are of one size"


def refined_by_torchcam(case: Case) -> Tensor:
    """Return torchcam's RefineCAM of LayerCAM over the stages, without its final scaling."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        base: Any = torchcam.methods.LayerCAM
        with torchcam.methods.RefineCAM(module, list(names(case.network)), base_method=base) as cam:
            return cam(int(target), module(x.requires_grad_()), normalized=False)[0]

    return one_by_one(made)(case)


def refined_by_grad_cam(case: Case) -> Tensor:
    """Return the product of maps in pytorch-grad-cam's RefineCAM of LayerCAM, without its final scaling."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        layers = [module.get_submodule(name) for name in names(case.network)]
        asked: list[Any] = [ClassifierOutputTarget(int(target))]
        base: Any = pytorch_grad_cam.LayerCAM
        refined = pytorch_grad_cam.RefineCAM(module, layers, base_method=base)
        return torch.from_numpy(np.prod([each(x, asked) for each in refined.base_cam_per_layer], axis=0))

    return one_by_one(made)(case)


def refined(case: Case) -> Tensor:
    """Return RefineCAM of Grad-CAM++ by the papers' formulas, float64."""
    maps = [unit(plus_plus(replace(case, network=replace(case.network, layer=name)))) for name in names(case.network)]
    size = max(tuple(m.shape[1:]) for m in maps)
    product = torch.ones(len(maps[0]), *size, dtype=torch.float64)
    for one in maps:
        product = product * F.interpolate(one[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return product


def augmented(layer: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return pytorch-grad-cam's Grad-CAM with `aug_smooth`, at the layer's resolution."""

    class AtLayer(pytorch_grad_cam.GradCAM):
        def get_target_width_height(self, input_tensor: Tensor) -> Any:
            return tuple(self.activations_and_grads.activations[0].shape[:1:-1])

    asked: list[Any] = [ClassifierOutputTarget(int(target))]
    with AtLayer(model=module, target_layers=[module.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(x, asked, aug_smooth=True))


def eigen(layer: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return pytorch-grad-cam's Grad-CAM with `eigen_smooth`, before it is scaled; the sign is LAPACK's."""
    at = module.get_submodule(layer)
    with pytorch_grad_cam.GradCAM(model=module, target_layers=[at]) as cam:
        x = x.clone().requires_grad_()
        torch.autograd.grad(cam.activations_and_grads(x)[0, int(target)], x)
        (a,), (g,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        found = cam.get_cam_image(x, at, [], a.detach().numpy(), g.numpy(), eigen_smooth=True)
    weighted = g.mean((2, 3), keepdim=True) * a.detach()
    energy = (weighted - weighted.mean((2, 3), keepdim=True)).square().sum(1)
    made = torch.from_numpy(found).double()
    agree = (made * (energy - energy.mean())).sum()
    return (made * (-1 if agree < 0 else 1)).relu()


def grad_cam_of(case: Case, inputs: Tensor) -> Tensor:
    """Return Grad-CAM of other inputs."""
    a, g = at_layer(case, inputs)
    return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()


def noisy(samples: int) -> Callable[[Case], Tensor]:
    """Return the mean Grad-CAM under the noise of `Smooth(samples)`."""

    def made(case: Case) -> Tensor:
        x, index = case.inputs, torch.arange(len(case.images))
        spread = 0.15 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
        noise = [normal(index, tuple(x.shape[1:]), k).double() for k in range(samples)]
        return torch.stack([grad_cam_of(case, x + spread * one) for one in noise]).mean(0)

    return made


def alone(case: Case) -> Tensor:
    """Return the class's probability for each position of the activations alone, one after the other."""
    behind = tail(case.module(), case.network.layer, tuple(case.inputs.shape[2:]))
    found = torch.zeros_like(activations_of(case)[:, 0])
    for n, (a, target) in enumerate(zip(activations_of(case), case.targets, strict=True)):
        for v, u in np.ndindex(*a.shape[1:]):
            kept = torch.zeros_like(a)
            kept[:, v, u] = a[:, v, u]
            with torch.no_grad():
                found[n, v, u] = behind(kept[None]).softmax(1)[0, target]
    return found


PAIRS = [
    Pair("fem", FEM(), "Xplique's formula in NumPy", k_sigma),
    Pair("fem_share", FEM(weights="share"), THEIRS, of_grad_cam("FEM")),
    Pair("finercam", FinerCAM(GradCAM()), THEIRS, rectified(of_grad_cam("GradCAM", finer))),
    Pair("finercam/layercam", FinerCAM(LayerCAM()), THEIRS, rectified(of_grad_cam("LayerCAM", finer))),
    Pair("finercam_mean", FinerCAM(GradCAM(), 0.6, weights="equal"), "torchcam", rectified(of_torchcam("FinerCAM"))),
    Pair("refinecam", RefineCAM(GradCAMPlusPlus()), OWN, refined, unfit=one_size),
    Pair("refinecam/layercam", RefineCAM(LayerCAM()), "torchcam", refined_by_torchcam, unfit=one_size),
    Pair(
        "refinecam_input/layercam",
        RefineCAM(LayerCAM(), grid="input"),
        THEIRS,
        refined_by_grad_cam,
        unfit=one_size,
    ),
    Pair("aug_smooth", AugSmooth(GradCAM()), THEIRS, one_by_one_at_layer(augmented)),
    Pair("eigen_smooth", EigenSmooth(GradCAM()), THEIRS, one_by_one_at_layer(eigen)),
    Pair("smooth samples=3", Smooth(GradCAM(), 3), OWN, noisy(3)),
    Pair("reciprocam", ReciproCAM(scaled=False), OWN, alone),
    Pair("reciprocam", ReciproCAM(), authors.RECIPRO, authors.recipro, unfit=authors.absent(authors.RECIPRO)),
    Pair(
        "groupcam", Scaled(GroupCAM(), enlarged=True), authors.GROUP, authors.group, unfit=authors.absent(authors.GROUP)
    ),
]
