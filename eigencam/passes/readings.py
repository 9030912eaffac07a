"""How a layer's output becomes a map: which of its axes count rows and columns of the image.

(N, C, h, w)    convolutional networks            Reading((2, 3))
(N, h, w, C)    Swin, ConvNeXt's inner layers     Reading((1, 2))
(N, T, C)       ViT: T = front + h w + behind     Reading((1,), (h, w), front, behind)
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layout = Literal["channels_first", "channels_last", "tokens"]
LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last", "tokens")


@dataclass(frozen=True, slots=True)
class Reading:
    """The position axes of an output whose first axis counts images.

    Attributes:
        axes: (rows, columns); or (tokens,), if one axis counts both in row-major order.
        grid: (h, w) of tokens; () if there are two axes.
        front: number of tokens before the grid's: class token, distillation token, registers.
        behind: number of tokens after the grid's.

    >>> import torch
    >>> Reading((1,), (2, 3), front=1).maps(torch.zeros(5, 7, 4)).shape
    torch.Size([5, 4, 2, 3])
    """

    axes: tuple[int, ...] = (2, 3)
    grid: tuple[int, ...] = ()
    front: int = 0
    behind: int = 0

    @property
    def layout(self) -> Layout:
        """Its name in a config."""
        return "tokens" if len(self.axes) == 1 else "channels_last" if self.axes == (1, 2) else "channels_first"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an output of this shape can be read so."""
        if len(shape) not in (3, 4) or max(self.axes) >= len(shape) or len(shape) - len(self.axes) > 2:
            return False
        return len(self.axes) == 2 or shape[self.axes[0]] == self.front + self.cells + self.behind

    @property
    def cells(self) -> int:
        """Number of the grid's tokens."""
        return self.grid[0] * self.grid[1] if self.grid else 0

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(h, w) of the map from an output of this shape."""
        rows, columns = self.grid or (shape[axis] for axis in self.axes)
        return rows, columns

    def maps(self, out: Tensor) -> Tensor:
        """(N, C, h, w), a view if possible; C = 1 for an output without channels."""
        if len(self.axes) == 1:
            tokens = out.movedim(self.axes[0], 2).narrow(2, self.front, self.cells)
            return tokens.unflatten(2, self.grid)
        moved = out.movedim(self.axes, (-2, -1))
        return moved if moved.ndim == 4 else moved[:, None]

    def output(self, maps: Tensor) -> Tensor:
        """The layer's output that `maps` (N, C, h, w) were read from. ValueError if the output holds more."""
        if self.front or self.behind:
            raise ValueError("a map of tokens is without the class token")
        if len(self.axes) == 1:
            return maps.flatten(2).movedim(2, self.axes[0])
        return maps.movedim((-2, -1), self.axes)

    def __str__(self) -> str:
        extra = [f"{k} {where}" for k, where in ((self.front, "in front"), (self.behind, "behind")) if k]
        rows = f" {self.grid[0]}x{self.grid[1]}" if self.grid else ""
        return f"{self.layout}{rows}{', ' if extra else ''}{', '.join(extra)}"


CHANNELS_FIRST = Reading((2, 3))
CHANNELS_LAST = Reading((1, 2))
