"""Small networks that the methods' tests share."""

import torch
from torch import Tensor, nn

from eigencam.passes.forward import Forward, forward_pass


def random_activations(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def colored(forward: Forward) -> Forward:
    """A pass with black and white pixels that do not depend on the batch, like a network's own."""
    forward.black, forward.white = torch.full((3, 1, 1), -3.0), torch.full((3, 1, 1), 3.0)
    return forward


class GapNet(nn.Module):
    """conv, (optionally rectified), global average pooling, linear: the form CAM needs."""

    def __init__(self, rectified: bool = False, hidden: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.rectified, self.hidden = rectified, nn.Linear(6, 6) if hidden else None
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        pooled = (a.relu() if self.rectified else a).mean((2, 3))
        return self.fc(pooled if self.hidden is None else self.hidden(pooled))


class ConvNet(nn.Module):
    """A network of SqueezeNet's form: 1x1 convolution to classes, ReLU, global average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.classifier = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(x)).flatten(1)


def make(net: nn.Module, gradients: bool = False) -> Forward:
    return forward_pass(net, random_activations(5, 3, 6, 7, seed=3), "conv", gradients=gradients)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return {"gap": GapNet, "rectified": lambda: GapNet(rectified=True), "conv": ConvNet}[kind]()


class TrainedNet(nn.Module):
    """Convolution, batch norm, ReLU, dropout, global average pooling, linear: every part that training mode affects."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.dropout, self.fc = nn.Dropout(0.3), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.relu(self.bn(self.conv(x)))).mean((2, 3)))
