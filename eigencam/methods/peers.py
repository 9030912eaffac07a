"""Methods of other libraries, run as they are: pytorch-grad-cam, torchcam and Captum.

Install them with the extra `peers`. They make their own passes on the same network, layer, pictures and classes, so a
table shows how far a library's map, its time and its quirks are from the method of the same name here.

* pytorch-grad-cam (Gildenblat et al.): every class of its package by name. Its maps come rectified, scaled to 0..1 and
  resized to the input; there is no way to get them raw.
* torchcam (Fernandez): every class of `torchcam.methods`; raw maps at the layer's resolution.
* Captum (Kokhlikyan et al. 2020, arXiv 2009.07896): every class of `captum.attr` with `attribute(inputs, target=...)`;
  those that begin with Layer, and GuidedGradCam, are given the layer. Attributions of a picture are summed over the
  channels, with their sign.
"""

import importlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from eigencam.passes.forward import Forward
from eigencam.passes.hooks import evaluating
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
        """All but those that look at activations alone."""
        return self.name not in ("EigenCAM", "FEM", "KPCA_CAM")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 in 0..1."""
        targets_of = _find("pytorch_grad_cam.utils.model_targets", "ClassifierOutputTarget")
        layer = forward.module.get_submodule(forward.layer)
        with (
            _theirs(forward.module),
            _find("pytorch_grad_cam", self.name)(model=forward.module, target_layers=[layer], **self.options) as cam,
        ):
            maps = cam(
                input_tensor=forward.images.clone().requires_grad_(), targets=[targets_of(t) for t in targets.tolist()]
            )
        return torch.from_numpy(maps).float().to(forward.images.device)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return _fault("pytorch_grad_cam", self.name, network)


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

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, not normalised."""
        with (
            _theirs(forward.module),
            _find("torchcam.methods", self.name)(
                forward.module, forward.layer, input_shape=tuple(forward.images.shape[1:]), **self.options
            ) as cam,
        ):
            logits = forward.module(forward.images.clone().requires_grad_())
            (maps,) = cam(targets.tolist(), logits, normalized=False)
        return maps.detach().float()

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return _fault("torchcam.methods", self.name, network)


@dataclass(frozen=True, slots=True)
class Captum:
    """A method of Captum: `name` is the class, `options` go to its `attribute`."""

    name: str = "Occlusion"
    options: dict[str, Any] = field(default_factory=dict)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Captum"
    needs: ClassVar[str] = "its own passes"
    networks: ClassVar[str] = "extra `peers`"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) or, for methods of a layer, (N, h, w) float32; signed."""
        options = {key: _tuples(value) for key, value in self.options.items()}
        with _theirs(forward.module):
            of_layer = self.name.startswith("Layer") or self.name == "GuidedGradCam"
            layer = [forward.module.get_submodule(forward.layer)] if of_layer else []
            method = _find("captum.attr", self.name)(forward.module, *layer)
            found = method.attribute(forward.images.clone(), target=targets.clone(), **options)
        return found.detach().float().sum(1)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return _fault("captum.attr", self.name, network, maps=self.name.startswith("Layer"))


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


def _classes(module: Any) -> Iterable[str]:
    return sorted(name for name, item in vars(module).items() if isinstance(item, type) and not name.startswith("_"))


def _find(package: str, name: str) -> Any:
    return getattr(importlib.import_module(package), name)


def _theirs(module: nn.Module) -> AbstractContextManager[Any]:
    """Eval mode, frozen parameters and a graph for what runs inside, as was afterwards."""
    stack = ExitStack()
    stack.enter_context(evaluating(module))
    stack.enter_context(torch.enable_grad())
    return stack


def _tuples(value: Any) -> Any:
    """YAML has no tuples, and Captum takes no lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
