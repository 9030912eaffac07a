"""Methods compared with independent code on networks with batch norms, residuals and, if trained, saturated ReLU6."""

import os
from functools import cache

import pytest
import references_fixations
import references_gradients
import torch
from references import Case, Pair, case_of, compare
from torch import nn

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
