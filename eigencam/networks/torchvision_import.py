"""torchvision without torch's compiler, whose import takes half of the start time.

`torchvision.ops.roi_align` imports `torch._dynamo` for one function that it calls when boxes are pooled. While
torchvision is imported, a stand-in module replaces the compiler; it imports the real one on first use. Any later import
gets the real one.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _Later(ModuleType):
    """A module with functions of another one, which is imported when the first of them is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        return call


class _Lean(Loader):
    """Loads a module as another loader does, while the compiler is replaced."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__:
            module.__spec__.loader = module.__loader__ = self._loader
        import torch  # noqa: F401  # what it imports itself is the real compiler

        placed = {name: _Later(name) for name in COMPILER if name not in sys.modules}
        sys.modules.update(placed)
        try:
            self._loader.exec_module(module)
        finally:
            for name, later in placed.items():
                if sys.modules.get(name) is later:
                    del sys.modules[name]


class _Torchvision(MetaPathFinder):
    """Finds torchvision's files for `_Lean` to load."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = _Lean(spec.loader)
        return spec


def install() -> None:
    """Import torchvision in this way from now on; does nothing if it is imported already."""
    if not any(isinstance(finder, _Torchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Torchvision())
