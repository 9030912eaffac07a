"""Golden numbers of code that neither packaged settings nor the small networks reach, called with its own inputs."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_file import Case, numbers
from golden_methods import Cases, inputs, network, originals, run
from torch import Tensor, nn
from torch.nn import functional as F

from eigencam.methods import (
    blur_ig,
    broadcam,
    cam,
    decom,
    eigencam,
    eigencam_variants,
    fixations,
    rollout,
    self_taught,
    vitcx,
    vscam,
    xrai,
)
from eigencam.methods.attnlrp import AttnLRP, _LayerNorm
from eigencam.methods.files import BoxFiles
from eigencam.methods.fullgrad import FullGrad
from eigencam.methods.gradient_weighted import LayerCAM
from eigencam.methods.lime import LIME
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.recipro import ReciproCAM
from eigencam.methods.relevance import LRP, _to_image
from eigencam.methods.rise import RISE, _mirrored
from eigencam.networks.verification import for_pairs
from eigencam.passes import tape
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.readings import Reading


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Multiples of 2^-8 in -1..1."""
    count = int(np.prod(shape))
    return (torch.cos(1.7 * torch.arange(count) + phase) * 256).round().view(shape) / 256


def conv(inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
    """A convolution whose weights are waves."""
    made = nn.Conv2d(inputs, outputs, size, **options)
    with torch.no_grad():
        made.weight.copy_(waves(*made.weight.shape, phase=outputs))
        if made.bias is not None:
            made.bias.copy_(waves(outputs, phase=0.5))
    return made.requires_grad_(False)


def constants(module: ModuleType, *names: str) -> Callable[[], Case]:
    """Numbers that decide on other inputs than the golden ones, as they are."""
    return lambda: {name: numbers(np.atleast_1d(np.asarray(getattr(module, name), np.float64))) for name in names}


class Branched(nn.Module):
    """Padding, two branches that are joined, and class maps that are averaged, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.maps = conv(3, 6, 3, stride=2), conv(3, 4, 3, stride=2), conv(10, 5, 1)

    def features(self, x: Tensor) -> Tensor:
        """(N, 10, h, w)."""
        x = F.pad(x, (1, 2, 3, 0))
        return torch.cat([self.one(x).relu(), self.other(x).relu()], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 5) logits."""
        return F.adaptive_avg_pool2d(self.maps(self.features(x)).relu(), 1).flatten(1)


class Flattened(Branched):
    """A linear layer on the flattened map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 5) logits."""
        seen = F.max_pool2d(self.features(x), 8).flatten(1)
        return F.linear(seen, waves(5, seen.shape[1]))


class Coloured(Branched):
    """A network that scales its input's colours itself, one to nothing, and normalises a map's channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 5) logits."""
        scaled = (x - 0.25) * torch.tensor([2.0, 1.5, 0.0]).view(3, 1, 1)
        return F.adaptive_avg_pool2d(self.maps(F.local_response_norm(self.features(scaled), 3)), 1).flatten(1)


def _pass(module: nn.Module, layer: str = "one") -> Forward:
    return forward_pass(module.eval(), inputs(32).float() / 256, layer)


def _tracked(module: type[nn.Module]) -> Case:
    found = fixations.fixations(_pass(module()), torch.tensor([1, 3]))
    return {f"points {k}": [float(len(points)), *numbers(points.double())] for k, points in enumerate(found)}


def _crowds() -> Case:
    """Without points, and the box around some."""
    none = torch.zeros(0, dtype=torch.long)
    found = fixations.crowded(none, torch.zeros(0, 2), 2, 3.0, 0.5)
    impulses = torch.zeros(2, 7, 9)
    impulses[0, 2, 3] = impulses[0, 5, 4] = impulses[1, 6, 8] = 1
    empty = fixations.track(tape.record(Branched(), inputs(32).float()[:1] / 256), none)
    return {"none": [*map(float, found.shape), *map(float, empty.shape)], "box": numbers(fixations.boxed(impulses))}


def _grams() -> Tensor:
    """(3, 6, 6): two with one largest eigenvalue, and a zero matrix."""
    side = waves(2, 6, 9)
    return torch.cat([side @ side.mT, torch.zeros(1, 6, 6)])


def _eigenvectors() -> Case:
    grams, case = _grams(), Case()
    single = torch.tensor([[[2.5]], [[0.0]]])
    for name, solve in (("decomposed", eigencam._decomposed), ("squared", eigencam.squared)):
        for size, some in (("", grams), (" of one", single), (" tiny", grams[:1] * 1e-42)):
            vectors, gap = solve(some)
            case[f"{name} gap{size}"] = numbers(gap.clamp(max=9))
            if not size:
                case[name] = numbers(torch.einsum("ni,nj->nij", vectors, vectors)[:2])
    top = eigencam.top_eigenvector(grams)
    return case | {"top": numbers(torch.einsum("ni,nj->nij", top, top)[:2])}


def _devkit_boxes() -> Case:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "boxes.txt")
        path.write_text("3 5 6 40 50 2 1 2 30 31\n1 9 8 20 30\n")
        method = BoxFiles(str(path))
        method.lacking(["0", "1"])
        return run(method, "scenes_vgg")


def _pooled_classifier() -> Case:
    """Logits of a classifier whose class maps are rectified before the pooling."""
    found = cam._logits(cam.PooledClassifier(conv(4, 3, 1), rectified=False, positive=True), waves(2, 4, 5, 6))
    return {"logits": numbers(found)}


def _other_tokens() -> Case:
    """Readings of a grid that the target layer's reading does not fit, and of one that it fits."""
    known = Reading((1,), (2, 5), front=1)
    found = [rollout.tokens_of(known, count) for count in (18, 11)]
    return {"grids": [float(number) for one in found for number in (*one.axes, *one.grid, one.front, one.behind)]}


def _no_masks() -> Case:
    used = network("scenes_vit")
    made = used.forward(inputs(used.preprocess.shape[0]))
    scores = vitcx.ViTCX()._scores(made, 0, torch.tensor([0]), torch.zeros(0, *made.images.shape[2:]))
    groups = [vitcx.grouped(np.full((3, 3), np.nan), 0.1), vitcx.grouped(np.diag([np.nan, 0.0, np.nan]), 0.1)]
    return {"scores": [*map(float, scores.shape)], "groups": numbers(np.stack(groups))}


def _norm_backward() -> Case:
    x = waves(2, 3, 5).requires_grad_()
    out = _LayerNorm()(F.layer_norm, x, (5,), waves(5, phase=1), None, 1e-5)
    return {"gradient": numbers(torch.autograd.grad((out * waves(2, 3, 5, phase=2)).sum(), x)[0])}


def _superpixels() -> Case:
    made = network("scenes_vgg").forward(inputs(64))
    made.original, made.ids = (lambda n: originals()[n]), ("0", "1")
    return {"labels": numbers(LIME().superpixels(made).double())}


def _of_pairs() -> Case:
    """The superpixels that make the first image like the second."""
    plain = network("scenes_resnet")
    used = for_pairs(plain, lambda _i: originals()[1])
    made = used.forward(inputs(64)[:1])
    found = LIME(score="similarity", samples=8, segmentation="slic", segments=9)(made, torch.tensor([1]))
    return {"map": numbers(found)}


def _moved_to_the_image() -> Case:
    return {"relevance": numbers(_to_image(Coloured().eval(), inputs(16).float() / 256, waves(2, 3, 19, 19)))}


def _constant_image() -> Case:
    return {"shape": [*map(float, xrai.segments_of(np.full((5, 7, 3), 9, np.uint8)).shape)]}


def _without_files() -> Case:
    """The images as the network sees them, in place of the files."""
    made = network("scenes_vgg").forward(inputs(64))
    made.regions = ((0.0, 0.0, 100.0, 80.0), (5.0, 0.0, 85.0, 80.0))
    clear, dull = MeaningfulPerturbation()._resized(made, 3)
    return {"clear": numbers(clear), "dull": numbers(dull)}


def _aggregated() -> Case:
    return {"map": numbers(vscam.aggregate(waves(2, 6, 6).abs(), waves(2, 6, phase=1), 2))}


def _tapered() -> Case:
    return {f"sigma {sigma}": numbers(blur_ig._gaussian(9, sigma)) for sigma in (0.4, 1.62)}


def _chosen() -> Case:
    labels = torch.arange(12).view(1, 3, 4)
    return {"shown": numbers(LIME(samples=200).choose(torch.tensor([0, 5]), labels.expand(2, 3, 4)).double())}


def _between() -> Case:
    first, last = torch.tensor([2, 0]), torch.tensor([9, 3])
    return {str(k): numbers(found.double()) for k, found in enumerate(self_taught._between(first, last, 5))}


METHODS: dict[Any, Cases] = {
    blur_ig.BlurIG: {"tapered": _tapered},
    AttnLRP: {"normalisation": _norm_backward},
    BoxFiles: {"devkit": _devkit_boxes},
    broadcam.BroadCAM: {"resized": lambda: {"maps": numbers(broadcam._resized(waves(2, 3, 4), (7, 9)))}},
    cam.CAM: {"rectified class maps": _pooled_classifier},
    eigencam.EigenCAM: {"eigenvectors": _eigenvectors},
    ExtremalPerturbation: {"fade": lambda: run(ExtremalPerturbation((0.1,), 2, "fade"), "scenes_vgg")},
    fixations.CNNFixations: {
        "branched": partial(_tracked, Branched),
        "flattened": partial(_tracked, Flattened),
        "crowds": _crowds,
    },
    FullGrad: {"attention, scenes_vit": lambda: run(FullGrad(), "scenes_vit")},
    LayerCAM: {"fused": lambda: run(LayerCAM(("layer1", "layer2")), "scenes_resnet")},
    LIME: {"superpixels": _superpixels, "pairs": _of_pairs, "chosen": _chosen},
    LRP: {"to the image": _moved_to_the_image},
    MeaningfulPerturbation: {"without files": _without_files},
    ReciproCAM: {"spread": lambda: run(ReciproCAM(spread=True), "scenes_resnet")},
    RISE: {"one cell": lambda: {"matrix": numbers(_mirrored(1, 5))}},
    rollout.AttentionRollout: {"tokens": _other_tokens},
    self_taught.SelfTaught: {"between": _between},
    decom.DecomCAM: {"constants": constants(decom, "SIGMA", "LEAST")},
    eigencam_variants.KPCACAM: {"constants": constants(eigencam_variants, "GAP")},
    vitcx.ViTCX: {"no masks": _no_masks},
    vscam.VSCAM: {"few probes": _aggregated},
    xrai.XRAI: {"constant image": _constant_image},
}
"""By class of methods."""
