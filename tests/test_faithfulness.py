"""Faithfulness on a network with known outputs; ROAD compared with pytorch-grad-cam, average drop with torchcam."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric

from eigencam.evaluation.base import Metric, NetworkEvaluator
from eigencam.evaluation.changed_images import blur_kernel, is_gone, points_gone, ranks_of, scaled
from eigencam.evaluation.faithfulness import Adcc, AverageDrop, InsertionDeletion, Road
from eigencam.evaluation.imputation import impute

SIDE = 8
THEIR_NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of numpy before 2


@dataclass
class Sum:
    """A network of two classes: logit 0 is the sum of the image's first channel, logit 1 is 0."""

    images: Tensor
    targets: Tensor
    black: Tensor

    @property
    def logits(self) -> Tensor:
        return self.of(self.images)

    @staticmethod
    def of(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sum((1, 2)), torch.zeros(len(x))], 1)

    def predict(self, count, inputs) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.cat([self.of(inputs(slice(i, min(i + 3, count)))) for i in range(0, count, 3)])

    def explain(self, images: Tensor) -> Tensor:
        return images[:, 0]


def probe(n: int = 2, black: float = 0.0) -> Any:
    images = torch.zeros(n, 3, SIDE, SIDE)
    images[:, 0, 2:4, 2:6] = 0.25
    return Sum(images, torch.zeros(n, dtype=torch.long), torch.full((3, 1, 1), black))


def summary(evaluator: NetworkEvaluator, maps: Tensor, p: Any) -> dict[str, Metric]:
    rows = evaluator.rows(maps.numpy(), p)
    assert len(rows) == len(maps)
    return {metric.name: metric for metric in evaluator.summary(pd.DataFrame(rows))}


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_the_whole_image_changes_nothing_and_counts_at_the_worst() -> None:
    rows = AverageDrop().rows(torch.ones(2, 1, 1).numpy(), probe())
    assert rows[0]["kept_100"] == rows[0]["confidence"]
    found = summary(AverageDrop(), torch.ones(2, 1, 1), probe())
    assert (found["drop_100"].value, found["increase_100"].value) == (100, 0)
    assert "2 constant of 2 maps" in found["drop_100"].note


@pytest.mark.parametrize(("fill", "filler"), [("black", -1.0), ("mean", 0.0)])
def test_average_drop_of_a_half_is_by_hand(fill: str, filler: float) -> None:
    p = probe(black=-1.0)
    maps = torch.zeros(2, SIDE, SIDE)
    maps[:, 2:4, 2:4] = 2.0  # half of the object
    found = summary(AverageDrop([1.0, 2 / 64], fill), maps, p)  # type: ignore[arg-type]
    before = sigmoid(8 * 0.25)
    for name, pixels in (("drop_100", 4), ("drop_3.125", 2)):
        after = sigmoid(0.25 * pixels + filler * (64 - pixels))
        assert found[name].value == pytest.approx(100 * (before - after) / before, rel=1e-5)


@dataclass
class Small(Sum):
    """A sum as a network with layers."""

    net: nn.Module

    def of(self, x: Tensor) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            return self.net(x)


def test_average_drop_and_increase_are_torchcams() -> None:
    """For the same maps: torchcam explains the probability, which its metric reads; our maps explain the logit."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    images = 2 * torch.randn(32, 3, 12, 10) + 0.2
    targets = torch.arange(32) % 4
    with GradCAM(net, "1", input_shape=(3, 12, 10)) as cam:
        metric = ClassificationMetric(cam, lambda logits: logits.softmax(1))
        metric.update(images, targets.tolist())
        (maps,) = cam(targets.tolist(), net(images).softmax(1), normalized=False)
    theirs = metric.summary()
    found = summary(AverageDrop([1.0], "mean"), maps.detach(), Small(images, targets, torch.zeros(3, 1, 1), net))
    assert 0 < found["increase_100"].value < 100
    assert found["drop_100"].value > 1
    assert found["drop_100"].value == pytest.approx(100 * theirs["avg_drop"], rel=1e-4)
    assert found["increase_100"].value == pytest.approx(100 * theirs["conf_increase"])


def test_taking_away_what_speaks_against_the_class_increases_confidence() -> None:
    p = probe()
    p.images[:, 0, 7] = -1
    maps = torch.zeros(2, SIDE, SIDE)
    maps[:, 2:4, 2:6] = 1
    assert summary(AverageDrop([1.0]), maps, p)["increase_100"].value == 100


def test_ties_go_in_raster_order() -> None:
    m = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])
    assert ranks_of(m).tolist() == [[[2, 0], [3, 1]]]


def test_ranks_are_those_of_a_stable_sort_whatever_the_values() -> None:
    drawn = torch.Generator().manual_seed(0)
    m = torch.randint(-2, 3, (4, 20, 30), generator=drawn).float()
    m[0, 0, :5], m[0, 1, :5] = -0.0, 0.0
    m[1, 2, 3], m[1, 5, 5] = float("nan"), -float("nan")
    m[2, 0], m[2, 1] = float("inf"), -float("inf")
    m[3] = torch.randn(20, 30, generator=drawn)
    order = m.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(600).expand_as(order)
    expected = torch.empty_like(order).scatter_(1, order, places).view(m.shape)
    assert torch.equal(ranks_of(m), expected)
    assert torch.equal(ranks_of(m.double()), expected)


@pytest.mark.parametrize("points", [1, 29, 300])
def test_a_pixel_is_gone_from_the_first_point_that_reaches_its_rank(points: int) -> None:
    m = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    ranks, gone = ranks_of(m), torch.linspace(0, 600, points).round()
    first = points_gone(ranks, gone)
    i, point = torch.tensor([2, 0, 1, 2]), torch.tensor([0, points - 1, points // 2, points // 3])
    assert torch.equal(is_gone(first, point, i), ranks[i] < gone[point][:, None, None])
    assert first.dtype == (torch.uint8 if points < 256 else torch.int32)


def test_deletion_and_insertion_curves_are_by_hand() -> None:
    p = probe()
    rows = InsertionDeletion(steps=64).rows(p.images[:, 0].numpy() + 1, p)
    expected = [sigmoid(0.25 * max(8 - k, 0)) for k in range(65)]
    np.testing.assert_allclose(rows[0]["deletion"], expected, rtol=1e-5)
    area = np.trapezoid(expected, dx=1 / 64)
    found = summary(InsertionDeletion(steps=64), p.images[:, 0] + 1, p)
    assert found["deletion_auc"].value == pytest.approx(100 * area, rel=1e-5)
    assert rows[0]["insertion"][-1] == pytest.approx(sigmoid(2))
    assert found["insertion_auc"].value > found["deletion_auc"].value


def test_road_prefers_the_map_that_finds_the_object() -> None:
    p = probe()
    right, wrong = p.images[:, 0], -p.images[:, 0]
    assert summary(Road(), right, p)["road"].value > 0 > summary(Road(), wrong, p)["road"].value


@pytest.mark.parametrize("size", [(24, 20), (33, 47), (9, 13), (1, 9), (2, 2)])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_filling_solves_roads_system(share: float, size: tuple[int, int]) -> None:
    height, width = size
    generator = torch.Generator().manual_seed(3)
    images = torch.nn.functional.interpolate(torch.randn(2, 3, 6, 6, generator=generator), size, mode="bilinear")
    gone = torch.zeros(2, 1, *size, dtype=torch.bool)
    gone[0] = torch.rand(1, *size, generator=generator) < share
    gone[1, :, : int(height * share), width // 5 : width // 5 + int(width * share)] = True
    found = impute(images, gone, torch.zeros(3, *size))
    assert torch.equal(found[~gone.expand_as(found)], images[~gone.expand_as(images)])
    for n in range(2):
        for c in range(3):
            expected = solved(images[n, c].double().numpy(), gone[n, 0].numpy())
            assert np.abs(found[n, c].numpy() - expected).max() < 0.001


def test_where_everything_or_nothing_is_gone_the_filling_is_finite() -> None:
    images = torch.randn(2, 3, 30, 31)
    gone = torch.stack([torch.ones(1, 30, 31), torch.zeros(1, 30, 31)]).bool()
    found = impute(images, gone, torch.zeros(3, 30, 31))
    assert (found[0] == 0).all()
    assert torch.equal(found[1], images[1])


@pytest.mark.full
@THEIR_NUMPY
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_filling_is_pytorch_grad_cams_without_its_noise(share: float) -> None:
    """Theirs is solved directly in float64; their noise is drawn anew at each call, ours is the same for all images."""
    generator = torch.Generator().manual_seed(4)
    images = nn.functional.interpolate(torch.randn(2, 3, 6, 6, generator=generator), (24, 20), mode="bilinear")
    gone = torch.rand(2, 1, 24, 20, generator=generator) < share
    gone[1] = False
    gone[1, :, 2 : 2 + int(22 * share), 3:18] = True  # one hole
    nothing = torch.zeros(3, 24, 20)
    theirs = torch.stack(
        [NoisyLinearImputer(noise=0)(x, 1 - hole[0].float()) for x, hole in zip(images, gone, strict=True)]
    )
    torch.testing.assert_close(impute(images, gone, nothing), theirs, atol=1e-5, rtol=0)


@THEIR_NUMPY
@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("shape", ["hole", "map"])
def test_a_wide_hole_is_filled_as_well(shape: str, side: int) -> None:
    generator = torch.Generator().manual_seed(4)
    images = nn.functional.interpolate(torch.randn(1, 3, 8, 8, generator=generator), (side, side), mode="bilinear")
    gone = torch.zeros(1, 1, side, side, dtype=torch.bool)
    gone[..., 10:210, 20:200] = True  # 72 %, like the lowest values of a class map
    if shape == "map":
        cells = torch.rand(1, 1, 7, 7, generator=generator)
        gone = nn.functional.interpolate(cells, (side, side), mode="bilinear") < cells.quantile(0.75)
    theirs = NoisyLinearImputer(noise=0)(images[0], 1 - gone[0, 0].float())
    error = (impute(images, gone, torch.zeros(3, side, side))[0] - theirs)[:, gone[0, 0]]
    assert error.abs().max() < 0.001


@THEIR_NUMPY
def test_road_is_pytorch_grad_cams_without_noise_at_the_same_shares() -> None:
    generator = torch.Generator().manual_seed(8)
    p = probe()
    p.images = 0.3 * torch.randn(2, 3, SIDE, SIDE, generator=generator)
    maps = torch.rand(2, SIDE, SIDE, generator=generator)
    rows = Road(noise=0).rows(maps.numpy(), p)
    of: list[Any] = [lambda logits: logits.softmax(0)[0]] * 2
    for name, remove in (("morf", RemoveMostRelevantFirst), ("lerf", RemoveLeastRelevantFirst)):
        for k, percentile in enumerate((80, 60, 40, 20)):
            metric = PerturbationConfidenceMetric(remove(percentile, NoisyLinearImputer(noise=0)))
            theirs = metric(p.images, maps.numpy(), of, p.of, return_diff=False)  # type: ignore[arg-type]
            np.testing.assert_allclose([row[name][k] for row in rows], theirs, atol=2e-6)


def solved(image: np.ndarray, gone: np.ndarray) -> np.ndarray:
    h, w = image.shape
    matrix, right = sparse.lil_array((h * w, h * w)), np.zeros(h * w)
    for y in range(h):
        for x in range(w):
            i = y * w + x
            if not gone[y, x]:
                matrix[i, i], right[i] = 1, image[y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy or dx) and 0 <= y + dy < h and 0 <= x + dx < w:
                        weight = 1 / 12 if dy and dx else 1 / 6
                        matrix[i, i] += weight
                        matrix[i, i + dy * w + dx] -= weight
    return np.asarray(spsolve(matrix.tocsr(), right)).reshape(h, w)


def test_adcc_of_a_map_that_keeps_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    p = probe()
    found = summary(Adcc(), p.images[:, 0], p)
    assert found["coherency"].value == pytest.approx(100)
    assert found["complexity"].value == pytest.approx(100 * 8 / 64)
    assert found["average_drop"].value == pytest.approx(0, abs=1e-4)
    assert found["adcc"].value == pytest.approx(100 * 3 / (1 + 1 / (1 - 8 / 64) + 1), rel=1e-5)
    nothing = summary(Adcc(), torch.ones(2, 2, 2), p)
    assert nothing["adcc"].value == 0  # a constant map: complexity 1
    p, maps = probe(64), torch.rand(64, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(type(p), "explain", lambda _self, _images: maps)
    assert max(row["coherency"] for row in Adcc().rows(maps.numpy(), p)) == 1  # without a limit, 1.0000001


@pytest.mark.parametrize("maps", [torch.full((2, 3, 3), torch.nan), torch.zeros(2, 1, 1), torch.full((2, 2, 2), 1e38)])
@pytest.mark.parametrize(
    "evaluator", [AverageDrop(), InsertionDeletion(4), Road(), Adcc()], ids=lambda e: type(e).__name__
)
def test_degenerate_maps_are_counted_and_give_finite_numbers(evaluator: NetworkEvaluator, maps: Tensor) -> None:
    found = summary(evaluator, maps, probe())
    assert all(np.isfinite(metric.value) for metric in found.values())
    assert "of 2 maps" in next(iter(found.values())).note


def test_maps_are_scaled_before_they_are_enlarged() -> None:
    m, states = scaled(np.array([[[0, 1e-30]], [[-5, 5]]], np.float32), probe())
    assert states == ["ok", "ok"]
    assert m.shape == (2, SIDE, SIDE)
    assert (m.amin((1, 2)) == 0).all()
    assert (m.amax((1, 2)) == 1).all()


def authors_kernel() -> NDArray[np.float64]:
    """(11, 11): the kernel in the code of RISE's authors, `gkern(11, 5)`."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    return gaussian_filter(point, 5)


def test_the_blur_is_the_one_of_rises_authors() -> None:
    kernel = np.outer(blur_kernel(), blur_kernel())
    np.testing.assert_allclose(kernel, authors_kernel(), rtol=1e-12)
    np.testing.assert_allclose([kernel[5, 5], kernel[0, 0]], [0.00883, 0.00774], atol=5e-6)  # nearly flat


def blurred(image: Tensor) -> Tensor:
    """Convolution with the authors' kernel, zeros beyond the border, as a plain double sum."""
    kernel = authors_kernel()
    padded = np.pad(image.numpy(), ((0, 0), (5, 5), (5, 5)))
    out = np.zeros_like(image)
    for y in range(SIDE):
        for x in range(SIDE):
            out[:, y, x] = (padded[:, y : y + 11, x : x + 11] * kernel).sum((1, 2))
    return torch.from_numpy(out)


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
def test_kept_probabilities_are_those_of_a_plain_loop_over_pixels(fill: str) -> None:
    generator = torch.Generator().manual_seed(5)
    p = probe(n=3, black=-0.1)
    p.images += 0.05 * torch.randn(p.images.shape, generator=generator)
    maps = (4 * torch.rand(3, SIDE, SIDE, generator=generator)).round()  # many ties
    rows = AverageDrop(fill=fill).rows(maps.numpy(), p)  # type: ignore[arg-type]
    for n, row in enumerate(rows):
        base = {"black": torch.full_like(p.images[n], -0.1), "mean": 0 * p.images[n], "blur": blurred(p.images[n])}[
            fill
        ]
        m = (maps[n] - maps[n].min()) / (maps[n].max() - maps[n].min())
        order = sorted(((y, x) for y in range(SIDE) for x in range(SIDE)), key=lambda at: -m[at].item())
        for share in (1.0, 0.5, 0.3, 0.15):
            image = base.clone()
            for y, x in order[: int(np.ceil(share * SIDE**2))]:
                image[:, y, x] = m[y, x] * p.images[n, :, y, x] + (1 - m[y, x]) * base[:, y, x]
            expected = Sum.of(image[None]).softmax(1)[0, 0].item()
            assert row[f"kept_{100 * share:g}"] == pytest.approx(expected, abs=1e-5)


def test_curves_are_those_of_a_plain_loop_over_steps() -> None:
    generator = torch.Generator().manual_seed(6)
    p = probe(n=2)
    p.images += 0.05 * torch.randn(p.images.shape, generator=generator)
    maps = (3 * torch.rand(2, SIDE, SIDE, generator=generator)).round()
    for n, row in enumerate(InsertionDeletion(steps=7).rows(maps.numpy(), p)):
        order = sorted(((y, x) for y in range(SIDE) for x in range(SIDE)), key=lambda at: -maps[n][at].item())
        for k in range(8):
            gone, come = p.images[n].clone(), blurred(p.images[n])
            for y, x in order[: round(64 * k / 7)]:
                gone[:, y, x], come[:, y, x] = 0, p.images[n, :, y, x]
            for name, image in (("deletion", gone), ("insertion", come)):
                assert row[name][k] == pytest.approx(Sum.of(image[None]).softmax(1)[0, 0].item(), abs=1e-5)


@pytest.mark.parametrize("evaluator", [AverageDrop(), Adcc()], ids=lambda e: type(e).__name__)
def test_the_drop_of_a_class_of_probability_zero_is_not_defined(evaluator: NetworkEvaluator) -> None:
    p = probe()
    p.images[:, 0] = -200.0
    assert p.logits.softmax(1)[:, 0].tolist() == [0, 0]
    name = "drop_100" if isinstance(evaluator, AverageDrop) else "average_drop"
    found = summary(evaluator, torch.rand(2, SIDE, SIDE), p)
    assert np.isnan(found[name].value)
    assert found[name].n == 0
    assert found[name].note.startswith("not defined")
    assert all(np.isfinite(found[other].value) for other in found.keys() & {"increase_100", "coherency", "complexity"})
    p.images[1, 0] = 0
    assert summary(evaluator, p.images[:, 1] + torch.rand(2, SIDE, SIDE), p)[name].value >= 50  # one of two at 100 %


def test_chunks_are_full_of_images_and_steps() -> None:
    sizes: list[int] = []

    @dataclass
    class Counting(Sum):
        def predict(self, count, inputs) -> Tensor:  # type: ignore[no-untyped-def]
            found = [self.of(inputs(slice(i, min(i + 16, count)))) for i in range(0, count, 16)]
            sizes.extend(len(part) for part in found)
            return torch.cat(found)

    p = probe(n=5)
    counting: Any = Counting(p.images, p.targets, p.black)
    InsertionDeletion(steps=9).rows(torch.rand(5, 4, 4).numpy(), counting)
    assert sizes == [16] * 6 + [4]  # 2 curves x 10 points x 5 images


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="0 < share <= 1"):
        AverageDrop([1.2])
    with pytest.raises(ValueError, match="each once"):
        AverageDrop([0.5, 0.5])
    with pytest.raises(ValueError, match="black, mean, blur"):
        AverageDrop(fill="white")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 or more"):
        InsertionDeletion(0)
