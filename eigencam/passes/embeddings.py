"""Targets of networks that give embeddings, and files with embeddings of images or texts.

For CLIP and similar networks, the class is a text. Its embedding is computed elsewhere and read from a file, so neither
the text encoder nor a tokenizer is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from eigencam.datasets.reading import expand
from eigencam.files import regular
from eigencam.passes.calls import TargetError

SCALE = 100.0
"""CLIP's factor for cosines before a softmax over prompts."""


def cosines(output: Any, references: Tensor) -> Tensor:
    """(N, K) float32 cosines of a network's features (N, ...) with references (K, D).

    Raises:
        TargetError: the network does not return D numbers for an image.
    """
    if not isinstance(output, Tensor):
        raise TargetError(f"an embedding needs a network that returns (N, D), not {type(output).__name__}")
    features, length = output.flatten(1).float(), references.shape[1]
    if features.shape[1] != length:
        raise TargetError(f"a reference of {length} numbers; the network gives {features.shape[1]}")
    return F.cosine_similarity(features[:, None], references.to(features.device)[None], dim=2)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The cosine with a reference (D,), times `scale`."""

    reference: Tensor = field(repr=False)
    scale: float = 1.0

    def __call__(self, output: Any) -> Tensor:
        """(N,) of a network's output (N, ...)."""
        return self.scale * cosines(output, self.reference[None])[:, 0]

    def __str__(self) -> str:
        return "embedding"


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """The probability of one of several references (K, D): the softmax over them of `scale` times the cosine."""

    references: Tensor = field(repr=False)
    number: int
    scale: float = SCALE

    def __call__(self, output: Any) -> Tensor:
        """(N,) of a network's output (N, ...)."""
        return (self.scale * cosines(output, self.references)).softmax(1)[:, self.number]

    def __str__(self) -> str:
        return f"prompt {self.number}"


def read_embedding(file: str | Path) -> NDArray[np.float32]:
    """(D,) numbers of a .npy or .safetensors file: the embedding of an image, or of a text.

    Raises:
        ValueError: it holds anything but a finite vector that is not 0.
        FileNotFoundError: there is no such file.
    """
    found = _numbers(file)
    found = found.squeeze() if isinstance(found, np.ndarray) and found.ndim == 2 else found
    return _checked(file, found, 1, "(D,) or (1, D)")


def read_embeddings(file: str | Path) -> NDArray[np.float32]:
    """(K, D) numbers of a .npy or .safetensors file: the embeddings of K texts, say.

    Raises:
        ValueError: it holds anything but K finite vectors that are not 0.
        FileNotFoundError: there is no such file.
    """
    return _checked(file, _numbers(file), 2, "(K, D)")


def _numbers(file: str | Path) -> object:
    """What a file holds: the array of a .npy file, the only tensor of a .safetensors file."""
    path = regular(expand(file))
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, TypeError) as error:  # TypeError: a type that NumPy lacks
            raise ValueError(f"{file}: no .safetensors file of numbers ({error})") from None
        if len(tensors) != 1:
            raise ValueError(f"{file}: tensors {', '.join(sorted(tensors)) or 'none'}; allowed: one tensor")
        return next(iter(tensors.values()))
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: no .npy file of numbers ({error})") from None


def _checked(file: str | Path, array: object, ndim: int, shapes: str) -> NDArray[np.float32]:
    if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype.kind not in "fiu":
        form = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{file}: {form}; allowed: numbers of shape {shapes}")
    if not np.isfinite(array).all() or not array.any(-1).all():
        raise ValueError(f"{file}: values that are not finite, or all 0; allowed: the finite numbers of an embedding")
    return array.astype(np.float32)


def check_number(number: int, references: Sequence[Any] | Tensor | NDArray[Any]) -> int:
    """Return the number of a reference. ValueError if no reference has it."""
    if not 0 <= number < len(references):
        raise ValueError(f"prompt {number}; allowed: 0 to {len(references) - 1}, as there are {len(references)}")
    return number
