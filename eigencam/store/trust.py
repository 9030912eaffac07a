"""Which code a stored result may use: results are data.

A result folder can come from anybody. An object that its identity or config names is built only if this command trusts
it: a name of this package that a packaged config has, a name in a YAML of this command's `--config-dir`, or a module
given by `--trust MODULE` or by `trust: [MODULE]` in such a YAML. Parameters are numbers, texts and lists of them, and
nothing in them is imported. A result that needs anything else keeps its stored metrics in every table; only what needs
its code is left out. Nothing is ever imported from inside a folder of results.
"""

import functools
import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from eigencam.datasets.reading import expand
from eigencam.moved import current
from eigencam.store.build import RESERVED, find, signature_errors
from eigencam.store.identity import INSTALLED, OBJECT, PACKAGE, own_source, versions

_TARGET = re.compile(r"""^\s*_target_:\s*['"]?([\w.]+)['"]?\s*(?:#.*)?$""", re.MULTILINE)


LARGEST_PARAMETER = 10**6
"""Largest magnitude of a stored parameter of our own code, and of its inverse, to protect this machine's memory."""


class UntrustedError(ValueError):
    """A stored result names code that this command does not trust, or that no longer exists."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What this command trusts in addition to the names in packaged configs.

    Attributes:
        targets: dotted names of classes and functions.
        modules: dotted names of modules, with everything that they define.
    """

    targets: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config_dir: Path | None = None, modules: Sequence[str] = (), configs: Iterable[Any] = ()) -> "Trust":
        """Return what a command trusts.

        Args:
            config_dir: its `--config-dir`.
            modules: its `--trust`.
            configs: configs that the command composed itself, as plain mappings.
        """
        targets = {target for config in configs for target in _named(config)}
        named = set(modules)
        if config_dir is not None:
            if not config_dir.is_dir():
                raise FileNotFoundError(f"--config-dir {config_dir}: no such folder")
            for path in sorted(config_dir.rglob("*.yaml")):
                content = _loaded(path)
                targets.update(_named(content))
                listed = content.get("trust") if isinstance(content, Mapping) else None
                if listed is not None and not isinstance(listed, list):
                    raise ValueError(f"{path}: trust={listed}; allowed: a list of modules")
                named.update(map(str, listed or ()))
        return cls(frozenset(targets), frozenset(named))

    def allows(self, target: str) -> bool:
        """Whether a dotted name may be imported."""
        target = current(target)
        modules = {target.rsplit(".", k)[0] for k in range(1, target.count(".") + 1)}
        return target in packaged() or target in self.targets or bool(self.modules & modules)

    def check(self, node: object, where: str) -> None:
        """Raise UntrustedError if a stored config names untrusted code, or contains anything but values."""
        for target in _named(node):
            if not self.allows(target):
                raise UntrustedError(f"{where}: _target_={target} is not trusted; --trust {_module(target)} allows it")
        for text in filter(_names_code, _texts(node)):
            if not self.allows(text):
                raise UntrustedError(f"{where}: {text} is code that is not trusted; --trust {_module(text)} allows it")
        if text := next((text for text in _texts(node) if "${" in text), None):
            raise UntrustedError(f"{where}: {text!r}: a stored config holds values, no interpolations")

    def confined(self, content: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a stored config in runnable form: checked, without loggers, downloads and writes.

        Raises:
            UntrustedError: as in `check`.
        """
        self.check(content, where)
        return {**_without_downloads(content), "logger": {}}


PACKAGED = Trust()
"""Trust in the names of packaged configs only."""


def rebuilt(described: Mapping[str, Any], group: str, trust: Trust = PACKAGED) -> Any:
    """Build what an identity describes (`eigencam.store.identity.describe`), if this command trusts it.

    Args:
        described: a part of the identity, such as `evaluator`.
        group: the config group that its name is looked up in.
        trust: what this command trusts.

    Raises:
        UntrustedError: it is not trusted, no longer exists, or has another version or other parameters.
    """
    if not isinstance(described, Mapping):
        raise UntrustedError(f"{group}: {type(described).__name__} in the place of a description")
    target, current = _target_of(described, group, trust)
    if not current:
        raise UntrustedError(f"{target} is another version than the one that made the result")
    parameters = described.get("parameters", {})
    if not isinstance(parameters, Mapping) or any(key in RESERVED for key in _keys(parameters)):
        raise UntrustedError(f"{target}: parameters are values, without {', '.join(sorted(RESERVED))}")
    faults = list(signature_errors({**parameters, "_target_": target}, target))
    if faults:
        raise UntrustedError(faults[0])
    if target in packaged() and not all(map(_is_sized, _items(parameters))):
        raise UntrustedError(
            f"{target}: a stored parameter is out of bounds; allowed: 0, sizes of {1 / LARGEST_PARAMETER:g} to "
            f"{LARGEST_PARAMETER:g}, and as many entries"
        )
    built = {
        key: rebuilt(value[OBJECT], group, trust) if isinstance(value, Mapping) and set(value) == {OBJECT} else value
        for key, value in parameters.items()
    }
    try:
        return find(target)(**built)
    except Exception as error:  # any error of the code on foreign parameters
        raise UntrustedError(f"{target}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _target_of(described: Mapping[str, Any], group: str, trust: Trust) -> tuple[str, bool]:
    """The dotted name of what an identity describes, and whether its code is unchanged."""
    name, dotted = described.get("name"), described.get("target")
    if isinstance(name, str) and "library" not in described:
        if (target := _ours(group).get(name)) is None:
            raise UntrustedError(f"{group} {name}: this program has none of that name")
        return target, all(described.get(key) == stated for key, stated in versions(find(target)).items())
    if not isinstance(dotted, str) or not dotted.replace(".", "").isidentifier():
        raise UntrustedError(f"{group}: it names no code that could be built here")
    if not trust.allows(dotted):
        raise UntrustedError(f"{group} {dotted} is not trusted; --trust {_module(dotted)} allows it")
    try:
        find(dotted)
    except Exception as error:  # any error of an import
        raise UntrustedError(f"{group} {dotted}: {' '.join(str(error).split())}") from None
    return dotted, own_source(dotted) == described.get("source")


@functools.cache
def packaged() -> frozenset[str]:
    """The dotted names in packaged configs as `_target_`."""
    return frozenset(target for text in _yaml_of(files("eigencam.configs")) for target in _TARGET.findall(text))


def packaged_target(group: str, name: str) -> str:
    """Return the dotted name of a class or function in a group's packaged configs."""
    return _ours(group)[name]


@functools.cache
def _ours(group: str) -> dict[str, str]:
    """The dotted names of our classes and functions in a group's packaged configs, by name."""
    found = {target for text in _yaml_of(files("eigencam.configs") / group) for target in _TARGET.findall(text)}
    return {target.rsplit(".", 1)[-1]: target for target in found if target.startswith("eigencam.")}


def _yaml_of(folder: Traversable) -> Iterator[str]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _yaml_of(item)
        elif item.name.endswith(".yaml"):
            yield item.read_text(encoding="utf-8")


def _loaded(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _is_sized(item: tuple[str, object]) -> bool:
    """Whether a parameter asks for at most a million of anything."""
    key, value = item
    if isinstance(value, float | int) and key != "seed":
        return value == 0 or 1 / LARGEST_PARAMETER <= abs(value) <= LARGEST_PARAMETER
    return not isinstance(value, str | list | Mapping) or len(value) <= LARGEST_PARAMETER


def _without_downloads(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: False if key == "download" else _without_downloads(value) for key, value in node.items()}
    return [_without_downloads(item) for item in node] if isinstance(node, list) else node


def _names_code(text: str) -> bool:
    """Whether a text is the dotted name of an object in an existing module; nothing is imported to find out."""
    parts = text.split(".")
    if len(parts) < 2 or not all(map(str.isidentifier, parts)):
        return False
    for k in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:k]))
        except ImportError:
            return False
        except ValueError:  # a module without a spec, such as `__main__`
            return True
        if spec is None or spec.origin is not None:  # a folder without `__init__.py` has none
            return spec is not None
    return False


def _items(node: object) -> Iterator[tuple[str, object]]:
    """Every (key, value) in nested mappings and lists; the key is "" for an item of a list."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key), value
            yield from _items(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield "", value
            yield from _items(value)


def _keys(node: object) -> Iterator[str]:
    return (key for key, _ in _items(node))


def _texts(node: object) -> Iterator[str]:
    return (value for _, value in _items(node) if isinstance(value, str))


def _named(node: object) -> Iterator[str]:
    """Every `_target_` in nested mappings and lists."""
    return (str(value) for key, value in _items(node) if key == "_target_" and value is not None)


def _module(target: str) -> str:
    return target.rpartition(".")[0] or target


_INSTALLED = tuple(path.resolve() for path in INSTALLED)
"""Folders of installed packages; a folder of results may contain the environment that they are in."""


class _KeptOut(importlib.abc.MetaPathFinder):
    """Refuses imports from inside folders of results."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Raise ImportError if a package's parts would be looked up inside a folder of results."""
        for entry in path or () if fullname.partition(".")[0] != PACKAGE else ():
            if isinstance(entry, str) and self.holds(Path(entry or ".")):
                raise ImportError(f"{fullname}: {entry} is inside a folder of results; nothing is imported from there")

    def holds(self, entry: Path) -> bool:
        """Whether a folder is a folder of results, or inside one; folders of installed packages never are."""
        place = entry.resolve()
        if any(place == kept or kept in place.parents for kept in _INSTALLED):
            return False
        return any(place == folder or folder in place.parents for folder in self.folders)


_kept_out = _KeptOut()


def keep_out(results: Path) -> None:
    """Forbid imports from inside a folder of results from now on, whatever the current folder is."""
    _kept_out.folders.append(expand(results).resolve())
    if _kept_out not in sys.meta_path:
        sys.meta_path.insert(0, _kept_out)
    sys.path[:] = [entry for entry in sys.path if not _kept_out.holds(Path(entry or "."))]
