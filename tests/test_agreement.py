"""Methods compared with independent code on networks with batch norms, residuals and, if trained, saturated ReLU6."""

import os
from functools import cache

import numpy as np
import pytest
import references_fixations
import references_gradients
import torch
from references import Case, Pair, case_of, compare
from torch import nn

from eigencam.methods.fullgrad import full_gradients
from eigencam.methods.input_gradients import IntegratedGradients
from eigencam.methods.lime import LIME

pytestmark = pytest.mark.full

PAIRS = [*references_gradients.PAIRS, *references_fixations.PAIRS]
SHARED = os.environ.get("EIGENCAM_SHARED", "")
REAL = ("mobilenet_v2_tf", "dataset=ilsvrc", f"paths.ilsvrc={SHARED}/realdata", "model.preprocess.size=64",
        f"paths.weights={SHARED}/realdata/weights")  # fmt: skip
needs_shared = pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: real images and weights are not here")
NETWORKS = [
    pytest.param(("scenes_resnet", "dataset=scenes"), id="scenes"),
    pytest.param(REAL, id="real", marks=needs_shared),
]


@cache
def case(words: tuple[str, ...]) -> Case:
    return case_of(words[0], 1 if words == REAL else 2, words[1:])


@pytest.mark.parametrize("words", NETWORKS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}, {pair.reference}")
def test_maps_are_those_of_independent_code(pair: Pair, words: tuple[str, ...]) -> None:
    made = case(words)
    if why := pair.refusal(made.network):
        pytest.skip(why)
    found = compare(pair, made)
    assert min(found.rhos) > 0.9999
    # probabilities that nearly cancel keep fewer digits of float32; a unit near its kink may be active at 1 of 16 nodes
    allowed = {"cmwp": 1e-3, "integrated_gradients": 5e-3}.get(pair.name.split()[0], 3e-6)
    assert max(found.differences) < allowed


@needs_shared
def test_units_of_the_real_network_are_saturated() -> None:
    made, shares = case(REAL), list[float]()
    module = made.module()
    for each in module.modules():
        if isinstance(each, nn.ReLU6):
            each.register_forward_hook(lambda _m, _a, out: shares.append(float((out == 6).double().mean())))
    with torch.no_grad():
        module(made.inputs)
    assert len([share for share in shares if share > 1e-3]) > 5


@needs_shared
def test_full_gradients_of_the_real_network_add_up_to_the_logit_through_its_saturated_units() -> None:
    made = case(REAL)
    of_input, maps, rest = full_gradients(made.module(), made.inputs, made.targets)
    total = torch.stack([part.flatten(1).sum(1) for part in (of_input, *maps, *rest)]).sum(0)
    with torch.no_grad():
        torch.testing.assert_close(total, made.module()(made.inputs).gather(1, made.targets[:, None])[:, 0])


@needs_shared
def test_integrated_gradients_of_the_real_network_add_up_or_are_nan() -> None:
    """With few nodes the sum misses by more than the tolerance; the method goes on, or gives no map."""
    made = case(REAL)
    forward = made.network.forward(made.images, gradients=True)
    with torch.no_grad():
        start = made.module()(torch.zeros_like(made.inputs))
    difference = (forward.logits - start.float()).gather(1, made.targets[:, None])[:, 0]
    allowed = 0.05 * torch.maximum(difference.abs(), forward.logits.std(1, correction=0))
    found = IntegratedGradients(steps=4)(forward, made.targets)
    missed = (found.sum((1, 2)) - difference).abs()
    assert (found.isnan().all(2).all(1) | (missed <= allowed * 1.001)).all()
    assert IntegratedGradients(steps=4, max_steps=4, tolerance=1e-9)(forward, made.targets).isnan().all()


@needs_shared
def test_superpixels_of_a_real_image_are_the_same_for_real_networks_of_other_means_and_types() -> None:
    found = []
    for name, dtype in (("mobilenet_v2_tf", torch.float32), ("squeezenet1_1_local", torch.bfloat16)):
        words = [word for word in REAL[1:] if "size" not in word]
        used = case_of(name, 1, [*words, "model.preprocess.size=112", "model.preprocess.resize=squash"])
        used.network.module.to(dtype)
        forward = used.network.forward(used.images)
        assert torch.equal(forward.pixels, used.images)  # what self-taught localization segments, too
        found.append(LIME(samples=2).superpixels(forward))
    assert len(found[0].unique()) > 3
    np.testing.assert_array_equal(*(one.numpy() for one in found))
