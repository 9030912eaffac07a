"""One forward pass that every method reads from.

    images ──► network ──► Forward: logits, activations[layer], gradients[layer] (one backward per target, on demand)

A forward hook hands on `out.detach().requires_grad_()` at the first tapped layer, so no graph is built below it: a
gradient method costs the forward pass plus the backward pass of the layers behind, in the memory of a forward pass.
Several classes share one forward pass.

The hook keeps the tensor and hands on a copy: an in-place ReLU behind the tapped layer would otherwise overwrite what
was kept (VGG's `features.28` is followed by one).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class Forward:
    """What a method may read of one batch; made by `forward_pass`.

    Attributes:
        module: the network, in eval mode, without hooks; for methods that need passes of their own.
        images: (N, 3, H, W), normalised, the network's dtype.
        index: (N,) int64, the pictures' positions in the dataset: the seed of whatever is random.
        logits: (N, K) float32, K = 0 for a network without a classifier.
        layer: path of the network's target layer.
    """

    def __init__(
        self, module: nn.Module, images: Tensor, index: Tensor, layer: str, output: Tensor, taps: dict[str, Tensor]
    ) -> None:
        self.module, self.images, self.index, self.layer = module, images, index, layer
        self._output, self._taps = output, taps
        self.logits = output.detach().float()
        self._gradients: tuple[Tensor, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def activations(self, layer: str | None = None) -> Tensor:
        """(N, C, h, w) float32 output of the tapped layer; of its last call where the network calls it repeatedly."""
        return self._tap(layer).detach().float()

    def gradients(self, targets: Tensor, layer: str | None = None) -> Tensor:
        """(N, C, h, w) float32, the gradient of the target's logit by the layer's output.

        Args:
            targets: (N,) int64 classes. All methods are given the same tensor and share one backward pass.
            layer: a tapped layer; the network's target layer when None.
        """
        self._tap(layer)
        if not self._output.requires_grad:
            raise RuntimeError(
                "gradients were asked of a pass made without them: set `needs_gradient = True` on the method"
            )
        if self._gradients is None or self._gradients[0] is not targets:
            with torch.inference_mode(False), torch.enable_grad():
                score = self._output.gather(1, targets[:, None].clone()).sum()  # a clone: no inference tensor
                grads = torch.autograd.grad(score, list(self._taps.values()), retain_graph=True, allow_unused=True)
            kept = {
                name: torch.zeros_like(tap) if grad is None else grad
                for (name, tap), grad in zip(self._taps.items(), grads, strict=True)
            }
            self._gradients = (targets, kept)
        return self._gradients[1][layer or self.layer].float()

    def versions(self) -> list[int]:
        """Counts the in-place changes to what all methods share; equal lists mean that nothing was changed."""
        gradients = self._gradients[1].values() if self._gradients else ()
        return [t._version for t in (self.images, self.logits, *self._taps.values(), *gradients)]

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
) -> Forward:
    """Run `module` once and keep what methods read.

    The modules' train/eval state and the parameters' `requires_grad` and `.grad` are as before when it returns.

    Args:
        module: the network; returns (N, K) logits or an object with `.logits`; anything without a classifier.
        images: (N, 3, H, W), normalised, on the network's device and of its dtype.
        layer: `named_modules()` path of the target layer.
        classifier: False for a network that ends in features: the pass then has no logits.
        layers: further layers to tap.
        gradients: whether `Forward.gradients` will be asked.
        index: (N,) int64 positions in the dataset; 0..N-1 when None.

    Raises:
        ValueError: a tapped layer's output is not (N, C, h, w), or the layer was not reached.
    """
    taps: dict[str, Tensor] = {}
    wanted = dict.fromkeys([layer, *layers])
    modules = dict(module.named_modules())

    def keep(name: str, out: Tensor) -> Tensor:
        if not isinstance(out, Tensor) or out.ndim != 4:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"layer {name!r} gives {shape}; a map needs an output of shape (N, C, h, w)")
        if gradients and not out.requires_grad:
            out = out.detach().requires_grad_()
        taps[name] = out
        return out.clone()

    with ExitStack() as stack:
        for name in wanted:
            stack.enter_context(_hook(modules[name], lambda _m, _a, out, name=name: keep(name, out)))
        stack.enter_context(_evaluating(module))
        # Not inference mode: its tensors have no version counter, by which a method that changes them is found out.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        images = images.clone() if images.is_inference() else images.detach()
        output = _logits(module(images)) if classifier else module(images).flatten(1)[:, :0]
    if unreached := [name for name in wanted if name not in taps]:
        raise ValueError(f"the network's forward pass does not call {', '.join(unreached)}")
    if index is None:
        index = torch.arange(len(images))
    return Forward(module, images, index, layer, output, taps)


def _logits(output: object) -> Tensor:
    """The (N, K) logits in whatever the network returns."""
    output = getattr(output, "logits", output)
    if isinstance(output, tuple | list):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network returns {shape}; logits (N, K) are needed, or `classes: null` in its description"
        )
    return output


@contextmanager
def _hook(module: nn.Module, hook: object) -> Iterator[None]:
    handle = module.register_forward_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters, both restored: the graph behind the tap then keeps nothing for weights."""
    modes = [(m, m.training) for m in module.modules()]
    frozen = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.eval()
        for p, _ in frozen:
            p.requires_grad_(False)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, flag in frozen:
            p.requires_grad_(flag)
