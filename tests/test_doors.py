"""Unusual networks at every entry point: explained correctly, or refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from activations import SIDE, Call, images, maps, network, small
from torch import Tensor, nn

from eigencam.explainer import Explainer
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.input_gradients import Gradient, GuidedBackprop, IntegratedGradients
from eigencam.methods.refusal import probe, refusal, traced
from eigencam.methods.relevance import DeepLIFT
from eigencam.networks.network import Preprocess
from eigencam.passes.calls import NetworkError, OutputError, logits_of


class Shortcut(nn.Module):
    """A value that is rectified in place while a shortcut still needs it."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.conv, self.second, self.view, self.head = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 1),
            view,
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        shortcut = x.view(x.shape) if self.view else x
        return self.head((self.second(F.relu(x, inplace=True)) + shortcut).mean((2, 3)))


def test_what_an_in_place_operation_changes_is_followed_or_refused() -> None:
    x = images()
    for view in (False, True):
        torch.manual_seed(0)
        module = Shortcut(view).eval()
        reason = refusal(DeepLIFT(), network(module, "second"))
        if view:
            assert "a second pass of the same image gives other logits" in reason
            continue
        assert reason == ""
        with torch.no_grad():
            expected = (module(x) - module(torch.zeros_like(x)))[[0, 1], [1, 2]]
        torch.testing.assert_close(maps(DeepLIFT(), module, x, "second").sum((1, 2)), expected, atol=1e-5, rtol=1e-3)


def test_a_network_that_changes_its_input_in_place_is_explained_as_it_is() -> None:
    class Scaled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x.mul_(2))

    module = Scaled(*small(nn.ReLU))
    x, plain = images(), small(nn.ReLU)
    before = x.clone()
    for method in (Gradient(), DeepLIFT(), IntegratedGradients(4), GradCAM()):
        assert refusal(method, network(module)) == ""
        found, expected = maps(method, module, x), maps(method, plain, 2 * x)
        torch.testing.assert_close(found, expected * (2 if isinstance(method, Gradient) else 1), atol=1e-6, rtol=1e-4)
    assert torch.equal(x, before)


class Cut(nn.Module):
    """Its backbone runs without a graph."""

    def __init__(self, mode: Any) -> None:
        super().__init__()
        self.net, self.mode = small(nn.ReLU), mode

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            x = self.net[:3](x)
        return self.net[3:](x.clone() if x.is_inference() else x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_graph_that_the_network_cuts_costs_only_what_needs_it(mode: Any) -> None:
    x = (np.random.default_rng(0).random((SIDE, SIDE, 3)) * 255).astype(np.uint8)
    explain = Explainer(Cut(mode), layer="net.1", preprocess=Preprocess(size=SIDE))
    found = explain(x, ["eigencam", "scorecam", "gradcam", "integrated_gradients", "deeplift"], target=1)
    assert set(found) == {"eigencam", "scorecam"}
    assert set(found.refused) == {"gradcam", "integrated_gradients", "deeplift"}
    assert all("under torch.no_grad()" in reason for reason in found.refused.values())
    with pytest.raises(KeyError, match=r"no gradient of the logits reaches net.1: .* where conv2d runs under"):
        found["gradcam"]
    with pytest.raises(ValueError, match=r"where conv2d runs under torch\.no_grad"):
        explain(x, "gradcam")
    expected = Explainer(small(nn.ReLU), layer="1", preprocess=Preprocess(size=SIDE))(x, "eigencam")
    np.testing.assert_allclose(found["eigencam"].raw, expected["eigencam"].raw, atol=1e-6)
    behind = Explainer(Cut(mode), layer="net.3", preprocess=Preprocess(size=SIDE))(x, ["gradcam"], target=1)
    whole = Explainer(small(nn.ReLU), layer="3", preprocess=Preprocess(size=SIDE))(x, ["gradcam"], target=1)
    np.testing.assert_allclose(behind["gradcam"].raw, whole["gradcam"].raw, atol=1e-6)


def test_a_method_that_does_not_say_hears_of_the_cut_when_it_asks() -> None:
    def own(forward: Any, targets: Tensor) -> Tensor:
        return forward.gradients(targets).sum(1)

    x = np.zeros((SIDE, SIDE, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"no gradient of the logits reaches net\.1: the network's own forward pass cuts"
    ):
        Explainer(Cut(torch.no_grad), layer="net.1", preprocess=Preprocess(size=SIDE))(x, own)


class Output(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = small(nn.ReLU), kind

    def forward(self, x: Tensor) -> Any:
        features = self.net[:6](x)
        logits = self.net[6](features)
        return {
            "features first": (features, logits),
            "list": [logits, features],
            "dict": {"features": features, "scores": logits},
            "map": self.net[:3](x),
            "named": {"features": features, "logits": logits},
            "alone": (logits,),
            "none": None,
        }[self.kind]


@pytest.mark.parametrize("kind", ["features first", "list", "dict", "map", "none"])
def test_an_output_that_is_not_known_to_be_logits_is_never_explained(kind: str) -> None:
    x = np.zeros((SIDE, SIDE, 3), np.uint8)
    explain = Explainer(Output(kind), layer="net.3", preprocess=Preprocess(size=SIDE))
    with pytest.raises(ValueError, match=r"the network returns .*logits \(N, K\) are needed"):
        explain(x, ["gradcam"])
    found = explain(x, ["eigencam", "gradcam"])
    assert list(found) == ["eigencam"]
    assert not found.logits.size
    expected = Explainer(Output("alone"), layer="net.3", preprocess=Preprocess(size=SIDE))(x, ["eigencam", "gradcam"])
    assert not expected.refused
    np.testing.assert_array_equal(found["eigencam"].raw, expected["eigencam"].raw)


def test_logits_are_what_is_called_so_or_the_only_tensor() -> None:
    logits, other = torch.zeros(2, 5), torch.zeros(2, 16)
    for output in (logits, (logits,), [logits, None], {"logits": logits, "features": other}, {"out": logits}):
        assert logits_of(output) is logits
    for output in ((other, logits), {"a": logits, "b": other}, logits[None], logits.long(), None, logits[0]):
        with pytest.raises(OutputError, match="logits"):
            logits_of(output)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2\n cannot be multiplied"), AssertionError(), StopIteration()]
)
def test_what_goes_wrong_in_the_network_is_one_line(error: Exception) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            raise error

    found = network(Broken(), "conv")
    with pytest.raises(NetworkError) as caught:
        traced(found)
    kind = type(error).__name__
    assert str(caught.value).startswith(
        f"the forward pass of Broken fails on an input of shape (1, 3, 12, 12), float32: {kind}"
    )
    assert "\n" not in str(caught.value)
    with pytest.raises(NetworkError, match=kind):
        Explainer(found)(np.zeros((SIDE, SIDE, 3), np.uint8), ["eigencam"])


def test_a_network_without_parameters_has_a_device() -> None:
    module = nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = Explainer(module, layer="0", preprocess=Preprocess(size=SIDE))(
        np.zeros((SIDE, SIDE, 3), np.uint8), "gradcam"
    )
    assert found["gradcam"].raw.shape == (6, 6)


def test_what_is_known_of_a_network_is_forgotten_when_it_changes() -> None:
    module = small(nn.ReLU)
    assert refusal(GuidedBackprop(), network(module)) == ""
    module[1] = nn.SiLU()
    assert "silu" in refusal(GuidedBackprop(), network(module))
    module[1] = Call(F.relu)
    assert refusal(GuidedBackprop(), network(module)) == ""
    module[1].__dict__["function"] = F.silu
    assert "silu" in refusal(GuidedBackprop(), network(module))


def test_tf32_is_off_unless_asked_for_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def look(forward: Any, targets: Tensor) -> Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return forward.activations().sum(1)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x = np.zeros((SIDE, SIDE, 3), np.uint8)
    for tf32 in (False, True):
        Explainer(network(small(nn.ReLU)), tf32=tf32)(x, look)
    assert seen == [("highest", False), ("high", True)]
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_probe_is_one_image_of_the_network() -> None:
    found = probe(network(small(nn.ReLU)))
    assert found.shape == (1, 3, SIDE, SIDE)
    assert found.unique().numel() > 100
