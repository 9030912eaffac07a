"""Methods of other libraries, unchanged: pytorch-grad-cam, torchcam and Captum.

Install them with the extra `peers`. They make their own passes on the same network, layer, images and classes, so a
table shows how a library's map, its time and its quirks differ from those of the method of the same name here.

* pytorch-grad-cam (Gildenblat et al.): every class of its package by name. Its maps are rectified, scaled to 0..1 and
  resized to the input; raw maps are not available.
* torchcam (Fernandez): every class of `torchcam.methods`; raw maps at the layer's resolution.
* Captum (Kokhlikyan et al. 2020, arXiv 2009.07896): every class of `captum.attr` with `attribute(inputs, target=...)`;
  those whose name begins with Layer, and GuidedGradCam, get the layer. Attributions of an image are summed over the
  channels, with their sign.

Not every class can run: some need more than a configuration can express, and Captum's classes that replace gradients
see only modules, so what a network calls as a function would silently pass with its own gradient. Before anything is
computed, each class's signature is checked, and it is constructed once for the network; if a trial costs only a few
passes, it is also tried.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.methods.input_gradients import GUIDED
from eigencam.methods.refusal import probe, traced
from eigencam.passes.calls import evaluating
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import AFFINE, RECTIFIERS
from eigencam.passes.readings import CHANNELS_FIRST

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class PytorchGradCAM:
    """A method of pytorch-grad-cam: `name` is the class, `options` go to its constructor."""

    name: str = "GradCAM"
    options: dict[str, Any] = field(default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False  # it makes its own passes
    paper: ClassVar[str] = "pytorch-grad-cam"
    needs: ClassVar[str] = "its own passes"
    networks: ClassVar[str] = "with (N, C, h, w) layers; extra `peers`"

    @property
    def class_specific(self) -> bool:
        """True for all except those that use only activations."""
        return self.name not in ("EigenCAM", "FEM", "KPCA_CAM")

    @property
    def differentiates(self) -> str:
        """`layer` if it needs the gradient: all except those of `WITHOUT_GRADIENT`."""
        return "" if self.name in WITHOUT_GRADIENT else "layer"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 in 0..1."""
        maps = self._maps(forward.module, forward.layer, forward.images, targets.tolist())
        return torch.from_numpy(maps).float().to(forward.images.device)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        package = "pytorch_grad_cam"
        if reason := _fault(package, self.name, network):
            return reason
        if not issubclass(_find(package, self.name), _find(f"{package}.base_cam", "BaseCAM")):
            return f"{package}.{self.name} is no class activation map with the interface of BaseCAM"

        def attempt() -> None:
            if self.differentiates:  # one forward and one backward pass
                self._maps(network.module, network.layer, probe(network), [0])
            else:
                self._made(network.module, network.layer).__exit__(None, None, None)

        return _failure(package, self.name, attempt)

    def _maps(self, module: nn.Module, layer: str, images: Tensor, classes: list[int]) -> NDArray[np.float32]:
        targets_of = _find("pytorch_grad_cam.utils.model_targets", "ClassifierOutputTarget")
        with _theirs(module), self._made(module, layer) as cam:
            return cam(input_tensor=images.clone().requires_grad_(), targets=[targets_of(t) for t in classes])

    def _made(self, module: nn.Module, layer: str) -> Any:
        target = module.get_submodule(layer)
        return _find("pytorch_grad_cam", self.name)(model=module, target_layers=[target], **self.options)


@dataclass(frozen=True, slots=True)
class TorchCAM:
    """A method of torchcam: `name` is the class, `options` go to its constructor."""

    name: str = "GradCAM"
    options: dict[str, Any] = field(default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "torchcam"
    needs: ClassVar[str] = "its own passes"
    networks: ClassVar[str] = "with (N, C, h, w) layers; extra `peers`"

    @property
    def differentiates(self) -> str:
        """`layer` if it needs the gradient: all except those of `WITHOUT_GRADIENT`."""
        return "" if self.name in WITHOUT_GRADIENT else "layer"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, not normalised."""
        return self._maps(forward.module, forward.layer, forward.images, targets.tolist())

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        package = "torchcam.methods"
        if reason := _fault(package, self.name, network):
            return reason
        if "class_idx" not in inspect.signature(_find(package, self.name).__call__).parameters:
            return f"{package}.{self.name} takes no class"

        def attempt() -> None:
            if self.differentiates:  # a few passes, forward and backward
                self._maps(network.module, network.layer, probe(network), [0])
            else:
                self._made(network.module, network.layer, probe(network)).__exit__(None, None, None)

        return _failure(package, self.name, attempt)

    def _maps(self, module: nn.Module, layer: str, images: Tensor, classes: list[int]) -> Tensor:
        with _theirs(module), self._made(module, layer, images) as cam:
            logits = module(images.clone().requires_grad_())
            (maps,) = cam(classes, logits, normalized=False)
        return maps.detach().float()

    def _made(self, module: nn.Module, layer: str, images: Tensor) -> Any:
        kind = _find("torchcam.methods", self.name)
        return kind(module, layer, input_shape=tuple(images.shape[1:]), **self.options)


@dataclass(frozen=True, slots=True)
class Captum:
    """A method of Captum: `name` is the class, `options` go to its `attribute`."""

    name: str = "Occlusion"
    options: dict[str, Any] = field(default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False
    paper: ClassVar[str] = "Captum"
    needs: ClassVar[str] = "its own passes"
    networks: ClassVar[str] = "extra `peers`"

    @property
    def class_specific(self) -> bool:
        """Whether its `attribute` takes a class."""
        return not self._known or "target" in _parameters(_find("captum.attr", self.name).attribute)

    @property
    def differentiates(self) -> str:
        """What it needs the gradient with respect to."""
        if not self._known or not issubclass(
            _find("captum.attr", self.name), _find("captum.attr", "GradientAttribution")
        ):
            return ""
        return "layer" if self._of_layer else "image"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) or, for methods of a layer, (N, h, w) float32; signed."""
        return self._attributed(forward.module, forward.layer, forward.images, targets).sum(1)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        if reason := _fault("captum.attr", self.name, network, maps=self.name.startswith("Layer")):
            return reason
        if "FeaturePermutation" in self.name:
            return f"captum.attr.{self.name} permutes values among the images of a batch: its map depends on the others"
        if reason := self._lack() or self._blind(network):
            return reason
        if not self.differentiates or "n_steps" in _parameters(_find("captum.attr", self.name).attribute):
            return ""  # many passes
        images, target = probe(network), torch.zeros(1, dtype=torch.long, device=network.device)

        def try_it() -> None:
            self._attributed(network.module, network.layer, images, target)

        return _failure("captum.attr", self.name, try_it)

    @property
    def _known(self) -> bool:
        return find_spec("captum") is not None and hasattr(importlib.import_module("captum.attr"), self.name)

    @property
    def _of_layer(self) -> bool:
        return "layer" in _parameters(_find("captum.attr", self.name).__init__)

    def _attributed(self, module: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
        options = {key: _tuples(value) for key, value in self.options.items()}
        if self.class_specific:
            options["target"] = targets.clone()
        with _theirs(module):
            of_layer = [module.get_submodule(layer)] if self._of_layer else []
            found = _find("captum.attr", self.name)(module, *of_layer).attribute(images.clone(), **options)
        return found.detach().float()

    def _lack(self) -> str:
        """What it needs besides a network, a layer, images and classes."""
        kind = _find("captum.attr", self.name)
        attribute = getattr(kind, "attribute", None)
        if attribute is None or "inputs" not in _parameters(attribute):
            return f"captum.attr.{self.name} has no attribute(inputs, ...)"
        needed = [p for p in _required(kind.__init__) if p not in ("model", "forward_func", "layer")]
        needed += [p for p in _required(attribute) if p not in ("inputs", "target", *self.options)]
        if needed:
            return f"captum.attr.{self.name} needs {', '.join(needed)}; what its `attribute` takes is given in options"
        if unknown := sorted(self.options.keys() - _parameters(attribute).keys()):
            return (
                f"captum.attr.{self.name} takes no {', '.join(unknown)}; it takes {', '.join(_parameters(attribute))}"
            )
        return ""

    def _blind(self, network: "Network") -> str:
        """Operations whose gradient it should replace but cannot: no module of a class that it knows runs them."""
        own, modules = _replaced(self.name)
        if not modules:
            return ""
        seen = traced(network)
        missed = {op.kind for op in seen.operations if op.kind not in own and op.module not in modules}
        if not missed:
            return seen.unfollowed
        return (
            f"captum.attr.{self.name} replaces gradients of modules alone ({', '.join(sorted(modules))}), and other "
            f"modules or functions run {', '.join(sorted(missed))}"
        )


WITHOUT_GRADIENT = (
    *("EigenCAM", "FEM", "KPCA_CAM", "ScoreCAM", "AblationCAM", "RandomCAM"),
    *("CAM", "SSCAM", "ISCAM"),
)
"""Classes of pytorch-grad-cam and torchcam that read only activations and logits."""


def _replaced(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """The kinds of operations for which Captum may use the operation's gradient, and the modules that it knows."""
    if "DeepLift" in name:
        known = _find("captum.attr._core.deep_lift", "SUPPORTED_NON_LINEAR")
        return AFFINE, frozenset(kind.__name__ for kind in known)
    if name.removeprefix("Neuron") in ("GuidedBackprop", "Deconvolution", "GuidedGradCam"):
        return GUIDED - RECTIFIERS, frozenset(("ReLU",))
    if name in ("LRP", "LayerLRP"):
        core = importlib.import_module("captum.attr._core.lrp")
        known = (*core.SUPPORTED_LAYERS_WITH_RULES, *core.SUPPORTED_NON_LINEAR_LAYERS)
        return frozenset(("same", "reshape")), frozenset(kind.__name__ for kind in known)
    return frozenset(), frozenset()


def _fault(package: str, name: str, network: "Network", *, maps: bool = True) -> str:
    root = package.partition(".")[0]
    if find_spec(root) is None:
        return f"{root} is not installed; install eigencam-bench[peers]"
    module = importlib.import_module(package)
    if not isinstance(getattr(module, name, None), type):
        return f"{package} has no class {name}; it has: {', '.join(_classes(module))}"
    if maps and (reading := network.reading(network.layer)) != CHANNELS_FIRST:
        return f"it takes layers of shape (N, C, h, w), and {network.name}'s is {reading}"
    return ""


def _failure(package: str, name: str, attempt: Callable[[], None]) -> str:
    """The error of a trial; "" if there is none."""
    try:
        attempt()
    except Exception as error:  # another library may raise anything
        return f"{package}.{name} fails on it: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _required(function: Any) -> Iterator[str]:
    """Names of the parameters without a default, except `self`."""
    for name, parameter in list(_parameters(function).items())[1:]:
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            yield name


def _classes(module: Any) -> list[str]:
    return sorted(name for name, item in vars(module).items() if isinstance(item, type) and not name.startswith("_"))


def _find(package: str, name: str) -> Any:
    return getattr(importlib.import_module(package), name)


def _theirs(module: nn.Module) -> AbstractContextManager[Any]:
    """Eval mode, frozen parameters and a graph for what runs inside; restored afterwards."""
    stack = ExitStack()
    stack.enter_context(evaluating(module))
    stack.enter_context(torch.enable_grad())
    return stack


def _tuples(value: Any) -> Any:
    """Convert lists to tuples: YAML has no tuples, and Captum accepts no lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
