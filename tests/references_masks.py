"""References of perturbation methods: the loops of the authors' codes, on files if these start from files.

Random numbers are part of a method's definition here, so the references draw the same ones.
"""

from collections.abc import Callable
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from references import OWN, Case, Pair, one_by_one
from references_cam import activations_of
from scipy.ndimage import convolve1d, gaussian_filter
from skimage.segmentation import quickshift
from skimage.transform import resize
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from eigencam.methods.lime import LIME
from eigencam.methods.occlusion import Occlusion
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.randomness import normal, uniform
from eigencam.methods.rise import RISE
from eigencam.methods.scorecam import ISCAM, SSCAM, ScoreCAM
from eigencam.methods.shapcam import ShapCAM
from eigencam.passes.tail import tail

Floats = NDArray[np.float64]
RISE_AUTHORS = "eclique/RISE@d91ea00, own loop"
FONG_AUTHORS = "ruthcfong/perturb_explanations@1260ce8, own loop"
TORCHRAY = "facebookresearch/TorchRay@6a198ee, own loop"
LIME_AUTHORS = "marcotcr/lime, own loop over scikit-image and scikit-learn"


def kept(steps: int) -> ExtremalPerturbation:
    """Return Extremal Perturbations with one mask, not smoothed."""
    return ExtremalPerturbation([0.1], steps, smooth=0)


def unit(x: Tensor) -> Tensor:
    """Return x scaled to 0..1; zeros where it is constant."""
    return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else torch.zeros_like(x)


def by_score(channels: int, masks: Callable[[Tensor, int], list[Tensor]]) -> Callable[[Case], Tensor]:
    """Return Score-CAM over the channels with the largest sum; `masks` makes the masks (H, W) from (mask, image)."""

    def made(case: Case) -> Tensor:
        module, size, found = case.module(), case.inputs.shape[2:], []
        for n, (x, target, a) in enumerate(zip(case.inputs, case.targets, activations_of(case), strict=True)):
            a = a[a.abs().sum((1, 2)).topk(min(channels, len(a))).indices]
            scores = []
            for one in a:
                mask = unit(F.interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0])
                with torch.no_grad():
                    logits = module(torch.stack([x * changed for changed in masks(mask, n)]))
                scores.append(logits[:, target].mean())
            found.append(torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), a).relu())
        return torch.stack(found)

    return made


def noisy(samples: int) -> Callable[[Tensor, int], list[Tensor]]:
    """Return SS-CAM's masks with the noise of `SSCAM(samples)`."""

    def made(mask: Tensor, n: int) -> list[Tensor]:
        noise = 2.0 * normal(torch.tensor([n]), (samples, *mask.shape), 0)[0]
        return [mask + one for one in noise]

    return made


def rise(count: int) -> Callable[[Case], Tensor]:
    """Return the authors' sum over the masks of `RISE(count)`, each made by scikit-image."""

    def made(case: Case) -> Tensor:
        size, index = tuple(case.inputs.shape[2:]), torch.arange(count)
        cell = [ceil(side / 7) for side in size]
        grid = (uniform(index, (7, 7), 0) < 0.5).double().numpy()
        offset = (uniform(index, (2,), 1).numpy() * cell).astype(int)
        total = torch.zeros(len(case.inputs), *size, dtype=torch.float64)
        module = case.module()
        for one, (top, left) in zip(grid, offset, strict=True):
            fine = resize(one, [8 * side for side in cell], order=1, mode="reflect", anti_aliasing=False)
            mask = torch.from_numpy(fine[top : top + size[0], left : left + size[1]])
            with torch.no_grad():
                scores = module(case.inputs * mask).softmax(1).gather(1, case.targets[:, None])
            total += scores[:, :, None] * mask
        return total / count / 0.5

    return made


def occlusion(window: int, stride: int) -> Callable[[Case], Tensor]:
    """Return the mean drop of the probability over the windows that cover a pixel."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        h, w = x.shape[2:]
        total, times = torch.zeros(h, w, dtype=x.dtype), torch.zeros(h, w, dtype=x.dtype)
        with torch.no_grad():
            before = module(x).softmax(1)[0, target]
            for top in range(0, h - window + stride, stride):
                for left in range(0, w - window + stride, stride):
                    place = (slice(top, top + window), slice(left, left + window))
                    hidden = x.clone()
                    hidden[:, :, place[0], place[1]] = 0
                    total[place] += before - module(hidden).softmax(1)[0, target]
                    times[place] += 1
        return (total / times)[None]

    return one_by_one(made)


def shapley(permutations: int) -> Callable[[Case], Tensor]:
    """Return the positions' mean contributions over the permutations of `ShapCAM(permutations)`, one by one."""

    def made(case: Case) -> Tensor:
        module, found = case.module(), []
        behind = tail(module, case.network.layer, tuple(case.inputs.shape[2:]))
        for n, (a, target) in enumerate(zip(activations_of(case), case.targets, strict=True)):
            flat = a.flatten(1)
            keys = uniform(torch.tensor([n]), (ceil(permutations / 2), flat.shape[1]), 0)[0]
            values = torch.zeros(flat.shape[1], dtype=a.dtype)
            orders = [order for key in keys for order in (key.argsort(stable=True), key.argsort(stable=True).flip(0))]
            for order in orders[:permutations]:
                present = torch.zeros_like(flat)
                with torch.no_grad():
                    score = behind(present.view(1, *a.shape))[0, target]
                    for place in order.tolist():
                        present[:, place] = flat[:, place]
                        after = behind(present.view(1, *a.shape))[0, target]
                        values[place] += (after - score) / permutations
                        score = after
            found.append(values.view(a.shape[1:]).relu())
        return torch.stack(found)

    return made


def lime(samples: int) -> Callable[[Case], Tensor]:
    """Return the authors' fit to the copies of `LIME(samples=samples)`, with superpixels of the 8-bit image."""

    def made(case: Case) -> Tensor:
        module, found = case.module(), []
        for n, (pixels, x, target) in enumerate(zip(case.images, case.inputs, case.targets, strict=True)):
            labels = quickshift(pixels.permute(1, 2, 0).numpy(), kernel_size=4, max_dist=200, ratio=0.2)
            labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
            count = labels.max() + 1
            shown = (uniform(torch.tensor([n]), (count, samples), 0)[0].T < 0.5).numpy()
            shown[0] = True
            hidden = x.clone()
            for label in range(count):
                hidden[:, labels == label] = x[:, labels == label].mean(1, keepdim=True)
            with torch.no_grad():
                copies = [torch.where(torch.from_numpy(row[labels]), x, hidden)[None] for row in shown]
                scores = torch.cat([module(one).softmax(1)[:, target] for one in copies]).numpy()
            distance = 1 - shown.sum(1) / np.sqrt(count * shown.sum(1).clip(1))
            weights = np.sqrt(np.exp(-(distance**2) / 0.25**2))
            fitted = Ridge(alpha=1).fit(shown.astype(float), scores, sample_weight=weights)
            found.append(torch.from_numpy(fitted.coef_[labels]))
        return torch.stack(found)

    return made


def pillow(x: NDArray[np.floating], radius: float) -> Floats:
    """Return a mask smoothed as by the authors: Pillow's filter on 8 bits."""
    return np.array(Image.fromarray((x * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))) / 255


def deletion(steps: int, l1: float = 1e-4, tv: float = 1e-2, beta: float = 3.0) -> Callable[[Case], Tensor]:
    """Return the map of Meaningful Perturbation's authors, with the shifts of `MeaningfulPerturbation(steps)`."""

    def made(case: Case) -> Tensor:
        module, settings = case.module(), (steps, l1, tv, beta)
        of = enumerate(zip(case.originals, case.targets.tolist(), strict=True))
        found = [_deletion(module, case, Image.fromarray(file), n, target, settings) for n, (file, target) in of]
        return torch.from_numpy(np.stack(found))

    return made


def _deletion(
    module: nn.Module, case: Case, file: Image.Image, n: int, target: int, settings: tuple[int, float, float, float]
) -> Floats:
    (steps, l1, tv, beta), side, cells = settings, case.images.shape[2], np.ones((8, 8))

    def inputs(image: Image.Image, more: int) -> Tensor:
        resized = np.array(image.resize((side + more, side + more), Image.Resampling.BILINEAR))
        return case.network.preprocess.normalize(torch.from_numpy(resized).permute(2, 0, 1)[None], torch.float64)

    dull = file.filter(ImageFilter.GaussianBlur(10))
    wide, wide_dull = inputs(file, 4), inputs(dull, 4)
    mask = _first_mask(module, inputs(file, 0), inputs(dull, 0), target)
    first, second = np.zeros_like(mask), np.zeros_like(mask)
    shifts = (uniform(torch.tensor([n]), (steps, 2), 0)[0] * 4).long().tolist()
    for step, (top, left) in enumerate(shifts, 1):
        clear, smooth = (x[:, :, top : top + side, left : left + side] for x in (wide, wide_dull))
        enlarged = torch.from_numpy(pillow(np.kron(mask, cells), 5))
        shown = (enlarged * clear + (1 - enlarged) * smooth).requires_grad_()
        (slope,) = torch.autograd.grad(module(shown).softmax(1)[0, target], shown)
        change = (slope * (clear - smooth))[0].sum(0).numpy().reshape(side // 8, 8, side // 8, 8).sum((1, 3))
        gradient = change + l1 * np.sign(mask - 1) + tv * _variation_slope(mask, beta)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        mask = np.clip(mask - 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8), 0, 1)
    return 1 - pillow(np.kron(mask, cells), 5)


def _first_mask(module: nn.Module, clear: Tensor, dull: Tensor, target: int) -> Floats:
    """Return 1 minus the smallest sufficient blurred disc, stretched to 8 bits, at the centres of the cells."""
    side = clear.shape[2]
    y, x = np.ogrid[-side // 2 : side - side // 2, -side // 2 : side - side // 2]
    with torch.no_grad():
        intact, scores, discs = module(clear).softmax(1)[0, target], [], []
        for radius in range(0, 175, 5):
            discs.append(gaussian_filter((x**2 + y**2 <= radius**2) * 1.0, 10))
            share = torch.from_numpy(discs[-1])
            scores.append(module((1 - share) * clear + share * dull).softmax(1)[0, target])
    left = (torch.stack(scores) - scores[-1]) / (intact - scores[-1])
    disc = discs[int(np.argmax(left.numpy() < 0.01))]
    levels = (disc.max() - disc) * 255 / (disc.max() - disc.min()) + 0.5
    return levels.astype(np.uint8)[4::8, 4::8] / 255


def _variation_slope(mask: Floats, beta: float) -> Floats:
    """Return the gradient of the sum of |(down, right)| to the power beta."""
    down, right = np.zeros_like(mask), np.zeros_like(mask)
    down[:-1], right[:, :-1] = np.diff(mask, axis=0), np.diff(mask, axis=1)
    factor = beta * np.maximum(np.hypot(down, right), 1e-5 ** (1 / beta)) ** (beta - 2)
    down, right = factor * down, factor * right
    slope = -down - right
    slope[1:] += down[:-1]
    slope[:, 1:] += right[:, :-1]
    return slope


def extremal(steps: int, area: float) -> Callable[[Case], Tensor]:
    """Return TorchRay's mask for one area after `steps` steps, `preserve` with `blur`, not smoothed."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        side, weights, levels = x.shape[2], _pooling_weights(x.shape[2]), _blurred_levels(x)
        parameters, speed = torch.ones(1, 1, ceil(side / 7), ceil(side / 7), dtype=x.dtype), torch.zeros(())
        ones = int(weights[0, 0].numel() * (1 - area))
        for step in range(steps):
            parameters.requires_grad_()
            full = _pooled(parameters, weights)
            mask = full[0, 21 : 21 + side, 21 : 21 + side]
            height = mask * 7
            below = height.detach().floor().clamp(0, 6).long()
            low, high = (levels.gather(0, (below + k).expand(1, 3, -1, -1))[0] for k in (0, 1))
            shown = (low + (height - below) * (high - low))[None]
            score = module(shown.flip(3) if step % 2 == 0 else shown)[0, target].sum()
            values = full.flatten().sort().values
            misfit = torch.cat([values[:ones], values[ones:] - 1]).square().mean()
            (slope,) = torch.autograd.grad(score - 300 * 1.0035**step * misfit, parameters)
            speed = slope if step == 0 else 0.9 * speed + 0.1 * slope
            parameters = (parameters.detach() + 0.01 * speed).clamp(0, 1)
        return _pooled(parameters, weights)[:, 21 : 21 + side, 21 : 21 + side]

    return one_by_one(made)


def _pooling_weights(side: int) -> Tensor:
    """Return (1, 81, H', W'): the kernel of the distance between each pixel and the 9 x 9 parameters around it."""
    size = 7 * (ceil(side / 7) + 6) - 6
    pixel = torch.arange(size, dtype=torch.float64)
    away = pixel - (21 + 7 * (torch.div(pixel, 7, rounding_mode="floor") + torch.arange(9)[:, None] - 7))
    distance = (away.square()[:, None, :, None] + away.square()[None, :, None]).sqrt()
    return torch.exp(-2 * (distance / 21 - 0.5).clamp(min=0) ** 2).flatten(0, 1)[None]


def _pooled(parameters: Tensor, weights: Tensor) -> Tensor:
    """Return (1, H', W'): the mean of parameters times weights, weighted by the softmax of 20 times these products."""
    cells = parameters.shape[2] + 6
    around = F.unfold(parameters, 9, padding=7).view(1, 81, cells, cells)
    values = (
        F.interpolate(around, scale_factor=7, mode="nearest")[:, :, : weights.shape[2], : weights.shape[3]] * weights
    )
    return (values * (20 * values).softmax(1)).sum(1)


def _blurred_levels(x: Tensor) -> Tensor:
    """Return (8, 3, H, W), from the most blurred to the intact image; beyond the border is 0."""
    levels = []
    for sigma in np.linspace(20, 0, 8):
        offsets = np.arange(-ceil(4 * sigma), ceil(4 * sigma) + 1)
        line = np.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
        image = x[0].numpy()
        for axis in (1, 2):
            image = convolve1d(image, line / line.sum(), axis, mode="constant")
        levels.append(torch.from_numpy(image))
    return torch.stack(levels)


PAIRS: list[Pair] = [
    Pair("scorecam channels=32", ScoreCAM(channels=32), OWN, by_score(32, lambda mask, _n: [mask])),
    Pair("sscam samples=3 channels=16", SSCAM(3, channels=16), "torchcam's masks, own loop", by_score(16, noisy(3))),
    Pair("iscam samples=3 channels=16", ISCAM(3, channels=16), OWN, by_score(16, lambda m, _n: [m / 3, 2 * m / 3, m])),
    Pair("shapcam permutations=2", ShapCAM(2), OWN, shapley(2)),
    Pair("rise masks=100", RISE(100), RISE_AUTHORS, rise(100)),
    Pair("occlusion", Occlusion(), OWN, occlusion(32, 16)),
    Pair("lime samples=100", LIME(samples=100), LIME_AUTHORS, lime(100)),
    Pair("mask", MeaningfulPerturbation(), FONG_AUTHORS, deletion(300)),
    Pair("mask steps=20", MeaningfulPerturbation(20), FONG_AUTHORS, deletion(20)),
    Pair("extremal_perturbation areas=[0.1] steps=20", kept(20), TORCHRAY, extremal(20, 0.1)),
    Pair("extremal_perturbation areas=[0.1] steps=60", kept(60), TORCHRAY, extremal(60, 0.1)),
]
