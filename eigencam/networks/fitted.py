"""Files of fitted weights: a .safetensors file with what it was fitted for in its metadata.

The metadata has one key, `about`, a JSON text:

    kind      lcam_fm, lcam_img, broadcam or classifier
    network   the network's identity, with the checksum of its weights
    layers    the layers whose activations the weights are for
    dataset   the identity of the pictures it was fitted on
    fit       the options of `eigencam fit`
    log       what was measured on the way, one entry an epoch
    head      of a classifier; see `eigencam.networks.classifier`

Weights are of use for the one network, with the weights, that they were fitted for: `Fitted.fault` tells of any other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eigencam.files import write_bytes
from eigencam.networks.weights import weight_file

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class Fitted:
    """A file's content.

    Attributes:
        path: the file.
        sha256: of the file.
        tensors: by name, on the CPU.
        about: see the module.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    def fault(self, network: "Network", layers: Sequence[str]) -> str:
        """Why these weights are not for the network's layers; "" if they are."""
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


def read_first(files: str | Sequence[str], kinds: Sequence[str]) -> Fitted | None:
    """The first of the files that is there; None where none is.

    Args:
        files: paths; `eigencam:NAME` is a file of this package.
        kinds: what the file may hold.

    Raises:
        ValueError: it cannot be read, or holds something else.
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
    """A file's content. ValueError where it was not made by `write`."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            names: list[str] = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: no file of fitted weights ({type(error).__name__}); eigencam fit makes them"
        ) from None
    return Fitted(path, hashlib.sha256(path.read_bytes()).hexdigest(), tensors, about)


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file as a whole."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, {"about": json.dumps(about, sort_keys=True)}), sync=True)


def missing(files: str | Sequence[str], kinds: Sequence[str], network: "Network") -> str:
    """Why a method cannot run where none of its files is there."""
    names = ", ".join([files] if isinstance(files, str) else files)
    return f"no fitted weights ({names}); made by: eigencam fit model={network.name} fit={' or '.join(kinds)}"
