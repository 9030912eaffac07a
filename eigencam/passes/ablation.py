"""Logits with each channel of a layer left out in turn, for Ablation-CAM.

If only channel-wise operations (ReLU, pooling, flattening) lie between the layer and a linear layer z = W p + b that
all paths pass, removing channel k subtracts one block of columns: z - W_k p_k. All channels together then cost a single
product with W instead of one each; the rest of the network runs on these vectors. Otherwise, everything behind the
layer runs once per channel.

Whether the operations are channel-wise and map zeros to zeros is tested on a probe, not inferred from their names.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, fx, nn

from eigencam.passes.calls import evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.readings import CHANNELS_FIRST
from eigencam.passes.tail import between, tail

VERSIONS = {"ablation": 1}
"""Raised when a change here alters results; see `eigencam.store.versions`."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The part behind a layer: `before` returns (B, C S) vectors, then `linear`, then `after` returns the logits."""

    before: fx.GraphModule
    linear: nn.Linear
    after: fx.GraphModule


def logits_without(forward: Forward, layer: str) -> Tensor:
    """(N, C, K) float32 logits of each image with each channel of the layer's output set to zero.

    Raises:
        ValueError: the network cannot be cut at the layer.
    """
    found = (
        None
        if forward.reading(layer) != CHANNELS_FIRST
        else parts(forward.module, layer, tuple(forward.images.shape[2:]))
    )
    if found is not None:
        with evaluating(forward.module), torch.no_grad():
            if channelwise(found.before, forward.activations(layer)[:2].to(forward.images.dtype)):
                return _by_columns(forward, forward.activations(layer), found)
    return _by_passes(forward, forward.activations(layer), layer)


def _by_passes(forward: Forward, activations: Tensor, layer: str) -> Tensor:
    n, c = activations.shape[:2]

    def without(part: slice) -> Tensor:
        place = torch.arange(part.start, part.stop, device=activations.device)
        inputs = activations[place // c]
        inputs[torch.arange(len(place)), place % c] = 0
        return inputs

    return forward.predict(n * c, without, layer).view(n, c, -1)


def _by_columns(forward: Forward, activations: Tensor, parts: Parts) -> Tensor:
    n, c = activations.shape[:2]
    vectors = parts.before(activations.to(forward.images.dtype))
    z = parts.linear(vectors)
    blocks, columns = vectors.unflatten(1, (c, -1)), parts.linear.weight.unflatten(1, (c, -1))
    # number of vectors that take the memory of a chunk of images
    step = max(1, forward.chunk * forward.images[0].numel() // (n * z.shape[1]))
    logits = []
    for x, w in zip(blocks.split(step, 1), columns.split(step, 1), strict=True):
        less = torch.bmm(x.transpose(0, 1), w.permute(1, 2, 0)).transpose(0, 1)  # (N, step, outputs)
        rest = (z[:, None] - less).flatten(0, 1)
        logits.append(network_logits(parts.after, rest).float().unflatten(0, (n, -1)))
        forward.progress(len(rest))
    return torch.cat(logits, 1)


@lru_cache(maxsize=2)
def parts(module: nn.Module, layer: str, size: tuple[int, int]) -> Parts | None:
    """Return the parts behind a layer; None if a path bypasses the first linear layer.

    Args:
        module: the network.
        layer: `named_modules()` path.
        size: (height, width) of the network's input.
    """
    cut = tail(module, layer, size)
    start = next(node for node in cut.graph.nodes if node.op == "call_method" and node.target == "clone")
    calls = ((node, cut.get_submodule(str(node.target))) for node in cut.graph.nodes if node.op == "call_module")
    for node, linear in calls:
        if isinstance(linear, nn.Linear) and isinstance(node.args[0], fx.Node):
            (output,) = (node for node in cut.graph.nodes if node.op == "output")
            before, after = between(module, start, node.args[0]), between(module, node, output)
            return Parts(before, linear, after) if before and after else None
    return None


def channelwise(before: nn.Module, like: Tensor) -> bool:
    """Whether block k of (B, C S) depends only on channel k of (B, C, h, w), and zeros give zeros.

    Tested for each batch: whether a batch norm maps zeros to zeros depends on its weights, which may have changed.
    """
    probe, kept = _probe(tuple(like.shape), like.device, like.dtype)
    whole = before(probe)
    if whole.ndim != 2 or whole.shape[1] % len(kept):
        return False
    blocks = whole.unflatten(1, (len(kept), -1))
    same = [(before(probe * m[:, None, None]) == (blocks * m[:, None]).flatten(1)).all() for m in (kept, ~kept)]
    return bool(torch.stack(same).all())


@lru_cache(maxsize=4)
def _probe(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Noise (B, C, h, w), and (C,) bool of half the channels."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        noise = torch.randn(shape, generator=generator).to(device, dtype)
        return noise, (torch.rand(shape[1], generator=generator) < 0.5).to(device)
