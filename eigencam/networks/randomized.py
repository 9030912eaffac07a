"""Networks of the same architecture with other weights, for sanity checks: reinitialised layers, or another file.

A stage is a group of layers with parameters, in the order in which the network calls them, counted from the output; the
output layer alone is the first stage. A layer is reinitialised by its own `reset_parameters`, and the running
statistics of a batch normalisation are reset as well. Parameters outside such layers (class tokens, position
embeddings) are shuffled. The random weights of a layer depend only on the seed and its name, so they are the same in
every stage.

A variant shares all tensors that it does not change with the network, and is made once.
"""

import copy
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor, nn

from eigencam.networks.weights import load_weights, weight_file
from eigencam.passes.calls import evaluating, random_images, run_network


@lru_cache(maxsize=4)
def randomised(
    module: nn.Module, order: str, stages: int, seed: int, shape: tuple[int, ...]
) -> tuple[tuple[str, nn.Module], ...]:
    """For each stage, its last layer counted from the output, and the network.

    Args:
        module: the network.
        order: `cascading`: all layers from the output to those of the stage are new; `independent`: only the stage's.
        stages: number of groups; 0: every layer is a group.
        seed: seed of the weights.
        shape: (height, width) of the input.
    """
    made: list[tuple[str, nn.Module]] = []
    before = module
    for names in groups(layers_from_output(module, shape), stages):
        fresh = _with_fresh(before if order == "cascading" else module, names, seed)
        made.append((names[-1] or "parameters of the whole", fresh))
        before = fresh
    return tuple(made)


@lru_cache(maxsize=2)
def reweighted(module: nn.Module, weights: str) -> nn.Module:
    """The network with the weights of a file. ValueError if they do not fit."""
    other = copy.deepcopy(module)
    load_weights(other, weight_file(weights), ())
    return other


def layers_from_output(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """The modules with parameters of their own, the last called first.

    A module that is not called itself, such as an attention's projection, gets the position of the module around it.

    Args:
        module: the network.
        shape: (height, width) of its input.
    """
    called: dict[str, int] = {}
    clock = count()

    def note(name: str) -> None:
        called[name] = next(clock)

    with ExitStack() as stack:
        for name, child in module.named_modules():
            handle = child.register_forward_pre_hook(lambda _m, _a, name=name: note(name))
            stack.callback(handle.remove)
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
        run_network(module, random_images(module, shape)[:1])

    def time(name: str) -> int:
        while name not in called and name:
            name = name.rpartition(".")[0]
        return called.get(name, 0)

    own = [name for name, child in module.named_modules() if next(child.parameters(recurse=False), None) is not None]
    own.reverse()
    return sorted(own, key=time, reverse=True)


def groups(names: list[str], stages: int) -> Iterator[list[str]]:
    """The first name alone, the others in equal groups, `stages` groups in all (0: every name alone).

    >>> list(groups(["fc", "c", "b", "a"], 3)), len(list(groups(["fc", "c", "b", "a"], 0)))
    ([['fc'], ['c', 'b'], ['a']], 4)
    """
    rest = names[1:]
    parts = min(stages - 1, len(rest)) if stages else len(rest)
    yield names[:1]
    for i in range(parts):
        yield rest[-(-i * len(rest) // parts) : -(-(i + 1) * len(rest) // parts)]


def _with_fresh(module: nn.Module, names: list[str], seed: int) -> nn.Module:
    """The network with new weights in the named layers; it shares all other tensors."""
    own = {id(t): t for name in names for t in _tensors(module.get_submodule(name))}
    kept = {id(t): t for t in (*module.parameters(), *module.buffers()) if id(t) not in own}
    fresh = copy.deepcopy(module, dict(kept))
    for name in names:
        layer = fresh.get_submodule(name)
        generator_seed = zlib.crc32(f"{seed} {name}".encode())
        reset = getattr(layer, "reset_parameters", None)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(generator_seed)
            if reset is None:
                for tensor in layer.parameters(recurse=False):
                    tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel()).to(tensor.device)].view_as(tensor))
                continue
            drawn = copy.deepcopy(layer).to("cpu", torch.float32)  # the same numbers on every device
            drawn.reset_parameters()  # type: ignore[operator]
            for tensor, new in zip(_tensors(layer), _tensors(drawn), strict=True):
                tensor.copy_(new)
    return fresh


def _tensors(layer: nn.Module) -> list[Tensor]:
    """A layer's own parameters and buffers, not those of the layers in it."""
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
