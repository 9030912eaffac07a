"""Known evidence: mosaics, networks wired to cells, planted marks, and the evaluator of mass and rank accuracy."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from golden_methods import nodes
from numpy.typing import NDArray
from torch import Tensor

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.planted import HUES, SIDE, Planted
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.scenes_grid import ScenesGrid
from eigencam.evaluation.evidence import Evidence
from eigencam.evaluation.maps import ScoreMap
from eigencam.networks.network import Network, load_network
from eigencam.networks.planted import GAIN
from eigencam.networks.scenes_cells import cut, join
from eigencam.running.batch_maps import compute_maps
from eigencam.running.run import run
from eigencam.store.build import instantiate
from tests.runs import config


@lru_cache(maxsize=8)
def network(name: str, size: int | None = None, **args: object) -> Network:
    node = {**nodes("model")[name], **({"args": args} if args else {})}
    return load_network({**node, "preprocess": {**node["preprocess"], **({"size": size} if size else {})}})


def batch(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))


# ---------------------------------------------------------------------------------------------------- the evaluator


def grid_truth(n: int, side: int) -> Truth:
    boxes = [[x * side, y * side, x * side + side - 1, y * side + side - 1] for y in range(n) for x in range(n)]
    return Truth("a", (n * side, n * side), 1, np.array(boxes, np.float64), np.arange(n * n))


@pytest.mark.parametrize("n", [2, 3])
def test_a_uniform_map_has_a_cell_s_share_and_one_of_the_cell_all(n: int) -> None:
    truth = grid_truth(n, 4)
    uniform, own = np.full((n, n), 0.7), -np.ones((n * 4, n * 4))
    own[:4, 4:8] = 2
    assert Evidence().row(ScoreMap(uniform, truth.size), truth)["mass"] == pytest.approx(1 / n**2)
    row = Evidence().row(ScoreMap(own, truth.size), truth)
    assert (row["mass"], row["rank"]) == (1, 1)
    row = Evidence().row(ScoreMap(-own, truth.size), truth)
    assert (row["mass"], row["rank"]) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_grid_pointing_is_the_authors_score(seed: int) -> None:
    """The authors' score: enlarged by torch, clipped at 0, the share in a slice; 0 if the sum is at most 1e-7."""
    m = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    truth = grid_truth(3, 10)
    full = torch.nn.functional.interpolate(m[None, None], (30, 30), mode="bilinear")[0, 0].clamp(min=0)
    theirs = full[:10, 10:20].sum() / full.sum()
    assert Evidence().row(ScoreMap(m.numpy(), truth.size), truth)["mass"] == pytest.approx(theirs.item(), rel=1e-5)


def test_ranks_that_tie_share_the_room() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 1
    truth = Truth("a", (4, 4), 0, np.zeros((0, 4)), np.zeros(0, np.int64), mask=mask)
    values = np.zeros((4, 4))
    values[0, 0], values[1, 0] = 3, 2  # one of the two highest is inside; two places are left for 14 that tie, 3 inside
    row = Evidence("mask").row(ScoreMap(values, (4, 4)), truth)
    assert row["rank"] == pytest.approx((1 + 2 * 3 / 14) / 4)
    assert row["mass"] == pytest.approx(3 / 5)


def test_nothing_positive_and_nothing_sought() -> None:
    truth = grid_truth(2, 4)
    for values, expected in ((-np.eye(4), 0.0), (np.full((4, 4), np.nan), 0.0)):
        assert Evidence().row(ScoreMap(values, truth.size), truth)["mass"] == expected
    row = Evidence().row(ScoreMap(np.eye(4), (4, 4)), Truth("a", (4, 4), 0, np.zeros((0, 4)), np.zeros(0, np.int64)))
    assert np.isnan([row["mass"], row["rank"]]).all()
    with pytest.raises(ValueError, match="set objects=boxes"):
        Evidence("mask").row(ScoreMap(np.eye(4), truth.size), truth)
    with pytest.raises(ValueError, match="boxes, mask"):
        Evidence("masks")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- mosaics, wired to cells


def test_mosaics_are_of_distinct_classes_and_no_scene_is_in_two() -> None:
    grid = ScenesGrid(6, cells=3, side=20)
    assert isinstance(grid, Dataset)
    alone, labels = Scenes(6000), []
    for i in range(6):
        truth = grid.truth(i)
        assert grid.image(i).shape == (60, 60, 3)
        assert len(set(truth.box_labels.tolist())) == 9
        assert truth.label == truth.box_labels[i % 9]  # the requested cell changes cyclically
        assert alone.truth(1000 * i).label == truth.box_labels[0]
        labels.append(truth.box_labels.tolist())
    assert len({tuple(own) for own in labels}) == 6
    wired = ScenesGrid(6, cells=3, side=20, heads=True)
    assert (wired.truth(4).box_labels == grid.truth(4).box_labels + 12 * np.arange(9)).all()
    assert wired.classes[int(wired.truth(4).label)].endswith("in cell 4")
    assert (wired.image(2) == grid.image(2)).all()
    assert wired.identity()["checksum"] != grid.identity()["checksum"] or wired.identity() != grid.identity()


@pytest.mark.parametrize("wrong", [{"cells": 1}, {"cells": 4}, {"count": 0}, {"side": 0}, {"seed": -1}])
def test_mosaics_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cells of 2 or 3"):
        ScenesGrid(**wrong)


def test_cells_are_cut_and_joined() -> None:
    x = torch.arange(2 * 3 * 6 * 9.0).view(2, 3, 6, 9)
    cells = cut(x, 3)
    assert torch.equal(cells[9 + 5], x[1, :, 2:4, 6:9])
    assert torch.equal(join(cells, 3), x)
    with pytest.raises(ValueError, match="6 x 9 does not divide into 2 x 2"):
        cut(x, 2)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_each_output_is_that_of_its_cell_alone(kind: str) -> None:
    wired, alone = network(f"scenes_{kind}_cells", 128), network(f"scenes_{kind}", 64)
    grid = ScenesGrid(2, side=64, heads=True)
    images = batch([grid.image(i) for i in range(2)])
    logits = wired.forward(images).logits
    torch.testing.assert_close(logits.view(8, 12), alone.forward(cut(images, 2)).logits)
    changed = images.clone()
    changed[:, :, :64] = 255 - changed[:, :, :64]
    again = wired.forward(changed).logits
    assert torch.equal(again[:, 24:], logits[:, 24:])
    assert not torch.isclose(again[:, :24], logits[:, :24]).any()
    assert tuple(wired.forward(images).activations().shape[2:]) == (16, 16)
    assert wired.sha256 == alone.sha256


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_with_partial_the_head_alone_is_cut(kind: str) -> None:
    """DiPart: the features are computed from the whole mosaic, and each logit reads those of its cell."""
    wired, whole = network(f"scenes_{kind}_cells", 128, partial=True), network(f"scenes_{kind}", 128)
    grid = ScenesGrid(2, side=64, heads=True)
    images = batch([grid.image(i) for i in range(2)])
    features = whole.forward(images, layers=[whole.layer]).activations()
    forward = wired.forward(images, gradients=True)
    torch.testing.assert_close(forward.activations(), features)
    side = features.shape[2] // 2
    for j, head in enumerate(forward.logits.detach().view(2, 4, 12).unbind(1)):
        row, column = divmod(j, 2)
        own = features[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side].mean((2, 3))
        linear: Any = whole.module.fc if kind == "resnet" else whole.module.classifier
        torch.testing.assert_close(head, linear(own).detach())
    gradient = cut(forward.gradients(torch.tensor([17, 17])), 2).abs().sum((1, 2, 3)).view(2, 4)
    assert gradient[:, 1].all()  # output 17 is of cell 1
    assert not gradient[:, [0, 2, 3]].any()
    assert wired.sha256 == whole.sha256


# -------------------------------------------------------------------------------------------------- planted evidence


def test_the_logit_is_the_sum_of_the_mark_s_pixels_and_of_nothing_else() -> None:
    data, used = Planted(12), network("planted")
    assert isinstance(data, Dataset)
    images, rng = [data.image(i) for i in range(12)], np.random.default_rng(0)
    logits = used.forward(batch(images)).logits.numpy()
    for i, image in enumerate(images):
        truth = data.truth(i)
        assert truth.mask is not None
        assert truth.label == logits[i].argmax()
        others = np.delete(logits[i], truth.label)
        assert logits[i, truth.label] > 4 / 3 * others.max()
        assert set(np.flatnonzero(logits[i])) == set(truth.box_labels.tolist())
        for label, box in zip(truth.box_labels, truth.boxes, strict=True):
            inside = truth.mask == label + 1
            lines, columns = np.nonzero(inside)
            assert [columns.min(), lines.min(), columns.max(), lines.max()] == box.tolist()
            own = np.array(tuple(HUES.values())[label], np.float64)
            weight = np.where(own > 0, 2 / own.sum(), -2 / (3 - own.sum()))
            response = np.maximum(image / 255 @ weight - 1, 0)
            assert (response[inside] > 0.3).all()
            assert not response[~inside].any()
            assert logits[i, label] == pytest.approx(GAIN * response.sum() / SIDE**2, rel=1e-4)
            elsewhere = np.repeat(rng.integers(0, 256, (SIDE, SIDE, 1), np.uint8), 3, axis=2)
            changed = np.where(inside[..., None], image, elsewhere)
            assert used.forward(batch([changed])).logits[0, label].item() == pytest.approx(logits[i, label], rel=1e-5)


def test_the_right_map_has_all_inside_and_what_the_network_sees_has_not() -> None:
    data, used, evidence = Planted(4), network("planted"), Evidence("mask")
    forward = used.forward(batch([data.image(i) for i in range(4)]))
    for i in range(4):
        truth = data.truth(i)
        colours = data.image(i) / 255
        own = np.array(tuple(HUES.values())[truth.label], np.float64)
        right = np.maximum(colours @ np.where(own > 0, 2 / own.sum(), -2 / (3 - own.sum())) - 1, 0)
        row = evidence.row(ScoreMap(right, truth.size), truth)
        assert (row["mass"], row["rank"]) == (pytest.approx(1), 1)
        activations = forward.activations()[i].numpy()
        cam = evidence.row(ScoreMap(activations[truth.label], truth.size), truth)
        seen = evidence.row(ScoreMap(activations.sum(0), truth.size), truth)
        assert seen["mass"] < 0.2 < 0.5 < cam["mass"] < 1


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"marks": 0}, {"marks": 7}])
def test_planted_images_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 to 6 marks"):
        Planted(**wrong)
    with pytest.raises(IndexError, match="image 3 of 3"):
        Planted(3).image(3)


def masses(folder: Path, *overrides: str) -> dict[str, float]:
    """The mean mass inside the evidence, over two images or mosaics, by method."""
    few = ["dataset.count=2", "target=each", "method=[hirescam,gradcam,eigencam]", "timing=false"]
    run(config(folder, *overrides, *few))
    found = {}
    for name in ("hirescam", "gradcam", "eigencam"):
        (file,) = folder.glob(f"*-{name}-*/rows.parquet")
        rows = pd.read_parquet(file)
        assert len(rows) == 2 * (4 if "model=scenes_vgg_cells" in overrides else 3)
        found[name] = rows["mass"].mean()
    return found


@pytest.mark.full
def test_planted_evidence_through_the_run_loop(tmp_path: Path) -> None:
    found = masses(tmp_path, "model=planted", "dataset=planted", "evaluator=[evidence]")
    assert found["hirescam"] == pytest.approx(found["gradcam"])  # gradients of one linear layer behind averages
    assert found["gradcam"] > 0.5 > 0.2 > found["eigencam"]


@pytest.mark.full
def test_grid_pointing_where_outputs_are_wired_to_cells(tmp_path: Path) -> None:
    """Gradients are 0 outside the cell, but Grad-CAM's weights, their means, are applied to all cells."""
    wired = ["model=scenes_vgg_cells", "dataset=scenes_grid_cells", "model.preprocess.size=96"]
    found = masses(tmp_path, *wired, "evaluator=[grid_pointing]")
    assert found["hirescam"] > 0.8  # enlarging spreads half a cell of the map across the border
    assert found["hirescam"] > found["gradcam"] > found["eigencam"]


@pytest.mark.parametrize("name", ["lrp", "deeplift", "gradient", "hirescam"])
def test_of_a_wired_output_nothing_lies_outside_its_cell_and_a_batch_of_one_is_one_of_many(name: str) -> None:
    used, grid = network("scenes_resnet_cells", 128), ScenesGrid(2, side=64, heads=True)
    method = {name: instantiate(nodes("method")[name])}
    images, labels = batch([grid.image(i) for i in range(2)]), [int(grid.truth(i).label) for i in range(2)]
    maps = compute_maps(used, method, images, labels=labels).maps[name]
    for i, values in enumerate(maps):
        own = compute_maps(used, method, images[i : i + 1], labels=labels[i : i + 1]).maps[name][0]
        np.testing.assert_allclose(values, own, rtol=1e-3, atol=1e-5 * np.abs(own).max())
        cells = cut(torch.from_numpy(values)[None, None], 2)[:, 0].abs().sum((1, 2))
        assert cells[i] > 0
        assert not np.delete(cells.numpy(), i).any()
