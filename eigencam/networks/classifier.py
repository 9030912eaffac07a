"""A classifier of other classes as a network's last layer: which layer it replaces, and the files of `model.head`.

    network = load_network({**description, "head": "classifier-resnet50-voc2012.safetensors"})

The last layer is found numerically, not by name: on a probe, the logits must be a linear function of the layer's input
x. For an `nn.Linear`, x is (N, D). For a 1x1 convolution whose outputs are averaged over the positions, x is its input
(N, D, h, w), averaged, since convolution and average commute. SqueezeNet has a ReLU between the two, so no logit is
negative; a probability below 0.5 needs a negative one. Therefore that ReLU becomes an identity when a head is attached.

`eigencam fit fit=classifier` makes the files. Besides the keys of `eigencam.networks.fitted`, `about` has `head`:

    rectifier    path of the ReLU that becomes an identity, or null
    class_space  class space of the outputs, e.g. `voc`
    classes      names of the classes
    whole        whether the file has all weights, not only those of the last layer
    fitted_on    ids of the images it was fitted on
    held_out     ids of the images its average precision was measured on
    label        how a whole network was trained (`fit=cam_loss`, `cross_entropy`, `wsol`, `flim`), in a word or two,
                 for tables
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.datasets.base import Dataset
from eigencam.datasets.reading import expand
from eigencam.networks import fitted
from eigencam.networks.building import constructor_identity
from eigencam.networks.fitted import Fitted
from eigencam.passes.calls import evaluating, network_logits, random_images
from eigencam.store.canonical import canonical

KIND = "classifier"
KINDS = (KIND, "cam_loss", "cross_entropy", "wsol", "flim")
"""The kinds of files that `model.head` takes."""


@dataclass(frozen=True, slots=True)
class LastLayer:
    """Position of a classifier: `layer`, an `nn.Linear` or 1x1 `nn.Conv2d`, and the ReLU after it to be removed."""

    layer: str
    rectifier: str | None = None


def find_last_layer(module: nn.Module, shape: tuple[int, int]) -> LastLayer:
    """The layer that the logits are linear in, tested on a seeded probe; the last one if there are several.

    Args:
        module: the network.
        shape: (height, width) of an input.

    Raises:
        ValueError: there is none.
    """
    probe = random_images(module, shape)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    behind: dict[str, str] = {}

    def keep(name: str, layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if args[0].ndim == 2 or (args[0].ndim == 4 and isinstance(layer, nn.Conv2d)):
            seen[name] = pooled(args[0]), out

    def note(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        behind.update({layer: name for layer, (_, out) in seen.items() if out is args[0]})

    modules = dict(module.named_modules())
    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items() if is_last(m)]
    handles += [
        m.register_forward_pre_hook(partial(note, name)) for name, m in modules.items() if isinstance(m, nn.ReLU)
    ]
    try:
        with evaluating(module), torch.no_grad():
            logits = network_logits(module, probe)
    finally:
        for handle in handles:
            handle.remove()
    for name, (x, out) in reversed(seen.items()):
        layer = modules[name]
        if _close(x @ layer.weight.flatten(1).T + (0 if layer.bias is None else layer.bias), logits):  # type: ignore[operator, union-attr]
            return LastLayer(name)
        if out.ndim == 4 and name in behind and _close(out.relu().mean((2, 3)), logits):
            return LastLayer(name, behind[name])
    raise ValueError(
        f"the outputs of {type(module).__name__} are no linear function of the input of an nn.Linear, or of the "
        "averaged input of a 1x1 nn.Conv2d, so there is no last layer to replace"
    )


def is_last(module: nn.Module) -> bool:
    """Whether a module has the type of a last layer."""
    ungrouped = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) or ungrouped


def pooled(x: Tensor) -> Tensor:
    """(N, D) from a last layer's input: (N, D) unchanged, (N, D, h, w) averaged over the positions."""
    return x.mean((2, 3)) if x.ndim == 4 else x


def put(module: nn.Module, place: LastLayer, weight: Tensor, bias: Tensor) -> None:
    """Replace the last layer, and the ReLU behind it, if `place` names one, by an identity.

    Args:
        module: the network; is changed.
        place: see `find_last_layer`.
        weight: (K, D).
        bias: (K,).

    Raises:
        ValueError: the layer does not have D inputs, or `bias` does not have K values.
    """
    old = module.get_submodule(place.layer)
    inputs = old.weight.shape[1] if is_last(old) else 0  # type: ignore[index, union-attr]
    if tuple(weight.shape) != (len(bias), inputs):
        raise ValueError(f"a head of weights {tuple(weight.shape)} for {place.layer}, which has {inputs} inputs")
    # without initialization, which would use the global random generator
    if isinstance(old, nn.Conv2d):
        new: nn.Module = nn.utils.skip_init(nn.Conv2d, inputs, len(bias), 1)
    else:
        new = nn.utils.skip_init(nn.Linear, inputs, len(bias))
    with torch.no_grad():
        new.weight.copy_(weight.view_as(new.weight))  # type: ignore[operator, union-attr, arg-type]
        new.bias.copy_(bias)  # type: ignore[operator, union-attr]
    module.set_submodule(place.layer, new.to(next(module.parameters()).device))
    if place.rectifier:
        module.set_submodule(place.rectifier, nn.Identity())


def summed_heads(module: nn.Module) -> Sequence[str]:
    """Return the last layers whose outputs add up to the logits, if a network declares several."""
    return getattr(module, "summed_heads", ())


def further_heads(module: nn.Module) -> Sequence[str]:
    """Return the last layers besides the first, for the same classes: all `summed_heads` and `further_heads`."""
    return (*summed_heads(module)[1:], *getattr(module, "further_heads", ()))


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A file of `eigencam fit` with a classifier, or with a whole network."""

    fitted: Fitted

    @property
    def class_space(self) -> str:
        """Class space of the outputs."""
        return self._about["class_space"]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the outputs, in order."""
        return self._about["classes"]

    @property
    def whole(self) -> bool:
        """Whether it holds all weights of the network."""
        return self._about["whole"]

    @property
    def label(self) -> str:
        """Short name of the training of a whole network; "" for a classifier."""
        return self._about.get("label", "")

    @property
    def _about(self) -> dict[str, Any]:
        return self.fitted.about["head"]

    def attach(self, module: nn.Module, sha256: str, description: Mapping[str, Any]) -> str:
        """Attach the head to a network, and load all weights if it has them.

        Args:
            module: is changed.
            sha256: checksum of the network's weights.
            description: the network's.

        Returns:
            The checksum of the network with the head: made of both checksums, or the file's if that has all weights.

        Raises:
            ValueError: the head was fitted for another network or other weights, or its tensors do not fit.
        """
        path, base, tensors = self.fitted.path, self.fitted.about["network"], self.fitted.tensors
        asked = canonical(constructor_identity(description))
        made = canonical(base["constructor"] if "constructor" in base else constructor_identity(base))
        if made != asked:
            raise ValueError(_other(path, f"{base['name']} ({made})", f"{description['name']} ({asked})"))
        if not self.whole and base["sha256"] != sha256:
            name = f"{base['name']} with the weights"
            raise ValueError(_other(path, f"{name} {base['sha256'][:10]}", sha256[:10]))
        (layer,) = self.fitted.about["layers"]
        for place in (
            LastLayer(layer, self._about["rectifier"]),
            *map(LastLayer, further_heads(module) if self.whole else ()),
        ):
            try:
                weight, bias = (tensors[f"{place.layer}.{key}"] for key in ("weight", "bias"))
            except KeyError as missing:
                raise ValueError(f"model.head: {path} has no tensor {missing}") from None
            put(module, place, weight.flatten(1), bias)
        if not self.whole:
            return hashlib.sha256(f"{sha256} {self.fitted.sha256}".encode()).hexdigest()
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"model.head: {path} does not fit: {' '.join(str(error).split())[:400]}") from None
        return self.fitted.sha256

    def seen(self, dataset: Dataset) -> frozenset[str]:
        """The dataset's images that it was fitted on."""
        same = self.fitted.about["dataset"]["name"] == dataset.name
        return frozenset(self._about["fitted_on"]) & frozenset(dataset.ids) if same else frozenset()


def read_head(name: str) -> FittedClassifier:
    """Read a head.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else.
    """
    path = expand(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"model.head: {path}: no such file; made by: eigencam fit model=... dataset=... fit=NAME, where NAME "
            f"is one of {', '.join(KINDS)}"
        )
    found = fitted.read(path)
    if found.about["kind"] not in KINDS:
        raise ValueError(f"model.head: {path} holds {found.about['kind']}; allowed: {', '.join(KINDS)}")
    return FittedClassifier(found)


def _other(path: Path, fitted_for: str, this: str) -> str:
    return f"model.head: {path} was fitted for {fitted_for}; this is {this}; eigencam fit makes a head for it"


def _close(values: Tensor, logits: Tensor) -> bool:
    return values.shape == logits.shape and bool((values - logits).abs().max() <= 1e-3 * logits.abs().max())
