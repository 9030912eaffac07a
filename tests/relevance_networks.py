"""Small networks for rules of relevance."""

import torch
from torch import Tensor, nn
from toys import random_activations

from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def plain(bias: bool = True, inplace: bool = False) -> nn.Sequential:
    """A network that Captum understands."""
    torch.manual_seed(0)
    relu = [nn.ReLU(inplace=inplace) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias), relu[0], nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=bias), relu[1],
        nn.Flatten(), nn.Linear(8, 7, bias=bias), relu[2], nn.Linear(7, 4, bias=bias),
    )  # fmt: skip


def read(net: nn.Module, size: tuple[int, int] = (6, 6), n: int = 5, layer: str = "3") -> Forward:
    return forward_pass(net, random_activations(n, 3, *size, seed=5), layer, gradients=True)


def logit(forward: Forward, targets: Tensor = TARGETS) -> Tensor:
    return forward.logits.gather(1, targets[:, None])[:, 0]


def squeezed(rectified: bool, averaged_first: bool = False, bias: bool = True) -> nn.Sequential:
    """SqueezeNet's form: class scores averaged over the positions; without the ReLU it has the form of a fitted head.

    The trunk's bias is not negative: the rule clips a negative one, and Captum does not.
    """
    torch.manual_seed(0)
    second = nn.Conv2d(6, 8, 3, bias=bias)
    if second.bias is not None:
        second.bias.data.abs_()
    trunk = [nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU()]
    scores, average = nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1)
    if averaged_first:
        return nn.Sequential(*trunk, average, scores, nn.Flatten())
    return nn.Sequential(*trunk, scores, *([nn.ReLU()] if rectified else []), average, nn.Flatten())
