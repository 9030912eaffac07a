"""The CAM family, perturbations and optimised masks beside independent code, on a real network: MobileNetV2.

It has batch norms, residual sums and ReLU6; images are of half the size here. The same pairs with more steps and images
make `results/agreement_perturbation.csv`.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import references_cam
import references_masks as masks
import torch
from references import OWN, Case, Pair, compare

from eigencam.methods.lime import LIME
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.perturbation import ISCAM, RISE, SSCAM, Occlusion, ScoreCAM, ShapCAM

SHARED = os.environ.get("EIGENCAM_SHARED")
pytestmark = pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: real weights and images are not here")

PAIRS = [
    *(pair for pair in references_cam.PAIRS if pair.name not in ("ablationcam", "smoothgradcampp")),
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
"""Where the largest difference is larger: a fit in float32, a level of 8 bits at a mask's edge, which values of a tie
are ones, and the number that pytorch-grad-cam adds."""


@pytest.fixture(scope="module")
def case() -> Case:
    from hydra import compose, initialize_config_module

    from eigencam.datasets.ilsvrc import Ilsvrc
    from eigencam.networks.network import load_network

    folder = Path(str(SHARED), "realdata")
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose(
            "run", ["model=mobilenet_v2_tf", "model.preprocess.size=112", f"paths.weights={folder}/weights"]
        )
    network = load_network(config.model, dtype=torch.float64)
    original = Ilsvrc(folder).image(5)
    images = torch.from_numpy(np.stack([network.preprocess(original)[0]]))
    return Case(network, images, network.forward(images).logits.argmax(1), (original,))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}-{pair.reference}")
def test_maps_agree_with_independent_code_on_a_real_network(pair: Pair, case: Case) -> None:
    if why := pair.refusal(case.network):
        pytest.fail(why)
    found = compare(pair, case)
    allowed = 1e-5 if pair.reference == OWN and pair.name == "gradcampp" else LOOSE.get(pair.name, 1e-5)
    assert min(found.rhos) > 0.99
    assert max(found.differences) < allowed
