"""Every method of the catalogue: types and shapes, batches of one, a constant image, and a constant output.

Every method in the catalogue is tested. `test_gpu.py` tests its use of a device, `test_golden.py` its numbers in
float64, `test_every_method.py` each kind of network.
"""

import copy
import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from golden import alone
from method_trials import CONSTANT, METHODS, home, maps, method, network
from torch import nn

from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.states import State
from eigencam.methods.base import gives_boxes, is_class_specific, needs_gradient
from eigencam.networks.network import Network

STATES = get_args(State)
ROUNDED = {"opticam": 0.01}
"""Methods with larger rounding differences, relative to the largest value: Adam divides by the gradients' size."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with alone():
        yield


def tensors() -> int:
    """The number of living tensors."""
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("option", METHODS)
def test_no_tensor_of_a_pass_waits_for_the_garbage_collector(option: str) -> None:
    """A reference cycle keeps the activations of many batches in memory before the collector runs."""
    used = network(home(option), "cpu")
    maps(used, option, (0,))  # what is kept for every later batch is kept now
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        maps(used, option, (0,))
        assert tensors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("option", METHODS)
def test_an_image_has_the_map_of_a_batch_of_one_whatever_stands_beside_it(option: str) -> None:
    """A constant image in the batch: its own map has a state, and the other maps are unchanged."""
    used = network(home(option), "cpu")
    batch, one = maps(used, option, (0, CONSTANT, 1)), maps(used, option, (1,))
    if gives_boxes(method(option)):
        assert all(boxes.dtype == np.float64 and boxes.shape[1:] == (5,) for boxes in batch.boxes["m"])
        np.testing.assert_allclose(batch.boxes["m"][2], one.boxes["m"][0], rtol=1e-6, atol=1e-6)
        return
    found, expected = batch.maps["m"], one.maps["m"][0]
    assert found.dtype == np.float32
    assert found.shape == (3, *expected.shape)
    tolerance = ROUNDED.get(option, 1e-4) * np.abs(expected).max()
    np.testing.assert_allclose(found[2], expected, rtol=1e-3, atol=tolerance)
    assert np.abs(found[2] - expected).mean() <= 2e-3 * np.abs(expected).max()  # rounding grows only at a few positions
    assert [ScoreMap(values, (80, 100)).state for values in found[[0, 2]]].count("nonfinite") == 0
    assert ScoreMap(found[1], (80, 100)).state in STATES


def silent(used: Network) -> Network:
    """The network with a last layer of zeros: a constant output without a gradient."""
    module = copy.deepcopy(used.module)
    last = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        for values in last.parameters():
            values.zero_()
    return replace(used, module=module)


@pytest.mark.parametrize("option", METHODS)
def test_of_an_answer_that_depends_on_nothing_there_is_no_map_of_its_gradient(option: str) -> None:
    used = silent(network(home(option), "cpu"))
    found = maps(used, option, (0,))
    assert found.answers == ["constant"]
    for values in found.maps.get("m", ()):
        state = ScoreMap(values, (80, 100)).state
        assert state != "ok" or not (needs_gradient(method(option)) and is_class_specific(method(option)))
    assert all(np.isfinite(boxes).all() for boxes in found.boxes.get("m", ()))
