"""A stored config on this machine: what it names, with other folders in the place of those of its own machine."""

from collections.abc import Mapping, Sequence
from typing import Any


def changed(config: Any, settings: Sequence[str]) -> Any:
    """Return the resolved config with settings in place; what lies below a `paths.NAME` moves with it."""
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
    """A config whose texts that are `old`, or a path below it, begin with `new` instead; a name is no path."""
    if isinstance(node, dict):
        return {key: value if key in ("name", "classes") else _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    is_below = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return f"{new}{node.removeprefix(old)}" if is_below else node
