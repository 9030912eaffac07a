"""One pass with tapped layers; its hooks are removed afterwards.

The hook keeps the tensor and passes on a copy: an in-place ReLU behind the tapped layer would otherwise overwrite
the kept tensor (VGG's `features.28` is followed by one).
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.passes.calls import RefusedError, evaluating, network_logits, run_network, without_inference
from eigencam.passes.layer_items import hook_output
from eigencam.passes.readings import CHANNELS_FIRST, Reading

SEVERAL = "for a layer that returns several tensors, name one by its place (`layer:0`, `layer:key`)"


def tapped_pass(
    module: nn.Module,
    images: Tensor,
    layers: Iterable[str],
    *,
    classifier: bool = True,
    gradients: bool = False,
    readings: Mapping[str, Reading] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run `module` once.

    Args:
        module: the network.
        images: see `eigencam.passes.forward.forward_pass`, also for `classifier` and `gradients`.
        layers: to tap.
        classifier: whether there are logits.
        gradients: whether the outputs need them.
        readings: the required readings of layers, (N, C, h, w) for those not in it; None: any tensor is accepted.

    Returns:
        The logits (N, K), K = 0 without a classifier, and each layer's output as returned.

    Raises:
        ValueError: a layer's output cannot be read in this way, or the layer was not reached.
    """
    taps: dict[str, Tensor] = {}
    wanted = dict.fromkeys(layers)

    def keep(name: str, out: Tensor) -> Tensor:
        reading = None if readings is None else readings.get(name, CHANNELS_FIRST)
        if reading is not None and not reading.fits(tuple(out.shape)):
            raise RefusedError(f"layer {name!r} gives {tuple(out.shape)}, which cannot be read as a map of {reading}")
        if torch.is_inference_mode_enabled():  # by the network: such tensors have neither graph nor version
            taps[name] = without_inference(out)
            return out
        if gradients and not out.requires_grad:
            out = out.detach().requires_grad_()
        taps[name] = out
        return out.clone()

    with ExitStack() as stack:
        for name in wanted:
            stack.callback(hook_output(module, name, lambda _m, _a, out, name=name: keep(name, out)).remove)
        stack.enter_context(evaluating(module))
        # Inference mode is off: its tensors lack the version counter that reveals methods that modify them.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        images = images.clone() if images.is_inference() else images.detach()
        if classifier:
            output = without_inference(network_logits(module, images.clone()))  # the network may work in place
        else:
            run_network(module, images.clone())
            output = images.new_zeros(len(images), 0)
    if unreached := [name for name in wanted if name not in taps]:
        raise ValueError(f"the network's forward pass does not call {', '.join(unreached)}; {SEVERAL}")
    return output, taps


_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)


class Hooks:
    """The hooks on a network's modules at one time, to detect and undo later changes by other code."""

    def __init__(self, module: nn.Module) -> None:
        tables = (inner.__dict__.get(name) for inner in module.modules() for name in _HOOKS)
        self._tables: list[dict[int, Any]] = [table for table in tables if table is not None]
        self._before = [dict(table) for table in self._tables]
        self._keys = [*chain(*self._before)]

    def restore(self) -> bool:
        """Remove the hooks added since, put back those removed, and return whether anything had changed."""
        if [*chain(*self._tables)] == self._keys:
            return False
        for table, before in zip(self._tables, self._before, strict=True):
            table.clear()
            table.update(before)
        return True
