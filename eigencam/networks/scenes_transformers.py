"""A vision transformer and a vision graph network for the generated scenes; `scripts/train_scenes.py` trains them.

`ScenesViT` is torchvision's vision transformer (Dosovitskiy et al., ICLR 2021) after a convolutional stem (Xiao et al.,
NeurIPS 2021): a class token and 14 x 14 tokens.

`ScenesViG` is the vision GNN (Han et al., NeurIPS 2022) in its isotropic form with 14 x 14 vertices. Each Grapher block
links every vertex to its nearest ones in feature space and takes the largest difference to them (max-relative graph
convolution, Li et al., ICCV 2019). It ends in global average pooling and one linear layer, so CAM can be computed.

Input and output are those of `eigencam.networks.scenes`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

from eigencam.networks.scenes import NUM_CLASSES, PREPROCESS

SIDE = PREPROCESS.shape[0] // 8
"""Tokens, or vertices, along a side."""

STEM = ((16, 2), (32, 2), (48, 1))
"""Channels and stride of both networks' first convolutions; two with the network's own width follow."""


class ScenesViT(VisionTransformer):
    """Five 3 x 3 convolutions and one 1 x 1, then `layers` blocks of attention and MLP on 197 tokens."""

    version = 1

    def __init__(self, width: int = 64, layers: int = 3, heads: int = 2) -> None:
        stem = [ConvStemConfig(out, 3, stride) for out, stride in (*STEM, (width, 2), (width, 1))]
        super().__init__(
            image_size=PREPROCESS.shape[0],
            patch_size=8,
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=2 * width,
            num_classes=NUM_CLASSES,
            conv_stem_configs=stem,
        )


class KnnGraph(nn.Module):
    """Each vertex's `k` nearest vertices by the angle between their features, including itself."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) features to (2, N, hw, k) int64 edges: the neighbours, and the vertices that they belong to."""
        with torch.no_grad():
            x = F.normalize(x.detach().flatten(2), dim=1)
            neighbours = (x.mT @ x).topk(self.k, dim=2).indices
            vertices = torch.arange(x.shape[2], device=x.device)[None, :, None].expand_as(neighbours)
            return torch.stack([neighbours, vertices])


class MaxRelative(nn.Module):
    """Max-relative graph convolution: (x, max over the neighbours of their difference to x) through a 1 x 1 conv."""

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.graph = KnnGraph(k)
        self.mix = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 1, groups=4), nn.BatchNorm2d(2 * width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) to (N, 2 width, h, w)."""
        n, width, h, w = x.shape
        neighbours = self.graph(x)[0]  # (N, hw, k)
        vertices = x.flatten(2).mT.reshape(n * h * w, width)
        rows = neighbours + h * w * torch.arange(n, device=x.device)[:, None, None]
        taken = vertices.index_select(0, rows.flatten()).unflatten(0, (n * h * w, -1))
        relative = taken.max(1).values - vertices
        relative = relative.reshape(n, h, w, width).permute(0, 3, 1, 2)
        return self.mix(torch.stack([x, relative], 2).flatten(1, 2))


class Grapher(nn.Module):
    """Linear, graph convolution, linear, with a shortcut; then a feed-forward network with a shortcut."""

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.graph_conv = MaxRelative(width, k)
        self.fc2 = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.BatchNorm2d(width))
        self.ffn = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1),
            nn.BatchNorm2d(2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) to the same."""
        x = x + self.fc2(self.graph_conv(self.fc1(x)))
        return x + self.ffn(x)


class ScenesViG(nn.Module):
    """Five convolutions to 14 x 14 vertices, position embedding, Grapher blocks, average pooling, one linear layer."""

    version = 1

    def __init__(self, width: int = 64, layers: int = 3, k: int = 9) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        channels = 3
        for out, stride in (*STEM, (width, 2), (width, 1)):
            stem += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.stem = nn.Sequential(*stem)
        self.position = nn.Parameter(torch.zeros(1, width, SIDE, SIDE))
        self.blocks = nn.Sequential(*(Grapher(width, k) for _ in range(layers)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised images to (N, 12) logits."""
        x = self.blocks(self.stem(x) + self.position)
        return self.fc(torch.flatten(self.avgpool(x), 1))
