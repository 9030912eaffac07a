"""CAM family, perturbations, optimised masks and faithfulness compared with independent code on a real network.

The network is MobileNetV2, with batch norms, residual sums and ReLU6, on images of half the usual size. The same pairs
with more steps and images make `results/agreement_perturbation.csv`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import references_cam
import references_masks as masks
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from references import OWN, Case, Pair, compare
from scipy.ndimage import gaussian_filter
from torch import Tensor

from eigencam.evaluation.faithfulness import Adcc, AverageDrop, InsertionDeletion
from eigencam.methods.eigencam_variants import KPCACAM
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.lime import LIME
from eigencam.methods.occlusion import Occlusion
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.rise import RISE
from eigencam.methods.scorecam import ISCAM, SSCAM, ScoreCAM
from eigencam.methods.shapcam import ShapCAM
from eigencam.networks.network import Network
from eigencam.running.probe import BatchProbe

SHARED = os.environ.get("EIGENCAM_SHARED")
NEEDS_SHARED = "EIGENCAM_SHARED is not set: real weights and images are not here"
pytestmark = [pytest.mark.full, pytest.mark.skipif(not SHARED, reason=NEEDS_SHARED)]

PAIRS = [
    *(
        pair
        for pair in references_cam.PAIRS
        if pair.reference != references_cam.THEIR_DEFAULTS and pair.name != "ablationcam"
    ),
    Pair("scorecam", ScoreCAM(channels=16), OWN, masks.by_score(16, lambda mask, _n: [mask])),
    Pair("sscam", SSCAM(2, channels=16), OWN, masks.by_score(16, masks.noisy(2))),
    Pair("iscam", ISCAM(2, channels=16), OWN, masks.by_score(16, lambda mask, _n: [mask / 2, mask])),
    Pair("shapcam", ShapCAM(1), OWN, masks.shapley(1)),
    Pair("rise", RISE(6), OWN, masks.rise(6)),
    Pair("occlusion", Occlusion(40, 36), OWN, masks.occlusion(40, 36)),
    Pair("lime", LIME(samples=12), OWN, masks.lime(12)),
    Pair("mask", MeaningfulPerturbation(2), OWN, masks.deletion(2)),
    Pair("extremal", ExtremalPerturbation([0.1], 2, smooth=0), OWN, masks.extremal(2, 0.1)),
]
LOOSE = {"lime": 1e-4, "mask": 3e-2, "extremal": 1e-2, "gradcampp": 1.0}
"""Pairs with larger differences, because of a fit in float32, one 8-bit level at a mask's edge, the order of ties, or
the constant that pytorch-grad-cam adds."""


def load(model: str, images: Sequence[int], dtype: torch.dtype, *more: str) -> tuple[Network, list[NDArray[np.uint8]]]:
    """A network with real weights, and files of ILSVRC."""
    from hydra import compose, initialize_config_module

    from eigencam.datasets.ilsvrc import Ilsvrc
    from eigencam.networks.network import load_network

    folder = Path(str(SHARED), "realdata")
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [f"model={model}", f"paths.weights={folder}/weights", *more])
    data = Ilsvrc(folder)
    return load_network(config.model, dtype=dtype), [data.image(n) for n in images]


@pytest.fixture(scope="module")
def case() -> Case:
    network, originals = load("mobilenet_v2_tf", [5], torch.float64, "model.preprocess.size=112")
    images = torch.from_numpy(np.stack([network.preprocess(image)[0] for image in originals]))
    return Case(network, images, network.forward(images).logits.argmax(1), tuple(originals))


@pytest.fixture(scope="module")
def probe(case: Case) -> tuple[BatchProbe, Tensor]:
    """What evaluators of faithfulness request from the network, and Grad-CAM's map."""
    forward = case.network.forward(case.images, gradients=True)
    method = GradCAM()
    return BatchProbe(forward, method, case.targets), method(forward, case.targets)


def shown(probe: BatchProbe, image: Tensor) -> float:
    """Probability of the class for one image (1, 3, H, W)."""
    with torch.no_grad():
        return float(probe.forward.module(image).softmax(1)[0, probe.targets[0]])


def full(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (1, h, w) scaled to 0..1, then enlarged."""
    scaled = (values - values.min()) / (values.max() - values.min())
    return F.interpolate(scaled[None], size, mode="bilinear", align_corners=False)[0, 0].double()


def test_insertion_and_deletion_are_the_authors_loop(probe: tuple[BatchProbe, Tensor]) -> None:
    """RISE's code: the kernel is a filtered point; pixels are replaced in descending order, all channels at once."""
    asked, found = probe
    (row,) = InsertionDeletion(steps=4).rows(found.numpy(), asked)
    x = asked.images.double()
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(point, 5)).expand(3, 1, 11, 11)
    blurred = F.conv2d(x, kernel, padding=5, groups=3)
    order = full(found, (112, 112)).float().flatten().argsort(stable=True, descending=True)
    for name, start, finish in (("deletion", x, torch.zeros_like(x)), ("insertion", blurred, x)):
        image = start.clone().flatten(2)
        for step in range(5):
            assert row[name][step] == pytest.approx(shown(asked, image.view_as(x)), abs=1e-5)
            now = order[step * 3136 : (step + 1) * 3136]
            image[:, :, now] = finish.flatten(2)[:, :, now]


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_average_drop_is_the_plain_product(fill: str, probe: tuple[BatchProbe, Tensor]) -> None:
    asked, found = probe
    (row,) = AverageDrop([1.0], fill).rows(found.numpy(), asked)  # type: ignore[arg-type]
    x, base = asked.images, asked.black if fill == "black" else torch.zeros_like(asked.black)
    expected = shown(asked, base + full(found, (112, 112)) * (x - base))
    assert row["kept_100"] == pytest.approx(expected, abs=1e-5)
    assert row["confidence"] == pytest.approx(shown(asked, x), abs=1e-6)


def test_adcc_is_the_authors_arithmetic(probe: tuple[BatchProbe, Tensor]) -> None:
    asked, found = probe
    evaluator = Adcc()
    rows = pd.DataFrame(evaluator.rows(found.numpy(), asked))
    metrics = {metric.name: metric.value for metric in evaluator.summary(rows)}
    m, x = full(found, (112, 112)), asked.images
    again = full(asked.explain((x * m).to(x.dtype)), (112, 112))
    coherency = (np.corrcoef(m.flatten(), again.flatten())[0, 1] + 1) / 2
    before, after = shown(asked, x), shown(asked, x * m)
    drop, complexity = max(0.0, before - after) / before, float(m.abs().mean())
    assert metrics["adcc"] == pytest.approx(100 * 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop)), abs=1e-3)


def test_unscaled_activations_have_no_first_component_of_an_rbf_kernel() -> None:
    """On SqueezeNet the kernel is near the identity, unless it is as wide as the data."""
    network, files = load("squeezenet1_1_local", [0, 3, 4, 5], torch.float32)
    forward = network.forward(torch.from_numpy(np.stack([network.preprocess(file)[0] for file in files])))
    found = KPCACAM("rbf")(forward, torch.zeros(4, dtype=torch.long))
    gaps = found.isnan().all(2).all(1)
    assert gaps.any()
    assert not gaps.all()
    assert KPCACAM("rbf", width=1.0)(forward, torch.zeros(4, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}-{pair.reference}")
def test_maps_agree_with_independent_code_on_a_real_network(pair: Pair, case: Case) -> None:
    if why := pair.refusal(case.network):
        pytest.fail(why)
    found = compare(pair, case)
    allowed = 1e-5 if pair.reference == OWN and pair.name == "gradcampp" else LOOSE.get(pair.name, 1e-5)
    assert min(found.rhos) > 0.99
    assert max(found.differences) < allowed
