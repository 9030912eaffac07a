"""A simulated GPU for tests: tensors that hold data on the CPU and claim to be on cuda:0.

Every operation runs on the CPU and is recorded. As on a GPU, tensors of two devices do not mix, NumPy accepts no tensor
of the device, and a copy to the host without a wait is not valid yet: it contains NaN or the type's lowest value until
the program waits. A `Ledger` counts what costs time on a real GPU: operations, copies in and out, and waits, during
which the host is idle until the device has finished all its work.

    with pretend_gpu() as ledger:
        network = load_network(description, device="cuda")
        ...
    ledger.waits

torch's FakeTensorMode simulates devices, too, but its tensors have no data, so code that reads a number cannot run on
it. The device underneath is `meta`, which backward passes run on without a driver. Forward derivatives
(`torch.func.jvp`) do not run on it.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
ROOT = Path(__file__).parents[1]
ROOMS = tuple(str(ROOT / room) for room in ("eigencam", "evaluation", "datasets"))

WAITING = frozenset(
    {
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
        *("_linalg_eigh", "_linalg_eigvals", "_linalg_svd", "_linalg_check_errors"),
        *("linalg_eig", "linalg_lstsq", "linalg_matrix_rank", "multinomial"),
    }
)
"""Operations that need a number on the host before they return."""

INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})


class MixedDevicesError(RuntimeError):
    """What a real GPU refuses."""


@dataclass(slots=True)
class Ledger:
    """The record of everything that the device was asked to do.

    Attributes:
        operations: by name.
        copies_in: from the host, by whether the host waits (`waiting`) or not (`free`).
        copies_out: to the host, likewise.
        waits: by kind, including copies that the host waits for.
        doubles: operations that made float64 numbers on the device, by name.
        where: lines of ours by kind of wait or copy.
    """

    operations: Counter[str] = field(default_factory=Counter)
    copies_in: Counter[str] = field(default_factory=Counter)
    copies_out: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    doubles: Counter[str] = field(default_factory=Counter)
    where: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """The four sums that must not grow with the batch."""
        kinds = ("operations", "copies_in", "copies_out", "waits")
        return {kind: getattr(self, kind).total() for kind in kinds}

    def clear(self) -> None:
        """Begin anew."""
        for counter in (self.operations, self.copies_in, self.copies_out, self.waits, self.doubles, self.where):
            counter.clear()


class _Device:
    """The state of the simulated device: its ledger, pinned memory, and copies that have not arrived."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.pinned: dict[int, Tensor] = {}
        self.arriving: list[tuple[Tensor, Tensor]] = []

    def wait(self, kind: str) -> None:
        """Wait: all work is done, and all copies have arrived."""
        self.ledger.waits[kind] += 1
        if not kind.startswith("copy"):  # these are recorded by direction
            self.ledger.where[f"{kind}: {_line()}"] += 1
        for out, value in self.arriving:
            out.copy_(value)
        self.arriving.clear()

    def copy(self, source: Tensor, made: Tensor, *, out: bool, free: bool) -> Tensor:
        """Record a copy; return what its destination holds now."""
        direction, way = (self.ledger.copies_out, "out") if out else (self.ledger.copies_in, "in")
        free = free and (out or self.is_pinned(source))
        direction["free" if free else "waiting"] += 1
        self.ledger.where[f"copy {way}: {_line()}"] += 1
        if not free:
            self.wait(f"copy {way}")
        elif out:
            empty = torch.empty_like(made)
            nothing = torch.nan if made.is_floating_point() else 0 if made.dtype == torch.bool else _lowest(made)
            self.arriving.append((empty.fill_(nothing), made.clone()))
            return empty
        return made

    def pin(self, tensor: Tensor) -> Tensor:
        """Mark a tensor's memory as pinned."""
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the tensor is in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self.pinned


_DEVICE = _Device()


class OnDevice(torch.Tensor):
    """A tensor of the simulated device."""

    data_here: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=META,
            requires_grad=False,
        )
        made.data_here = data
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_kwargs: Any) -> str:
        return f"OnDevice({self.data_here})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _line() -> str:
    """The innermost line of our code that is running."""
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_filename.startswith(ROOMS):
            return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"
    return "elsewhere"


def _lowest(tensor: Tensor) -> int:
    return int(torch.iinfo(tensor.dtype).min)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's arguments, including those in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _here(value: Any) -> Any:
    """The data of a tensor of the device, and of those in a list."""
    if isinstance(value, OnDevice):
        return value.data_here
    return type(value)(map(_here, value)) if isinstance(value, list | tuple) else value


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the CPU, as the device would."""
    name = func._schema.name.split("::")[-1]
    kwargs = dict(kwargs)
    tensors = list(_tensors((*args, *kwargs.values())))
    on_device = [t for t in tensors if isinstance(t, OnDevice)]
    asked = kwargs.get("device")
    asked = torch.device(asked) if asked is not None else None
    goes_there = bool(on_device) if asked is None else asked.type in ("meta", "cuda")
    if name == "_to_copy":
        return _moved(func, args[0], kwargs, goes_there)
    if name == "copy_":
        return _copied(args, kwargs)
    if func is torch.ops.prim.device.default:
        return CUDA
    if not on_device and not goes_there:
        pinned = kwargs.pop("pin_memory", None)
        made = func(*args, **kwargs)
        return _DEVICE.pin(made) if pinned else made
    if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):  # a view is free
        _DEVICE.ledger.operations[name] += 1
    _refuse_mixed(name, args, on_device, [t for t in tensors if not isinstance(t, OnDevice)])
    _note_waits(name, args, kwargs)
    if name == "_fused_sdp_choice":
        return 0  # the kernel made of plain operations: the fused ones of the CPU are not the device's
    kwargs.pop("pin_memory", None)
    if "device" in kwargs:
        kwargs["device"] = CPU
    made = func(*map(_here, args), **{key: _here(value) for key, value in kwargs.items()})
    return _there(made, {id(t.data_here): t for t in on_device}, name) if goes_there else made


def _there(value: Any, same: Mapping[int, Tensor], name: str) -> Any:
    """One or several results as tensors of the device; for an in-place operation, the tensor that was changed."""
    if isinstance(value, list | tuple):
        return type(value)(_there(one, same, name) for one in value)
    if not isinstance(value, Tensor) or isinstance(value, OnDevice):
        return value
    if id(value) in same:
        return same[id(value)]
    if value.dtype == torch.float64:
        _DEVICE.ledger.doubles[f"{name}: {_line()}"] += 1
    return OnDevice(value)


def _moved(func: Any, source: Tensor, kwargs: dict[str, Any], goes_there: bool) -> Tensor:
    was_there = isinstance(source, OnDevice)
    free = bool(kwargs.pop("non_blocking", False))
    kwargs.pop("pin_memory", None)
    data = _here(source)
    made = func(data, **(kwargs | ({"device": CPU} if kwargs.get("device") is not None else {})))
    if made.untyped_storage().data_ptr() == data.untyped_storage().data_ptr():
        made = made.clone()
    if was_there == goes_there:
        if goes_there:
            _DEVICE.ledger.operations["_to_copy"] += 1
    else:
        made = _DEVICE.copy(data, made, out=was_there, free=free)
    return _there(made, {}, "_to_copy") if goes_there else made


def _copied(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    into, source = args[0], args[1]
    free = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    values, there = _here(source), isinstance(into, OnDevice)
    if there == isinstance(source, OnDevice):
        _DEVICE.ledger.operations["copy_"] += there
    elif values.dim() or not there:  # a number of the host is passed with the launch
        values = _DEVICE.copy(values, values, out=not there, free=free and (there or _DEVICE.is_pinned(into)))
    _here(into).copy_(values)
    return into


def _refuse_mixed(name: str, args: Sequence[Any], on_device: Sequence[Tensor], on_host: Sequence[Tensor]) -> None:
    """Raise MixedDevicesError for what CUDA refuses. Indices on the host are copied; numbers are passed with the
    launch."""
    large = [t for t in on_host if t.dim() > 0]
    if not on_device or not large:
        return
    shapes = [tuple(t.shape) for t in large]
    if name not in INDEXING:
        raise MixedDevicesError(f"{name}: tensors on cuda:0 and on cpu, {shapes}")
    values = args[2:3] if name not in ("index", "_unsafe_index") else ()
    if not isinstance(args[0], OnDevice) or any(value is t for value in values for t in large):
        raise MixedDevicesError(f"{name}: a tensor on cpu indexed with, or filled from, one on cuda:0, {shapes}")
    for index in large:
        _DEVICE.copy(index, index, out=False, free=False)


def _note_waits(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if name in WAITING:
        _DEVICE.wait(name)
    if name in INDEXING:
        masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        filled = name not in ("index", "_unsafe_index") and args[2].numel() == 1  # becomes masked_fill
        for _ in () if filled else masks:
            _DEVICE.wait("boolean index")
    if name == "repeat_interleave" and "output_size" not in kwargs:
        _DEVICE.wait(name)


class _Dispatch(TorchDispatchMode):
    """Sees operations without a tensor of the device: those that create one, or copy one there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _is_cuda(value: object) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")
    )


class _Functions(TorchFunctionMode):
    """Replaces the device's name by that of the underlying device, and emulates what torch does below dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if args and isinstance(args[0], OnDevice):
            if name in ("numpy", "__array__", "__dlpack__"):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            if name in ("tolist", "item"):
                _DEVICE.wait(name)
                return func(args[0].data_here)
            if name in ("new_tensor",):
                args, kwargs = args[1:], {"dtype": args[0].dtype, **kwargs, "device": CUDA}
                func, name = torch.tensor, "tensor"
        elif name in ("pin_memory", "is_pinned") and args:
            return _DEVICE.pin(args[0].clone()) if name == "pin_memory" else _DEVICE.is_pinned(args[0])
        if func is torch.device or not any(map(_is_cuda, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if name in ("tensor", "as_tensor"):
            rest = {key: value for key, value in kwargs.items() if key != "device"}
            made = func(*[a for a in args if not _is_cuda(a)], **rest)
            return made if isinstance(made, OnDevice) else made.to("meta")
        underneath = [META if _is_cuda(a) else a for a in args]
        return func(*underneath, **{key: META if _is_cuda(a) else a for key, a in kwargs.items()})


class _Mark:
    """A stream or event; waiting for it is recorded."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def record(self, *_args: Any) -> None: ...

    def wait_stream(self, *_args: Any) -> None: ...

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        _DEVICE.wait("synchronize")


@contextmanager
def pretend_gpu() -> Iterator[Ledger]:
    """Make `cuda` a device inside the block. Blocks do not nest; threads started inside see no device."""
    global _DEVICE
    _DEVICE = _Device()
    wait: Callable[..., None] = lambda *_args: _DEVICE.wait("synchronize")  # noqa: E731
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_args: "pretended",
        "get_device_properties": lambda *_args: mock.Mock(uuid="pretended", total_memory=1 << 34, major=9, minor=0),
        "synchronize": wait,
        "empty_cache": lambda: None,
        "current_stream": _Mark,
        "Event": _Mark,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", _Mark))
        stack.enter_context(_Dispatch())
        stack.enter_context(_Functions())
        yield _DEVICE.ledger
