"""Random numbers that depend only on (seed, position of the image in the dataset).

Batches, resumed runs, devices and other methods do not change them; no generator's state is read or modified.
"""

import hashlib
from math import prod, tau

import torch
from torch import Tensor

VERSIONS = {"randomness": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""


def uniform(index: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """Uniform numbers in [0, 1).

    Args:
        index: (N,) int64 positions in the dataset.
        shape: shape of each image's numbers.
        seed: any integer; different seeds give independent numbers.

    Returns:
        (N, *shape) float32 on the device of `index`, multiples of 2^-24.
    """
    key = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:7])
    bits = _mix(_mix(index + key)[:, None] + torch.arange(prod(shape), device=index.device))
    return ((bits >> 40) & 0xFFFFFF).float().div(1 << 24).view(len(index), *shape)


def normal(index: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    """(N, *shape) float32 of mean 0 and variance 1, by Box and Muller (1958); arguments as in `uniform`."""
    u, v = uniform(index, (2, *shape), seed).unbind(1)
    return (-2 * torch.log1p(-u)).sqrt() * torch.cos(tau * v)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014), a hash: int64 wraps like uint64, on every device alike."""
    x = x * -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
