"""Weights files: their location, content and checksums; torchvision's weights."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from eigencam.datasets.reading import expand
from eigencam.networks.checkpoints import load_state, read_checkpoint
from eigencam.store.build import instantiate

PACKAGED = "eigencam:"
"""Prefix of weights files in this package."""


def weight_file(weights: str) -> Path:
    """The path of `weights`; `eigencam:NAME` is a file of this package. FileNotFoundError if there is none."""
    if weights.startswith(PACKAGED):
        path = Path(__file__).parent / "weights" / weights.removeprefix(PACKAGED)
    else:
        path = expand(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path}: no such file; set model.weights, or paths.weights ($EIGENCAM_WEIGHTS)"
        )
    return path


def load_weights(module: nn.Module, path: Path, drop: Sequence[str] = ()) -> str:
    """Load a weights file into the module; returns the file's SHA-256. ValueError if it does not fit."""
    load_state(module, read_checkpoint(path, list(module.state_dict()), drop), path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def torchvision_network(constructor: dict[str, Any], weights: str) -> tuple[nn.Module, str]:
    """A torchvision network with torchvision's own weights, downloaded into torch's cache if not there yet.

    torchvision sets the arguments that its weights need (`transform_input`, the image size of a ViT). `aux_logits` is
    left to torchvision: to load the weights it always builds the auxiliary heads, drops GoogLeNet's afterwards, and
    refuses `aux_logits=False`.
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
    except Exception as error:  # torch's reader and its unpickler raise anything for a damaged file
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or not _is_damaged(path, error):
            raise
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"torchvision's weights {weights}: the download, or {path}, is damaged ({words}); remove the file"
        ) from None
    with path.open("rb") as file:
        return module, hashlib.file_digest(file, "sha256").hexdigest()


def _is_damaged(path: Path, error: Exception) -> bool:
    """Whether a download's checksum is not the one that its name ends with, as torch reports or the file shows."""
    if not path.is_file():
        return "invalid hash value" in str(error)
    named = re.search(r"[-_]([0-9a-f]{8,})$", path.stem)
    with path.open("rb") as file:
        return bool(named) and not hashlib.file_digest(file, "sha256").hexdigest().startswith(named[1])


def hash_parameters(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
