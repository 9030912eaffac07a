"""Follows the image's positions and the flow of values through every operation that a network runs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from eigencam.passes.dispatch_mode import DispatchMode
from eigencam.passes.position_rules import RULES, Call, lost, pointwise, tensors
from eigencam.passes.positions import NOTHING, Axes


class Positions(DispatchMode):
    """Tracks which coordinates of `images`, (N, C, H, W), each axis of a value counts, and what it was computed from.

    Attributes:
        sources: values are numbered in the order in which they are computed, from 0, the images; `sources[k]` has the
            numbers of the values that value k was computed from.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        n, _, h, w = (np.arange(size, dtype=float) for size in images.shape)
        self.sources: list[tuple[int, ...]] = [()]
        self._number = WeakTensorKeyDictionary({images: 0})
        self._axes = WeakTensorKeyDictionary({images: ((n, None, None), NOTHING, (None, h, None), (None, None, w))})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        read = [t for t in tensors([args, kwargs]) if t in self._number]
        if read and not name.endswith("_like") and not name.startswith("new_"):
            numbers = tuple(dict.fromkeys(self._number[t] for t in read))
            for tensor, axes in zip(tensors(out), self._followed(func, name, args, kwargs, out), strict=True):
                self._put(tensor, axes, numbers)
            first = func._schema.arguments[0].alias_info if func._schema.arguments else None
            if first is not None and first.is_write:
                for base in (t._base for t in tensors(args[0])):  # `_foreach_` operations write into a list
                    if base is not None:
                        self._written(base, numbers, kept=torch.Tag.pointwise in func.tags)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's own would import its compiler, which takes seconds

    def axes(self, tensor: Tensor) -> Axes | None:
        """Return a value's axes; None if it does not depend on the images."""
        return self._axes.get(tensor)

    def number(self, tensor: Tensor) -> int | None:
        """Return a value's number in `sources`; None if it does not depend on the images."""
        return self._number.get(tensor)

    def _put(self, tensor: Tensor, axes: Axes, sources: tuple[int, ...]) -> None:
        self.sources.append(sources)
        self._number[tensor] = len(self.sources) - 1
        self._axes[tensor] = axes

    def _written(self, base: Tensor, sources: tuple[int, ...], *, kept: bool) -> None:
        """Record a write into a view of `base`, which then depends on `sources` too; it keeps its axes if `kept`."""
        before = self._number.get(base)
        axes = self._axes.get(base) if kept else None
        self._put(base, axes or lost(base), sources if before is None else (*sources, before))

    def _followed(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> list[Axes]:
        made = tensors(out)
        rule = RULES.get(name) or (pointwise if torch.Tag.pointwise in func.tags else None)
        if rule is None:
            return [lost(t) for t in made]
        axes = rule(
            Call(
                args,
                kwargs,
                out,
                axes=lambda t: self._axes.get(t) or (NOTHING,) * t.ndim,
                number=lambda t: self._number.get(t) or 0,
            )
        )
        each = axes if isinstance(axes, list) else [axes, *(lost(t) for t in made[1:])]
        return [a if len(a) == t.ndim else lost(t) for a, t in zip(each, made, strict=True)]
