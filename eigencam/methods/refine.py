r"""RefineCAM: the product of a method's maps for several layers.

RefineCAM (Domeniconi et al., arXiv 2605.14641) multiplies the maps of layers of different depth, each rectified,
scaled to 0..1 and enlarged, so a position counts where all layers agree: the deep layers say what, the shallow ones
where.

    product over the layers of U(s(ReLU(map of the layer)))          s: from minimum to maximum

* `grid: finest` enlarges to the finest of the maps after scaling, as torchcam does.
* `grid: input` enlarges to the network's input and scales once more afterwards, as pytorch-grad-cam does: a map's
  largest value, which enlarging had lowered, is 1 again (`refinecam_input`).

The base of both is Grad-CAM++ (`method`), or any method that has a `layer`. `layers` names two or more; if it is empty,
they are the network's stages (`eigencam.methods.stages`), in a separate pass.
One layer named twice gives the square. A position that is 0 in one layer is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.base import Method, is_class_specific, needs_gradient
from eigencam.methods.parameter_checks import one_of
from eigencam.methods.scorecam import unit
from eigencam.methods.stages import stages, stages_of
from eigencam.methods.wrapping import Wrapping
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Grid = Literal["finest", "input"]
GRIDS: tuple[Grid, ...] = ("finest", "input")


@dataclass(frozen=True, slots=True)
class RefineCAM(Wrapping):
    """RefineCAM of `method` over `layers`; empty: over the network's stages."""

    method: Method
    layers: Sequence[str] = ()  # type: ignore[assignment]
    grid: Grid = "finest"

    version = 1
    paper: ClassVar[str] = "Domeniconi et al., arXiv 2026"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "with maps of several sizes, or layers that are named"

    def __post_init__(self) -> None:
        one_of(self, "grid", GRIDS)
        if len(self.layers) == 1:
            raise ValueError(f"layers={list(self.layers)}; allowed: two or more, or none for the network's stages")
        if not is_dataclass(self.method) or "layer" not in {f.name for f in fields(self.method)}:
            raise ValueError(f"method={type(self.method).__name__}; allowed: a method that has a `layer`")

    @property
    def needs_gradient(self) -> bool:
        """Whether the shared pass has to provide gradients, as it does for named layers."""
        return bool(self.layers) and needs_gradient(self.method)

    @property
    def differentiates(self) -> str:
        """The layers' outputs, if the method differentiates."""
        return "layer" if needs_gradient(self.method) and is_class_specific(self.method) else ""

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 in 0..1."""
        names, current = self.layers, forward
        if not names:
            found = stages(forward)
            names, current = tuple(found), forward.repeat(forward.images, found, gradients=needs_gradient(self.method))
            current.seeds = forward.seeds
        maps = [unit(self._map(name, current, targets).relu())[:, None] for name in names]
        finest = max(tuple(m.shape[2:]) for m in maps)
        size = tuple(forward.images.shape[2:]) if self.grid == "input" else finest
        product = maps[0].new_ones(len(forward), *size)
        for each in maps:
            enlarged = F.interpolate(each, size, mode="bilinear", align_corners=False)[:, 0]
            product = product * (unit(enlarged) if self.grid == "input" else enlarged)
        return product

    def _map(self, layer: str, forward: Forward, targets: Tensor) -> Tensor:
        method: Any = self.method
        return replace(method, layer=layer)(forward, targets)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        if not self.layers and len(stages_of(network.examined(), network.layer)) < 2:
            return f"the maps of {network.name} are of one size; name two layers or more (layers=[...])"
        return self.refusal_within(network)
