"""Layers that return several tensors: one of them is named by its place, as `backbone:0` or `head:boxes`.

What stands before the first colon is the `named_modules()` path, what follows are a position or a key of the tuple,
list or mapping that the module returns, and of what is inside of that.

>>> [name for name, _ in items((torch.zeros(1), {"a": torch.zeros(2)}), "neck")]
['neck:0', 'neck:1:a']
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

MARK = ":"


def module_path(layer: str) -> str:
    """The path of the module that returns a layer's tensor."""
    return layer.partition(MARK)[0]


def items(output: Any, layer: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module returns, by the names of the layers that they are; the module's own for a tensor."""
    if isinstance(output, Tensor):
        yield layer, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from items(value, f"{layer}{MARK}{key}")
    elif isinstance(output, list | tuple):
        for position, value in enumerate(output):
            yield from items(value, f"{layer}{MARK}{position}")


def replaced(output: Any, layer: str, change: Callable[[str, Tensor], Tensor | None]) -> Any:
    """What a module returns, with some of its tensors changed.

    Args:
        output: what it returned.
        layer: its name.
        change: is given each tensor's name, and the tensor; what it returns, unless None, takes the tensor's place.
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
    """Register a forward hook on a layer's tensor, be it all that its module returns or an item of it.

    Args:
        module: the network.
        layer: the layer; a call of its module that returns no such item is passed over.
        hook: as torch's, and given the one tensor.
    """
    path = module_path(layer)

    def see(inner: nn.Module, given: Any, out: Any) -> Any:
        return replaced(out, path, lambda name, tensor: hook(inner, given, tensor) if name == layer else None)

    return dict(module.named_modules())[path].register_forward_hook(see)
