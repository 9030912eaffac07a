"""Calling a network: eval mode, errors in one line, and finding the logits in its output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain

import torch
from torch import Tensor, nn

from eigencam.passes.precision import network_precision


def any_tensor(module: nn.Module) -> Tensor:
    """A parameter or buffer, for the network's device and dtype; a float32 number on the CPU if there is none."""
    found = (t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point())
    return next(found, torch.empty(()))


def random_images(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """(2, C, H, W) seeded noise in 0..1 on the network's device, as a probe.

    Args:
        module: the network; C is the number of channels of its first convolution, 3 without one.
        shape: (height, width) of its input.
    """
    like = any_tensor(module)
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 3)
    return torch.rand((2, channels, *shape), generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def fingerprint(module: nn.Module) -> Iterator[object]:
    """The network's modules, with the functions and options that they hold."""
    for name, inner in module.named_modules():
        yield name, type(inner), id(inner)
        for key, value in vars(inner).items():
            if key != "training" and (callable(value) or isinstance(value, bool | int | float | str)):
                yield key, id(value) if callable(value) else value


NEEDED = (
    "logits (N, K) are needed, or a target that reads this output (`target=`, `--target`); with `classes: null` in its "
    "description, class-agnostic methods run"
)


class NetworkError(ValueError):
    """An error in a network's own forward pass, in one line."""


class RefusedError(ValueError):
    """A refusal by this package during a pass, not an error of the network."""


class TargetError(RefusedError):
    """A target that the network's output does not have."""


class OutputError(ValueError):
    """A network returned something other than logits."""


def run_network(module: nn.Module, images: Tensor) -> object:
    """Return the network's output.

    Raises:
        NetworkError: its forward pass fails for any reason except lack of memory.
    """
    try:
        with network_precision(images.device):
            return module(images)
    except (torch.OutOfMemoryError, MemoryError, RefusedError, NetworkError):
        raise
    except Exception as error:  # a forward function may raise anything
        words = " ".join(str(error).split())
        raise NetworkError(
            f"the forward pass of {type(module).__name__} fails on an input of shape {tuple(images.shape)}, "
            f"{str(images.dtype).removeprefix('torch.')}: {type(error).__name__}{': ' if words else ''}{words[:400]}"
        ) from error


def differentiate(
    score: Tensor, inputs: Sequence[Tensor], seed: Tensor | None = None, *, keep: bool = False
) -> tuple[Tensor | None, ...]:
    """Gradients of a network's score with respect to tensors of its pass; None for those that no gradient reaches.

    Args:
        score: any shape; without `seed`, its sum is differentiated.
        inputs: the tensors.
        seed: gradient of the result with respect to `score`, of its shape.
        keep: whether the graph is needed again.

    Raises:
        NetworkError: the backward pass fails.
    """
    if not score.requires_grad:
        return (None,) * len(inputs)
    places = [k for k, t in enumerate(inputs) if t.requires_grad]
    if seed is None and score.ndim:  # for a scalar torch makes the seed, without importing sympy
        seed = torch.ones_like(score)
    try:
        found = torch.autograd.grad(
            score, [inputs[k] for k in places], seed,
            retain_graph=keep or None, allow_unused=True,
        )  # fmt: skip
    except (torch.OutOfMemoryError, MemoryError, RefusedError, NetworkError):
        raise
    except Exception as error:  # a custom backward function may raise anything
        words = " ".join(str(error).split())
        raise NetworkError(f"the backward pass of the network fails: {type(error).__name__}: {words[:400]}") from error
    by_place = dict(zip(places, found, strict=True))
    return tuple(by_place.get(k) for k in range(len(inputs)))


def network_logits(module: nn.Module, images: Tensor) -> Tensor:
    """(N, K) logits of (N, 3, H, W).

    Raises:
        NetworkError: its forward pass fails.
        OutputError: it returns something other than logits; see `logits_of`.
    """
    return logits_of(run_network(module, images), len(images))


def logits_of(output: object, count: int | None = None) -> Tensor:
    """Find the (N, K) logits in a network's output: the tensor called `logits`, else the only tensor.

    Args:
        output: the network's output.
        count: N, if known.

    Raises:
        OutputError: there are several tensors and none is called `logits`, or the tensor is not (N, K).
    """
    named = named_logits(output)
    found = list(_leaves(output)) if named is None else [named]
    if len(found) > 1:
        raise OutputError(
            f"the network returns {_form(output)}, and does not say which of these are the logits; {NEEDED}: wrap it "
            "in a module that returns the logits alone, or a dict with `logits`"
        )
    if not found or found[0].ndim != 2 or not found[0].is_floating_point() or count not in (None, len(found[0])):
        raise OutputError(f"the network returns {_form(output)}{f' for {count} images' if count else ''}; {NEEDED}")
    return found[0]


def named_logits(output: object) -> Tensor | None:
    """The tensor called `logits` in a network's output; None if there is none."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else None


def _leaves(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple | Mapping):
        for inner in output.values() if isinstance(output, Mapping) else output:
            yield from _leaves(inner)


def _form(output: object) -> str:
    """Types and shapes, for a message."""
    if isinstance(output, Tensor):
        dtype = "" if output.is_floating_point() else f" {str(output.dtype).removeprefix('torch.')}"
        return f"{tuple(output.shape)}{dtype}"
    if isinstance(output, Mapping):
        parts = [f"{key} {_form(inner)}" for key, inner in output.items()]
    elif isinstance(output, list | tuple):
        parts = [_form(inner) for inner in output]
    else:
        return type(output).__name__
    return f"a {type(output).__name__} of {', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''}"


def without_inference(x: Tensor) -> Tensor:
    """Copy a tensor made in inference mode, so autograd and version counters can handle it; others are unchanged."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters, both restored afterwards; the graph keeps no tensors for weight gradients."""
    modes = [(m, m.training) for m in module.modules()]
    frozen = [(p, p.requires_grad) for p in module.parameters()]
    try:
        with suppress(NotImplementedError):  # an exported program, whose mode is fixed
            module.eval()
        for p, _ in frozen:
            p.requires_grad_(False)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, flag in frozen:
            p.requires_grad_(flag)
