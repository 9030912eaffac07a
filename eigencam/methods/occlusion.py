r"""Occlusion (Zeiler & Fergus, ECCV 2014): how much the score drops when a window of the image is hidden.

The window has the mean colour. A pixel's value is the mean drop over the windows that cover it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.scorecam import SCORES, Score
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Occlusion by a square `window` that moves by `stride`, both in pixels of the network's input."""

    window: int = 32
    stride: int = 16
    score: Score = "probability"

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zeiler & Fergus, ECCV 2014"
    needs: ClassVar[str] = "(H / stride)^2 forwards"

    def __post_init__(self) -> None:
        one_of(self, "score", SCORES)
        at_least(self, 1, "window", "stride")
        if self.stride > self.window:  # no window would cover the pixels between
            raise ValueError(f"stride={self.stride}, window={self.window}; allowed: a stride up to the window")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed: positive where hiding lowers the score."""
        images = forward.images
        n, _, h, w = images.shape
        ends = (max(side - self.window, 0) + self.stride for side in (h, w))
        ys, xs = (torch.arange(0, end, self.stride, device=images.device) for end in ends)
        top, left = (corner.flatten() for corner in torch.meshgrid(ys, xs, indexing="ij"))
        rows = torch.arange(h, device=images.device)
        columns = torch.arange(w, device=images.device)
        covered_rows = (rows >= top[:, None]) & (rows < top[:, None] + self.window)  # (M, H)
        covered_columns = (columns >= left[:, None]) & (columns < left[:, None] + self.window)

        def hidden(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            window = place // n
            covered = covered_rows[window, :, None] & covered_columns[window, None]
            return images[place % n].masked_fill(covered[:, None], 0)

        logits = forward.predict(len(top) * n, hidden)
        before, after = forward.logits, logits
        if self.score == "probability":
            before, after = before.softmax(1), after.softmax(1)
        after = after.gather(1, targets.repeat(len(top))[:, None]).view(-1, n)
        drop = before.gather(1, targets[:, None])[:, 0] - after  # (M, N)
        total = torch.einsum("mn,mh,mw->nhw", drop, covered_rows.float(), covered_columns.float())
        times = torch.einsum("mh,mw->hw", covered_rows.float(), covered_columns.float())
        return total / times.clamp(min=1)
