"""The ventral map: closed forms, finite differences, and refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import network, random_activations

from eigencam.methods.ventral import Ventral, sensitivity
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.readings import CHANNELS_FIRST

TARGETS = torch.zeros(2, dtype=torch.long)


def body(*layers: nn.Module) -> Forward:
    return forward_pass(nn.Sequential(*layers), random_activations(2, 3, 24, 20), "0", classifier=False)


def test_a_linear_convolutions_sensitivity_is_the_sum_of_its_kernels() -> None:
    conv = nn.Conv2d(3, 5, 3)
    found = sensitivity(conv, random_activations(2, 3, 9, 8), "", CHANNELS_FIRST)
    assert found is not None
    sums = conv.weight.detach().sum((0, 2, 3))
    torch.testing.assert_close(found[:, :, 2:-2, 2:-2], sums[:, None, None].expand(2, 3, 5, 4))
    assert not torch.allclose(found[:, :, 0, 0], sums.expand(2, 3))  # a corner is covered by fewer windows


def test_one_rectified_unit_has_its_kernel_where_it_fires() -> None:
    conv = nn.Conv2d(3, 1, 1, bias=False)
    forward = body(conv)
    forward = forward_pass(nn.Sequential(conv, nn.ReLU()), forward.images, "1", classifier=False)
    fires = conv(forward.images)[:, 0] > 0
    for colors, one in (("max", conv.weight.abs().max()), ("mean", conv.weight.abs().mean())):
        found = Ventral(0, colors)(forward, TARGETS)  # type: ignore[arg-type]
        torch.testing.assert_close(found, fires * one.detach())


def test_the_variance_is_that_of_the_gaussian() -> None:
    """The smoothed map of a single pixel is the kernel: its second moment is the variance."""
    net = nn.Conv2d(1, 1, 1, bias=False)
    forward = forward_pass(nn.Sequential(net, Gate()), torch.ones(1, 1, 81, 81), "1", classifier=False)
    found = Ventral(30)(forward, TARGETS[:1])[0].double()
    away = torch.arange(81) - 40.0
    assert float(found.sum()) == pytest.approx(abs(net.weight.item()), rel=1e-5)
    moment = float((found.sum(0) * away**2).sum() / found.sum())
    assert moment == pytest.approx(30, rel=0.01)  # it ends at four sigma


class Gate(nn.Module):
    """Lets the middle pixel pass."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        mask[..., 40, 40] = 1
        return x * mask


def test_finite_differences_in_float64() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 6, 3, stride=2)).double().eval()
    x, direction = (random_activations(1, 3, 11, 9, seed=k).double() for k in (0, 1))
    gradient = sensitivity(net, x, "2", CHANNELS_FIRST)
    assert gradient is not None
    with torch.no_grad():
        high, low = (net(x + step * direction).sum() for step in (1e-5, -1e-5))
    assert float((gradient.double() * direction).sum()) == pytest.approx(float(high - low) / 2e-5, rel=1e-6)


def test_nothing_behind_the_layer_counts_and_the_network_is_as_before() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 22 * 18, 2)).train()
    x = random_activations(2, 3, 24, 20)
    first = sensitivity(net, x, "0", CHANNELS_FIRST)
    alone = sensitivity(net[0], x, "", CHANNELS_FIRST)
    torch.testing.assert_close(first, alone)  # not of the rectifier's in-place result
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("method", [Ventral(), Ventral(25, "mean")], ids=repr)
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    targets = torch.zeros(4, dtype=torch.long)
    together = method(forward_pass(net, x, "conv"), targets)
    for i in range(4):
        torch.testing.assert_close(method(forward_pass(net, x[i : i + 1], "conv"), targets[:1])[0], together[i])
    torch.testing.assert_close(method(forward_pass(net, x, "conv", chunk=3), targets), together)
    assert method(forward_pass(net.bfloat16(), x.bfloat16(), "conv"), targets).dtype == torch.float32


class Frozen(nn.Module):
    """A backbone without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            a = F.relu(self.conv(x))
        return self.fc(a.mean((2, 3)))


def test_what_cannot_be_done_is_said() -> None:
    frozen = Network("frozen", Frozen(), "conv", "c", "", Preprocess(size=16))
    assert "no gradient of the sum of conv reaches the image" in Ventral().unsupported(frozen)
    assert not Ventral().unsupported(Network("gap", network("gap"), "conv", None, "", Preprocess(size=16)))
    with pytest.raises(ValueError, match="variance=-1; allowed: 0 or more"):
        Ventral(-1)
    with pytest.raises(ValueError, match="colors='sum'; allowed: max, mean"):
        Ventral(colors="sum")  # type: ignore[arg-type]
