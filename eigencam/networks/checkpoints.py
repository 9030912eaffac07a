"""Weights files in the usual formats: which of their keys hold the network's weights, and what does not fit.

A file holds tensors by name, or a training checkpoint: the weights under `state_dict`, `model`, `net`, ..., beside
epochs, losses and the optimizer's state. The names may have a wrapper's prefix (`module.` of DataParallel, `model.` of
Lightning, `_orig_mod.` of torch.compile). Both are determined by comparison with the network's names.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

State = dict[str, Tensor]

DEPTH = 3
"""Levels of nested mappings that are searched."""
SHOWN = 6
"""Maximum number of keys that a message lists."""
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "shadow")
"""Names under which checkpoints keep averaged weights."""


def read_checkpoint(path: Path, names: Sequence[str], drop: Sequence[str] = ()) -> State:
    """Read the weights of a network from a file.

    Args:
        path: a file of safetensors or of torch.
        names: of the network's parameters and buffers.
        drop: prefixes of the file's keys to leave out.

    Returns:
        The tensors, renamed to the network's names as far as these can be determined; floating-point ones in float32.

    Raises:
        ValueError: the file cannot be read, or has no weights.
    """
    content = file_content(path)
    states = {where: state for where, state in _states(content) if state}
    if not states:
        raise ValueError(f"weights {path}: no tensors by name in it; {_found(content)}")
    wanted = set(names)
    fits = {where: _renamed(state, wanted, drop) for where, state in states.items()}
    # the best match; of equal ones not the averaged copy, then the first
    best = max(fits, key=lambda where: (len(wanted & fits[where].keys()), where.split(".")[-1] not in _AVERAGED))
    if not wanted & fits[best].keys():
        inside = f" under {best!r}" if best else ""
        raise ValueError(
            f"weights {path}: none of its names{inside} is the network's; {_listed('keys found', fits[best])}; "
            f"{_listed('the network has', names)}"
        )
    return {name: t.float() if t.is_floating_point() else t for name, t in fits[best].items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network, all of them.

    Raises:
        ValueError: weights are missing, have other shapes, or are not in the network.
    """
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    faults = [
        _listed("missing", [name for name in own if name not in state and name not in counters]),
        _listed("not of the network", [name for name in state if name not in own]),
        _listed("of another shape", [_shapes(n, own[n], t) for n, t in state.items() if _differs(own.get(n), t)]),
    ]
    if message := "; ".join(filter(None, faults)):
        raise ValueError(
            f"weights {path} do not fit {type(module).__name__}: {message} (model.drop=[PREFIX]: weights to leave out; "
            "model.weights=null: none)"
        )
    module.load_state_dict({**{name: own[name] for name in counters}, **state})


def _differs(own: Tensor | None, other: Tensor) -> bool:
    return own is not None and own.shape != other.shape


def _shapes(name: str, own: Tensor, other: Tensor) -> str:
    return f"{name} {tuple(other.shape)}, the network's is {tuple(own.shape)}"


def file_content(path: Path) -> Any:
    """The content of a weights file: tensors and plain values, never code. ValueError if it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_plain()):
            return torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"weights {path} cannot be read as a weight file ({_reason(error)})") from None
    except Exception as error:  # pickle's error names the class that is not plain
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"weights {path} cannot be read: it holds objects of {found[1]}, and only tensors and plain values are "
                "taken from a file; save the network's state_dict() alone"
            ) from None
        raise ValueError(f"weights {path} cannot be read as a weight file ({_reason(error)})") from None


def _plain() -> list[Any]:
    """Classes of plain values that training programs keep beside the weights: options, paths, numpy's numbers."""
    numbers = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    return [argparse.Namespace, PosixPath, WindowsPath, np.dtype, np._core.multiarray.scalar, *numbers]  # type: ignore[attr-defined]


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {' '.join(first)[:200]}"


def _states(content: Any, where: str = "", depth: int = DEPTH) -> Iterator[tuple[str, State]]:
    """Every mapping in a file that has tensors, by its path, without its other values."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return
    yield where, {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if depth:
        for key, value in content.items():
            yield from _states(value, f"{where}.{key}" if where else str(key), depth - 1)


def _renamed(state: State, wanted: set[str], drop: Sequence[str]) -> State:
    """The tensors, renamed by removing the prefix that makes most of them match the network's names."""
    kept = {_current(name): t for name, t in state.items() if not name.startswith(tuple(drop))}
    best, fitting = kept, len(wanted & kept.keys())
    for prefix in _prefixes(kept):
        cut = {name.removeprefix(prefix): t for name, t in kept.items() if name.startswith(prefix)}
        cut = {name: t for name, t in cut.items() if not name.startswith(tuple(drop))}
        if (n := len(wanted & cut.keys())) > fitting:
            best, fitting = cut, n
    return best


def _prefixes(state: State) -> list[str]:
    """The prefixes of names that end in a dot, up to three parts long, the most frequent in a file first."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")[:-1]
        for k in range(1, min(4, len(parts) + 1)):
            prefix = ".".join(parts[:k]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts, key=lambda prefix: -counts[prefix])


def _current(name: str) -> str:
    """DenseNet's old names (`norm.1`) in torchvision's current form (`norm1`)."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


def _found(content: Any) -> str:
    if isinstance(content, Mapping):
        return _listed("keys found", [str(key) for key in content]) or "it is empty"
    return f"it holds {type(content).__name__}"


def _listed(what: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """`what: a, b, ... (12 more)`; "" for none."""
    listed = list(names)
    more = f", ... ({len(listed) - SHOWN} more)" if len(listed) > SHOWN else ""
    return f"{what}: {', '.join(listed[:SHOWN])}{more}" if listed else ""
