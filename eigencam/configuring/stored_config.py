"""A stored config on this machine, with the folders of its original machine replaced."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eigencam.datasets.reading import expand
from eigencam.store.outdated import outdated
from eigencam.store.reader import Stored, read, results_in
from eigencam.store.trust import packaged

DECIDING = ("model", "dataset", "target", "dtype", "channels_last", "limit", "seed", "images")
"""Keys of a run's config that, with a method and an evaluator, determine a result."""


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


def made_by(config: Any, root: Path) -> dict[tuple[str, str], Stored] | None:
    """Return the complete results of a run's config, by method and evaluator, without its data, network or torch.

    A result counts if it was made by the same config (except for the machine's paths), by the versions of code that
    this program has and, if the network's weight file is there, with the same weights.

    Args:
        config: the composed config.
        root: folder of results.

    Returns:
        The results; None if their identity needs more than the config: a user's own code, or files other than the
        network's weights.
    """
    from omegaconf import OmegaConf

    wanted: Any = _as_stored(OmegaConf.to_container(config, resolve=True))
    nodes = [wanted["model"], wanted["dataset"], *wanted["method"].values(), *wanted["evaluator"].values()]
    if not all(node.get("_target_") in packaged() for node in nodes) or wanted["model"].get("head") or wanted["images"]:
        return None
    if any(os.path.lexists(text) for _, text in _texts({"method": wanted["method"], "evaluator": wanted["evaluator"]})):
        return None
    paths = [f"paths.{name}={folder}" for name, folder in wanted["paths"].items()]
    found: dict[tuple[str, str], Stored] = {}
    for folder in results_in(root) if root.is_dir() else ():
        stored = read(folder) if folder.name.rsplit("-", 1)[0].endswith(_endings(wanted)) else None
        if stored is None or stored.summary is None or outdated(stored.identity) or not _has(stored, wanted["model"]):
            continue
        names = stored.names[2], stored.names[3]
        try:
            composed: Any = OmegaConf.to_container(changed(OmegaConf.create(stored.config()), paths))
            same = all(composed.get(key) == wanted.get(key) for key in DECIDING) and all(
                composed[group][name] == wanted[group][name]
                for group, name in zip(("method", "evaluator"), names, strict=True)
            )
        except (ValueError, OSError, LookupError, TypeError):  # a config that no run wrote
            continue
        if same and (names not in found or found[names].updated < stored.updated):
            found[names] = stored
    return found


def _as_stored(content: Any) -> Any:
    """A config after it has been written to a file and read again."""
    import yaml
    from omegaconf import OmegaConf

    return yaml.safe_load(OmegaConf.to_yaml(OmegaConf.create(content)))


def _endings(wanted: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"-{method}-{evaluator}" for method in wanted["method"] for evaluator in wanted["evaluator"])


def _has(stored: Stored, model: Mapping[str, Any]) -> bool:
    """Whether the network's weight file is the one that a result was made with; True if the file is not there."""
    path = Path(str(model.get("weights") or ""))
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == stored.identity["network"].get("sha256")


def check_paths(content: Mapping[str, Any], given: Iterable[str | Path], where: str) -> None:
    """Refuse a stored config that would read or write outside the folders of this command line or this machine.

    Parameters of code outside this package are the responsibility of whoever trusts it.

    Args:
        content: the resolved config; its `paths` only name folders.
        given: folders that may be used, with everything below them.
        where: file of the config, for messages.

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
