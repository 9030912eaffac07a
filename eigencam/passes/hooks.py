"""One pass with layers tapped, and its parts: hooks that are removed again, frozen parameters, logits, maps of tokens.

The hook keeps the tensor and hands on a copy: an in-place ReLU behind the tapped layer would otherwise overwrite what
was kept (VGG's `features.28` is followed by one).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

Reshape = Literal["tokens", "channels_last"]
RESHAPES: tuple[Reshape, ...] = ("tokens", "channels_last")


def as_maps(x: Tensor, reshape: Reshape | None) -> Tensor:
    """A transformer layer's output as (N, C, h, w); anything else as it is.

    `tokens`: (N, T, C), the picture's positions last and in a square; what stands before them (class token, registers)
    is dropped. `channels_last`: (N, h, w, C), as in Swin.
    """
    if reshape == "tokens" and x.ndim == 3:
        side = isqrt(x.shape[1])
        return x[:, x.shape[1] - side**2 :].mT.unflatten(2, (side, side))
    return x.permute(0, 3, 1, 2) if reshape == "channels_last" and x.ndim == 4 else x


def logits_of(output: object) -> Tensor:
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
def hooked(module: nn.Module, hook: object) -> Iterator[None]:
    """A forward hook that is removed again."""
    handle = module.register_forward_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
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


def tapped_pass(
    module: nn.Module,
    images: Tensor,
    layers: Iterable[str],
    *,
    classifier: bool = True,
    gradients: bool = False,
    reshape: Reshape | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run `module` once; see `eigencam.passes.forward.forward_pass` for the arguments.

    Returns:
        The logits (N, K), K = 0 without a classifier, and each layer's output as the layer gave it.

    Raises:
        ValueError: a layer's output is not (N, C, h, w), or the layer was not reached.
    """
    taps: dict[str, Tensor] = {}
    wanted = dict.fromkeys(layers)
    modules = dict(module.named_modules())

    def keep(name: str, out: Tensor) -> Tensor:
        if not isinstance(out, Tensor) or as_maps(out, reshape).ndim != 4:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            hint = f"; for (N, T, C) or (N, h, w, C) set model.reshape ({', '.join(RESHAPES)})" if not reshape else ""
            raise ValueError(f"layer {name!r} gives {shape}; a map needs an output of shape (N, C, h, w){hint}")
        if gradients and not out.requires_grad:
            out = out.detach().requires_grad_()
        taps[name] = out
        return out.clone()

    with ExitStack() as stack:
        for name in wanted:
            stack.enter_context(hooked(modules[name], lambda _m, _a, out, name=name: keep(name, out)))
        stack.enter_context(evaluating(module))
        # Not inference mode: its tensors have no version counter, by which a method that changes them is found out.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        images = images.clone() if images.is_inference() else images.detach()
        output = logits_of(module(images)) if classifier else module(images).flatten(1)[:, :0]
    if unreached := [name for name in wanted if name not in taps]:
        raise ValueError(f"the network's forward pass does not call {', '.join(unreached)}")
    return output, taps
