"""Layers that return several tensors: one of them is named by its place, such as `backbone:0` or `head:boxes`.

The part before the first colon is the `named_modules()` path. Each further part is a position in, or a key of, the
tuple, list or mapping that the module returns, and then of what is inside it.

>>> [name for name, _ in items((torch.zeros(1), {"a": torch.zeros(2)}), "neck")]
['neck:0', 'neck:1:a']
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

MARK = ":"


def module_path(layer: str) -> str:
    """Return the path of the module that returns a layer's tensor."""
    return layer.partition(MARK)[0]


def items(output: Any, layer: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a module returns, with their layer names; a single tensor has the module's own name."""
    if isinstance(output, Tensor):
        yield layer, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from items(value, f"{layer}{MARK}{key}")
    elif isinstance(output, list | tuple):
        for position, value in enumerate(output):
            yield from items(value, f"{layer}{MARK}{position}")


def replaced(output: Any, layer: str, change: Callable[[str, Tensor], Tensor | None]) -> Any:
    """Return a module's output with some of its tensors changed.

    Args:
        output: the module's output.
        layer: its name.
        change: called with each tensor and its name; the result, unless None, replaces the tensor.
    """
    if isinstance(output, Tensor):
        made = change(layer, output)
        return output if made is None else made
    if isinstance(output, Mapping):
        changed = {key: replaced(value, f"{layer}{MARK}{key}", change) for key, value in output.items()}
        if all(changed[key] is output[key] for key in output):
            return output
        return type(output)(changed)  # type: ignore[call-arg]  # dict, OrderedDict and their kin
    if isinstance(output, list | tuple):
        parts = [replaced(value, f"{layer}{MARK}{k}", change) for k, value in enumerate(output)]
        if all(part is value for part, value in zip(parts, output, strict=True)):
            return output
        named = hasattr(output, "_fields")  # a named tuple
        return type(output)(*parts) if named else type(output)(parts)
    return output


def hook_output(
    module: nn.Module, layer: str, hook: Callable[[nn.Module, Any, Tensor], Tensor | None]
) -> RemovableHandle:
    """Register a forward hook on a layer's tensor, whether it is the module's whole output or an item of it.

    Args:
        module: the network.
        layer: the layer; calls of its module that do not return the item are ignored.
        hook: as torch's, but called with the single tensor.
    """
    path = module_path(layer)

    def see(inner: nn.Module, given: Any, out: Any) -> Any:
        return replaced(out, path, lambda name, tensor: hook(inner, given, tensor) if name == layer else None)

    return dict(module.named_modules())[path].register_forward_hook(see)
