"""What an evaluator may request from a method and its network besides the maps: further passes."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Again
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.states import DEGENERATE
from eigencam.methods.base import Method, is_class_specific, maps_of, needs_gradient, tapped
from eigencam.networks import randomized
from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.prediction_states import answer_states
from eigencam.transfer import to_host

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchProbe:
    """`eigencam.evaluation.base.Probe` of one batch and one method."""

    forward: Forward
    method: Method
    targets: Tensor
    score_maps: Sequence[ScoreMap] = ()
    truths: Sequence[Truth] = ()
    beside: Sequence[Method] = ()  # the other methods of the batch, which share further passes
    follows: bool = False  # whether the maps are for the predicted classes

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W), normalised."""
        return self.forward.images

    @property
    def black(self) -> Tensor:
        """(3, 1, 1)."""
        return self.forward.black

    @property
    def white(self) -> Tensor:
        """(3, 1, 1)."""
        return self.forward.white

    @property
    def logits(self) -> Tensor:
        """(N, K) float32."""
        return self.forward.logits

    def predict(self, count: int, inputs: Callable[[slice], Tensor]) -> Tensor:
        """(count, K) float32 logits."""
        return self.forward.predict(count, inputs)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed once for all methods."""
        return self.forward.shared(key, make)

    def explain(self, images: Tensor) -> Tensor:
        """(N, h, w) maps of other images."""
        again = self.forward.repeat(images, tapped(self.method), gradients=needs_gradient(self.method))
        return maps_of(self.method, again, self.targets)

    def explain_classes(self, classes: Tensor) -> Tensor:
        """(N, h, w) maps of the same images for other classes."""
        return maps_of(self.method, self.forward, classes)

    def differentiable(self, images: Tensor) -> Tensor:
        """(B, K) float32 logits with a graph."""
        with evaluating(self.forward.module):
            return network_logits(self.forward.module, images.to(self.images.dtype)).float()

    def again(self, key: Hashable, images: Tensor) -> Again:
        """Maps of changed images from a pass that all methods share."""
        other = self._other(key, images=images)
        if not self.follows:
            return Again(self._maps(other, self.targets), other.logits)
        # The same tensor for all methods: they share its backward pass.
        targets, states = other.shared("predicted", lambda: (other.logits.argmax(1), answer_states(other.logits)))
        lost = [n for n, state in enumerate(states) if state in DEGENERATE and is_class_specific(self.method)]
        maps = self._maps(other, targets)
        if lost:
            maps = maps.copy()
            maps[lost] = np.nan
        return Again(maps, other.logits)

    def randomised(self, order: str, stages: int, seed: int) -> list[tuple[str, NDArray[np.float32]]]:
        """Maps in networks with reinitialised layers, one shared pass for each network."""
        shape = tuple(self.images.shape[2:])
        made = randomized.randomised(self.forward.module, order, stages, seed, shape)
        maps = [
            self._on_device(self._other((order, stages, seed, stage), module=module), self.targets)
            for stage, (_, module) in enumerate(made)
        ]
        return [(name, m.numpy()) for (name, _), m in zip(made, to_host(*maps)(), strict=True)]

    def reweighted(self, weights: str) -> NDArray[np.float32]:
        """Maps in the network with the weights of another file, from a shared pass."""
        other = self._other((weights,), module=randomized.reweighted(self.forward.module, weights))
        return self._maps(other, self.targets)

    def _other(self, key: Hashable, images: Tensor | None = None, module: nn.Module | None = None) -> Forward:
        """A further pass of the batch, with everything that its methods need."""
        methods = (self.method, *self.beside)

        def make() -> Forward:
            layers = [layer for method in methods for layer in tapped(method)]
            gradients = any(needs_gradient(method) for method in methods)
            shown = self.images if images is None else images.to(self.images.dtype)
            return self.forward.repeat(shown, layers, gradients=gradients, module=module)

        return self.forward.shared(("pass", key), make)

    def _maps(self, forward: Forward, targets: Tensor) -> NDArray[np.float32]:
        return to_host(self._on_device(forward, targets))()[0].numpy()

    def _on_device(self, forward: Forward, targets: Tensor) -> Tensor:
        forward.progress = self.forward.progress
        return maps_of(self.method, forward, targets).float()
