"""Weights files in their usual forms: the weights are found, or the message says what the file contains."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
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
    "averaged_first.ckpt": lambda s: {
        "state_dict": {**prefixed({k: v + 1 for k, v in s.items()}, "ema."), **prefixed(s, "model.")}
    },
    "averaged_alone.pt": lambda s: {"ema": s},
    "same_twice.pth": lambda s: {"state_dict": s, "model": dict(s)},
    "compiled_inside.pth": lambda s: {k.replace("0.", "0._orig_mod."): v for k, v in s.items()},
    "sharded.pth": lambda s: prefixed(s, "_fsdp_wrapped_module."),
    "long.pth": lambda s: prefixed(s, "task.model.visual.trunk."),
    "torch.safetensors": lambda s: s,
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
    "two.pth": (
        lambda s: {"student": prefixed(s, "module."), "teacher": {k: v + 1 for k, v in s.items()}},
        r"'student\.module\.' and 'teacher' fit equally well; model\.drop=\[teacher\] leaves one out",
    ),
    "complex.pth": (lambda s: {**s, "3.bias": s["3.bias"] + 0j}, "of another type: 3.bias complex"),
    "quantised.pth": (lambda s: {**s, "3.bias": s["3.bias"].to(torch.int8)}, "of another type: 3.bias whole numbers"),
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


def test_a_name_does_not_say_the_format(tmp_path: Path) -> None:
    path, module = tmp_path / "w.pth", network()
    save_file(network(0.5).state_dict(), path)
    load_weights(module, path)
    assert all(bool((p == 0.5).all()) for p in module.parameters())


def test_of_two_that_fit_one_is_left_out(tmp_path: Path) -> None:
    path, module = tmp_path / "w.pth", network()
    torch.save({"student": network(0.25).state_dict(), "teacher": network(0.5).state_dict()}, path)
    load_weights(module, path, ["student"])
    assert all(bool((p == 0.5).all()) for p in module.parameters())


def test_a_tied_weight_is_there_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        made = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        made[1].weight = made[0].weight
        return made

    path, module = tmp_path / "w.safetensors", tied()
    save_file({"0.weight": torch.full((4, 4), 0.5)}, path)
    load_weights(module, path)
    assert all(bool((p == 0.5).all()) for p in module.parameters())
    with pytest.raises(ValueError, match=r"missing: 1\.weight"):
        load_weights(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)), path)


def test_left_out_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({**network(0.5).state_dict(), "aux.w": torch.ones(1)}, path)
    load_weights(network(), path, ["aux."])
