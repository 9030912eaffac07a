"""Weight files as people have them: which of their keys hold the network's weights, and what does not fit.

A file holds tensors by name, or a training program's record: the weights under `state_dict`, `model`, `net`, ...,
beside epochs, losses and the optimiser's state. The names may begin with what a wrapper puts before them (`module.` of
DataParallel, `model.` of Lightning, `_orig_mod.` of torch.compile). Both are found out by the names of the network.
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
"""Mappings within mappings that are looked into."""
SHOWN = 6
"""Keys that a message lists."""
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "shadow")
"""Names under which averaged weights stand."""


def read_checkpoint(path: Path, names: Sequence[str], drop: Sequence[str] = ()) -> State:
    """Read the weights of a network from a file.

    Args:
        path: a safetensors file, or one of torch's.
        names: of the network's parameters and buffers.
        drop: prefixes of the file's keys that are left out.

    Returns:
        The tensors under the network's own names as far as they can be told, floating-point ones in float32.

    Raises:
        ValueError: it cannot be read, or holds no weights.
    """
    content = file_content(path)
    states = {where: state for where, state in _states(content) if state}
    if not states:
        raise ValueError(f"weights {path}: no tensors by name in it; {_found(content)}")
    wanted = set(names)
    fits = {where: _renamed(state, wanted, drop) for where, state in states.items()}
    # the one that fits best; of equal ones not the averaged copy, then the first
    best = max(fits, key=lambda where: (len(wanted & fits[where].keys()), where.split(".")[-1] not in _AVERAGED))
    if not wanted & fits[best].keys():
        inside = f" under {best!r}" if best else ""
        raise ValueError(
            f"weights {path}: none of its names{inside} is the network's; {_listed('keys found', fits[best])}; "
            f"{_listed('the network has', names)}"
        )
    return {name: t.float() if t.is_floating_point() else t for name, t in fits[best].items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network, all of them.

    Raises:
        ValueError: weights that are missing, of other shapes, or that the network has not.
    """
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    faults = [
        _listed("missing", [name for name in own if name not in state and name not in counters]),
        _listed("not of the network", [name for name in state if name not in own]),
        _listed("of another shape", [_shapes(n, own[n], t) for n, t in state.items() if _differs(own.get(n), t)]),
    ]
    if told := "; ".join(filter(None, faults)):
        raise ValueError(
            f"weights {path} do not fit {type(module).__name__}: {told} (model.drop=[PREFIX]: weights to leave out; "
            "model.weights=null: none)"
        )
    module.load_state_dict({**{name: own[name] for name in counters}, **state})


def _differs(own: Tensor | None, other: Tensor) -> bool:
    return own is not None and own.shape != other.shape


def _shapes(name: str, own: Tensor, other: Tensor) -> str:
    return f"{name} {tuple(other.shape)}, the network's is {tuple(own.shape)}"


def file_content(path: Path) -> Any:
    """What a file of weights holds; tensors and plain values alone, never code. ValueError where it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_plain()):
            return torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"weights {path} cannot be read as a weight file ({_reason(error)})") from None
    except Exception as error:  # pickle's: it names what is not plain
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
    """Every mapping in a file that has tensors, without what else is in it, by its path."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return
    yield where, {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if depth:
        for key, value in content.items():
            yield from _states(value, f"{where}.{key}" if where else str(key), depth - 1)


def _renamed(state: State, wanted: set[str], drop: Sequence[str]) -> State:
    """The tensors under the network's names: without the prefix that, left out, gives the most of them."""
    kept = {_current(name): t for name, t in state.items() if not name.startswith(tuple(drop))}
    best, fitting = kept, len(wanted & kept.keys())
    for prefix in _prefixes(kept):
        cut = {name.removeprefix(prefix): t for name, t in kept.items() if name.startswith(prefix)}
        cut = {name: t for name, t in cut.items() if not name.startswith(tuple(drop))}
        if (n := len(wanted & cut.keys())) > fitting:
            best, fitting = cut, n
    return best


def _prefixes(state: State) -> list[str]:
    """The beginnings of names that end in a dot, up to three parts long, the most frequent in a file first."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")[:-1]
        for k in range(1, min(4, len(parts) + 1)):
            prefix = ".".join(parts[:k]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts, key=lambda prefix: -counts[prefix])


def _current(name: str) -> str:
    """DenseNet's names (`norm.1`) as torchvision has them today (`norm1`)."""
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
