"""The catalogue of methods: `eigencam methods` prints it, and the README's list and `docs/methods.md` are made from it.

Everything comes from the configs and the classes behind them: a new method needs only its Python file and its YAML.
"""

import inspect
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tabulate import tabulate

from eigencam.store.build import find, instantiate

HEADER = ("method", "paper", "needs", "for a class", "networks")


@dataclass(frozen=True, slots=True)
class Entry:
    """A method: its name in `method=[...]`, what it declares, and its class; the docstring of `module` describes it."""

    option: str
    paper: str
    needs: str
    class_specific: bool
    networks: str
    module: str
    target: Any

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its line."""
        return self.option, self.paper or "-", self.needs or "?", "yes" if self.class_specific else "no", self.networks


def catalogue(user_folder: Path | None = None) -> list[Entry]:
    """Return every method that has a YAML, sorted by module and name; those that declare no paper come last.

    Args:
        user_folder: a user's config folder, whose `method/` is added.
    """
    folders: list[Traversable] = [files("eigencam.configs") / "method"]
    if user_folder:
        if not (user_folder / "method").is_dir():
            raise FileNotFoundError(f"{user_folder}: no folder `method` in it")
        folders.append(user_folder / "method")
    entries = [_entry(name, node) for folder in folders for name, node in _nodes(folder)]
    return sorted(entries, key=lambda entry: (entry.paper == "", entry.module, entry.option))


def pages(entries: list[Entry]) -> str:
    """Return the table and, below it, the docstring of each module, as Markdown."""
    import importlib

    text = [
        "# Methods",
        "",
        "Made by `eigencam methods --pages` from the methods' own files. *needs* is the cost per image, where C is the "
        "number of the layer's channels; *for a class* says whether the map depends on the requested class.",
        "",
        tabulate([entry.row for entry in entries], HEADER, "pipe", disable_numparse=True),
        "",
    ]
    for module in dict.fromkeys(entry.module for entry in entries):
        doc = inspect.getdoc(importlib.import_module(module)) or ""
        title, _, rest = doc.partition("\n")
        names = ", ".join(f"`{entry.option}`" for entry in entries if entry.module == module)
        text += [f"## {title.rstrip('.:')}", "", f"{names} in `{module}`", "", rest.strip(), ""]
    return "\n".join(text).rstrip() + "\n"


def _nodes(folder: Traversable, prefix: str = "") -> list[tuple[str, Any]]:
    """(option, node) of every YAML in a config group and its subgroups."""
    found: list[tuple[str, Any]] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _nodes(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".yaml"):
            nodes = OmegaConf.to_container(OmegaConf.create(item.read_text()), resolve=False)
            assert isinstance(nodes, dict)  # a config group's file is a mapping
            found += [(prefix + item.name.removesuffix(".yaml"), node) for node in nodes.values()]
    return found


def _entry(option: str, node: dict[str, Any]) -> Entry:
    target = find(node["_target_"])
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    specific = inspect.getattr_static(target, "class_specific", True)
    if isinstance(specific, property):  # it depends on the parameters
        specific = instantiate(node).class_specific
    elif not isinstance(specific, bool):  # it is one of them
        specific = given.get("class_specific", True)
    return Entry(
        option,
        getattr(target, "paper", ""),
        getattr(target, "needs", ""),
        specific,
        getattr(target, "networks", "any"),
        target.__module__,
        target,
    )
