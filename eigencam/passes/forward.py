"""One forward pass that every method reads from.

    images ──► network ──► Forward: logits, activations[layer], gradients[layer] (one backward per target, on demand)

A forward hook replaces the output of the first tapped layer by `out.detach().requires_grad_()`, so no graph is built
before it. A gradient method costs the forward pass plus the backward pass through the layers behind it, and only
what that backward pass needs stays in memory. Several classes share one forward pass.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eigencam.passes.calls import differentiate, evaluating, network_logits
from eigencam.passes.hooks import tapped_pass
from eigencam.passes.readings import CHANNELS_FIRST, Reading
from eigencam.passes.tail import tail
from eigencam.transfer import to_device

VERSIONS = {"forward": 1}
"""Raised when a change here or in `eigencam.passes.hooks` alters a number; see `eigencam.store.versions`."""

CHUNKS = {"cpu": 16, "cuda": 64}
"""Number of inputs at a time in a method's own passes, if none is given; larger batches gain nothing on a CPU."""

T = TypeVar("T")
Gradients = dict[str, Tensor | None]  # by tapped layer; None if no gradient reaches it
Back = Callable[["Forward", Tensor], Gradients]

CUT = "the network's own forward pass cuts the graph behind that layer (torch.no_grad, detach), or does not use it"


class Forward:
    """What a method may read from one batch; made by `forward_pass`.

    Attributes:
        module: the network, in eval mode, without hooks; for methods that need passes of their own.
        images: (N, 3, H, W), normalised, the network's dtype.
        index: (N,) int64 on the host, the images' positions in the dataset: the seed of all random numbers.
        seeds: the same on the device of the images.
        logits: (N, K) float32, K = 0 for a network without a classifier.
        layer: path of the network's target layer.
        chunk: number of inputs at a time in a method's own passes; limits their memory. None: `CHUNKS`.
        progress: called with the number of inputs after each of these passes.
        readings: how tapped layers become maps, for those that are not (N, C, h, w).
        ids: the images' names in the dataset; empty if there are none.
        original: decodes image n as stored in the dataset: (H, W, 3) uint8 RGB; None without a dataset.
        regions: x0 y0 x1 y1 for each image, half-open: the part of the original that the network sees; may be empty.
        preprocess: (N, 3, H, W) uint8 RGB of any size -> float32 input of the network; None if it is not known.
        black, white: (3, 1, 1), a black and a white pixel after normalisation.
        partner: the pass of the images that these are compared with; None without pairs.
        population: size of the dataset, and a function that returns its image k as the network sees it, (3, H, W)
            uint8; None without a dataset.
    """

    def __init__(
        self,
        module: nn.Module,
        images: Tensor,
        index: Tensor,
        layer: str,
        output: Tensor,
        taps: dict[str, Tensor],
        *,
        with_graph: bool = False,
        readings: Mapping[str, Reading] | None = None,
        chunk: int | None = None,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self.module, self.images, self.index, self.layer = module, images, index, layer
        self.chunk, self.progress = chunk or CHUNKS.get(images.device.type, CHUNKS["cpu"]), progress
        self.ids: tuple[str, ...] = ()
        self.original: Callable[[int], NDArray[np.uint8]] | None = None
        self.regions: tuple[tuple[float, float, float, float], ...] = ()
        self.population: tuple[int, Callable[[int], NDArray[np.uint8]]] | None = None
        self.black = images.amin((0, 2, 3))[:, None, None]  # replaced by the network, which knows the exact value
        self.white = images.amax((0, 2, 3))[:, None, None]
        self.preprocess: Callable[[Tensor], Tensor] | None = None
        self.partner: Forward | None = None
        self._pixels: Tensor | None = None
        self._output, self._taps, self._with_graph = output, taps, with_graph
        self.readings: Mapping[str, Reading] = readings or {}
        self.logits = output.detach().float()
        self._gradients: tuple[Tensor, Gradients] | None = None
        self._source: tuple[Forward, Picked] | None = None
        self._seeds: Tensor | None = None
        self._shared: dict[Hashable, object] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixels(self) -> Tensor:
        """(N, 3, H, W) uint8 RGB, the images as the network sees them, before normalisation.

        If pixels were assigned, these are returned, so a method that segments the colours does not depend on the
        network's dtype, mean and deviation; otherwise they are recovered from `images` and rounded.
        """
        if self._pixels is None:
            black, white = self.black.float(), self.white.float()
            shares = (self.images.float() - black) / torch.where(white != black, white - black, 1.0)
            self._pixels = (255 * shares).round().clamp(0, 255).byte()
        return self._pixels

    @pixels.setter
    def pixels(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def normalized(self, pixels: Tensor) -> Tensor:
        """(N, 3, h, w) float32 input of (N, 3, h, w) uint8 RGB of any size, on the images' device."""
        pixels = pixels.to(self.images.device)
        if self.preprocess is not None:
            return self.preprocess(pixels)
        black, white = self.black.float(), self.white.float()
        return black + pixels.float() / 255 * (white - black)

    @property
    def seeds(self) -> Tensor:
        """(N,) int64: `index` on the device of the images."""
        if self._seeds is None:
            (self._seeds,) = to_device(self.images.device, self.index)
        return self._seeds

    @seeds.setter
    def seeds(self, index: Tensor) -> None:
        self._seeds = index

    def reading(self, layer: str | None = None) -> Reading:
        """Return how a layer's output becomes a map."""
        return self.readings.get(layer or self.layer, CHANNELS_FIRST)

    def maps(self, out: Tensor, layer: str | None = None) -> Tensor:
        """(N, C, h, w) float32 from a tensor of the form of a layer's output."""
        return self.reading(layer).maps(out).float().contiguous()

    def activations(self, layer: str | None = None) -> Tensor:
        """(N, C, h, w) float32 output of the tapped layer; from the last call if the network calls it repeatedly."""
        return self.maps(self._tap(layer).detach(), layer)

    def gradients(self, targets: Tensor, layer: str | None = None) -> Tensor:
        """(N, C, h, w) float32, the gradient of the target's logit with respect to the layer's output.

        Args:
            targets: (N,) int64 classes. All methods get the same tensor and share one backward pass.
            layer: a tapped layer; None: the network's target layer.
        """
        self._tap(layer)
        if not self._with_graph:
            raise RuntimeError(
                "gradients were requested from a pass made without them: set `needs_gradient = True` on the method"
            )
        if self._gradients is None or self._gradients[0] is not targets:
            self._gradients = (targets, self._backward(targets))
        gradient = self._gradients[1][layer or self.layer]
        if gradient is None:
            raise ValueError(f"no gradient of the logits reaches {layer or self.layer}: {CUT}")
        return self.maps(gradient, layer)

    def _backward(self, targets: Tensor) -> Gradients:
        """Gradients by tapped layer, None if none arrives; k backward passes for an image that is picked k times."""
        if self._source is not None:
            return self._in_rounds(*self._source, targets, lambda source, full: source._backward(full))
        with evaluating(self.module), torch.inference_mode(False), torch.enable_grad():
            score = self._output.gather(1, targets[:, None].clone()).sum()  # cloned: it may be an inference tensor
            grads = differentiate(score, list(self._taps.values()), keep=True)
        return dict(zip(self._taps, grads, strict=True))

    def backward_of(self, seed: Tensor) -> Gradients:
        """Gradients of the logits weighted by `seed` (N, K) and summed."""
        if self._source is not None:
            return self._in_rounds(*self._source, seed, lambda source, full: source.backward_of(full))
        with evaluating(self.module), torch.inference_mode(False), torch.enable_grad():
            score = (self._output * seed.to(self._output.dtype, copy=True)).sum()  # a scalar: see `differentiate`
            grads = differentiate(score, list(self._taps.values()), keep=True)
        return dict(zip(self._taps, grads, strict=True))

    def _in_rounds(self, source: "Forward", picked: "Picked", asked: Tensor, back: "Back") -> Gradients:
        """The gradients for a pass that was picked from another one, round by round; see `Picked`."""
        found: Gradients = {name: torch.zeros_like(tap) for name, tap in self._taps.items()}
        for r in range(picked.rounds):
            now = picked.round == r
            full = asked.new_zeros(len(source) + 1, *asked.shape[1:])  # the last entry is for other rounds' images
            full[torch.where(now, picked.rows, len(source))] = asked
            for name, gradient in back(source, full[:-1]).items():
                if (into := found[name]) is not None and gradient is not None:
                    these = now.view(-1, *[1] * (into.ndim - 1))
                    found[name] = torch.where(these, gradient[picked.rows], into)
                else:
                    found[name] = None
        return found

    def reaches(self, targets: Tensor, layer: str | None = None) -> bool:
        """Whether a gradient of the targets' logits reaches the layer's output."""
        return self._backward(targets)[layer or self.layer] is not None

    def pick(self, rows: Tensor, picked: "Picked | None" = None) -> "Forward":
        """This pass with some images omitted or repeated, for maps for several classes of an image.

        The activations are copied from this pass; an image that occurs k times costs k backward passes.

        Args:
            rows: (M,) int64 positions in this pass, on the host.
            picked: the same on the device, if the caller has already copied it.
        """
        listed = rows.tolist()
        picked = picked or Picked.of(listed, self.images.device)
        places = picked.rows
        taps = {name: tap.detach()[places] for name, tap in self._taps.items()}
        images, output = self.images[places], self._output.detach()[places].requires_grad_(self._output.requires_grad)
        made = Forward(
            self.module,
            images,
            self.index[rows.to(self.index.device)],
            self.layer,
            output,
            taps,
            with_graph=self._with_graph,
            readings=self.readings,
            chunk=self.chunk,
            progress=self.progress,
        )
        made.ids = tuple(self.ids[i] for i in listed) if self.ids else ()
        if original := self.original:
            made.original = lambda k: original(listed[k])
        made.regions = tuple(self.regions[i] for i in listed) if self.regions else ()
        made.black, made.white, made._source = self.black, self.white, (self, picked)
        made.preprocess, made._pixels = self.preprocess, None if self._pixels is None else self._pixels[places]
        made.population, made.partner = self.population, self.partner and self.partner.pick(rows, picked)
        return made

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, computed once in this pass, for values that several methods or evaluators need.

        >>> forward = forward_pass(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), torch.zeros(1, 3, 1, 1), "0")
        >>> forward.shared("size", lambda: 1), forward.shared("size", lambda: 2)
        (1, 1)
        """
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[return-value]

    def known(self, key: Hashable) -> object:
        """Return the value that `shared` has computed for this key, or None."""
        return self._shared.get(key)

    def predict(
        self,
        count: int,
        inputs: Callable[[slice], Tensor],
        layer: str | None = None,
        *,
        module: nn.Module | None = None,
    ) -> Tensor:
        """(count, K) float32 logits of further inputs, `chunk` at a time, without a graph.

        Args:
            count: number of inputs.
            inputs: returns those of a slice, as (B, 3, H, W) of the form of `images`; with `layer`, as (B, C, h, w)
                outputs of that layer: only the part behind it then runs (see `eigencam.passes.tail`).
            layer: where the inputs enter the network; None: at its beginning.
            module: runs in place of the network or, with `layer`, of the part behind it.

        Raises:
            ValueError: the network cannot be cut at `layer`.
        """
        if module is None:
            module = self.module if layer is None else tail(self.module, layer, tuple(self.images.shape[2:]))
        parts = []
        with evaluating(self.module), torch.no_grad():
            for start in range(0, count, self.chunk):
                batch = inputs(slice(start, min(start + self.chunk, count)))
                if layer is not None:
                    batch = self.reading(layer).output(batch)
                parts.append(network_logits(module, batch.to(self.images.dtype, copy=True)).float())
                self.progress(len(batch))
        return torch.cat(parts)

    def repeat(
        self, images: Tensor, layers: Iterable[str] = (), *, gradients: bool, module: nn.Module | None = None
    ) -> "Forward":
        """The same pass for other images (N, 3, H, W) or in another network.

        `layers` are tapped, too; a dict also says how each becomes a map, as `Forward.readings`.
        """
        again = forward_pass(
            module or self.module,
            images,
            self.layer,
            layers=layers,
            gradients=gradients,
            index=self.index,
            readings={**self.readings, **(layers if isinstance(layers, Mapping) else {})},
            chunk=self.chunk,
            classifier=self.logits.shape[1] > 0,
        )
        for kept in ("ids", "black", "white", "progress", "preprocess", "regions", "partner", "population"):
            setattr(again, kept, getattr(self, kept))
        if images is self.images:
            again.original, again._pixels = self.original, self._pixels
        again._seeds = self._seeds
        return again

    def forget_gradients(self) -> None:
        """Drop the gradients and what methods share, so that the next method computes and is timed with all of it."""
        self._gradients, self._shared = None, {}

    def forget_shared(self) -> None:
        """Drop what methods share: some of it refers to this pass, a cycle that would keep the activations alive."""
        self._shared.clear()

    def versions(self) -> list[int]:
        """Version counters of what all methods share; equal lists mean that nothing was modified in place."""
        gradients = self._gradients[1].values() if self._gradients else ()
        return [t._version for t in (self.images, self.logits, *self._taps.values(), *gradients) if t is not None]

    def _tap(self, layer: str | None) -> Tensor:
        name = layer or self.layer
        if name not in self._taps:
            raise KeyError(f"layer {name!r} was not tapped in this pass; tapped: {', '.join(self._taps)}")
        return self._taps[name]


def forward_pass(
    module: nn.Module,
    images: Tensor,
    layer: str,
    *,
    classifier: bool = True,
    layers: Iterable[str] = (),
    gradients: bool = False,
    index: Tensor | None = None,
    readings: Mapping[str, Reading] | None = None,
    chunk: int | None = None,
) -> Forward:
    """Run `module` once and keep what methods read.

    The modules' train/eval state and the parameters' `requires_grad` and `.grad` are unchanged afterwards.

    Args:
        module: the network; returns (N, K) logits or an object with `.logits`; without a classifier, anything.
        images: (N, 3, H, W), normalised, on the network's device and of its dtype.
        layer: `named_modules()` path of the target layer.
        classifier: False for a network that ends in features: the pass then has no logits.
        layers: further layers to tap.
        gradients: whether `Forward.gradients` will be called.
        index: (N,) int64 positions in the dataset; None: 0..N-1.
        readings: how layers become maps, by layer; (N, C, h, w) for layers not in it.
        chunk: see `Forward`.

    Raises:
        ValueError: a tapped layer's output cannot be read as a map, or the layer was not reached.
    """
    known, wanted = readings or {}, [layer, *layers]
    output, taps = tapped_pass(module, images, wanted, classifier=classifier, gradients=gradients, readings=known)
    index = torch.arange(len(images)) if index is None else index
    return Forward(module, images, index, layer, output, taps, with_graph=gradients, readings=known, chunk=chunk)


@dataclass(frozen=True, slots=True)
class Picked:
    """Positions, possibly repeated, on a device.

    Attributes:
        rows: (M,) int64 positions.
        round: (M,) int64: 0 for the first occurrence of each position, 1 for its first repetition, ...
        rounds: number of rounds.
    """

    rows: Tensor
    round: Tensor
    rounds: int

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> "Picked":
        """Copy them to the device."""
        on_device, nth = to_device(device, *cls.on_host(rows))
        return cls(on_device, nth, cls.count(rows))

    @staticmethod
    def on_host(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return `rows` and `round`.

        >>> tuple(numbers.tolist() for numbers in Picked.on_host([4, 4, 7, 4]))
        ([4, 4, 7, 4], [0, 1, 0, 2])
        """
        seen: Counter[int] = Counter()
        nth = []
        for row in rows:
            nth.append(seen[row])
            seen[row] += 1
        return torch.tensor(list(rows), dtype=torch.long), torch.tensor(nth, dtype=torch.long)

    @staticmethod
    def count(rows: Sequence[int]) -> int:
        """Return the number of rounds."""
        return max(Counter(rows).values(), default=0)
