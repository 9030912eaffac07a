"""LIME compared with closed forms, scikit-learn and a plain loop."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from toys import colored, make, network, random_activations

from eigencam.methods.lime import LIME, fit, mean_colors
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])
METHODS = [
    LIME(samples=20, segmentation="slic", segments=6),
    LIME("similarity", samples=20, segmentation="slic", segments=6, fill="zero"),
]


class Colors(nn.Module):
    """Logits or probabilities that are linear in the image."""

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.conv, self.probabilities = nn.Conv2d(3, 1, 1, bias=False), probabilities

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv(x).sum((2, 3))
        return torch.cat([(0.5 + total).log(), (0.5 - total).log()] if self.probabilities else [total, -total], 1)


def patches() -> Forward:
    """Two images of 16 uniform patches, and a network whose probability is the sum of their values."""
    net = Colors(probabilities=True)
    nn.init.constant_(net.conv.weight, 1e-4)
    small = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    return colored(forward_pass(net, small.repeat_interleave(5, 2).repeat_interleave(5, 3) * 5, "conv"))


def test_lime_finds_the_coefficients_of_a_linear_network() -> None:
    forward = patches()
    method = LIME(samples=200, segmentation="slic", segments=16, fill="zero", ridge=1e-4)
    found = method(forward, torch.tensor([0, 1]))
    labels = method.superpixels(forward)
    assert (labels.amax((1, 2)) > 5).all()
    net = forward.module
    assert isinstance(net, Colors)
    each = net.conv(forward.images)[:, 0].detach() * torch.tensor([1.0, -1.0])[:, None, None]
    for n in range(2):
        for label in labels[n].unique():
            place = labels[n] == label
            torch.testing.assert_close(found[n][place], each[n][place].sum().expand(place.sum()), atol=1e-5, rtol=1e-3)


def test_hiding_a_patch_of_one_colour_with_its_mean_changes_nothing() -> None:
    forward = patches()
    labels = torch.arange(16).view(4, 4).repeat_interleave(5, 0).repeat_interleave(5, 1).expand(2, -1, -1)
    torch.testing.assert_close(mean_colors(forward.images, labels), forward.images)


@pytest.mark.parametrize("segmentation", ["quickshift", "slic"])
def test_superpixels_are_of_the_8_bit_image_whatever_the_networks_type_and_normalisation(segmentation: Any) -> None:
    cells = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    pixels = (255 * F.interpolate(cells, (80, 96), mode="bicubic").clamp(0, 1)).byte()
    found = []
    for dtype, mean in ((torch.float32, 0.4), (torch.bfloat16, 0.5), (torch.float16, 0.0)):
        preprocess = Preprocess(size=96, mean=(mean, 0.45, 0.5), std=(0.2, 0.25, 0.3))
        forward = Network("net", network("gap").to(dtype), "conv", "x", "", preprocess).forward(pixels)
        assert torch.equal(forward.pixels, pixels)
        assert torch.equal(forward.pick(torch.tensor([0, 0])).pixels[1:], pixels)
        found.append(LIME(samples=2, segmentation=segmentation).superpixels(forward))
    assert len(found[0].unique()) > 1
    assert all(torch.equal(one, found[0]) for one in found)


def test_the_fit_of_lime_is_scikit_learns() -> None:
    """With the weights of the authors' code: sqrt(exp(-d^2 / width^2)), d the cosine distance to the first sample."""
    generator = torch.Generator().manual_seed(0)
    shown = (torch.rand(2, 90, 7, generator=generator) < 0.5).float()
    shown[:, 0], shown[1, :, 5:], shown[:, 3] = 1, 0, 0  # the second image has five superpixels
    scores = torch.rand(2, 90, generator=generator)
    found = fit(shown, scores, 0.25, 1.0)
    for n, k in ((0, 7), (1, 5)):
        z = shown[n, :, :k].double().numpy()
        distance = pairwise_distances(z, z[:1], metric="cosine").ravel()
        weight = np.sqrt(np.exp(-(distance**2) / 0.25**2))
        theirs = Ridge(alpha=1).fit(z, scores[n].double().numpy(), sample_weight=weight).coef_
        np.testing.assert_allclose(found[n, :k].numpy(), theirs, atol=1e-6)
    assert (found[1, 5:] == 0).all()


class Trunk(nn.Module):
    """No classifier; returns maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_lime_of_similarity_needs_no_classifier_and_is_a_plain_loop() -> None:
    torch.manual_seed(0)
    net, x = Trunk(), random_activations(3, 3, 12, 12)
    forward = colored(forward_pass(net, x, "conv", classifier=False))
    method = LIME("similarity", samples=40, segmentation="slic", segments=6)
    assert not method.class_specific
    assert LIME().class_specific
    found = method(forward, torch.zeros(3, dtype=torch.long))
    assert not net._forward_hooks
    assert not net.conv._forward_hooks
    labels = method.superpixels(forward)
    shown = method.choose(forward.index, labels)
    mean = mean_colors(x, labels)
    for n in range(3):
        kept = shown[n][:, labels[n]][:, None]
        copies = torch.where(kept, x[n], mean[n])
        with torch.no_grad():
            embedding, whole = net(copies).mean((2, 3)), net(x[n : n + 1]).mean((2, 3))
        k = int(labels[n].max()) + 1
        z = shown[n, :, :k].double().numpy()
        weight = np.exp(-(pairwise_distances(z, z[:1], metric="cosine").ravel() ** 2) / (2 * 0.25**2))
        theirs = Ridge(alpha=1).fit(z, F.cosine_similarity(embedding, whole).numpy(), sample_weight=weight).coef_
        np.testing.assert_allclose(found[n].numpy(), theirs[labels[n].numpy()], atol=1e-5)


def test_quickshift_sees_the_colours_before_normalisation() -> None:
    forward = make(network("gap"))
    forward.black, forward.white = torch.tensor([-1.0, -2.0, -3.0])[:, None, None], torch.ones(3, 1, 1)
    method = LIME(samples=3)
    labels = method.superpixels(forward)
    assert labels.shape == (5, 6, 7)
    assert (labels.amin((1, 2)) == 0).all()
    from skimage.segmentation import quickshift

    colors = ((forward.images - forward.black) / (forward.white - forward.black)).clamp(0, 1)
    expected = quickshift(colors[1].permute(1, 2, 0).double().numpy(), kernel_size=4, max_dist=200, ratio=0.2)
    assert (labels[1].numpy() == expected).all()


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.score)
def test_batches_and_chunks_do_not_matter_and_the_network_is_left_as_it_was(method: Any, chunk: int) -> None:
    net, x = network("rectified").train(), random_activations(3, 3, 12, 14)
    together = method(colored(forward_pass(net, x, "conv")), TARGETS[:3])
    for i in range(3):
        told: list[int] = []
        one = colored(forward_pass(net, x[i : i + 1], "conv", index=torch.tensor([i]), chunk=chunk))
        before = one.versions()
        one.progress = told.append
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
        assert max(told) <= chunk
        assert one.versions() == before
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())
    half = colored(forward_pass(net.bfloat16(), x.bfloat16(), "conv"))
    found = method(half, TARGETS[:3])
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_a_failing_pass_leaves_no_hook() -> None:
    net = network("gap")
    forward = colored(make(net))

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    forward.progress = stop
    for method in METHODS:
        with pytest.raises(KeyboardInterrupt):
            method(forward, TARGETS)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


def test_options_are_checked() -> None:
    for bad, match in (
        (lambda: LIME("logit"), "class, similarity"),  # type: ignore[arg-type]
        (lambda: LIME(samples=0), "1 or more"),
        (lambda: LIME(ridge=0), "more than 0"),
        (lambda: LIME(fill="black"), "mean, zero"),  # type: ignore[arg-type]
        (lambda: LIME(segmentation="felzenszwalb"), "quickshift, slic"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=match):
            bad()
