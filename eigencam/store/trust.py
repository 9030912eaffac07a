"""What a stored result may have built, and what it may not: results are data.

A result folder can come from anybody. What its identity or its config names is built only where this command trusts it:
a name of this package that a packaged config has, what a YAML of this command's `--config-dir` names, and modules that
are named by `--trust MODULE` or by `trust: [MODULE]` in such a YAML. Parameters are numbers, texts and lists of them;
nothing that they hold is imported. A result that needs anything else keeps its stored metrics in every table; only what
needs its code is left out. Nothing is ever imported from inside a folder of results.
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
"""Magnitude of a stored parameter of our own code, and of its inverse: more would be tried on this machine's memory."""


class UntrustedError(ValueError):
    """A stored result names code that this command does not trust, or that is not here any more."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What this command trusts beside the names of packaged configs.

    Attributes:
        targets: dotted names of classes and functions.
        modules: dotted names of modules, all that they define included.
    """

    targets: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config_dir: Path | None = None, modules: Sequence[str] = (), configs: Iterable[Any] = ()) -> "Trust":
        """Return what a command trusts.

        Args:
            config_dir: its `--config-dir`.
            modules: its `--trust`.
            configs: what it composed itself, as plain mappings.
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
        """Raise UntrustedError for a stored config that names what is not trusted, or asks for anything but values."""
        for target in _named(node):
            if not self.allows(target):
                raise UntrustedError(f"{where}: _target_={target} is not trusted; --trust {_module(target)} allows it")
        for text in filter(_names_code, _texts(node)):
            if not self.allows(text):
                raise UntrustedError(f"{where}: {text} is code that is not trusted; --trust {_module(text)} allows it")
        if text := next((text for text in _texts(node) if "${" in text), None):
            raise UntrustedError(f"{where}: {text!r}: a stored config holds values, no interpolations")

    def confined(self, content: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a stored config as it may be run: checked, without loggers, and without what fetches or writes data.

        Raises:
            UntrustedError: as `check`.
        """
        self.check(content, where)
        return {**_without_downloads(content), "logger": {}}


PACKAGED = Trust()
"""Trust in the names of packaged configs alone."""


def rebuilt(described: Mapping[str, Any], group: str, trust: Trust = PACKAGED) -> Any:
    """Build what an identity describes (`eigencam.store.identity.describe`), as far as this command trusts it.

    Args:
        described: the identity's `evaluator`, say.
        group: the config group that its name is looked up in.
        trust: what this command trusts.

    Raises:
        UntrustedError: it is not trusted, not there any more, another version, or has other parameters.
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
    except Exception as error:  # whatever the code makes of parameters from elsewhere
        raise UntrustedError(f"{target}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _target_of(described: Mapping[str, Any], group: str, trust: Trust) -> tuple[str, bool]:
    """The dotted name of what an identity describes, and whether it is still the same code."""
    name, dotted = described.get("name"), described.get("target")
    if isinstance(name, str) and "library" not in described:
        if (target := _ours(group).get(name)) is None:
            raise UntrustedError(f"{group} {name}: this program has none of that name")
        return target, all(described.get(key) == told for key, told in versions(find(target)).items())
    if not isinstance(dotted, str) or not dotted.replace(".", "").isidentifier():
        raise UntrustedError(f"{group}: it names no code that could be built here")
    if not trust.allows(dotted):
        raise UntrustedError(f"{group} {dotted} is not trusted; --trust {_module(dotted)} allows it")
    try:
        find(dotted)
    except Exception as error:  # whatever an import may raise
        raise UntrustedError(f"{group} {dotted}: {' '.join(str(error).split())}") from None
    return dotted, own_source(dotted) == described.get("source")


@functools.cache
def packaged() -> frozenset[str]:
    """The dotted names that packaged configs have as `_target_`."""
    return frozenset(target for text in _yaml_of(files("eigencam.configs")) for target in _TARGET.findall(text))


def packaged_target(group: str, name: str) -> str:
    """Return the dotted name of a class or function that a group's packaged configs have."""
    return _ours(group)[name]


@functools.cache
def _ours(group: str) -> dict[str, str]:
    """Dotted name by name, of the classes and functions of this package that a group's packaged configs have."""
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
    """Whether a parameter asks for no more than a million of anything."""
    key, value = item
    if isinstance(value, float | int) and key != "seed":
        return value == 0 or 1 / LARGEST_PARAMETER <= abs(value) <= LARGEST_PARAMETER
    return not isinstance(value, str | list | Mapping) or len(value) <= LARGEST_PARAMETER


def _without_downloads(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: False if key == "download" else _without_downloads(value) for key, value in node.items()}
    return [_without_downloads(item) for item in node] if isinstance(node, list) else node


def _names_code(text: str) -> bool:
    """Whether a text is the dotted name of something in a module that is there; nothing is imported to see that."""
    parts = text.split(".")
    if len(parts) < 2 or not all(map(str.isidentifier, parts)):
        return False
    for k in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:k]))
        except ImportError:
            return False
        except ValueError:  # a module without a spec, as `__main__`
            return True
        if spec is None or spec.origin is not None:  # a folder without `__init__.py` has none
            return spec is not None
    return False


def _items(node: object) -> Iterator[tuple[str, object]]:
    """Every (key, value) in a nest of mappings and lists; "" for an item of a list."""
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
    """Every `_target_` in a nest of mappings and lists."""
    return (str(value) for key, value in _items(node) if key == "_target_" and value is not None)


def _module(target: str) -> str:
    return target.rpartition(".")[0] or target


_INSTALLED = tuple(path.resolve() for path in INSTALLED)
"""Folders of packages; a folder of results may hold the environment that they are in."""


class _KeptOut(importlib.abc.MetaPathFinder):
    """Refuses imports from inside folders of results."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Raise ImportError where a package's parts would be looked up inside a folder of results."""
        for entry in path or () if fullname.partition(".")[0] != PACKAGE else ():
            if isinstance(entry, str) and self.holds(Path(entry or ".")):
                raise ImportError(f"{fullname}: {entry} is inside a folder of results; nothing is imported from there")

    def holds(self, entry: Path) -> bool:
        """Whether a folder is one of results, or inside one; where packages are installed never is."""
        place = entry.resolve()
        if any(place == kept or kept in place.parents for kept in _INSTALLED):
            return False
        return any(place == folder or folder in place.parents for folder in self.folders)


_kept_out = _KeptOut()


def keep_out(results: Path) -> None:
    """From here on, import nothing from inside a folder of results, wherever this process stands."""
    _kept_out.folders.append(expand(results).resolve())
    if _kept_out not in sys.meta_path:
        sys.meta_path.insert(0, _kept_out)
    sys.path[:] = [entry for entry in sys.path if not _kept_out.holds(Path(entry or "."))]
