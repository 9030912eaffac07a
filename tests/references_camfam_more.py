"""References of the CAM family's methods that use relevance, masks, steps or many layers; see `references_camfam`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import captum.attr
import numpy as np
import pytorch_grad_cam
import pytorch_grad_cam.sess
import references_authors as authors
import torch
import torch.nn.functional as F
from graph_walk import Node, walk
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from references import OWN, Case, Pair
from references_cam import (
    THEIRS,
    activations_of,
    at_layer,
    of_grad_cam,
    one_by_one_at_layer,
    rectified,
)
from references_camfam import Scaled, grad_cam_of, names, one_size
from references_gradients import shares, sums
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn

from eigencam.methods.blur_ig import BlurIG
from eigencam.methods.decom import DecomCAM
from eigencam.methods.expected import ExpectedGradients
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.integrated_gradcam import IntegratedGradCAM
from eigencam.methods.lift import LIFTCAM
from eigencam.methods.opti import OptiCAM
from eigencam.methods.poly import PolyCAM, channel_masks
from eigencam.methods.randomness import uniform
from eigencam.methods.relevance_cam import RelevanceCAM
from eigencam.methods.sensitivity_indices import HSICAttribution, SobolAttribution
from eigencam.methods.sess import SESS
from eigencam.methods.zoom import ZoomCAM
from eigencam.networks.network import Network
from eigencam.passes.tail import tail


def between_percentiles(method: PolyCAM) -> Scaled:
    """Return Poly-CAM as its authors return it: scaled as a mask is, then enlarged."""
    return Scaled(method, True, lambda maps: channel_masks(maps[:, None])[:, 0], lambda maps: maps)


def against_references(case: Case) -> Tensor:
    """Return Captum's GradientShap with the images as references, each used once, at our interpolation factors."""
    count, order = len(case.images), np.arange(len(case.images))
    drawn = uniform(torch.arange(count), (count,), 0).double().numpy()
    found = []
    with patch("numpy.random.choice", lambda *_: order):
        for x, y, of in zip(case.inputs, case.targets, drawn, strict=True):
            with patch("numpy.random.uniform", lambda *_, of=of: of):
                shap = captum.attr.GradientShap(case.module())
                made = shap.attribute(x[None], case.inputs, n_samples=count, stdevs=0.0, target=int(y))
            found.append(made.sum(1).detach())
    return torch.cat(found)


def lifted(case: Case) -> Tensor:
    """Return LIFT-CAM by Captum's DeepLIFT of the part behind the layer, as the authors compute it."""
    found = []
    for a, y in zip(activations_of(case), case.targets, strict=True):
        behind = tail(case.module(), case.network.layer, tuple(case.inputs.shape[2:]))
        weights = captum.attr.DeepLift(behind).attribute(a[None], torch.zeros_like(a[None]), target=int(y)).sum((2, 3))
        found.append(torch.einsum("nc,chw->nhw", weights, a).relu().detach())
    return torch.cat(found)


def beyond_captum(network: Network) -> str:
    """Return the operations behind the layer that Captum's DeepLIFT silently has no rule for; "" if there are none."""
    kinds = {type(m).__name__ for m in tail(network.module, network.layer, network.preprocess.shape).modules()}
    unknown = kinds & {"ReLU6", "Hardswish", "SiLU", "GELU", "LayerNorm", "LocalResponseNorm"}
    return f"Captum's DeepLIFT has no rule for {', '.join(sorted(unknown))}" if unknown else ""


def relevant(case: Case) -> Tensor:
    """Return Relevance-CAM by explicit rules over the graph."""

    def layer(node: Node, relevance: Tensor) -> tuple[Tensor]:
        (x,), weight = node.inputs, node.module.weight
        terms = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        bias = node.module.bias if node.kind == "conv" else None
        return (shares(node.module, terms, sums(node.module, terms, None if bias is None else 2 * bias), relevance),)

    logits = case.module()(case.inputs)
    start = torch.full_like(logits, -1 / logits.shape[1]).scatter(1, case.targets[:, None], 1.0).detach()
    rules: dict[str, Any] = {"conv": layer, "linear": layer, "activation": lambda _node, arriving: (arriving,)}
    with torch.no_grad():
        found = walk(case.network.module, case.inputs, start, rules, Node.shared)[case.network.layer]
    return (found.mean((2, 3), keepdim=True) * activations_of(case)).sum(1)


def normalised(network: Network) -> str:
    """Return why the walk, which merges batch norms, differs from the authors' rule; "" without batch norms."""
    return (
        "batch norms: theirs pass relevance on"
        if any(isinstance(m, nn.BatchNorm2d) for m in network.module.modules())
        else ""
    )


def integrated(steps: int) -> Callable[[Case], Tensor]:
    """Return the mean of the authors' left sum of Grad-CAMs."""

    def made(case: Case) -> Tensor:
        black = case.network.preprocess.normalize(torch.zeros(1, 3, 1, 1), torch.float64)
        maps = [grad_cam_of(case, black + i / steps * (case.inputs - black)) for i in range(steps)]
        return torch.stack(maps).mean(0)

    return made


def zoomed(case: Case) -> Tensor:
    """Return Zoom-CAM's formula over pytorch-grad-cam's HiResCAM of each convolution, in the order of execution."""
    order, module = list[str](), case.module()
    handles = [
        m.register_forward_hook(lambda _m, _i, _o, name=name: order.append(name))
        for name, m in module.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    module(case.inputs[:1])
    for handle in handles:
        handle.remove()
    fused: Tensor | None = None
    for name in reversed(order):
        of = replace(case, network=replace(case.network, layer=name))
        cam = rectified(of_grad_cam("HiResCAM"))(of)
        if min(cam.shape[1:]) < 2:
            continue
        low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
        cam = (cam - low) / high.where(high > 0, torch.ones_like(high))
        if fused is not None:
            size = tuple(cam.shape[1:])
            cam = torch.maximum(cam, F.interpolate(fused[:, None], size, mode="bilinear", align_corners=False)[:, 0])
        fused = cam
    assert fused is not None
    return fused


def pasted(scales: int) -> Callable[[Case], Tensor]:
    """Return pytorch-grad-cam's SESS of Grad-CAM, before its final scaling."""

    def made(layer: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        with pytorch_grad_cam.sess.SESS(module, [module.get_submodule(layer)], num_scales=scales) as sess:
            asked: Any = ClassifierOutputTarget(int(target))
            return torch.from_numpy(sess.forward_single_image(x, asked))[None]

    return one_by_one_at_layer(made)


def decomposed(case: Case) -> Tensor:
    """Return DecomCAM by scikit-learn's principal components and SciPy's blur, in the authors' loop."""
    activations, gradients = at_layer(case, case.inputs)
    found = []
    for x, target, a, g in zip(case.inputs, case.targets, activations, gradients, strict=True):
        alpha = g.mean((1, 2))
        chosen = alpha.argsort(descending=True)[:500]
        points = (a[chosen] * alpha[chosen, None, None]).flatten(1).T.numpy()
        scores = PCA(min(10, len(points) - 1, points.shape[1])).fit_transform(points)
        maps = torch.from_numpy(scores.T.copy()).view(-1, 1, *a.shape[1:]).relu()
        maps = F.interpolate(maps, x.shape[1:], mode="bicubic", align_corners=False)
        blurred = torch.from_numpy(np.stack([gaussian_filter(c, 10) for c in x.numpy()]))
        masks = [m - m.min() for m in maps]
        masks = [m / m.max() if m.max() > 0 else m for m in masks]
        with torch.no_grad():
            answers = case.module()(torch.stack([torch.maximum(x * m, blurred * (1 - m)) for m in masks]))[:, target]
        weights = torch.where(answers < 0.001, 0.0, answers / answers.max())
        found.append((weights[:, None, None] * maps[:, 0]).sum(0))
    return torch.stack(found)


def dependence(designs: int, cells: int) -> Callable[[Case], Tensor]:
    """Return HSIC from the centred Gram matrices of Xplique's kernels, for the masks of `HSICAttribution`."""

    def made(case: Case) -> Tensor:
        visible = (uniform(torch.arange(designs), (cells**2,), 0) < 0.5).double()
        centre, module = torch.eye(designs, dtype=torch.float64) - 1 / designs, case.module()
        found = []
        for x, target in zip(case.inputs, case.targets, strict=True):
            with torch.no_grad():
                masks = F.interpolate(visible.view(-1, 1, cells, cells), x.shape[1:])
                y = torch.cat([module(x[None] * mask)[:, target] for mask in masks])
            output = torch.exp(-((y[:, None] - y) ** 2) / (2 * float(np.median(y.numpy())) ** 2))
            kernels = [1 + 0.5 - (z[:, None] - z) ** 2 for z in visible.T]
            scores = [((centre @ k @ centre) * (centre @ output @ centre)).sum() / designs for k in kernels]
            found.append(torch.stack(scores).view(cells, cells))
        return torch.stack(found)

    return made


REFINED = ("features.3", "features.6", "features.13")
"""Layers of MobileNetV2, for Poly-CAM."""


def wide(network: Network) -> str:
    """Return why Poly-CAM over all stages takes too long for a comparison; "" if it does not."""
    channels = sum(network.examined().findings[name].shape[0] for name in names(network))
    return f"{2 * channels} passes an image" if channels > 400 else one_size(network)


def without_layers(network: Network) -> str:
    """Return why a network has no such layers; "" if it has."""
    there = {name for name, _ in network.module.named_modules()}
    return "" if there >= set(REFINED) else f"no layers {', '.join(REFINED)}"


PAIRS = [
    Pair(
        "blur_ig steps=10 sigma=5",
        BlurIG(10, 5),
        authors.SALIENCY,
        authors.blur_ig(10, 5),
        unfit=authors.absent(authors.SALIENCY),
    ),
    Pair(
        "sobol designs=4 cells=4",
        SobolAttribution(4, 4),
        authors.SOBOL,
        authors.sobol(4, 4),
        unfit=authors.absent(authors.SOBOL),
    ),
    Pair("hsic designs=40 cells=4", HSICAttribution(40, 4), OWN, dependence(40, 4)),
    Pair("expected_gradients", ExpectedGradients(), "captum GradientShap, same samples", against_references),
    Pair("liftcam", LIFTCAM(), "captum DeepLift behind the layer", lifted, unfit=beyond_captum),
    Pair("relevance_cam", RelevanceCAM(), OWN, relevant, unfit=normalised),
    Pair("integrated_gradcam steps=4", IntegratedGradCAM(4), OWN, integrated(4)),
    Pair("zoomcam", ZoomCAM(), "pytorch-grad-cam HiResCAM, fused", zoomed),
    Pair("decomcam", DecomCAM(), "scikit-learn, SciPy", decomposed),
    Pair("sess sizes=2", SESS(GradCAM(), 2), THEIRS, pasted(2)),
    Pair(
        "opticam steps=10",
        Scaled(OptiCAM(10), enlarged=True),
        authors.OPTI,
        authors.opti(10),
        unfit=authors.absent(authors.OPTI),
    ),
    Pair(
        "polycam",
        between_percentiles(PolyCAM()),
        authors.POLY,
        authors.poly("both", names),
        unfit=authors.absent(authors.POLY, wide),
    ),
    *(
        Pair(
            f"polycam weights={weights} layers",
            between_percentiles(PolyCAM(weights, REFINED)),
            authors.POLY,
            authors.poly(weights, lambda _network: list(REFINED)),
            unfit=authors.absent(authors.POLY, without_layers),
        )
        for weights in ("plus", "minus", "both")
    ),
]
