"""Smooth masks: smoothing compared with SciPy's, the smooth maximum with a loop over pixels and parameters."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from toys import random_activations

from eigencam.methods.blur import SmoothMax, gaussian_blur, pillow_blur


@pytest.mark.parametrize("sigma", [0.5, 3.0, 10.0])
@pytest.mark.parametrize(("edge", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_the_blur_is_scipys(sigma: float, edge: Any, mode: Any) -> None:
    x = random_activations(2, 3, 11, 17)
    expected = gaussian_filter(x.double().numpy(), sigma, mode=mode, axes=(2, 3))
    found = gaussian_blur(x, sigma, edge)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_no_blur_is_none() -> None:
    x = random_activations(1, 5, 7)
    for edge in ("zero", "reflect"):
        assert torch.equal(gaussian_blur(x, 0, edge), x)


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.5, 5.0, 10.0])
@pytest.mark.parametrize("shape", [(224, 224), (30, 41)])
def test_pillows_blur_is_pillows(radius: float, shape: tuple[int, int]) -> None:
    mask = random_activations(2, *shape).sigmoid()
    levels = (255 * mask.numpy()).astype(np.uint8)
    expected = [np.array(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in levels]
    np.testing.assert_array_equal((255 * pillow_blur(mask, radius)).round().numpy(), np.stack(expected))


def test_the_smooth_maximum_is_the_loop_over_pixels_and_parameters() -> None:
    cell, sigma, size = 3, 4.0, (7, 10)
    parameters = torch.rand(2, 3, 4, dtype=torch.float64)
    pool = SmoothMax(size, cell, sigma, parameters)
    found = pool(parameters)
    assert found.shape[1:] == pool.size == (13, 16)
    for u in range(13):
        for v in range(16):
            values = []
            for i in range(u // cell - pool.padding, u // cell - pool.padding + pool.window):
                for j in range(v // cell - pool.padding, v // cell - pool.padding + pool.window):
                    away = np.hypot(u - sigma - cell * i, v - sigma - cell * j) / sigma
                    inside = 0 <= i < 3 and 0 <= j < 4
                    value = parameters[:, i, j] if inside else torch.zeros(2, dtype=torch.float64)
                    values.append(value * np.exp(-2 * max(away - 0.5, 0) ** 2))
            stacked = torch.stack(values, 1)
            expected = (stacked * (20 * stacked).softmax(1)).sum(1)
            torch.testing.assert_close(found[:, u, v], expected)
    assert torch.autograd.gradcheck(pool, parameters.requires_grad_())


def test_a_single_parameter_makes_a_round_hill_where_it_lies() -> None:
    parameters = torch.zeros(1, 7, 7)
    parameters[0, 3, 2] = 1
    pool = SmoothMax((49, 49), 7, 21, parameters)
    hill = pool(parameters)[0, pool.margin :, pool.margin :][:49, :49]
    assert hill[21, 14] == hill.max()
    assert hill[21, 14] > 0.99
    torch.testing.assert_close(hill[21:42, 14], hill[21, 14:35])  # equally far down and to the right
    torch.testing.assert_close(hill[21:36, 14], hill[7:22, 14].flip(0))
