r"""Dual cross-current network (Xiao et al., arXiv 2405.04093, "DCNN"): parallel convolutional and token streams.

    stem    conv 7/2, max-pool 3/2                           -> 64 x H/4 x W/4
    block 1 SC(64 -> C); tokens = conv 4/4 of the stem, with a class token in front; a transformer block
    blocks 2 to depth, C channels in the first third, 2C in the second, 4C in the last, stride 2 at either change:
       x, z = SC(x)              z: the input of SC's last 1 x 1 convolution
       t = block(t + s)          s: z through 1 x 1, averaged to the tokens' grid, LN, GELU; t's class token in front
       u = ReLU(BN(1 x 1 of t's grid)), enlarged to z's size (nearest)
       x = SC(x), which adds u after its first convolution; of stride 2 in the last block
    logits  fc(mean of x) + fc(LN(t)'s class token)

SC is a 1 x 1 convolution to a quarter of the channels, a depthwise 9 x 9 one with a shortcut, a 1 x 1 with the stride,
and a 1 x 1 to all channels. Each is followed by GELU and then batch normalisation, and a shortcut spans them all. Since
s has t's class token in front and is added to t, each block doubles the class token.

This is the network that the authors' code builds (92dun/DCNN@66921ac), with the same names, so that its weights load.
For 1000 classes it has 52,676,208 parameters, the 52.68 M of its page. The paper explains its name by the concatenation
with the previous stage. In the code this depends on an argument that is never passed, so it is not built here either.
The authors train with the mean of the two heads' cross-entropies; logits are the sum of the heads, as in their
evaluation.

`model=dual_cross_small` is the same network scaled down (0.68 million parameters), for fine-grained scenes.

For maps: `conv_trans_12` returns the last map and the tokens. `conv_trans_12.fusion_block` is what the convolutional
head averages (7 x 7 for 224 pixels), `trans_norm` the tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, GELU, then batch normalisation; a depthwise convolution has a bias, as in the authors' code."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=groups > 1)
    return nn.Sequential(conv, nn.GELU(), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """A function plus its input."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.fn(x) + x


class SCBlock(nn.Module):
    """SC; see the module."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, shortcut: bool = False) -> None:
        super().__init__()
        inner = outputs // 4
        self.in_block = convolution(inputs, inner)
        self.depth_block = Residual(convolution(inner, inner, 9, groups=inner))
        self.point_block = convolution(inner, inner, stride=stride)
        self.out_block = convolution(inner, outputs)
        self.residual_block = convolution(inputs, outputs, stride=stride) if shortcut else nn.Identity()

    def halves(self, x: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output and the input of the last convolution; `more` is added after the first one."""
        inner = self.in_block(x)
        inner = self.point_block(self.depth_block(inner if more is None else inner + more))
        return self.out_block(inner) + self.residual_block(x), inner

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """(N, outputs, h, w)."""
        return self.halves(x, more)[0]


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) of the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with a GELU."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, int(ratio * width)), nn.Linear(int(ratio * width), width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) of the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A transformer block, with normalisation before each part."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) of the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Down(nn.Module):
    """Turns a map into tokens, with the class token of the other tokens in front."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv_proj, self.ln_proj = nn.Conv2d(channels, width, 1), nn.LayerNorm(width, eps=1e-6)
        self.stride = stride

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(N, 1 + T, width) of a map (N, channels, h, w) and tokens (N, 1 + T, width)."""
        made = F.avg_pool2d(self.conv_proj(x), self.stride).flatten(2).mT
        return torch.cat([tokens[:, :1], F.gelu(self.ln_proj(made))], 1)


class Up(nn.Module):
    """Turns tokens into a map."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv_proj, self.bn_proj = nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels, eps=1e-6)

    def forward(self, tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """(N, channels, *size) of tokens (N, 1 + T, width), T of which form the grid."""
        made = tokens[:, 1:].mT.unflatten(2, grid)
        return F.interpolate(F.relu(self.bn_proj(self.conv_proj(made))), size)


class ConvTransBlock(nn.Module):
    """Both streams, and the connections between them."""

    def __init__(
        self, inputs: int, outputs: int, pooling: int, width: int, heads: int, ratio: float, *, last: bool
    ) -> None:
        super().__init__()
        grows = inputs != outputs
        self.cnn_block = SCBlock(inputs, outputs, 1 + grows, shortcut=grows)
        self.fusion_block = SCBlock(outputs, outputs, 1 + last, shortcut=last)
        self.squeeze_block = Down(outputs // 4, width, pooling)
        self.expand_block = Up(width, outputs // 4)
        self.trans_block = Block(width, heads, ratio)
        self.pooling = pooling

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The map and the tokens."""
        x, inner = self.cnn_block.halves(x)
        tokens = self.trans_block(self.squeeze_block(inner, tokens) + tokens)
        size = inner.shape[2], inner.shape[3]
        up = self.expand_block(tokens, (size[0] // self.pooling, size[1] // self.pooling), size)
        return self.fusion_block(x, up), tokens


class DualCrossCurrent(nn.Module):
    """The network; see the module.

    Args:
        num_classes: number of classes of both heads.
        channels: C.
        width: width of the tokens.
        heads: number of attention heads.
        depth: number of blocks, a multiple of 3.
        mlp_ratio: width of the MLPs over that of the tokens.
    """

    version = 1
    summed_heads = ("conv_cls_head", "trans_cls_head")

    def __init__(
        self,
        num_classes: int = 1000,
        channels: int = 128,
        width: int = 576,
        heads: int = 6,
        depth: int = 12,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if depth < 6 or depth % 3 or channels % 4 or width % heads:
            raise ValueError(
                f"depth={depth}, channels={channels}, width={width}, heads={heads}; allowed: a depth of 6, 9, 12, ...; "
                "channels in fours; a width that the heads divide"
            )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.conv_1 = SCBlock(64, channels, shortcut=True)
        self.trans_patch_conv = nn.Conv2d(64, width, 4, 4)
        self.trans_1 = Block(width, heads, mlp_ratio)
        self.depth, before = depth, channels
        for i in range(2, depth + 1):
            stage = (i - 1) // (depth // 3)
            block = ConvTransBlock(before, channels << stage, 4 >> stage, width, heads, mlp_ratio, last=i == depth)
            self.add_module(f"conv_trans_{i}", block)
            before = channels << stage
        self.trans_norm, self.trans_cls_head = nn.LayerNorm(width), nn.Linear(width, num_classes)
        self.conv_cls_head = nn.Linear(before, num_classes)
        self.apply(_begin)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K) logits of the convolutional and of the token head; height and width must be multiples of 16."""
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        x = self.conv_1(stem)
        grid = self.trans_patch_conv(stem).flatten(2).mT
        tokens = self.trans_1(torch.cat([self.cls_token.expand(len(images), -1, -1), grid], 1))
        for i in range(2, self.depth + 1):
            x, tokens = self.get_submodule(f"conv_trans_{i}")(x, tokens)
        return self.conv_cls_head(x.mean((2, 3))), self.trans_cls_head(self.trans_norm(tokens)[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) the sum of both heads' logits."""
        convolutional, of_tokens = self.both(images)
        return convolutional + of_tokens


def _begin(module: nn.Module) -> None:
    """Initialize the weights as the authors do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
