"""The dual cross-current network: its size and names, its two streams by hand, and maps on it.

With the weights of the authors' class (92dun/DCNN@66921ac), both heads' logits equal theirs in float64 to the last bit
(64 channels, width 48, depth 6, random batch norms, two inputs of 96 x 64).
"""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import random_activations

from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.gradcam import GradCAM
from eigencam.networks.dual_cross import ConvTransBlock, DualCrossCurrent, SCBlock
from eigencam.networks.network import Network, Preprocess
from eigencam.running.batch_maps import compute_maps

pytestmark = pytest.mark.full

COUNT, NAMES = 52_676_208, "f9bd829bfa5e7da9"
"""Number of parameters of the authors' network, and a checksum of the names and shapes of its state."""


def small() -> DualCrossCurrent:
    torch.manual_seed(0)
    made = DualCrossCurrent(5, 16, 24, 3, 6).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return made


def test_parameters_and_names_are_those_of_the_authors_network() -> None:
    with torch.device("meta"):
        made = DualCrossCurrent()
    assert sum(p.numel() for p in made.parameters()) == COUNT
    shapes = sorted((name, tuple(t.shape)) for name, t in made.state_dict().items())
    assert hashlib.sha256(repr(shapes).encode()).hexdigest()[:16] == NAMES


def test_without_tokens_it_is_a_convolutional_network() -> None:
    """Without the tokens' contribution, the map is that of the SC blocks one after the other."""
    net = small()
    for module in net.modules():
        if isinstance(module, ConvTransBlock):
            nn.init.zeros_(module.expand_block.bn_proj.weight)
            nn.init.constant_(module.expand_block.bn_proj.bias, -1)
    x = random_activations(2, 3, 64, 96)
    y = net.conv_1(F.max_pool2d(F.relu(net.bn1(net.conv1(x))), 3, 2, 1))
    for i in range(2, 7):
        block: Any = net.get_submodule(f"conv_trans_{i}")
        y = block.fusion_block(block.cnn_block(y))
    assert y.shape == (2, 64, 2, 3)  # 64 x 96 divided by 4, by 2 twice, and by 2 in the last block
    torch.testing.assert_close(net.both(x)[0], net.conv_cls_head(y.mean((2, 3))))


def test_the_logits_are_the_sum_of_both_heads() -> None:
    net, x = small(), random_activations(2, 3, 64, 64)
    first, second = net.both(x)
    assert torch.equal(net(x), first + second)
    assert not torch.allclose(first, second)


def test_the_class_token_is_doubled() -> None:
    block: Any = small().get_submodule("conv_trans_2")
    seen: list[Tensor] = []
    block.trans_block.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    tokens = random_activations(1, 1 + 4 * 4, 24)
    block(random_activations(1, 16, 16, 16), tokens)
    torch.testing.assert_close(seen[0][:, 0], 2 * tokens[:, 0])
    assert not torch.allclose(seen[0][:, 1:], tokens[:, 1:])


def test_sc_by_hand() -> None:
    torch.manual_seed(1)
    block = SCBlock(8, 16, 2, shortcut=True).eval()
    x = random_activations(2, 8, 10, 12)

    def layer(sequence: nn.Sequential, y: Tensor) -> Tensor:
        conv, _, norm = sequence
        return norm(F.gelu(conv(y)))

    inner = layer(block.in_block, x) + 1.0
    inner = inner + layer(block.depth_block.fn, inner)  # type: ignore[arg-type]
    before = layer(block.point_block, inner)
    out, given = block.halves(x, torch.ones(()))
    torch.testing.assert_close(given, before)
    torch.testing.assert_close(out, layer(block.out_block, before) + layer(block.residual_block, x))  # type: ignore[arg-type]
    assert out.shape == (2, 16, 5, 6)


def test_maps_of_both_heads() -> None:
    net = Network("small", small(), "conv_trans_6.cnn_block.out_block", "c", "", Preprocess(size=64))
    tokens = Network("small", small(), "conv_trans_6.trans_block", "c", "", Preprocess(size=64))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8))
    for used in (net, tokens):
        found = compute_maps(used, {"eigencam": EigenCAM(), "gradcam": GradCAM()}, images, labels=[1, 4])
        assert {maps.shape for maps in found.maps.values()} == {(2, 4, 4)}
        assert all(np.isfinite(maps).all() for maps in found.maps.values())
        assert np.ptp(found.maps["eigencam"]) > 0
        gradients = used.forward(images, gradients=True).gradients(torch.tensor([1, 4]))
        assert (gradients.flatten(1).abs().amax(1) > 0).all()  # the tokens receive gradients from both heads


@pytest.mark.parametrize("options", [{"depth": 7}, {"depth": 3}, {"channels": 6}, {"width": 25}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"allowed: a depth of 6, 9, 12"):
        DualCrossCurrent(**options)
