"""Networks as people have them: explained as they are, or refused with the true reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from activations import SIDE, images, maps, network, small
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eigencam import Explainer
from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.expected import ExpectedGradients
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.refusal import refusal
from eigencam.methods.relevance import DeepLIFT
from eigencam.networks.network import Preprocess

IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
SMALL = Preprocess(size=SIDE)


class Changed(nn.Module):
    """A small network whose output is what a function makes of the input and the logits."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = small(nn.ReLU), change

    def forward(self, x: Tensor) -> Any:
        return self.change(x, self.net(x))


UNCHOSEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout": (lambda: Changed(lambda _, y: nn.functional.dropout(y, 0.5)), r"differs between two passes of the same"),
    "nothing": (lambda: Changed(lambda _x, _y: None), "the network returns no tensor with one row per image"),
    "numpy": (lambda: Changed(lambda _, y: y.detach().numpy()), "the network returns no tensor with one row per"),
    "not_finite": (lambda: Changed(lambda _, y: y * float("nan")), "its output is not finite"),
    "classes": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "'0' is one, and its mean is the output: a map of the classes; set model.layer",
    ),
}


@pytest.mark.parametrize("kind", UNCHOSEN)
def test_why_no_layer_can_be_chosen(kind: str) -> None:
    make, message = UNCHOSEN[kind]
    with pytest.raises(ValueError, match=message):
        Explainer(make(), preprocess=SMALL)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace", "ignore::DeprecationWarning")  # scripting is on its way out
def test_scripted_modules_cannot_be_observed() -> None:
    scripted: Any = torch.jit.trace(small(nn.ReLU), images())
    with pytest.raises(ValueError, match=r"0, 1, 2, \.\.\.: it is scripted or traced by torch\.jit"):
        Explainer(scripted, preprocess=SMALL)
    with pytest.raises(ValueError, match=r"layer '3' .* is no map: it is scripted or traced"):
        Explainer(scripted, "3", preprocess=SMALL)


class Called(nn.Module):
    """A network inside a module, as torch.compile returns it."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = small(nn.ReLU)


NO_NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "name": (lambda: "resnet18", "a network as str; an nn.Module is needed"),
    "class": (lambda: nn.ReLU, "a network as type; an nn.Module is needed"),
    "weights": (lambda: small(nn.ReLU).state_dict(), "a network as OrderedDict; an nn.Module is needed"),
    "meta": (lambda: small(nn.ReLU).to("meta"), "parameter 0.weight has no values: on the meta device"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "parameter 0.weight has no values: a lazy module"),
    "compiled": (Called, "compiled by torch.compile, .* which `_orig_mod` holds"),
}


@pytest.mark.parametrize("kind", NO_NETWORKS)
def test_what_is_no_network_is_refused(kind: str) -> None:
    make, message = NO_NETWORKS[kind]
    with pytest.raises(ValueError, match=message):
        Explainer(make(), "3", preprocess=SMALL)


def test_the_layer_is_that_of_the_logits_whatever_is_returned_beside_them() -> None:
    explain = Explainer(Changed(lambda x, y: {"logits": y, "input": x}), preprocess=SMALL)
    assert explain.network.layer == "net.3"
    assert set(explain(IMAGE, ["eigencam", "gradcam"], target=1)) == {"eigencam", "gradcam"}


def test_one_number_per_image_is_no_logit() -> None:
    explain = Explainer(Changed(lambda _, y: y[:, 0]), preprocess=SMALL)
    assert explain.network.layer == "net.3"
    with pytest.raises(ValueError, match=r"the network returns \(1,\) .*logits \(N, K\) are needed"):
        explain(IMAGE, ["gradcam"], target=1)


def test_a_layer_is_a_path_or_the_module_itself() -> None:
    module = small(nn.ReLU)
    assert Explainer(module, module[3], preprocess=SMALL).network.layer == "3"
    with pytest.raises(ValueError, match=r"layer=ReLU\(\.\.\.\) is no module of the network"):
        Explainer(module, nn.ReLU(), preprocess=SMALL)
    for other in (3, ["3"]):
        with pytest.raises(ValueError, match=rf"{type(other).__name__}; allowed: a layer's path, or the module itself"):
            Explainer(module, other, preprocess=SMALL)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_the_reason() -> None:
    module = Changed(lambda _, y: y * float("nan"))
    for method in (DeepLIFT(), AblationCAM()):
        assert "logits are not finite" in refusal(method, network(module, "net.3"))


class Recomputed(nn.Module):
    """A network with activation checkpointing."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = small(nn.ReLU), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.net[4:](checkpoint(self.net[:4], x, use_reentrant=self.reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_activation_checkpointing_costs_only_what_it_breaks() -> None:
    expected = maps(GradCAM(), small(nn.ReLU), images())
    torch.testing.assert_close(maps(GradCAM(), Recomputed(False), images(), "net.3"), expected)
    explain = Explainer(Recomputed(True), "net.3", preprocess=SMALL)
    found = explain(IMAGE, ["eigencam", "integrated_gradients"], target=1)
    assert list(found) == ["eigencam"]
    assert "use_reentrant=True" in found.refused["integrated_gradients"]


def test_a_network_that_changes_behind_the_layer_has_another_tail() -> None:
    module, x = small(nn.ReLU), images()
    before = maps(AblationCAM(), module, x, "1")
    module[3] = nn.Tanh()
    after = maps(AblationCAM(), module, x, "1")
    torch.testing.assert_close(
        after, maps(AblationCAM(), small(nn.ReLU)[:3].append(nn.Tanh()).extend(module[4:]), x, "1")
    )
    assert not torch.allclose(before, after)


def test_several_gpus_wrapped_around_a_network() -> None:
    explain = Explainer(nn.DataParallel(small(nn.ReLU)), preprocess=SMALL)
    assert explain.network.layer == "module.3"
    expected = Explainer(small(nn.ReLU), "3", preprocess=SMALL)(IMAGE, "gradcam", target=1)
    np.testing.assert_allclose(explain(IMAGE, "gradcam", target=1)["gradcam"].raw, expected["gradcam"].raw, atol=1e-6)


class Exported(nn.Sequential):
    """A program of torch.export, whose mode cannot be changed."""

    def eval(self) -> "Exported":
        raise NotImplementedError("Calling eval() is not supported yet.")


def test_a_network_whose_mode_is_fixed() -> None:
    found = Explainer(Exported(*small(nn.ReLU)), preprocess=SMALL)(IMAGE, ["eigencam", "deeplift"], target=1)
    expected = Explainer(small(nn.ReLU), preprocess=SMALL)(IMAGE, ["eigencam", "deeplift"], target=1)
    for method in expected:
        np.testing.assert_allclose(found[method].raw, expected[method].raw, atol=1e-6)


def test_references_are_given_or_their_method_is_left_out() -> None:
    methods = {"expected": ExpectedGradients(references=2)}
    with pytest.raises(ValueError, match="it draws reference images, and there are none"):
        Explainer(small(nn.ReLU), "3", preprocess=SMALL)(IMAGE, methods)
    black = Explainer(small(nn.ReLU), "3", preprocess=SMALL, references=[np.zeros_like(IMAGE)])
    assert black(np.zeros_like(IMAGE), methods)["expected"].raw.max() == 0
    assert black(IMAGE, methods)["expected"].raw.any()
