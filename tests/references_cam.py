"""References of the CAM family: pytorch-grad-cam and torchcam without their scaling, and independent formulas."""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchcam.methods
from references import OWN, Case, Pair, one_by_one
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn

from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.cam import CAM
from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.eigencam_variants import KPCACAM, EigenGradCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, SmoothGradCAMPlusPlus, XGradCAM
from eigencam.methods.randomness import normal
from eigencam.methods.shapleycam import ShapleyCAM
from eigencam.networks.network import Network

THEIRS = "pytorch-grad-cam"
THEIR_DEFAULTS = "torchcam, its defaults"
LAYERS = ("features.6", "features.13", "features.18")
"""Layers of MobileNetV2 whose maps are fused."""


def activations_of(case: Case) -> Tensor:
    """Return (N, C, h, w) float64 of the target layer."""
    kept: list[Tensor] = []
    module = case.module()
    handle = module.get_submodule(case.network.layer).register_forward_hook(lambda *seen: kept.append(seen[2]))
    with torch.no_grad():
        module(case.inputs)
    handle.remove()
    return kept[-1]


def rest(logits: Tensor, target: int) -> Tensor:
    """Return the score that ShapleyCAM's paper proposes, of (K,) logits."""
    return logits[target] + logits.log_softmax(0)[target]


def of_grad_cam(name: str, score: Callable[[Tensor, int], Tensor] = operator.getitem) -> Callable[[Case], Tensor]:
    """Return the reference for a class of pytorch-grad-cam: its map before it is rectified, scaled and enlarged."""
    return one_by_one_at_layer(partial(_grad_cam, name, score))


def one_by_one_at_layer(maps: Callable[[str, nn.Module, Tensor, Tensor], Tensor]) -> Callable[[Case], Tensor]:
    """Return `one_by_one` of a function that also gets the target layer."""
    return lambda case: one_by_one(partial(maps, case.network.layer))(case)


def _grad_cam(
    name: str, of: Callable[[Tensor, int], Tensor], layer: str, module: nn.Module, x: Tensor, target: Tensor
) -> Tensor:
    at, asked = module.get_submodule(layer), [lambda logits: of(logits, int(target))]
    with getattr(pytorch_grad_cam, name)(model=module, target_layers=[at]) as cam:
        x = x.clone().requires_grad_()
        score = asked[0](cam.activations_and_grads(x)[0])
        if cam.uses_gradients:
            torch.autograd.grad(score, x, retain_graph=True, create_graph=not cam.detach)
        (activations,) = cam.activations_and_grads.activations
        (gradients,) = cam.activations_and_grads.gradients or [None]
        if cam.detach:
            activations, gradients = (None if v is None else v.detach().numpy() for v in (activations, gradients))
        found = cam.get_cam_image(x, at, asked, activations, gradients, eigen_smooth=False)
    return torch.as_tensor(np.asarray(found.detach() if isinstance(found, Tensor) else found))


def rectified(maps: Callable[[Case], Tensor]) -> Callable[[Case], Tensor]:
    """Return a reference with a ReLU at its end."""
    return lambda case: maps(case).relu()


def signed(maps: Callable[[Case], Tensor], *, weighted: bool = False) -> Callable[[Case], Tensor]:
    """Return a reference with the sign by the energy of the decomposed values, not LAPACK's; then rectified.

    Args:
        maps: the reference.
        weighted: whether the activations are multiplied with their gradients before they are centred.
    """

    def made(case: Case) -> Tensor:
        activations, gradients = at_layer(case, case.inputs)
        of = activations * gradients if weighted else activations
        found, energy = maps(case), (of - of.mean((2, 3), keepdim=True)).square().sum(1)
        agree = (found * (energy - energy.mean((1, 2), keepdim=True))).sum((1, 2), keepdim=True)
        return (found * torch.where(agree < 0, -1.0, 1.0)).relu()

    return made


def of_torchcam(name: str, **options: Any) -> Callable[[Case], Tensor]:
    """Return the reference for a class of torchcam, not scaled."""
    return one_by_one_at_layer(partial(_torchcam, name, options))


def _torchcam(name: str, options: dict[str, Any], layer: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    with getattr(torchcam.methods, name)(module, layer, **options) as cam:
        logits = module(x.clone().requires_grad_())
        (found,) = cam([int(target)], logits, normalized=False)
    return found


def at_layer(case: Case, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target layer's activations (N, C, h, w) and the gradient of the targets' logits."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1].clone()

    module = case.module()
    handle = module.get_submodule(case.network.layer).register_forward_hook(keep)
    score = module(inputs).gather(1, case.targets[:, None]).sum()
    handle.remove()
    return kept[-1].detach(), torch.autograd.grad(score, kept[-1])[0]


def plus_plus(case: Case) -> Tensor:
    """Return Grad-CAM++ by equations 5, 11 and 19 of its paper, without cancelling powers of the gradient."""
    a, g = at_layer(case, case.inputs)
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3).where(g != 0, torch.ones_like(g))
    return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()


def smooth_plus_plus(samples: int) -> Callable[[Case], Tensor]:
    """Return Smooth Grad-CAM++ under the noise of `SmoothGradCAMPlusPlus(samples)`."""

    def made(case: Case) -> Tensor:
        x, index = case.inputs, torch.arange(len(case.images))
        spread = 0.1 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
        noise = [normal(index, tuple(x.shape[1:]), k).double() for k in range(samples)]
        g = torch.stack([at_layer(case, x + spread * one)[1] for one in noise])
        a, (first, second, third) = activations_of(case), [(g**power).mean(0) for power in (1, 2, 3)]
        below = 2 * second + a.sum((2, 3), keepdim=True) * third
        alpha = torch.where(below != 0, second / below.where(below != 0, torch.ones_like(below)), 0.0)
        return ((alpha * first.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()

    return made


def fused(case: Case) -> Tensor:
    """Return LayerCAM over `LAYERS` by equation 9 of its paper: tanh(2 M / max M) of each map, then the maximum."""
    maps = []
    for layer in LAYERS:
        other = replace(case, network=replace(case.network, layer=layer))
        activations, gradients = at_layer(other, case.inputs)
        cam = (gradients.relu() * activations).sum(1).relu()
        maps.append((2 * cam / cam.amax((1, 2), keepdim=True)).tanh())
    return largest(maps)


def fused_by_torchcam(case: Case) -> Tensor:
    """Return torchcam's LayerCAM over `LAYERS`, fused by its `fuse_cams`."""
    found = []
    for x, target in zip(case.inputs, case.targets.tolist(), strict=True):
        module = case.module()
        with torchcam.methods.LayerCAM(module, list(LAYERS)) as cam:
            found.append(cam.fuse_cams(cam([target], module(x[None].requires_grad_()))).detach())
    return torch.cat(found)


def largest(maps: list[Tensor]) -> Tensor:
    """Return the maximum of maps (N, h, w), enlarged to the largest."""
    size = max((m.shape[1:] for m in maps), key=lambda shape: shape[0])
    enlarged = [F.interpolate(m[:, None], size, mode="bilinear", align_corners=False)[:, 0] for m in maps]
    return torch.stack(enlarged).amax(0)


def without_layers(network: Network) -> str:
    """Return why a network has no fused map; "" if it has one."""
    names = {name for name, _ in network.module.named_modules()}
    return "" if names >= set(LAYERS) else f"no layers {', '.join(LAYERS)}"


def first_singular(case: Case) -> Tensor:
    """Return |O v_1|: for activations of one sign, all entries of the first vector have one sign."""
    o = activations_of(case).flatten(2).mT
    _, _, v = torch.linalg.svd(o, full_matrices=False)
    found = (o @ v[:, :1].mT)[:, :, 0]
    found = found * found.sum(1, keepdim=True).sign()
    return found.view(len(o), *activations_of(case).shape[2:])


def kernel_pca(kernel: str, width: float | None = None) -> Callable[[Case], Tensor]:
    """Return the reference of `KPCACAM(kernel, width=width, clip=False)` up to its sign."""

    def made(case: Case) -> Tensor:
        found = []
        for one in activations_of(case).numpy():
            x = one.reshape(len(one), -1).T
            x = x - x.mean(0)
            gamma = None if width is None else 1 / (2 * width**2 * x.var(0).sum())
            found.append(KernelPCA(1, kernel=kernel, gamma=gamma).fit_transform(x).reshape(one.shape[1:]))
        return torch.from_numpy(np.stack(found))

    return made


def linear_head(case: Case) -> Tensor:
    """Return CAM by the logit's derivative with respect to the pooled channels: the weights of a linear head."""
    activations, gradient = at_layer(case, case.inputs)
    return (gradient.sum((2, 3), keepdim=True) * activations).sum(1)


PAIRS = [
    Pair("eigencam", EigenCAM(), OWN, first_singular),
    Pair("eigencam_centered", EigenCAM(center=True, sign="energy", clip=True), THEIRS, signed(of_grad_cam("EigenCAM"))),
    Pair("kpcacam", KPCACAM(), "scikit-learn", signed(kernel_pca("sigmoid"))),
    Pair("kpcacam_rbf width=1", KPCACAM("rbf", width=1.0), "scikit-learn", signed(kernel_pca("rbf", 1.0))),
    Pair("seg_eigencam", EigenGradCAM(absolute=True, sign="extreme"), THEIRS, rectified(of_grad_cam("SegEigenCAM"))),
    Pair("cam", CAM(), OWN, linear_head),
    Pair("gradcam", GradCAM(), THEIRS, rectified(of_grad_cam("GradCAM"))),
    Pair("eigengradcam", EigenGradCAM(), THEIRS, signed(of_grad_cam("EigenGradCAM"), weighted=True)),
    Pair("gradcampp", GradCAMPlusPlus(), OWN, plus_plus),
    Pair("gradcampp", GradCAMPlusPlus(), THEIRS, rectified(of_grad_cam("GradCAMPlusPlus"))),
    Pair("xgradcam", XGradCAM(), THEIRS, rectified(of_grad_cam("XGradCAM"))),
    Pair("hirescam", HiResCAM(), THEIRS, rectified(of_grad_cam("HiResCAM"))),
    Pair("layercam", LayerCAM(), THEIRS, rectified(of_grad_cam("LayerCAM"))),
    Pair("layercam layers", LayerCAM(LAYERS), OWN, fused, unfit=without_layers),
    Pair("layercam layers", LayerCAM(LAYERS), THEIR_DEFAULTS, fused_by_torchcam, unfit=without_layers),
    Pair("shapleycam", ShapleyCAM(), THEIRS, rectified(of_grad_cam("ShapleyCAM", rest))),
    Pair("shapleycam score=logit", ShapleyCAM("logit"), THEIRS, rectified(of_grad_cam("ShapleyCAM"))),
    Pair("ablationcam", AblationCAM(), THEIRS, rectified(of_grad_cam("AblationCAM"))),
    Pair("smoothgradcampp samples=5", SmoothGradCAMPlusPlus(5), OWN, smooth_plus_plus(5)),
    Pair("smoothgradcampp", SmoothGradCAMPlusPlus(), THEIR_DEFAULTS, rectified(of_torchcam("SmoothGradCAMpp"))),
]
