"""The precision of float32: full by default, TF32 or autocast if a run asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LESS = {"autocast": False}
"""Settings of `set_float32_precision` in addition to torch's own flags."""


@contextmanager
def network_precision(device: torch.device, *, always_full: bool = False) -> Iterator[None]:
    """Compute in the network's precision, which `set_float32_precision` may have lowered.

    Args:
        device: device of the network.
        always_full: compute in full precision in any case, for computations inside a pass of the network.
    """
    if not _LESS["autocast"]:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16, enabled=not always_full):
        yield


@contextmanager
def float32_precision(*, tf32: bool = False, autocast: bool = False) -> Iterator[None]:
    """Compute products of float32 numbers in full float32 by default; see `set_float32_precision`."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, _LESS["autocast"]
    try:
        set_float32_precision(tf32=tf32, autocast=autocast)
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, _LESS["autocast"] = before[1:]


def set_float32_precision(*, tf32: bool = False, autocast: bool = False) -> None:
    """Set the precision of float32 networks for the rest of the process, wherever they run.

    Args:
        tf32: whether a GPU may compute products of float32 numbers in TF32, in matrices and convolutions.
        autocast: whether the network's own passes run under `torch.autocast` in bfloat16; what methods compute from
            them stays float32.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    _LESS["autocast"] = autocast


def is_coarse(dtype: torch.dtype) -> bool:
    """Whether a network of this dtype rounds more than float32 does, so two computations of one number differ more."""
    less = _LESS["autocast"] or (torch.backends.cudnn.allow_tf32 and torch.cuda.is_available())
    return less or dtype not in (torch.float32, torch.float64)
