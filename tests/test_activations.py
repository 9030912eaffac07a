"""Every method with every activation, written as a module, a function and arithmetic: correct maps, or a refusal."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from activations import (
    FORMS,
    LRPS,
    RELUS,
    RULED,
    SIDE,
    SIGN_KEEPING,
    Call,
    Function,
    activation,
    images,
    maps,
    network,
    small,
)
from test_every_method import methods
from torch import Tensor, nn

from eigencam.methods.attnlrp import AttnLRP
from eigencam.methods.base import follows, needs_smooth
from eigencam.methods.fullgrad import full_gradients
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.refusal import refusal
from eigencam.methods.relevance import DeepLIFT

CASES = [(name, form) for name in FORMS for form in ("module", "function", "inline")]


def accepted(name: str, form: str) -> set[str]:
    """The methods of `RULED` that have a rule for an activation."""
    smooth = {"integrated_gradients", "guided_ig", "blur_ig", "expected_gradients", "xrai", "fullgrad"}
    chosen = {"deeplift", "liftcam", *smooth}
    if name in ("ReLU", "ReLU6"):
        return chosen | RELUS
    if form == "inline" and name in ("LeakyReLU", "ELU", "Threshold"):  # a choice by comparison
        return {"fullgrad"}
    if name == "Threshold":
        return {"deeplift", "liftcam", "fullgrad"}
    if form == "inline" and name == "Softsign":  # a quotient of two values
        return smooth
    if form == "inline" and name in ("PReLU", "Hardsigmoid"):  # made of ReLUs, of ReLU6
        return chosen | RELUS - {"cnn_fixations"}
    return chosen | (LRPS | {"relevance_cam"} if name in SIGN_KEEPING else set())


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
    if form == "function":
        for method in {"deeplift", "liftcam", "relevance_cam"} & accepted(name, form):
            expected = maps(RULED[method], relu, x)
            torch.testing.assert_close(maps(RULED[method], module, x), expected, atol=1e-6, rtol=1e-4)
    if name in ("ReLU", "ReLU6"):  # values below 6: the same network
        for method in RELUS:
            torch.testing.assert_close(
                maps(RULED[method], module, x), maps(RULED[method], relu, x), atol=1e-6, rtol=1e-4
            )


def test_every_method_that_depends_on_the_operations_is_among_them() -> None:
    asked = [method for method in methods().values() if follows(method) is not None or needs_smooth(method)]
    assert {type(method) for method in asked} - {AttnLRP} <= {type(method) for method in RULED.values()}
    of_attention = [method for method in asked if isinstance(method, AttnLRP)]
    assert len(of_attention) >= 3
    for make in (nn.ReLU, nn.SiLU):
        assert all("attention weights" in refusal(method, network(small(make))) for method in of_attention)


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
    """An in-place rectifier whose return value is not used."""
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
        warnings.simplefilter("ignore")  # scripting is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.SiLU()))
    module = small(nn.ReLU)
    module[1] = scripted
    assert "an operation that torch does not show" in refusal(DeepLIFT(), network(module))
    assert refusal(GradCAM(), network(module)) == ""
