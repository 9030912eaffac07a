"""A network built by hand in which each class depends on one kind of mark: planted evidence.

As in the interventions of FunnyBirds (R. Hesse et al., ICCV 2023), it is known which part of the image an output
depends on; here it is known by construction, for each pixel. For a pixel with colours r, g, b in 0..1 the response for
red is relu(2 r - g - b - 1), for yellow relu(r + g - 2 b - 1), and so on for six hues. It is 0 wherever no two colours
differ by more than 1/2; in the marks of `eigencam.datasets.planted` it is 0 for every hue but their own. The logit is
the mean response over the image times `GAIN`, so each pixel's contribution is known as well.

The six hue channels go through the layers together with four channels that no class reads (brightness, darkness, and
edges of both). These four are the strongest in the feature map: a map that shows what is strong in the features, rather
than what the class depends on, highlights them. All operations are standard (1 x 1 and 3 x 3 convolutions, ReLU,
average pooling, one linear layer), the weights are constants, and the last feature map is 14 x 14.
"""

import torch
from torch import Tensor, nn

from eigencam.datasets.planted import HUES

GAIN = 400.0
"""The largest mark of an image, about 4 % of it, has a logit of about 11."""

STD = 0.25
"""Standard deviation of the normalisation, whose mean is 0.5."""


class PlantedNetwork(nn.Module):
    """Six hues, four channels of context, global average pooling and one linear layer."""

    version = 1

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 10, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(10, len(HUES))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self._build()

    def _build(self) -> None:
        colours, mixing = self.features[0], self.features[3]
        assert isinstance(colours, nn.Conv2d)
        assert isinstance(mixing, nn.Conv2d)
        assert colours.bias is not None
        for k, parts in enumerate(HUES.values()):
            own = torch.tensor(parts, dtype=torch.float32)
            weight = torch.where(own > 0, 2 / own.sum(), -2 / (3 - own.sum()))
            colours.weight[k, :, 0, 0] = STD * weight
            colours.bias[k] = -1  # the weights sum to 0, so the mean of 0.5 cancels
            mixing.weight[k, k, 1, 1] = 1
            self.fc.weight[k, k] = GAIN
        for k, sign in ((6, 1.0), (7, -1.0), (8, 1.0), (9, -1.0)):
            colours.weight[k, :, 0, 0] = sign * STD / 3
            colours.bias[k] = 0.5
        for k in (6, 7):
            mixing.weight[k, k, 1, 1] = 1
        for k in (8, 9):
            mixing.weight[k, k] = -1 / 8
            mixing.weight[k, k, 1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised images to (N, 6) logits."""
        return self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
