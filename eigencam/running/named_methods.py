"""Methods as the Python API takes them: names, callables, a mapping of them."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from eigencam.methods.base import Method, gives_boxes
from eigencam.moved import renamed

Methods = str | Method | Sequence[str | Method] | Mapping[str, Method]


def methods_with_maps(methods: Methods, model: str) -> dict[str, Method]:
    """Return methods by name. Raises ValueError if one returns boxes."""
    built = as_methods(methods, model)
    if boxy := [m for m, method in built.items() if gives_boxes(method)]:
        raise ValueError(f"method {', '.join(boxy)}: gives boxes; allowed are methods that give maps")
    return built


def as_methods(methods: Methods, model: str = "") -> dict[str, Method]:
    """Return methods by name; options of the `method` group are built with their defaults."""
    if isinstance(methods, Mapping):
        return {str(name): _checked(method) for name, method in methods.items()}
    built: dict[str, Method] = {}
    for method in [methods] if isinstance(methods, str) or callable(methods) else _checked_list(methods):
        if isinstance(method, str):
            made = _option(method, model)
        else:
            made = {getattr(method, "__name__", type(method).__name__): _checked(method)}
        if twice := sorted(built.keys() & made.keys()):
            raise ValueError(
                f"named twice: {', '.join(twice)}; give callables with equal names as a mapping from name to callable"
            )
        built |= made
    return built


def _checked_list(methods: Any) -> list[Any]:
    listed = list(methods) if isinstance(methods, Iterable) else []
    if not listed:
        raise ValueError(f"methods={methods!r}; allowed: a name, a callable, a list of them, a mapping of callables")
    return listed


def _checked(method: Any) -> Method:
    if not callable(method):
        raise ValueError(f"method {method!r}: {type(method).__name__}, which cannot be called with (forward, targets)")
    return cast("Method", method)


def _option(name: str, model: str) -> dict[str, Method]:
    from omegaconf import OmegaConf

    from eigencam.configuring.catalogue import catalogue
    from eigencam.configuring.method_names import node
    from eigencam.running.prepare import build_node

    path = files("eigencam.configs") / "method" / f"{name}.yaml"
    if not path.is_file():
        if "." in name or Path(name).is_dir():
            return {short: build_node(short, described) for short, described in node(name).items()}
        if now := renamed("method", name):
            raise ValueError(now)
        raise ValueError(f"method {name!r}; allowed: {', '.join(e.option for e in catalogue())}, a callable, a file")
    paths = (files("eigencam.configs") / "paths" / "default.yaml").read_text()
    whole = OmegaConf.create({"paths": OmegaConf.create(paths), "model": {"name": model}, "method": {}})
    whole.method = OmegaConf.create(path.read_text())
    content: Any = OmegaConf.to_container(whole, resolve=True)
    return {short: build_node(f"method.{short}", described) for short, described in content["method"].items()}
