"""Transfers between host and device: one copy in, one copy out and one wait, however many tensors there are.

A copy costs the host some ten microseconds, and a copy from or to ordinary memory blocks it until the device has
finished all earlier work. Tensors therefore travel together, as bytes of one block of pinned memory.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

ALIGNED = 64
"""Alignment in bytes of each tensor in a block; kernels read several numbers at once."""


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return host tensors on the device, without a wait of the host. Tensors already there are returned unchanged.

    Args:
        device: the destination.
        tensors: any types and shapes.
    """
    if device.type != "cuda":
        return tuple(t.to(device) for t in tensors)
    leaving = [t for t in tensors if not t.is_cuda]
    block = _block(leaving, torch.device("cpu"), pinned=True).to(device, non_blocking=True) if leaving else None
    arrived = iter(_views(block, leaving)) if block is not None else iter(())
    return tuple(t.to(device) if t.is_cuda else next(arrived) for t in tensors)


def to_host(*tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Start copying tensors of one device to the host; return a function that waits for them and returns them.

    Args:
        tensors: any types and shapes.
    """
    device = tensors[0].device
    if device.type != "cuda":
        here = tuple(t.detach().cpu() for t in tensors)
        return lambda: here
    block = _block([t.detach() for t in tensors], device).to("cpu", non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)  # a waiting thread then leaves its core to the threads that make rows
    arrived.record(torch.cuda.current_stream(device))

    def wait() -> tuple[Tensor, ...]:
        arrived.synchronize()
        return tuple(_views(block, tensors))

    return wait


P = ParamSpec("P")


def _once(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Cache what a function returns, except torch's fake tensors, which are valid only within their mode."""
    kept = lru_cache(maxsize=256)(make)

    @wraps(make)
    def of(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return make(*args, **kwargs) if detect_fake_mode() else kept(*args, **kwargs)  # type: ignore[arg-type]

    return of


Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]


@_once
def constant(numbers: Numbers, device: torch.device) -> Tensor:
    """Return numbers on the device. They are copied there once and must not be changed."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


@_once
def resident(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor on the device in this dtype, copied once: weights that many batches read."""
    with torch.inference_mode(False):
        return tensor.detach().to(device, dtype)


@_once
def made(
    make: Callable[..., Tensor], arguments: tuple[Hashable, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return `make(*arguments)` on the device in this dtype, made on the host and copied once: kernels, matrices.

    >>> made(torch.eye, (2,), torch.device("cpu"), torch.float32).shape
    torch.Size([2, 2])
    """
    with torch.inference_mode(False):
        return make(*arguments).to(device, dtype)


def _block(tensors: Sequence[Tensor], device: torch.device, *, pinned: bool = False) -> Tensor:
    """Return the tensors' bytes, concatenated."""
    size = sum(map(_room, tensors))
    block = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
    for place, tensor in zip(_views(block, tensors), tensors, strict=True):
        place.copy_(tensor)
    return block


def _views(block: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the parts of the block, with the dtypes and shapes of `like`."""
    start = 0
    for tensor in like:
        yield block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNED) * ALIGNED
