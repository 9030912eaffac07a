"""A stored config on this machine, with the folders of its original machine replaced."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eigencam.datasets.reading import expand
from eigencam.store.trust import packaged


def changed(config: Any, settings: Sequence[str]) -> Any:
    """Return the resolved config with settings applied; paths below a `paths.NAME` move with it."""
    from omegaconf import OmegaConf

    given, content = OmegaConf.from_dotlist(list(settings)), OmegaConf.to_container(config)
    paths = {} if given.get("paths") is None else given.paths
    if not isinstance(paths, Mapping):
        raise ValueError(f"paths={paths}; allowed: paths.NAME=FOLDER")
    for name, new in paths.items():
        if (old := config.paths.get(name)) and new is not None:
            content = _moved(content, str(old), str(new))
    return OmegaConf.merge(content, given)


def _moved(node: Any, old: str, new: str) -> Any:
    """Replace `old` by `new` in texts that are that path, or a path below it; names are not paths."""
    if isinstance(node, dict):
        return {key: value if key in ("name", "classes") else _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    is_below = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return f"{new}{node.removeprefix(old)}" if is_below else node


def check_paths(content: Mapping[str, Any], given: Iterable[str | Path], where: str) -> None:
    """Refuse a stored config that would read or write outside the folders of this command line or this machine.

    Parameters of code outside this package are the responsibility of whoever trusts it.

    Args:
        content: resolved; `paths` itself only names folders.
        given: folders that may be used, with everything below them.
        where: for messages.

    Raises:
        ValueError: a path is outside.
    """
    folders = [Path(one).resolve() for folder in given for one in str(folder).split(os.pathsep) if one]
    for key, text in _texts({key: value for key, value in content.items() if key != "paths"}):
        parts = text.replace("\\", "/").split("/")
        if len(parts) == 1 and text[:1] != "~":
            continue
        path = Path(os.path.expanduser(text)) if text[:1] == "~" else Path(text)  # noqa: PTH111
        if not path.is_absolute() and ".." not in parts and not os.path.lexists(path):
            continue
        if not any(path.resolve().is_relative_to(folder) for folder in folders):
            raise ValueError(
                f"{where}: {key}={text}: a path that this command line did not give; paths.NAME=FOLDER allows it"
            )


def machine_paths() -> dict[str, str]:
    """Return the folders that this machine's environment sets, by name: `paths` of a run without settings."""
    from omegaconf import OmegaConf

    from eigencam.configuring.compose import compose

    found: Any = OmegaConf.to_container(compose("run").paths, resolve=True)
    return {name: str(expand(folder)) for name, folder in found.items()}


def _texts(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested mappings and lists with its dotted key, except those for code of your own."""
    if isinstance(node, Mapping) and node.get("_target_") and node["_target_"] not in packaged():
        return
    if isinstance(node, Mapping):
        for inner, value in node.items():
            yield from _texts(value, f"{key}.{inner}" if key else str(inner))
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node
