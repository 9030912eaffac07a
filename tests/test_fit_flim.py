"""FLIM: marker files, the rule for drawing them, filters by hand, k-means and SVM compared with scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from skimage.color import xyz2lab
from sklearn.cluster import KMeans
from sklearn.svm import LinearSVC
from toys import random_activations
from training import config, fitted_by

from eigencam.datasets.base import Truth
from eigencam.fitting.flim_filters import filters, k_means, patches, principal, statistics, unit
from eigencam.fitting.flim_markers import drawn, read_markers, resized, write_markers
from eigencam.fitting.job import prepare
from eigencam.fitting.svm import linear_svm
from eigencam.methods.input_gradients import GuidedBackprop
from eigencam.methods.refusal import refusal
from eigencam.networks.flim import FLIM, LEAST, MOST, WHITE, XYZ, Lab, MarkerNorm
from eigencam.networks.network import load_network

SMALL = ["fit=flim", "model=flim", "workers=0", "device=cpu", "dataset.count=40", "model.preprocess.size=32"]
SMALL += ["model.args.size=32", "+model.args.widths=[6,5,4]", "fit.per_class=1"]


def labelled(*places: tuple[int, int, int], size: tuple[int, int] = (6, 8)) -> Any:
    image = np.zeros(size, np.int64)
    for row, column, label in places:
        image[row, column] = label
    return image


@pytest.mark.parametrize("first", [0, 1])
def test_marker_files_are_read_as_they_were_written(tmp_path: Path, first: int) -> None:
    image = labelled((0, 7, 1), (5, 0, 3), (2, 4, 2))
    write_markers(tmp_path / "a.txt", image, first)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[0] == "3 8 6"
    assert lines[1] == f"7 0 -1 {first}"
    assert np.array_equal(read_markers(tmp_path / "a.txt", first), image)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 8 6\n0 0 -1 1\n", "1 markers, but the first line says 2"),
        ("1 8 6\n8 0 -1 1\n", "a pixel outside 8 x 6"),
        ("1 8 6\n0 0 -1 0\n", "a label below 1"),
        ("1 8 6\n0 0 1\n", "not markers of an image"),
        ("", "not markers of an image"),
        ("x y z\n", "not markers of an image"),
    ],
)
def test_malformed_marker_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_markers(tmp_path / "bad.txt", 1)
    assert "bad.txt" in str(error.value)


def test_discs_lie_at_the_deepest_pixels_of_object_and_background() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 3:8] = 3
    truth = Truth("x", (20, 30), 2, np.array([[3.0, 4, 7, 8]]), np.array([2]), mask=mask)
    image = drawn(truth, 1.0)
    rows, columns = np.nonzero(image == 4)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(5, 5), (6, 4), (6, 5), (6, 6), (7, 5)]
    assert (image == 1).sum() == 5
    assert not (image[mask > 0] == 1).any()
    assert (drawn(truth, 100.0)[mask > 0] == 4).all()
    assert (drawn(truth, 100.0)[mask == 0] == 1).all()
    with pytest.raises(ValueError, match="need a mask"):
        drawn(Truth("x", (20, 30), 2, np.array([[3.0, 4, 7, 8]]), np.array([2])), 1.0)


def test_markers_shrink_with_the_maps() -> None:
    image = labelled((0, 0, 1), (1, 1, 2), (5, 7, 3))
    assert np.array_equal(resized(image, (3, 4)), labelled((0, 0, 2), (2, 3, 3), size=(3, 4)))
    assert np.array_equal(resized(image, (6, 8)), image)
    assert resized(image, (12, 16))[11, 15] == 3


def test_patches_are_what_a_convolution_with_zeros_sees() -> None:
    maps, image = random_activations(2, 3, 6, 8), labelled((0, 0, 1), (3, 4, 2), (5, 7, 1))
    found = patches(maps, [image, labelled()], 3, 2)
    assert [len(rows) for rows in found] == [3, 0]
    weight = random_activations(5, 3, 3, 3, seed=1)
    out = F.conv2d(maps, weight, padding=2, dilation=2)[0]
    expected = np.stack([out[:, row, column].numpy() for row, column in zip(*image.nonzero(), strict=True)])
    np.testing.assert_allclose(found[0] @ weight.flatten(1).numpy().T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["pyflim", "flim"])
def test_two_constant_markers_give_two_known_unit_filters(variant: Any) -> None:
    maps = torch.zeros(1, 2, 9, 20)
    maps[0, 0, :, :10], maps[0, 1, :, 10:] = 3.0, 4.0
    image = np.zeros((9, 20), np.int64)
    image[3:6, 3:6], image[3:6, 14:17] = 1, 2
    found = filters(patches(maps, [image], 3, 1), [image], variant, 2, 1, "kmeans")
    expected = np.zeros((2, 2, 9))
    expected[0, 0] = expected[1, 1] = 1 / 3
    np.testing.assert_allclose(found.reshape(2, 2, 9), expected)


def test_fewer_patches_than_clusters_are_the_filters_themselves() -> None:
    maps, image = random_activations(1, 2, 6, 8), labelled((1, 1, 1), (4, 6, 1))
    around = patches(maps, [image], 3, 1)
    found = filters(around, [image], "pyflim", 2, 5, "kmeans")
    np.testing.assert_allclose(found, unit(around[0]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="the markers give 2 filters, and the layer has 3"):
        filters(around, [image], "flim", 3, 5, "kmeans")


def test_pyflim_groups_by_connected_marker_and_flim_by_label() -> None:
    maps = random_activations(2, 1, 6, 8)
    image = labelled((1, 1, 1), (1, 2, 2), (5, 7, 2))  # two markers touch, with different labels
    around = patches(maps, [image, image], 1, 1)
    values = [rows[:, 0] for rows in around]
    means = sorted(x for v in values for x in ((v[0] + v[1]) / 2, v[2]))
    found = filters(around, [image, image], "pyflim", 4, 1, "kmeans")
    assert sorted(found[:, 0]) == sorted(np.sign(means))
    labels = filters(around, [image, image], "flim", 2, 1, "kmeans")
    ones, twos = np.mean([v[0] for v in values]), np.mean([v[1:] for v in values])
    assert labels[:, 0].tolist() == [np.sign(ones), np.sign(twos)]


def test_statistics_standardise_the_marked_pixels() -> None:
    maps, image = random_activations(2, 3, 6, 8), labelled((0, 0, 1), (3, 4, 2), (5, 7, 1))
    norm = MarkerNorm(3)
    norm.mean, norm.deviation = statistics(maps, [image, image], 0.0)
    marked = norm(maps).permute(0, 2, 3, 1)[torch.from_numpy(np.stack([image, image]) > 0)]
    torch.testing.assert_close(marked.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(marked.std(0, correction=0), torch.ones(3))
    assert torch.allclose(statistics(maps, [image, image], 0.01)[1], norm.deviation + 0.01)


def test_k_means_agrees_with_scikit_learn_on_clusters_apart() -> None:
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(10 * k, 1, (40, 5)) for k in range(4)])
    found = k_means(points, 4, 3425, 3)
    theirs = KMeans(4, n_init="auto", random_state=0).fit(points).cluster_centers_
    np.testing.assert_allclose(found[found[:, 0].argsort()], theirs[theirs[:, 0].argsort()])
    assert np.array_equal(k_means(points, 4, 3425, 3), found)
    assert k_means(points[:3], 4, 0, 1) is not None
    assert np.array_equal(k_means(np.ones((9, 2)), 3, 0, 1), np.ones((3, 2)))


def test_principal_directions_are_eigenvectors() -> None:
    points = random_activations(30, 6).double().numpy()
    found = principal(points, 3)
    covariance = np.cov(points.T)
    values = [row @ covariance @ row for row in found]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(covariance)[::-1][:3])
    assert all(row[np.abs(row).argmax()] > 0 for row in found)


def test_the_support_vector_machine_is_scikit_learn_s() -> None:
    x = random_activations(60, 5)
    y = (x @ random_activations(5, 3, seed=1) + random_activations(60, 3, seed=2)).argmax(1)
    weight, bias = linear_svm(x * 7 + 3, y, 3, 0.5)
    theirs: Any = LinearSVC(C=0.5, intercept_scaling=10**4, tol=1e-10, max_iter=10**6).fit(7 * x.numpy() + 3, y.numpy())
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-3, atol=1e-3)
    never, _ = linear_svm(x, torch.zeros(60, dtype=torch.long), 2, 1.0)
    assert never.abs().max() < 1e-6


def test_lab_agrees_with_scikit_image() -> None:
    rgb = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rgb[..., 0] *= 0.01
    xyz = np.einsum("ij,njhw->nhwi", np.array(XYZ) / np.array(WHITE)[:, None], rgb.numpy())
    lab = xyz2lab(xyz[0] * np.array([0.95047, 1.0, 1.08883]), illuminant="D65")
    scaled = (lab - np.array(LEAST)) / (np.array(MOST) - np.array(LEAST))
    np.testing.assert_allclose(Lab()(rgb)[0].permute(1, 2, 0).numpy(), scaled, atol=2e-4)
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(Lab()(black).sum(), black)
    assert gradient.isfinite().all()


@pytest.mark.full
@pytest.mark.parametrize("variant", ["pyflim", "flim"])
def test_the_file_is_a_network_with_filters_of_norm_one(tmp_path: Path, variant: str) -> None:
    folder = tmp_path / "markers"
    made = fitted_by(tmp_path, *SMALL, f"fit.variant={variant}", f"fit.write={folder}")
    for k in range(3):
        weight = made.tensors[f"blocks.{k}.1.weight"]
        torch.testing.assert_close(weight.flatten(1).norm(dim=1), torch.ones(len(weight)))
    assert made.about["log"][-1]["accuracy"] > 0.5
    description: Any = OmegaConf.to_container(config(tmp_path, *SMALL).model)
    after = load_network({**description, "head": str(made.path)})
    assert after.identity["fitted"].startswith(f"{variant}, ")
    scores = after.forward(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits
    assert scores.shape == (1, 12)
    files = sorted(folder.glob("*-seeds.txt"))
    assert len(files) == int(made.about["head"]["label"].split()[1])
    again = fitted_by(tmp_path / "again", *SMALL, f"fit.variant={variant}", f"fit.markers={folder}")
    assert again.tensors.keys() == made.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in made.tensors.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("fit.variant=other", "allowed: pyflim, flim"),
        ("fit.markers=nowhere", "no such folder"),
        ("model=scenes_resnet", "is no FLIM network"),
        ("fit.penalty=0", r"fit\.penalty=0"),
        ("model.args.classes=3", r"model\.args\.classes=3"),
        ("model.args.head=high", "head=high"),
    ],
)
def test_faults_are_reported_before_the_fit(tmp_path: Path, wrong: str, message: str) -> None:
    other = wrong.startswith("model=")
    chosen = [word for word in SMALL if not (other and word.removeprefix("+").startswith("model"))]
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, *chosen, wrong))


def test_a_block_that_cannot_be_filled_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"block 1: the markers give \d+ filters, and the layer has 900"):
        fitted_by(tmp_path, *SMALL, "model.args.widths=[900,5,4]")
    assert FLIM(head="average", size=32).fc.in_features == 48


def test_without_lab_methods_of_relu_networks_follow_it(tmp_path: Path) -> None:
    method = GuidedBackprop()
    for colour, runs in (("lab", False), ("rgb", True)):
        network = load_network(config(tmp_path, *SMALL, f"model.args.colour={colour}").model)
        assert (refusal(method, network) == "") == runs
    with pytest.raises(ValueError, match="colour=grey; allowed: lab, rgb"):
        FLIM(colour="grey")  # type: ignore[arg-type]
