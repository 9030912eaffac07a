"""Weights files in their usual forms: the weights are found, or the message says what the file contains."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigencam.networks.weights import load_weights

State = dict[str, Tensor]


def network(value: float = 0.0) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for p in made.parameters():
        nn.init.constant_(p, value)
    return made


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


READ: dict[str, Callable[[State], Any]] = {
    "net.pth": lambda s: {"net": s, "epoch": 3},
    "ema.pt": lambda s: {"model_ema": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "params.pth.tar": lambda s: {"params": s},
    "lightning.ckpt": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(2)},
        "hyper_parameters": argparse.Namespace(lr=0.1, out=Path("runs")),
    },
    "compiled.bin": lambda s: prefixed(s, "_orig_mod."),
    "parallel.pth": lambda s: {"state_dict": prefixed(s, "module."), "best": np.float64(3.4)},
    "integers.pth": lambda s: {**s, "epoch": 4, "lr": 0.1},
    "both.pth": lambda s: {"model_ema": {k: v + 1 for k, v in s.items()}, "model": s},
    "deep.pth": lambda s: {"checkpoint": {"model": prefixed(s, "module.net._orig_mod.")}},
    "counters.pth": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "half.pth": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("name", READ)
def test_weights_are_found(tmp_path: Path, name: str) -> None:
    torch.save(READ[name](network(0.5).state_dict()), tmp_path / name)
    module = network()
    load_weights(module, tmp_path / name)
    assert all(bool((p == 0.5).all()) and p.dtype == torch.float32 for p in module.parameters())


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "none.pth": (lambda _: {"epoch": 3, "lr": 0.1}, "no tensors by name in it; keys found: epoch, lr$"),
    "list.pth": (lambda _: [1, 2], "no tensors by name in it; it holds list"),
    "tensor.pt": (lambda _: torch.ones(3), "no tensors by name in it; it holds Tensor"),
    "other.pth": (
        lambda _: {"state_dict": {"a.b": torch.ones(2)}},
        "none of its names under 'state_dict' is the network's; keys found: a.b; the network has: 0.weight, 0.bias",
    ),
    "missing.pth": (lambda s: {k: v for k, v in s.items() if k[0] != "3"}, "missing: 3.weight, 3.bias "),
    "extra.pth": (lambda s: {**s, "aux.w": torch.ones(1)}, r"not of the network: aux.w \(model.drop="),
    "shape.pth": (
        lambda s: {**s, "3.bias": torch.ones(5)},
        r"of another shape: 3.bias \(5,\), the network's is \(2,\)",
    ),
    "module.pth": (lambda _: network(), r"objects of torch.nn\.\S*Sequential.*state_dict\(\) alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_said_in_our_words(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    torch.save(content(network(0.5).state_dict()), tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("content", [b"", b"hello"])
def test_what_is_no_weight_file_is_said_so(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a weight file"):
        load_weights(network(), tmp_path / name)


def test_left_out_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({**network(0.5).state_dict(), "aux.w": torch.ones(1)}, path)
    load_weights(network(), path, ["aux."])
