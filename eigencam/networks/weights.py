"""Weight files: where they are, what they hold, torchvision's own, and their checksums."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn

from eigencam.datasets.reading import expand
from eigencam.store.build import instantiate

PACKAGED = "eigencam:"
"""Prefix of weight files that come with this package."""


def is_file_name(weights: object) -> bool:
    """Whether `weights` names a file rather than one of torchvision's sets."""
    return str(weights).endswith((".safetensors", ".pth", ".pt"))


def weight_file(weights: str) -> Path:
    """The path behind `weights`; `eigencam:NAME` is a file of this package. FileNotFoundError where there is none."""
    if weights.startswith(PACKAGED):
        path = Path(__file__).parent / "weights" / weights.removeprefix(PACKAGED)
    else:
        path = expand(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path}: no such file; set model.weights, or paths.weights ($EIGENCAM_WEIGHTS)"
        )
    return path


def load_weights(module: nn.Module, path: Path, drop: tuple[str, ...] | list[str]) -> str:
    """Load a weight file into the module; returns the file's SHA-256."""
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # each format has its own; all mean the same to the user
        reason = str(error).strip().splitlines()[:1]
        raise ValueError(f"weights {path} cannot be read: {type(error).__name__}: {' '.join(reason)}") from None
    if path.suffix != ".safetensors":
        for key in ("state_dict", "model", "model_state_dict"):
            if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
                state = state[key]
    state = {_current_key(k): v for k, v in state.items() if not k.startswith(tuple(drop))}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"weights {path} do not fit {type(module).__name__} (model.weights=null: none): {reason[:400]}"
        ) from None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _current_key(key: str) -> str:
    """Without `DataParallel`'s prefix, and DenseNet's keys (`norm.1`) as torchvision names them today (`norm1`)."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key.removeprefix("module."))


def torchvision_network(constructor: dict[str, Any], weights: str) -> tuple[nn.Module, str]:
    """A torchvision network with torchvision's own weights, downloaded into torch's cache when not there yet.

    torchvision sets what its weights need (`transform_input`, the size of a ViT's pictures). `aux_logits` is left to
    it: it loads the heads for training and drops them, and takes no other value.
    """
    from torchvision.models import get_model_weights

    target = constructor["_target_"]
    try:
        options = get_model_weights(target.rsplit(".", 1)[-1])
    except ValueError:
        raise ValueError(
            f"weights {weights!r}: {target} is no network of torchvision's; give a .safetensors or .pth file, or null"
        ) from None
    names = [w.name for w in options]
    if weights not in names:
        raise ValueError(
            f"weights {weights!r} of {target}; allowed: {', '.join(names)}, a .safetensors or .pth file, or null"
        )
    url = options[weights].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    try:
        module = instantiate({**{k: v for k, v in constructor.items() if k != "aux_logits"}, "weights": weights})
    except (URLError, OSError) as error:
        raise FileNotFoundError(
            f"torchvision's weights {weights} could not be downloaded ({error}); put {path.name} into {path.parent}, "
            "or set model.weights to a local .safetensors or .pth file"
        ) from None
    with path.open("rb") as file:
        return module, hashlib.file_digest(file, "sha256").hexdigest()


def hash_parameters(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
