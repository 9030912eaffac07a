"""Weights files of methods' authors: L-CAM's and T-TAME's checkpoints, BroadCAM's pickles.

    .pth.tar  L-CAM (bmezaris/L-CAM@8ea7fba): `state_dict` with `attnM.op.{weight,bias}` beside the whole backbone
    .ckpt     T-TAME (IDT-ITI/T-TAME@92499e7), its L-CAM: `state_dict` of Lightning with
              `generic.attn_mech.op.{weight,bias}` and `generic.body.*`; `hyper_parameters` name the layer
    .pkl      BroadCAM (linjiatai/BroadCAM@f9ff889): a pickled object, of which `bls_merge[0].coef_` (K, d) is read

A checkpoint has the backbone's weights, which are compared with the network's. A pickle names no network: only the
numbers of channels and classes are compared. No code of a pickle is executed: all classes except numpy's arrays are
replaced by stand-ins without code. No published file was accessible; the formats were read from the authors' code.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigencam.networks.checkpoints import file_content

ATTENTION = "op.weight"
PREFIXES = ("generic.body.", "module.", "")
"""Prefixes of the backbone's names."""

_ARRAYS: dict[tuple[str, str], Any] = {
    (module, name): found
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, found in (("_reconstruct", np._core.multiarray._reconstruct), ("scalar", np._core.multiarray.scalar))  # type: ignore[attr-defined]
}
_ARRAYS |= {("numpy", "ndarray"): np.ndarray, ("numpy", "matrix"): np.ndarray, ("numpy", "dtype"): np.dtype}
_ARRAYS |= {("numpy.matrixlib.defmatrix", "matrix"): np.ndarray}


def read_attention(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Read L-CAM's attention.

    Returns:
        `weight` (K, C) and `bias` (K,); the backbone's weights by their names in torchvision's network; the possible
        layers of the attention, empty if the file does not say.

    Raises:
        ValueError: the file cannot be read, or holds no such attention.
    """
    content = file_content(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(name): t.float() for name, t in state.items() if isinstance(t, Tensor)}
    found = [name for name in tensors if name.endswith(ATTENTION)]
    weight = tensors[found[0]] if len(found) == 1 else torch.empty(0)
    bias = tensors.get(found[0].replace("weight", "bias"), torch.empty(0)) if len(found) == 1 else torch.empty(0)
    if weight.ndim != 4 or tuple(weight.shape[2:]) != (1, 1) or tuple(bias.shape) != (len(weight),):
        listed = ", ".join([*tensors][-4:]) or f"{type(content).__name__} without tensors by name"
        raise ValueError(
            f"{path}: no attention of L-CAM; expected: one `*{ATTENTION}` (K, C, 1, 1) and its bias (K,), as "
            f"`attnM.{ATTENTION}` or `generic.attn_mech.{ATTENTION}`; found: {listed} (TAME's own attention joins "
            "several layers and is another method)"
        )
    own = found[0].removesuffix(ATTENTION)
    rest = {name: t for name, t in tensors.items() if not name.startswith(own)}
    prefix = next(p for p in PREFIXES if all(name.startswith(p) for name in rest))
    body = {name.removeprefix(prefix): t for name, t in rest.items()}
    return {"weight": weight.flatten(1), "bias": bias}, body, _layers(content, body)


def _layers(content: Mapping[str, Any], body: Mapping[str, Tensor]) -> list[str]:
    options = content.get("hyper_parameters")
    named = options.get("layers") if isinstance(options, Mapping) else None
    if named:
        return [str(name) for name in named]
    if any(name.startswith("layer4.") for name in body):
        return ["layer4"]
    return ["features.29", "features.30"] if any(name.startswith("features.") for name in body) else []


def read_coefficients(path: Path) -> dict[str, Tensor]:
    """Read BroadCAM's coefficients: `weight` (K, d).

    Raises:
        ValueError: the file cannot be read, or holds no such object.
    """
    try:
        with path.open("rb") as file:
            made = _Numbers(file).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path}: cannot be read as a pickle ({type(error).__name__}: {error})") from None
    solved = _of(made, "bls_merge")
    coefficients = _of(solved[0], "coef_") if isinstance(solved, list) and solved else None
    if not isinstance(coefficients, np.ndarray) or coefficients.ndim != 2 or coefficients.dtype.kind != "f":
        raise ValueError(f"{path}: no weights of BroadCAM; expected: an object with `bls_merge[0].coef_` (K, d)")
    weight = torch.from_numpy(np.array(coefficients, np.float32))
    if not weight.isfinite().all():
        raise ValueError(f"{path}: weights that are not finite")
    return {"weight": weight}


class _StandIn:
    """Stand-in for every class and function that a pickle names: it keeps its state, and does nothing."""

    state: Any = None

    def __new__(cls, *_args: object, **_kwargs: object) -> "_StandIn":
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None: ...

    def extend(self, _values: object) -> None: ...


class _Numbers(pickle.Unpickler):
    """Makes arrays, numbers, texts and containers of them."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return _ARRAYS.get((module_name, global_name), _StandIn)

    def persistent_load(self, pid: Any) -> None: ...


def _of(made: object, name: str) -> Any:
    state = made.state if isinstance(made, _StandIn) else None
    return state.get(name) if isinstance(state, Mapping) else None
