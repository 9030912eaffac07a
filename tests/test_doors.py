"""Every method on every activation, written as a module, as a function and as arithmetic: right, or refused."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import config
from torch import Tensor, nn

from eigencam.commands.main import main
from eigencam.explainer import Explainer
from eigencam.methods.fixations import CNNFixations
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.gradient_weighted import FullGrad, full_gradients
from eigencam.methods.input_gradients import Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients
from eigencam.methods.relevance import LRP, DeepLIFT, ExcitationBackprop
from eigencam.methods.support import probe, refusal, traced
from eigencam.networks.network import Network, Preprocess, load_network
from eigencam.passes.calls import NetworkError, OutputError, logits_of
from eigencam.passes.forward import forward_pass
from eigencam.running.prepare import prepare
from eigencam.running.run import run

Function = Callable[[Tensor], Tensor]
SIDE = 12


class Call(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FORMS: dict[str, tuple[Callable[[], nn.Module], Function, Function]] = {
    "ReLU": (nn.ReLU, F.relu, lambda x: x.clamp(min=0)),
    "ReLU6": (nn.ReLU6, F.relu6, lambda x: x.clamp(0, 6)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2), lambda x: torch.where(x > 0, x, 0.2 * x)),
    "PReLU": (
        nn.PReLU,
        lambda x: F.prelu(x, torch.tensor([0.25])),
        lambda x: x.clamp(min=0) - 0.25 * (-x).clamp(min=0),
    ),
    "ELU": (nn.ELU, F.elu, lambda x: torch.where(x > 0, x, x.exp() - 1)),
    "RReLU": (nn.RReLU, lambda x: F.rrelu(x, training=False), lambda x: F.rrelu(x)),
    "Hardtanh": (lambda: nn.Hardtanh(-0.5, 0.4), lambda x: F.hardtanh(x, -0.5, 0.4), lambda x: x.clamp(-0.5, 0.4)),
    "Hardsigmoid": (nn.Hardsigmoid, F.hardsigmoid, lambda x: (x + 3).clamp(0, 6) / 6),
    "Tanh": (nn.Tanh, F.tanh, lambda x: x.tanh()),
    "Softsign": (nn.Softsign, F.softsign, lambda x: x / (1 + x.abs())),
    "GELU": (nn.GELU, F.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    "SiLU": (nn.SiLU, F.silu, lambda x: x * torch.sigmoid(x)),
    "Hardswish": (nn.Hardswish, F.hardswish, lambda x: x * (x + 3).clamp(0, 6) / 6),
    "Sigmoid": (nn.Sigmoid, torch.sigmoid, lambda x: 1 / (1 + (-x).exp())),
    "Softplus": (nn.Softplus, F.softplus, lambda x: (1 + x.exp()).log()),
    "Threshold": (
        lambda: nn.Threshold(0.1, 0.0),
        lambda x: F.threshold(x, 0.1, 0.0),
        lambda x: torch.where(x > 0.1, x, 0.0),
    ),
}
SIGN_KEEPING = ("LeakyReLU", "PReLU", "RReLU", "ELU", "Hardtanh", "Tanh", "Softsign")
CASES = [(name, form) for name in FORMS for form in ("module", "function", "inline")]
RULED: dict[str, Any] = {
    "guided_backprop": GuidedBackprop(),
    "deconvnet": GuidedBackprop(deconvnet=True),
    "guided_gradcam": GuidedGradCAM(),
    **{f"lrp_{rule}": LRP(rule, epsilon=1e-9) for rule in ("epsilon", "zplus", "alphabeta", "gamma", "composite")},
    "deeplift": DeepLIFT(),
    "mwp": ExcitationBackprop(),
    "cmwp": ExcitationBackprop(contrastive=True),
    "cnn_fixations": CNNFixations(sigma=2.0),
    "integrated_gradients": IntegratedGradients(steps=128),
    "fullgrad": FullGrad(),
}
LRPS = {name for name in RULED if name.startswith("lrp")}
RELUS = {"guided_backprop", "deconvnet", "guided_gradcam", "mwp", "cmwp", "cnn_fixations", *LRPS}


def activation(name: str, form: str) -> nn.Module:
    module, function, inline = FORMS[name]
    return module() if form == "module" else Call(function if form == "function" else inline)


def small(make: Callable[[], nn.Module], *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=bias), nn.Conv2d(8, 16, 3, 2, 1, bias=bias), nn.Linear(16, 5, bias=bias)]
    first, second, last = layers
    return nn.Sequential(first, make(), second, make(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def network(module: nn.Module, layer: str = "3") -> Network:
    return Network("small", module, layer, "own", "", Preprocess(size=SIDE))


def maps(method: Any, module: nn.Module, images: Tensor, layer: str = "3") -> Tensor:
    with torch.no_grad():
        forward = forward_pass(module, images, layer, gradients=True)
        return method(forward, torch.tensor([1, 2]))


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def accepted(name: str, form: str) -> set[str]:
    """The methods of `RULED` that follow an activation."""
    chosen = {"deeplift", "integrated_gradients", "fullgrad"}
    if name in ("ReLU", "ReLU6"):
        return chosen | RELUS
    if form == "inline" and name in ("LeakyReLU", "ELU", "Threshold"):  # a choice by comparison
        return {"fullgrad"}
    if name == "Threshold":
        return {"deeplift", "fullgrad"}
    if form == "inline" and name == "Softsign":  # a quotient of two values
        return {"integrated_gradients", "fullgrad"}
    if form == "inline" and name in ("PReLU", "Hardsigmoid"):  # made of ReLUs, of ReLU6
        return chosen | RELUS - {"cnn_fixations"}
    return chosen | (LRPS if name in SIGN_KEEPING else set())


@pytest.mark.parametrize(("name", "form"), CASES, ids=[f"{name}-{form}" for name, form in CASES])
def test_what_is_accepted_is_right_and_the_rest_is_refused_for_its_operations(name: str, form: str) -> None:
    module = small(lambda: activation(name, form))
    reasons = {method: refusal(made, network(module)) for method, made in RULED.items()}
    assert {method for method, reason in reasons.items() if not reason} == accepted(name, form)
    assert all("no rule for" in reason for reason in reasons.values() if reason)
    x, relu = images(), small(nn.ReLU)
    if form != "inline":
        relu = small(lambda: activation(name, "module"))
    with torch.no_grad():
        logits, reference = (module(t)[[0, 1], [1, 2]] for t in (x, torch.zeros_like(x)))
    for method in {"deeplift", "integrated_gradients"} & accepted(name, form):
        found = maps(RULED[method], module, x).sum((1, 2))
        torch.testing.assert_close(found, logits - reference, atol=3e-5, rtol=2e-2 if "int" in method else 1e-3)
    if "fullgrad" in accepted(name, form):
        of_input, of_maps, rest = full_gradients(module, x, torch.tensor([1, 2]))
        total = sum((part.flatten(1).sum(1) for part in (of_input, *of_maps, *rest)), torch.zeros(2))
        torch.testing.assert_close(total, logits, atol=1e-5, rtol=1e-4)
    if name in ("ReLU", "ReLU6"):  # values below 6: the same network
        for method in RELUS:
            torch.testing.assert_close(
                maps(RULED[method], module, x), maps(RULED[method], relu, x), atol=1e-6, rtol=1e-4
            )


@pytest.mark.parametrize("name", ["ReLU", "ReLU6", *SIGN_KEEPING])
@pytest.mark.parametrize("form", ["module", "function", "inline"])
def test_relevance_is_conserved_without_biases_where_units_are_saturated(name: str, form: str) -> None:
    seen: list[Tensor] = []
    module = small(lambda: nn.Sequential(Call(lambda x: 9 * x), activation(name, form)), bias=False)
    module[1].register_forward_hook(lambda _module, _args, out: seen.append(out.detach()))
    x, able = images(), LRPS & accepted(name, form)
    with torch.no_grad():
        logits = module(x)[[0, 1], [1, 2]]
    top = {"ReLU6": 6, "Hardtanh": 0.4, "Tanh": 0.99, "Softsign": 0.9}
    assert (seen[0] >= top.get(name, 6)).float().mean() > 0.02
    for method in able:
        torch.testing.assert_close(maps(RULED[method], module, x).sum((1, 2)), logits, atol=1e-6, rtol=1e-3)
    if "mwp" in accepted(name, form):
        torch.testing.assert_close(maps(RULED["mwp"], module, x, "1").sum((1, 2)), torch.ones(2), atol=1e-4, rtol=0)


RELU_FORMS: dict[str, Function] = {
    "clip": lambda x: x.clip(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "maximum": lambda x: torch.maximum(torch.zeros(()), x),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, float("inf")),
    "leaky": lambda x: F.leaky_relu(x, 0.0),
    "in_place": lambda x: x.relu_(),
    "clamp_": lambda x: x.clamp_(min=0),
    "threshold_": lambda x: F.threshold(x, 0.0, 0.0, inplace=True),
}


def statement(x: Tensor) -> Tensor:
    """A rectifier in place whose return value nobody reads."""
    F.relu(x, inplace=True)
    return x


@pytest.mark.parametrize("form", [*RELU_FORMS, "statement"])
def test_a_relu_is_a_relu_however_it_is_written(form: str) -> None:
    module, x = small(lambda: Call(RELU_FORMS.get(form, statement))), images()
    for method in RELUS | {"deeplift"}:
        assert refusal(RULED[method], network(module)) == ""
        expected = maps(RULED[method], small(nn.ReLU), x)
        torch.testing.assert_close(maps(RULED[method], module, x), expected, atol=1e-6, rtol=1e-4)


class OwnSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))


RAMP = torch.linspace(0, 1, SIDE * SIDE).view(1, 1, SIDE, SIDE)
OPAQUE: dict[str, tuple[Function, str]] = {
    "mask": (lambda x: x * (x > 0), "mul of truth values"),
    "half_of_the_sum": (lambda x: (x + x.abs()) / 2, "abs"),
    "function_of_its_own": (OwnSwish.apply, "OwnSwish"),
    "dropout": (lambda x: F.dropout(x, 0.5), "dropout that is on in evaluation"),
    "item": (lambda x: x / x.detach().abs().max().item(), "item"),
    "numpy": (lambda x: x + torch.from_numpy(x.detach().numpy()), "numpy"),
    "assignment": (lambda x: x.index_put((x < 0,), torch.zeros(())), "index_put"),
    "softmax": (lambda x: x.softmax(1) * x, "softmax"),
    "top": (lambda x: x.sort(1).values, "sort"),
    "layer_norm": (lambda x: F.group_norm(F.silu(x), 2), "silu"),
    "detach": (lambda x: F.relu(x) + x.detach(), "detach"),
    "grid": (
        lambda x: F.grid_sample(RAMP.expand(*x.shape[:2], -1, -1), x[:, :2].permute(0, 2, 3, 1), align_corners=False),
        "grid_sample by the image's values",
    ),
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_what_has_no_rule_is_named_and_refused(kind: str) -> None:
    function, word = OPAQUE[kind]
    found = network(small(lambda: Call(function)))
    assert word in refusal(RULED["lrp_epsilon"], found)
    for method in RELUS:
        assert refusal(RULED[method], found)
    assert refusal(GradCAM(), found) == ""


def test_what_torch_does_not_show_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is on its way out
        scripted = torch.jit.script(nn.Sequential(nn.SiLU()))
    module = small(nn.ReLU)
    module[1] = scripted
    assert "an operation that torch does not show" in refusal(DeepLIFT(), network(module))
    assert refusal(GradCAM(), network(module)) == ""


class Shortcut(nn.Module):
    """A value that is rectified in place while a shortcut holds it."""

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


NETWORKS = """import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, act, mode):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two, self.act, self.mode = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), act, mode
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        with torch.set_grad_enabled(self.mode == "graph" and torch.is_grad_enabled()):
            x = self.two(self.act(self.one(x)))
        x = self.act(x).mean((2, 3))
        return (x, self.head(x)) if self.mode == "pair" else self.head(x)

def silu(): return Net(F.silu, "graph")
def clamped(): return Net(lambda x: x.clamp(min=0), "graph")
def cut(): return Net(F.relu, "cut")
def pair(): return Net(F.relu, "pair")
"""
ASKED = ["eigencam", "kpcacam", "gradcam", "deeplift", "guided_backprop", "lrp_gamma", "integrated_gradients"]
REFUSED = {
    "silu": {"guided_backprop", "lrp_gamma"},
    "clamped": set[str](),
    "cut": {"gradcam", "deeplift", "guided_backprop", "lrp_gamma", "integrated_gradients"},
    "pair": {"gradcam", "deeplift", "guided_backprop", "lrp_gamma", "integrated_gradients"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_run_explain_compare_and_explainer_say_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"nets_{name}.py").write_text(NETWORKS)
    own = [f"model.name={name}", f"model._target_=nets_{name}.{name}", "model.layer=two", "model.classes=own"]
    own += ["model.preprocess.size=32", "dataset.count=2", "target=predicted"]
    settings = ["model=custom", *own, f"method=[{','.join(ASKED)}]", "evaluator=[localization]"]
    job = run(config(tmp_path / "results", *settings, "on_unsupported=skip"), say=lambda _line: None)
    assert set(job.unsupported) == REFUSED[name]
    if REFUSED[name]:
        with pytest.raises(ValueError, match="method.guided_backprop: ") as caught:  # noqa: RUF043
            prepare(config(tmp_path / "results", *settings))
        assert all(reason in str(caught.value) for reason in job.unsupported.values())
    explain = Explainer(load_network(job.config.model))
    assert explain(job.dataset.image(0), ASKED).refused == job.unsupported
    capsys.readouterr()
    asked = ["--model", f"nets_{name}.{name}", "--method", ",".join(ASKED), "--pictures", "1"]
    assert main(["explain", *asked, *own]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert dict(line.split(" left out: ") for line in lines if " left out: " in line) == job.unsupported
    asked = ["--model", "custom", "--evaluator", "localization", "--results", str(tmp_path / "results")]
    assert main(["compare", *ASKED, *asked, *own, "workers=0", "device=cpu", "batch_size=8", "--format", "json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    expected = {f"{method} on {name}: not run, {reason}" for method, reason in job.unsupported.items()}
    assert {note for note in notes if "not run" in note} == expected
