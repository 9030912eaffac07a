"""Files of fitted weights: .safetensors files whose metadata say what they were fitted for.

The metadata has one key, `about`, a JSON text:

    kind      what made the file: lcam_fm, lcam_img, broadcam, support, classifier, ...
    network   the network's identity, with the checksum of its weights
    layers    the layers whose activations the weights apply to
    dataset   the identity of the images they were fitted on
    fit       the options of `eigencam fit`
    log       measurements during training, one entry per epoch
    head      of a classifier; see `eigencam.networks.classifier`

A file can be used only with the network, and the network's weights, that it was fitted for; `Fitted.fault` says why
not. Files of the methods' authors are read as well: `eigencam.networks.authors_weights`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eigencam.files import write_bytes
from eigencam.networks.authors_weights import read_attention, read_coefficients
from eigencam.networks.weights import weight_file

if TYPE_CHECKING:
    from eigencam.networks.network import Network

LCAM = "lcam"
"""Kind of an authors' file that does not say whether its attention masked activations or images."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The content of a file.

    Attributes:
        path: the file.
        sha256: SHA-256 of the file.
        tensors: the tensors by name, on the CPU.
        about: see the module; for an authors' file, only kind and layers.
        body: for an authors' file, the weights of the network it was fitted for, by name.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    body: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def fault(self, network: "Network", layers: Sequence[str]) -> str:
        """Why these weights do not fit the network's layers; "" if they do."""
        if "network" not in self.about:
            return self._fault_of_authors(network, layers)
        name, sha256 = self.about["network"]["name"], self.about["network"]["sha256"]
        if sha256 != network.sha256:
            return (
                f"{self.path} was fitted for {name} with the weights {sha256[:10]}; this is {network.name} with "
                f"{network.sha256[:10]}; eigencam fit model={network.name} makes its own"
            )
        if list(layers) != self.about["layers"]:
            fitted = ", ".join(self.about["layers"])
            return f"{self.path} was fitted for {fitted} of {name}, not for {', '.join(layers)}; name the same layers"
        return ""

    def _fault_of_authors(self, network: "Network", layers: Sequence[str]) -> str:
        """Why an authors' file does not fit; it names no network, so layers, weights and channels are compared."""
        known = self.about["layers"]
        if known and list(layers) not in [[layer] for layer in known]:
            return f"{self.path} is for the layer {' or '.join(known)}, not for {', '.join(layers)}"
        own = network.module.state_dict()
        for name in self.body:
            if name.endswith("num_batches_tracked"):
                continue
            if name not in own:
                return f"{self.path} is for a network that has {name}; {network.name} does not"
            mine = own[name].detach().float().cpu()
            if mine.shape != self.body[name].shape or not torch.allclose(mine, self.body[name], rtol=1e-3, atol=1e-6):
                return f"{self.path} is for a network with other weights than {network.name} has ({name} differs)"
        black = torch.zeros(1, *network.preprocess.input_shape, dtype=torch.uint8)
        forward = network.forward(black, layers=layers)
        here = forward.logits.shape[1], sum(forward.activations(layer).shape[1] for layer in layers)
        if here != tuple(self.tensors["weight"].shape):
            classes, channels = self.tensors["weight"].shape
            return (
                f"{self.path} has weights for {classes} classes and {channels} channels; {', '.join(layers)} of "
                f"{network.name} has {here[0]} and {here[1]}"
            )
        return ""


def read_first(files: str | Sequence[str], kinds: Sequence[str]) -> Fitted | None:
    """The first of the files that exists; None if none does.

    Args:
        files: paths; `eigencam:NAME` is a file of this package.
        kinds: allowed kinds of the file.

    Raises:
        ValueError: it cannot be read, or is of another kind.
    """
    for name in [files] if isinstance(files, str) else files:
        try:
            path = weight_file(name)
        except FileNotFoundError:
            continue
        fitted = read(path)
        if fitted.about["kind"] not in kinds:
            raise ValueError(f"{path} holds {fitted.about['kind']}; allowed: {', '.join(kinds)}")
        return fitted
    return None


def read(path: Path) -> Fitted:
    """The content of a file. ValueError if neither `write` nor the authors of a method made it."""
    if path.suffix == ".pkl":
        return Fitted(path, _sha256(path), read_coefficients(path), {"kind": "broadcam", "layers": []})
    if path.suffix in (".tar", ".ckpt", ".pth", ".pt"):
        tensors, body, layers = read_attention(path)
        return Fitted(path, _sha256(path), tensors, {"kind": LCAM, "layers": layers}, body)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            names: list[str] = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: no file of fitted weights ({type(error).__name__}); eigencam fit makes them"
        ) from None
    return Fitted(path, _sha256(path), tensors, about)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, {"about": json.dumps(about, sort_keys=True)}), sync=True)


def missing(files: str | Sequence[str], kinds: Sequence[str], network: "Network") -> str:
    """Why a method cannot run if none of its files exists."""
    names = ", ".join([files] if isinstance(files, str) else files)
    return f"no fitted weights ({names}); made by: eigencam fit model={network.name} fit={' or '.join(kinds)}"
