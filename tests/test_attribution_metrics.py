"""Infidelity, max-sensitivity, sparseness and complexity: closed forms, Captum's and, if it is there, Quantus'."""

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from golden_methods import inputs, nodes
from numpy.typing import NDArray
from test_faithfulness import Sum
from torch import Tensor
from torch.nn import functional as F

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Metric
from eigencam.evaluation.infidelity import Infidelity
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.sensitivity import MaxSensitivity, _noise
from eigencam.evaluation.sparseness import Sparseness
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.input_gradients import Gradient
from eigencam.networks.network import Network, load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.running.probe import BatchProbe

SIDE, METHODS = 64, {"gradcam": GradCAM(), "gradient": Gradient("sum")}
LABELS = [0, 7]


@lru_cache(maxsize=1)
def network() -> Network:
    node = nodes("model")["scenes_resnet"]
    return load_network({**node, "preprocess": {**node["preprocess"], "size": SIDE}})


def asked(name: str, images: Tensor, labels: list[int]) -> tuple[NDArray[np.float32], BatchProbe]:
    """A method's maps, and what evaluators may request."""
    found = compute_maps(network(), {"m": METHODS[name]}, images, labels=labels)
    maps = found.maps["m"]
    truth = Truth("a", (SIDE, SIDE), 0, np.zeros((0, 4)), np.zeros(0, np.int64))
    score_maps = [ScoreMap(m, (SIDE, SIDE)) for m in maps]
    return maps, BatchProbe(found.forward, METHODS[name], found.asked, score_maps, [truth] * len(maps))


def metrics(evaluator: Any, rows: list[dict[str, Any]]) -> dict[str, Metric]:
    frame = pd.DataFrame([{"image": str(n), "label": 0, **row} for n, row in enumerate(rows)])
    return {metric.name: metric for metric in evaluator.summary(frame)}


# ------------------------------------------------------------------------------------------------------ infidelity


def linear(maps: Tensor, images: Tensor) -> Any:
    """A probe on the network whose logit 0 is the sum of the first channel."""
    p: Any = Sum(images, torch.zeros(len(images), dtype=torch.long), torch.zeros(3, 1, 1))
    p.shared = lambda _key, make: make()
    p.score_maps = [ScoreMap(m.numpy(), (8, 8)) for m in maps]
    return p


@pytest.mark.parametrize("cells", [2, 3, 8])
def test_of_a_linear_network_its_contributions_explain_all_and_its_slope_does(cells: int) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    contribution, slope = images[:, 0], torch.ones(3, 8, 8)
    slope[:, 0, 0] += 1e-6  # a constant map says nothing
    images[:, 1:] = 0
    for reading, maps, factor in (
        ("contribution", contribution, 1.0),
        ("slope", slope, 1.0),
        ("contribution", contribution, 3.0),
    ):
        evaluator = Infidelity(cells, "black", reading)  # type: ignore[arg-type]
        found = metrics(evaluator, evaluator.rows((factor * maps).numpy(), linear(maps, images)))
        assert found["infidelity_share"].value == pytest.approx(0, abs=1e-3)
        assert found["infidelity_scaled"].value == pytest.approx(0, abs=1e-5)
        assert (found["infidelity"].value < 1e-8) == (factor == 1)


def test_a_map_that_points_the_other_way_explains_nothing() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    evaluator = Infidelity(4)
    rows = evaluator.rows(-images[:, 0].numpy(), linear(images[:, 0], images))
    found = metrics(evaluator, rows)
    assert found["infidelity_share"].value == 100
    assert found["infidelity_scaled"].value == pytest.approx(np.mean([row["drop_square"] for row in rows]))
    assert found["infidelity"].value == pytest.approx(4 * found["infidelity_scaled"].value, rel=1e-5)


def test_no_block_that_matters_is_the_worst_for_every_map() -> None:
    images = torch.zeros(2, 3, 8, 8)
    maps = torch.arange(128.0).view(2, 8, 8)
    found = metrics(Infidelity(), Infidelity().rows(maps.numpy(), linear(maps, images)))
    assert found["infidelity_share"].value != found["infidelity_share"].value  # not defined for any image
    some = images.clone()
    some[0] = 1
    found = metrics(Infidelity(), Infidelity().rows(maps.numpy(), linear(maps, some)))
    assert found["infidelity_share"].value > 50
    assert "1 further images without a value" in found["infidelity_share"].note


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("reading", "cells", "fill"), [("contribution", 7, "black"), ("slope", 4, "mean")])
def test_infidelity_is_captums(name: str, reading: Any, cells: int, fill: Any) -> None:
    maps, p = asked(name, inputs(SIDE), LABELS)
    maps = maps * np.float32(1e3)
    evaluator = Infidelity(cells, fill, reading)
    rows = evaluator.rows(maps, p)
    number = torch.arange(SIDE) * cells // SIDE
    number = cells * number[:, None] + number
    base = p.black.expand_as(p.images) if fill == "black" else torch.zeros_like(p.images)
    full = F.interpolate(torch.from_numpy(maps)[:, None], (SIDE, SIDE), mode="bilinear")
    change = p.images - base
    attributed = full.expand_as(change) if reading == "slope" else torch.where(change == 0, 0, full / 3 / change)
    for k in range(2):
        place = iter(range(cells**2))

        def perturbed(x: Tensor) -> tuple[Tensor, Tensor]:
            gone = torch.stack([number == next(place) for _ in x])[:, None]  # noqa: B023
            removed = torch.where(gone, change[k : k + 1], 0)  # noqa: B023
            return removed, x - removed

        for scaled, expected in ((False, rows[k]["infidelity"]), (True, _scaled(rows[k]))):
            place = iter(range(cells**2))
            theirs = captum_infidelity(
                network().module,
                perturbed,
                p.images[k : k + 1],
                attributed[k : k + 1],
                target=LABELS[k],
                n_perturb_samples=cells**2,
                max_examples_per_batch=16,
                normalize=scaled,
            )
            assert expected == pytest.approx(theirs.item(), rel=2e-3)


def _scaled(row: dict[str, Any]) -> float:
    """Captum's factor may be negative; ours is at least 0."""
    return row["drop_square"] - row["product"] ** 2 / row["map_square"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cells": 1}, "2 or more"),
        ({"fill": "grey"}, "black, mean, blur"),
        ({"reading": "both"}, "contribution, slope"),
    ],
)
def test_parameters_of_infidelity_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Infidelity(**wrong)


def test_more_blocks_than_pixels_are_refused() -> None:
    maps = torch.rand(1, 8, 8)
    with pytest.raises(ValueError, match="no more than the 8"):
        Infidelity(9).rows(maps.numpy(), linear(maps, torch.ones(1, 3, 8, 8)))


# ------------------------------------------------------------------------------------------------- max-sensitivity


def always(value: Tensor) -> Callable[[Any], Tensor]:
    return lambda _x: value


@pytest.mark.parametrize("name", METHODS)
def test_max_sensitivity_is_captums(name: str) -> None:
    evaluator = MaxSensitivity(radius=0.1, samples=3, seed=2)
    maps, p = asked(name, inputs(SIDE), LABELS)
    rows = evaluator.rows(maps, p)
    reach = 0.1 * (p.white - p.black)
    noises = torch.stack([reach * _noise(2, sample, 3, SIDE, SIDE) for sample in range(3)])
    for k in range(2):

        def explain(images: Any, k: int = k) -> tuple[Tensor]:
            images = images[0] if isinstance(images, tuple) else images
            return (torch.stack([p.explain(image.expand_as(p.images))[k] for image in images]),)

        image = p.images[k : k + 1]
        theirs = sensitivity_max(explain, (image,), always(image + noises), n_perturb_samples=3)
        assert rows[k]["max_sensitivity"] == pytest.approx(theirs.item(), rel=1e-4)
        assert 0 < rows[k]["mean_sensitivity"] <= rows[k]["max_sensitivity"]


def test_a_map_of_the_image_itself_moves_by_the_noise_and_a_constant_one_is_left_out() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    p = linear(images[:, 0], images)
    p.white = torch.ones(3, 1, 1)
    evaluator = MaxSensitivity(0.1, 4)
    rows = evaluator.rows(images[:, 0].numpy(), p)
    noise = torch.stack([0.1 * _noise(0, s, 3, 8, 8)[0] for s in range(4)]).flatten(1).norm(dim=1)
    for row, image in zip(rows, images, strict=True):
        assert row["max_sensitivity"] == pytest.approx((noise.max() / image[0].norm()).item(), rel=1e-5)
        assert row["mean_sensitivity"] == pytest.approx((noise.mean() / image[0].norm()).item(), rel=1e-5)
    rows[1] |= {"map_state": "constant"}
    found = metrics(evaluator, rows)
    assert found["max_sensitivity"].n == 1
    assert found["max_sensitivity"].note == "1 constant of 2 maps"
    with pytest.raises(ValueError, match="radius=0; allowed"):
        MaxSensitivity(radius=0)
    with pytest.raises(ValueError, match="samples=0; allowed"):
        MaxSensitivity(samples=0)


@pytest.mark.parametrize("evaluator", [Infidelity(4, "blur"), MaxSensitivity(samples=2)])
def test_a_batch_of_one_is_a_batch_of_many(evaluator: Any) -> None:
    many = evaluator.rows(*asked("gradcam", inputs(SIDE), LABELS))
    for k in range(2):
        (alone,) = evaluator.rows(*asked("gradcam", inputs(SIDE)[k : k + 1], LABELS[k : k + 1]))
        for name, value in alone.items():
            assert value == (pytest.approx(many[k][name], rel=1e-3) if isinstance(value, float) else many[k][name])


def test_changed_images_go_through_the_network_once_for_all_methods() -> None:
    maps, p = asked("gradcam", inputs(SIDE), LABELS)
    Infidelity(4).rows(maps, p)
    seen: list[int] = []
    handle = network().module.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    again = Infidelity(4).rows(
        maps[:, ::-1].copy(), BatchProbe(p.forward, METHODS["gradient"], p.targets, p.score_maps)
    )
    Infidelity(4, "mean").rows(maps, p)
    handle.remove()
    assert sum(seen) == 2 * 16  # of the other filling
    assert len(again) == 2


# -------------------------------------------------------------------------------------- sparseness and complexity


def row_of(values: NDArray[Any]) -> dict[str, Any]:
    size = (values.shape[0], values.shape[1])
    return Sparseness().row(ScoreMap(values, size), Truth("a", size, 0, np.zeros((0, 4)), np.zeros(0, np.int64)))


@pytest.mark.parametrize("k", [1, 7, 48])
def test_of_equal_values_the_rest_zero(k: int) -> None:
    values = np.zeros(48)
    values[:k] = -3.0
    row = row_of(np.random.default_rng(0).permutation(values).reshape(6, 8))
    assert row["gini"] == pytest.approx(1 - k / 48)
    assert row["entropy"] == pytest.approx(np.log(k))
    assert row["evenness"] == pytest.approx(np.log(k) / np.log(48))


def test_values_that_rise_evenly_and_their_scale() -> None:
    values = np.arange(1.0, 101).reshape(10, 10)
    assert row_of(values)["gini"] == pytest.approx(99 / 300)  # (n^2 - 1) / (3 n (n + 1))
    assert row_of(-5 * values) == pytest.approx(row_of(values))


@pytest.mark.parametrize("values", [np.full((4, 5), 2.0), np.zeros((4, 5)), np.full((4, 5), np.nan)])
def test_a_map_that_says_nothing_has_the_values_of_a_constant_one(values: NDArray[Any]) -> None:
    row = row_of(values)
    assert [row["gini"], row["entropy"], row["evenness"]] == pytest.approx([0, np.log(20), 1])


@pytest.mark.full
def test_sparseness_and_complexity_are_those_of_quantus() -> None:
    """Their Gini index adds 1e-7 to each value, their entropy 1e-12 to each share."""
    pytest.importorskip("quantus")
    sparseness = importlib.import_module("quantus.metrics.complexity.sparseness").Sparseness(disable_warnings=True)
    complexity = importlib.import_module("quantus.metrics.complexity.complexity").Complexity(disable_warnings=True)
    maps, _ = asked("gradient", inputs(SIDE), LABELS)
    theirs = [
        metric.evaluate_batch(x_batch=None, a_batch=np.abs(maps).astype(np.float64))
        for metric in (sparseness, complexity)
    ]
    for k, m in enumerate(maps):
        row = row_of(m)
        assert [row["gini"], row["entropy"]] == pytest.approx([theirs[0][k], theirs[1][k]], rel=1e-5)


@pytest.mark.full
def test_max_sensitivity_is_that_of_quantus() -> None:
    pytest.importorskip("quantus")
    module = importlib.import_module("quantus.metrics.robustness.max_sensitivity")
    maps, p = asked("gradient", inputs(SIDE), LABELS)
    reach = (0.1 * (p.white - p.black)).numpy()
    noises = iter([reach * _noise(2, sample, 3, SIDE, SIDE).numpy() for sample in range(3)])
    theirs = module.MaxSensitivity(nr_samples=3, disable_warnings=True)
    theirs.perturb_func = lambda arr, indices: arr + next(noises).reshape(-1)
    theirs.explain_batch = lambda _model, x, _y: p.explain(torch.from_numpy(x)).numpy()
    theirs.changed_prediction_indices_func = lambda *_: []
    found = theirs.evaluate_batch(None, p.images.numpy(), np.array(LABELS), maps)
    rows = MaxSensitivity(0.1, 3, 2).rows(maps, p)
    assert [row["max_sensitivity"] for row in rows] == pytest.approx(list(found), rel=1e-4)


@pytest.mark.full
def test_infidelity_is_that_of_quantus_but_for_blocks_that_it_leaves_removed() -> None:
    """Its blocks are removed cumulatively, one after the other: with a single block there is no difference."""
    pytest.importorskip("quantus")
    module = importlib.import_module("quantus.metrics.faithfulness.infidelity")
    maps, p = asked("gradient", inputs(SIDE), LABELS)
    theirs = module.Infidelity(perturb_patch_sizes=[SIDE // 2], n_perturb_samples=1, disable_warnings=True)
    theirs.perturb_func = lambda arr, indices: _black(arr, indices, p)

    class Model:
        shape_input = staticmethod(lambda x, *_a, **_k: x)

        @staticmethod
        def predict(x: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                return network().module(torch.from_numpy(x)).numpy()

    full = F.interpolate(torch.from_numpy(maps)[:, None], (SIDE, SIDE), mode="bilinear").numpy()
    found = theirs.evaluate_batch(Model(), p.images.numpy(), np.array(LABELS), full)
    images, base, logits = p.images, p.black.expand_as(p.images), p.logits
    half = SIDE // 2
    left = images.clone()
    errors = []
    for y, x in ((0, 0), (0, half), (half, 0), (half, half)):
        left[:, :, y : y + half, x : x + half] = base[:, :, y : y + half, x : x + half]
        with torch.no_grad():
            drops = (logits - network().module(left))[[0, 1], LABELS]
        errors.append(drops - (torch.from_numpy(full) * (images - left)).sum((1, 2, 3)))
    assert torch.stack(errors).square().mean(0).tolist() == pytest.approx(list(found), rel=1e-3)
    ours = [row["infidelity"] for row in Infidelity(2, "black", "slope").rows(maps, p)]
    assert ours != pytest.approx(list(found), rel=0.05)


def _black(arr: NDArray[np.float32], indices: NDArray[np.int64], p: BatchProbe) -> NDArray[np.float32]:
    black = p.black.expand_as(p.images).reshape(len(arr), -1).numpy()
    changed = arr.copy()
    places = np.asarray(indices)
    lines = np.arange(len(arr))[:, None]
    changed[lines, places] = black[lines, places]
    return changed
