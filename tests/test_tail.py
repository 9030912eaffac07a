"""The part of a network behind a layer, a method's own passes, and layers of transformers as maps."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from toys import GapNet, network, random_activations

from eigencam.methods.randomness import normal, uniform
from eigencam.passes.forward import forward_pass
from eigencam.passes.readings import CHANNELS_FIRST, CHANNELS_LAST, Reading
from eigencam.passes.tail import fault, tail


@pytest.mark.parametrize(
    ("name", "layer"),
    [("alexnet", "features.11"), ("squeezenet1_1", "features"), ("resnet18", "layer3"), ("densenet121", "features"),
     ("googlenet", "inception5a"), ("swin_t", "features.5")],
)  # fmt: skip
def test_torchvisions_networks_can_be_cut(name: str, layer: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, **options).train()
    modes = [m.training for m in net.modules()]
    assert not fault(net, layer, (96, 96))
    assert [m.training for m in net.modules()] == modes
    x = random_activations(3, 3, 96, 96)
    forward = forward_pass(net, x, layer)
    tail(net, layer, (96, 96)).eval()
    with torch.no_grad():
        torch.testing.assert_close(tail(net.eval(), layer, (96, 96))(forward.activations()), forward.logits)


class Around(nn.Module):
    """A shortcut around `conv`, and a branch that depends on values."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.looks = nn.Conv2d(3, 3, 1), nn.Linear(3, 4), looks

    def forward(self, x: Tensor) -> Tensor:
        if self.looks and x.sum() > 1e9:
            return x[:, :1, 0]
        return self.fc((self.conv(x) + (0 if self.looks else x)).mean((2, 3)))


def test_networks_that_cannot_be_cut_say_why() -> None:
    assert "reads from before the layer" in fault(Around(looks=False), "conv", (6, 6))
    assert "cannot be traced" in fault(Around(looks=True), "conv", (6, 6))
    with pytest.raises(ValueError, match="reads from before"):
        tail(Around(looks=False), "conv", (6, 6))


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_own_passes_are_chunked_told_and_leave_no_trace(chunk: int) -> None:
    net = network("gap")
    forward = forward_pass(net, random_activations(5, 3, 6, 7), "conv", chunk=chunk)
    told: list[int] = []
    forward.progress = told.append
    torch.testing.assert_close(forward.predict(5, lambda part: forward.images[part]), forward.logits)
    torch.testing.assert_close(forward.predict(5, lambda part: forward.activations()[part], "conv"), forward.logits)
    assert sum(told) == 10
    assert max(told) <= chunk
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


class Transformer(nn.Module):
    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.patch, self.block, self.fc = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 4)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        if self.tokens:
            x = torch.cat([torch.zeros(len(x), 2, 6), x.flatten(1, 2)], 1)
        x = self.block(x)
        return self.fc(x.flatten(1, -2).mean(1))


def test_a_transformers_layer_is_a_map() -> None:
    x, targets = random_activations(2, 3, 8, 8), torch.tensor([1, 3])
    last = forward_pass(Transformer(tokens=False), x, "block", gradients=True, readings={"block": CHANNELS_LAST})
    assert last.activations().shape == last.gradients(targets).shape == (2, 6, 4, 4)
    torch.testing.assert_close(last.predict(2, lambda part: last.activations()[part], "block"), last.logits)
    reading = Reading((1,), (4, 4), front=2)
    tokens = forward_pass(Transformer(tokens=True), x, "block", gradients=True, readings={"block": reading})
    assert tokens.activations().shape == tokens.gradients(targets).shape == (2, 6, 4, 4)
    with pytest.raises(ValueError, match=r"gives \(2, 18, 6\), which cannot be read as a map of channels_first"):
        forward_pass(Transformer(tokens=True), x, "block")


def test_tokens_lie_row_by_row_behind_the_class_token() -> None:
    x = torch.arange(2 * 10 * 3).view(2, 10, 3).float()
    maps = Reading((1,), (3, 3), front=1).maps(x)
    assert maps.shape == (2, 3, 3, 3)
    assert maps[1, 2, 0].tolist() == x[1, 1:4, 2].tolist()
    assert torch.equal(CHANNELS_LAST.maps(x[:, :9].view(2, 3, 3, 3))[0, :, 1, 2], x[0, 5])
    wide = Reading((1,), (2, 4), front=1, behind=1)
    assert wide.maps(x)[0, 0, 1].tolist() == x[0, 5:9, 0].tolist()
    with pytest.raises(ValueError, match="without the class token"):
        wide.output(wide.maps(x))
    whole = Reading((1,), (2, 5))
    for reading in (whole, CHANNELS_LAST, CHANNELS_FIRST):
        out = x if reading is whole else x.view(2, 5, 2, 3)
        assert torch.equal(reading.output(reading.maps(out)), out)


def test_random_numbers_depend_on_seed_and_position_alone() -> None:
    index = torch.tensor([3, 70_000, 4])
    assert torch.equal(uniform(index, (4, 5), 0)[1], uniform(index[1:2], (4, 5), 0)[0])
    assert not torch.equal(uniform(index, (20,), 0), uniform(index, (20,), 1))
    for sample, mean, std in ((uniform(index, (40_000,), 7), 0.5, 12**-0.5), (normal(index, (40_000,), 7), 0, 1)):
        assert sample.isfinite().all()
        torch.testing.assert_close(sample.mean(1), torch.full((3,), float(mean)), atol=0.02, rtol=0)
        torch.testing.assert_close(sample.std(1), torch.full((3,), float(std)), atol=0.02, rtol=0)
        assert torch.corrcoef(sample)[0, 1].abs() < 0.03


def test_a_network_without_a_head_cannot_be_asked_behind_a_missing_layer() -> None:
    with pytest.raises(KeyError):
        tail(GapNet(), "nowhere", (6, 6))
