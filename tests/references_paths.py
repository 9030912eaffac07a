"""References of Guided IG, XRAI, Augmented Grad-CAM and deep feature factorisation; see `references_camfam`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_grad_cam.feature_factorization.deep_feature_factorization as factorization
import references_authors as authors
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from references import OWN, Case, Pair
from references_cam import THEIRS, activations_of
from references_camfam import grad_cam_of
from sklearn.decomposition import NMF
from torch import Tensor, nn

from eigencam.methods.augmented import AugmentedGradCAM
from eigencam.methods.dff import DFF
from eigencam.methods.guided_ig import GuidedIG
from eigencam.methods.randomness import normal, uniform
from eigencam.methods.xrai import XRAI
from eigencam.passes.tail import tail

Answer = Callable[..., dict[str, Any]]


def saliency(name: str) -> ModuleType:
    """Return a module of the authors' package."""
    with patch.object(sys, "path", [str(Path(authors.FOLDER or "", "saliency")), *sys.path]):
        return importlib.import_module(f"saliency.core.{name}")


def answering(module: nn.Module, target: int) -> Answer:
    """Return the function that the authors' package calls: gradients of a logit, rounded to float32 as ours are."""

    def answer(images: Any, **_more: Any) -> dict[str, Any]:
        asked = torch.as_tensor(np.asarray(images)).movedim(3, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(module(asked)[:, target].sum(), asked)
        return {"INPUT_OUTPUT_GRADIENTS": gradient.movedim(1, 3).float().double().numpy()}

    return answer


def guided(steps: int) -> Callable[[Case], Tensor]:
    """Return the authors' Guided IG, summed over the colours; adapted to an argument that NumPy has renamed."""

    def quantile(values: NDArray[np.float64], share: float, interpolation: Any) -> Any:
        return of(values, share, method=interpolation)

    of, theirs = np.quantile, saliency

    def made(case: Case) -> Tensor:
        found = []
        with patch.object(np, "quantile", quantile):
            for x, y in zip(case.inputs, case.targets.tolist(), strict=True):
                asked = answering(case.module(), y)
                found.append(theirs("guided_ig").GuidedIG().GetMask(x.movedim(0, 2).numpy(), asked, x_steps=steps))
        return torch.from_numpy(np.stack(found)).sum(3)

    return made


def ranked(steps: int) -> Callable[[Case], Tensor]:
    """Return the authors' XRAI: segments of the image, attributions for the network's input."""

    def made(case: Case) -> Tensor:
        theirs, found = saliency("xrai"), []
        ends = [case.network.preprocess.normalize(torch.full((1, 3, 1, 1), v), torch.float64) for v in (0, 255)]
        for pixels, x, y in zip(case.images, case.inputs, case.targets.tolist(), strict=True):
            image = x.movedim(0, 2).numpy()
            mask = theirs.XRAI().GetMask(
                image,
                answering(case.module(), y),
                baselines=[np.ones_like(image) * end[0, :, 0, 0].numpy() for end in ends],
                segments=theirs._get_segments_felzenszwalb(pixels.movedim(0, 2).double().numpy()),
                extra_parameters=theirs.XRAIParameters(steps=steps),
            )
            found.append(torch.from_numpy(mask))
        return torch.stack(found)

    return made


def climbed(copies: int, steps: int) -> Callable[[Case], Tensor]:
    """Return Augmented Grad-CAM computed with whole maps, transformed and reduced one after the other."""

    def made(case: Case) -> Tensor:
        drawn, (h, w) = 2 * uniform(torch.arange(copies), (3,), 0).double() - 1, case.inputs.shape[2:]
        black = case.network.preprocess.normalize(torch.zeros(1, 3, 1, 1), torch.float64)
        grids, maps = [], []
        for i, (turn, right, down) in enumerate(drawn.tolist()):
            (angle, x, y) = (0.5 * turn, 30 / 224 * w * right, 30 / 224 * h * down) if i else (0.0, 0.0, 0.0)
            v, u = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
            v, u = v - (h - 1) / 2 - y, u - (w - 1) / 2 - x  # undo the shift, then the rotation
            cosine, sine = np.cos(angle), np.sin(angle)
            places = torch.stack([(cosine * u + sine * v) / w, (cosine * v - sine * u) / h], 2) * 2
            grids.append(places[None].expand(len(case.inputs), -1, -1, -1))
            maps.append(grad_cam_of(case, black + F.grid_sample(case.inputs - black, grids[-1], align_corners=False)))
        cams = [m / m.amax((1, 2), keepdim=True).where(m.amax((1, 2), keepdim=True) > 0, torch.ones(())) for m in maps]
        g = torch.zeros_like(case.inputs[:, :1]).requires_grad_()
        adam = torch.optim.Adam([g], lr=0.001)
        for _ in range(steps):
            loss = 0.002 * copies * (g.diff(dim=2).abs().sum() + g.diff(dim=3).abs().sum())
            loss = loss + 0.0001 * copies * (g**2).sum()
            for grid, cam in zip(grids, cams, strict=True):
                turned = F.grid_sample(g, grid, align_corners=False) if grid is not grids[0] else g  # not turned
                shrunk = F.interpolate(turned, cam.shape[1:], mode="bilinear", align_corners=False)[:, 0]
                loss = loss + ((shrunk - cam) ** 2).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return g.detach()[:, 0]

    return made


def factored(case: Case) -> Tensor:
    """Return the map of the class's concept by pytorch-grad-cam's `dff`, from our starting point."""
    found, all_of = [], activations_of(case)
    for n, (a, y) in enumerate(zip(all_of, case.targets, strict=True)):
        index, flat = torch.tensor([n]), (a - a.amin((1, 2), keepdim=True)).flatten(1)
        drawn = [normal(index, (side, 5), k)[0].abs().double() for k, side in enumerate(flat.shape)]
        first, second = ((flat.mean() / 5).sqrt() * noise for noise in drawn)

        class Begun:
            def __init__(self, n_components: int, first: Tensor = first, second: Tensor = second, **_more: Any) -> None:
                options: dict[str, Any] = {"n_components": n_components, "init": "custom", "tol": 0, "max_iter": 200}
                self.begin, self.of = (first.numpy().copy(), second.T.numpy().copy()), NMF(**options)

            def fit_transform(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
                made = self.of.fit_transform(x, W=self.begin[0], H=self.begin[1])
                self.components_ = self.of.components_
                return made

        with patch.object(factorization, "NMF", Begun):
            concepts, maps = factorization.dff(a[None].numpy().copy(), 5)
        behind = tail(case.module(), case.network.layer, tuple(case.inputs.shape[2:]))
        with torch.no_grad():
            spread = torch.from_numpy(concepts.T.copy())[:, :, None, None].expand(-1, -1, *a.shape[1:])
            labelled = behind(spread).softmax(1)[:, y]
        found.append(torch.from_numpy(maps[0][int(labelled.argmax())]))
    return torch.stack(found)


PAIRS = [
    Pair("guided_ig steps=20", GuidedIG(20), authors.SALIENCY, guided(20), unfit=authors.absent(authors.SALIENCY)),
    Pair("xrai steps=10", XRAI(10), authors.SALIENCY, ranked(10), unfit=authors.absent(authors.SALIENCY)),
    Pair("augmented_gradcam copies=4 steps=40", AugmentedGradCAM(4, 40), OWN, climbed(4, 40)),
    Pair("dff", DFF(), THEIRS, factored),
]
