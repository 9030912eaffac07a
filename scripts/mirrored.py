"""A control for `judge_metrics.py`: a method's map, mirrored left to right, so that it looks the same and is wrong."""

from dataclasses import dataclass

from torch import Tensor

from eigencam.methods.base import Method, maps_of
from eigencam.methods.wrapping import Wrapping
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class Mirrored(Wrapping):
    """The map of `method`, mirrored."""

    method: Method

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32."""
        return maps_of(self.method, forward, targets).flip(2)
