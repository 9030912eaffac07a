"""The shared forward pass: correct in difficult cases, and without any change of the network."""

import pytest
import torch
from torch import Tensor, nn

from eigencam.passes.calls import NetworkError
from eigencam.passes.forward import forward_pass


class Net(nn.Module):
    """Two convolutions, an in-place ReLU behind the first, a ReLU called twice, batch norm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.inplace = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 7, 3, padding=1)
        self.relu = nn.ReLU()
        self.unused = nn.Conv2d(7, 7, 1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.relu(self.inplace(self.conv1(x))))
        return self.fc(self.relu(self.conv2(x)).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 6, 8, generator=torch.Generator().manual_seed(1))


def by_hand(net: Net, x: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """conv1's output, the gradient of the target's logit with respect to it, and the logits, by plain autograd."""
    net.eval()
    a = net.conv1(x).detach().requires_grad_()
    logits = net.fc(net.relu(net.conv2(net.bn(a.relu()))).mean((2, 3)))
    return a.detach(), torch.autograd.grad(logits[:, target].sum(), a)[0], logits.detach()


def test_activations_before_an_inplace_relu_are_kept_as_they_were(net: Net) -> None:
    forward = forward_pass(net, images(), "conv1", gradients=True)
    activations, gradients, logits = by_hand(net, images(), 2)
    assert (activations < 0).any()
    torch.testing.assert_close(forward.activations(), activations)
    torch.testing.assert_close(forward.gradients(torch.full((3,), 2)), gradients)
    torch.testing.assert_close(forward.logits, logits)


def test_without_gradients_the_same_activations_come_from_inference_mode(net: Net) -> None:
    forward = forward_pass(net, images(), "conv1")
    torch.testing.assert_close(forward.activations(), by_hand(net, images(), 0)[0])
    with pytest.raises(RuntimeError, match="needs_gradient"):
        forward.gradients(torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_work_whatever_mode_the_caller_is_in(net: Net, outside: type) -> None:
    expected = by_hand(net, images(), 1)[1]
    with outside():
        forward = forward_pass(net, images(), "conv1", gradients=True)
        torch.testing.assert_close(forward.gradients(torch.ones(3, dtype=torch.long)), expected)


def test_several_classes_and_layers_share_one_pass(net: Net) -> None:
    calls = []
    net.conv1.register_forward_hook(lambda *_: calls.append(1))
    forward = forward_pass(net, images(), "conv2", layers=["conv1", "conv2"], gradients=True)
    for target in range(4):
        targets = torch.full((3,), target)
        torch.testing.assert_close(forward.gradients(targets, "conv1"), by_hand(net, images(), target)[1])
        weight = net.fc.weight[target].view(1, 7, 1, 1) / 48
        torch.testing.assert_close(forward.gradients(targets), weight * (forward.activations() > 0))
    assert len(calls) == 1 + 4  # by_hand calls the module too


def test_a_module_called_twice_gives_its_last_call(net: Net) -> None:
    assert forward_pass(net, images(), "relu", gradients=True).activations().shape == (3, 7, 6, 8)


def test_modes_flags_and_grads_of_the_network_are_left_alone(net: Net) -> None:
    net.train()
    net.bn.eval()
    net.conv2.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    statistics = {key: value.clone() for key, value in net.bn.state_dict().items()}
    before = {n: m.training for n, m in net.named_modules()}
    forward = forward_pass(net, images(), "conv2", gradients=True)
    forward.gradients(torch.zeros(3, dtype=torch.long))
    assert {n: m.training for n, m in net.named_modules()} == before
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["conv2.weight"]
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["fc.weight"]
    assert torch.equal(net.fc.weight.grad, torch.ones_like(net.fc.weight))
    assert all(torch.equal(value, statistics[key]) for key, value in net.bn.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_hooks_and_modes_are_restored_when_the_network_fails(net: Net) -> None:
    net.train()
    with pytest.raises(NetworkError, match=r"of Net fails on an input of shape \(1, 4, 6, 8\).*3 channels, but got 4"):
        forward_pass(net, torch.randn(1, 4, 6, 8), "conv1", gradients=True)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_frozen_parameters_do_not_matter(net: Net) -> None:
    expected = by_hand(net, images(), 0)[1]
    for p in net.parameters():
        p.requires_grad_(False)
    forward = forward_pass(net, images(), "conv1", gradients=True)
    torch.testing.assert_close(forward.gradients(torch.zeros(3, dtype=torch.long)), expected)


def test_no_graph_is_built_below_the_tapped_layer(net: Net) -> None:
    forward = forward_pass(net, images(), "conv2", gradients=True)
    assert forward._tap(None).is_leaf


def test_layers_that_cannot_make_a_map_are_refused(net: Net) -> None:
    with pytest.raises(ValueError, match=r"'fc' gives \(3, 4\), which cannot be read as a map"):
        forward_pass(net, images(), "fc")
    with pytest.raises(ValueError, match="does not call unused"):
        forward_pass(net, images(), "unused")
    with pytest.raises(KeyError, match="not tapped"):
        forward_pass(net, images(), "conv1").activations("conv2")


def test_outputs_with_logits_and_networks_without_a_classifier(net: Net) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> object:
            return type("Output", (), {"logits": self.net(x)})()

    logits = forward_pass(net, images(), "conv1").logits
    torch.testing.assert_close(forward_pass(Wrapped(), images(), "net.conv1").logits, logits)
    assert forward_pass(net.conv1, images(), "", classifier=False).logits.shape == (3, 0)
    with pytest.raises(ValueError, match="classes: null"):
        forward_pass(net.conv1, images(), "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(net: Net, dtype: torch.dtype) -> None:
    expected = by_hand(net, images(), 1)
    forward = forward_pass(net.to(dtype), images().to(dtype), "conv1", gradients=True)
    assert forward.activations().dtype == forward.logits.dtype == torch.float32
    torch.testing.assert_close(forward.activations(), expected[0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(forward.gradients(torch.ones(3, dtype=torch.long)), expected[1], atol=2e-3, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_pass_on_a_gpu_agrees_with_the_cpu(net: Net) -> None:
    expected = by_hand(net, images(), 1)
    forward = forward_pass(net.cuda(), images().cuda(), "conv1", gradients=True)
    torch.testing.assert_close(forward.activations().cpu(), expected[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        forward.gradients(torch.ones(3, dtype=torch.long, device="cuda")).cpu(), expected[1], atol=1e-4, rtol=1e-3
    )


def test_picked_images_have_the_gradients_of_their_own_classes_from_one_forward_pass(net: Net) -> None:
    rows, classes = torch.tensor([2, 0, 2, 2, 1]), torch.tensor([1, 3, 0, 2, 1])
    forward = forward_pass(net, images(), "conv1", layers=["conv2"], gradients=True)
    picked = forward.pick(rows)
    found, deeper = picked.gradients(classes), picked.gradients(classes, "conv2")
    assert deeper.shape == (5, 7, 6, 8)
    for k, (row, label) in enumerate(zip(rows.tolist(), classes.tolist(), strict=True)):
        activations, gradients, logits = by_hand(net, images()[row : row + 1], label)
        torch.testing.assert_close(picked.activations()[k], activations[0])
        torch.testing.assert_close(found[k], gradients[0])
        torch.testing.assert_close(picked.logits[k], logits[0])
    assert picked.index.tolist() == rows.tolist()
    torch.testing.assert_close(picked.pick(torch.tensor([4, 1])).gradients(torch.tensor([0, 0])), forward.pick(
        torch.tensor([1, 0])).gradients(torch.tensor([0, 0])))  # fmt: skip
