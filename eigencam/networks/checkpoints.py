"""Weights files in the usual formats: which of their keys hold the network's weights, and what does not fit.

A file holds tensors by name, or a training checkpoint: the weights under `state_dict`, `model`, `net`, ..., beside
epochs, losses and the optimizer's state. The names may have a wrapper's prefix (`module.` of DataParallel, `model.` of
Lightning, `_orig_mod.` of torch.compile). Both are determined by comparison with the network's names. If a file holds
weights and their average (`model_ema`), the weights are read. If two others fit equally well, such as a student's and a
teacher's, neither is read.
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
_AVERAGED = {"ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema", "shadow", "averaged"}
"""Names under which checkpoints keep averaged weights."""
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts that torch.compile, FSDP and activation checkpointing add to names."""
MOST_PARTS = 6
"""Largest number of parts of a prefix."""
_HEADER = 8
"""Bytes of the length before the JSON header of a safetensors file."""


def read_checkpoint(path: Path, names: Sequence[str], drop: Sequence[str] = ()) -> State:
    """Read the weights of a network from a file.

    Args:
        path: a file of safetensors or of torch.
        names: names of the network's parameters and buffers.
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
    found = {
        f"{where}.{prefix}" if where and prefix else where or prefix: state
        for where, whole in states.items()
        if not f"{where}.".startswith(tuple(drop))
        for prefix, state in _renamed(whole, set(names), drop).items()
    }
    best = _best(found, set(names), path)
    if best is None:
        ((where, state), *_) = (found or states).items()
        inside = f" under {where!r}" if where else ""
        raise ValueError(
            f"weights {path}: none of its names{inside} is the network's; {_listed('keys found', state)}; "
            f"{_listed('the network has', names)}"
        )
    return {name: t.float() if t.is_floating_point() else t for name, t in found[best].items()}


def _best(candidates: Mapping[str, State], wanted: set[str], path: Path) -> str | None:
    """Return the place of the weights that fit best, None if none fit. ValueError if others fit equally well.

    Averaged weights are taken only if there are no others.
    """
    most = max((len(wanted & state.keys()) for state in candidates.values()), default=0)
    if not most:
        return None
    equal = [where for where, state in candidates.items() if len(wanted & state.keys()) == most]
    first, *others = [w for w in equal if _AVERAGED.isdisjoint(w.rstrip(".").split("."))] or equal
    for other in others if all(name in candidates[first] or _is_counter(name) for name in wanted) else ():
        if not _agree(candidates[first], candidates[other], wanted):
            raise ValueError(
                f"weights {path}: {first!r} and {other!r} fit equally well; model.drop=[{other}] leaves one out"
            )
    return first


def _agree(one: State, other: State, names: set[str]) -> bool:
    """Whether two sets of weights have the same values."""
    same = one.keys() & names
    return same == other.keys() & names and all(torch.equal(one[n].float(), other[n].float()) for n in same)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network, all of them.

    Raises:
        ValueError: weights are missing, have other shapes, or are not in the network.
    """
    own = module.state_dict()
    counters = set(filter(_is_counter, own))
    given = {t.data_ptr() for name, t in own.items() if name in state and t.numel()}
    tied = {name for name, t in own.items() if name not in state and t.data_ptr() in given}
    faults = [
        _listed("missing", [name for name in own if name not in state and name not in counters | tied]),
        _listed("not of the network", [name for name in state if name not in own]),
        _listed(
            "of another type", [f"{n} {_type(t)}" for n, t in state.items() if n in own and _type(t) != _type(own[n])]
        ),
        _listed("of another shape", [_shapes(n, own[n], t) for n, t in state.items() if _differs(own.get(n), t)]),
    ]
    if message := "; ".join(filter(None, faults)):
        raise ValueError(
            f"weights {path} do not fit {type(module).__name__}: {message} (model.drop=[PREFIX]: weights to leave out; "
            "model.weights=null: none)"
        )
    module.load_state_dict({**{name: own[name] for name in counters}, **state}, strict=not tied)


def _type(t: Tensor) -> str:
    """What a tensor holds, as far as it matters for weights."""
    if t.is_quantized or t.is_meta or t.layout != torch.strided:
        return "quantised" if t.is_quantized else "without values" if t.is_meta else "sparse"
    return "complex" if t.is_complex() else "real" if t.is_floating_point() else "whole numbers"


def _differs(expected: Tensor | None, other: Tensor) -> bool:
    return expected is not None and expected.shape != other.shape


def _shapes(name: str, expected: Tensor, other: Tensor) -> str:
    return f"{name} {tuple(other.shape)}, the network's is {tuple(expected.shape)}"


def file_content(path: Path) -> Any:
    """The content of a weights file: tensors and plain values, never code. ValueError if it cannot be read."""
    try:
        with path.open("rb") as file:  # the content says which of the two it is
            header = file.read(_HEADER + 1)
        if header[_HEADER:] == b"{":
            return load_file(path)
        with path.open("rb") as file, torch.serialization.safe_globals(_plain()):
            return torch.load(file, "cpu", weights_only=True)  # given a path, torch infers the format from the suffix
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"weights {path} cannot be read as a weight file ({_reason(error)})") from None
    except Exception as error:  # pickle's error names the class that is not plain
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"weights {path} cannot be read: it holds objects of {found[1]}, and only tensors and plain values are "
                "taken from a file; save the network's state_dict() alone"
            ) from None
        raise ValueError(
            f"weights {path} cannot be read as a weight file, of torch or safetensors ({type(error).__name__})"
        ) from None


def _plain() -> list[Any]:
    """Classes of plain values that training programs keep beside the weights: options, paths, numpy's numbers."""
    numbers = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    return [argparse.Namespace, PosixPath, WindowsPath, np.dtype, np._core.multiarray.scalar, *numbers]  # type: ignore[attr-defined]


def _reason(error: Exception) -> str:
    first = re.split(r"(?<=\.)\s", str(error).strip())[0]
    return f"{type(error).__name__}: {' '.join(first.split())[:200]}"


def _states(content: Any, where: str = "", depth: int = DEPTH) -> Iterator[tuple[str, State]]:
    """Yield each mapping in a file with its path; only tensors are kept."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return
    yield where, {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if depth:
        for key, value in content.items():
            yield from _states(value, f"{where}.{key}" if where else str(key), depth - 1)


def _renamed(state: State, wanted: set[str], drop: Sequence[str]) -> dict[str, State]:
    """The renamed tensors by removed prefix, for the prefixes whose removal makes most names match the network's."""
    kept = {_current(name): t for name, t in state.items() if not name.startswith(tuple(drop))}
    made: dict[str, State] = {"": kept}
    for prefix in _prefixes(kept):
        cut = {name.removeprefix(prefix): t for name, t in kept.items() if name.startswith(prefix)}
        made[prefix] = {name: t for name, t in cut.items() if not name.startswith(tuple(drop))}
    most = max(len(wanted & found.keys()) for found in made.values())
    return {prefix: found for prefix, found in made.items() if len(wanted & found.keys()) == most}


def _prefixes(state: State) -> list[str]:
    """The prefixes of names that end in a dot, the most frequent in a file first."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")[:-1]
        for k in range(1, min(MOST_PARTS, len(parts)) + 1):
            prefix = ".".join(parts[:k]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts, key=lambda prefix: -counts[prefix])


def _current(name: str) -> str:
    """A name without the parts that torch's wrappers of single modules add; DenseNet's old `norm.1` becomes `norm1`."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
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
