"""Two small networks trained on the generated scenes, so that the whole benchmark runs without a download.

`scenes_vgg` ends in fully connected layers, `scenes_resnet` in global average pooling and one linear layer: the two
kinds of network that class-activation methods treat differently. Both have a last feature map of 14 x 14, whose units
have receptive fields of 82 and 65 of the 112 pixels of a side. `scripts/train_scenes.py` makes the weights;
`results/scenes_networks.csv` is its log.

Input: the whole image squashed to 112 x 112 pixels (bilinear, antialiased), as `PREPROCESS` says.
Output: (N, 12) float32 logits, in the order of `eigencam.datasets.scenes_objects.CLASSES`.
"""

import torch
from torch import Tensor, nn

from eigencam.networks.preprocess import Preprocess

PREPROCESS = Preprocess(size=112, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NUM_CLASSES = 12


class ScenesVGG(nn.Module):
    """Eight convolutions in four stages with in-place ReLUs, average pooling, then two fully connected layers.

    The pooling is over the whole map. With a 2 x 2 pooling grid and a third fully connected layer the network was as
    accurate, but Grad-CAM's averaged gradients localized no better than a box at the centre.

    Args:
        batch_norm: adds batch normalisation after each convolution, as in training; in the packaged weights it is
            folded into the convolutions.
    """

    version = 1

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in ((16,), (32, 32), (64, 64), (96, 96, 96)):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for width in stage:
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(channels, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(256, NUM_CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised images to (N, 12) logits."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ScenesResNet(nn.Module):
    """Four residual blocks in three stages, global average pooling and one linear layer."""

    version = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(24, 24, 1))
        self.layer2 = nn.Sequential(Block(24, 48, 2), Block(48, 48, 1))
        self.layer3 = nn.Sequential(Block(48, 128, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised images to (N, 12) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))
