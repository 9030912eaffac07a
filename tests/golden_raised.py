"""The versions above 1 of everything that configs name, as in `eigencam/store/raised.json`."""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eigencam.methods.files import BoxFiles
from eigencam.networks.network import Preprocess
from eigencam.store.build import find
from eigencam.store.identity import versions

RAISED = Path(__file__).parents[1] / "eigencam/store/raised.json"
GROUPS = ("method", "evaluator", "dataset", "model", "fit")


def targets(group: str) -> dict[str, Any]:
    """Our classes and functions that a group's YAMLs name, including the attacks of evaluators."""
    found: dict[str, Any] = {}

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            if str(node.get("_target_")).startswith("eigencam."):
                found[node["_target_"]] = find(node["_target_"])
            for value in node.values():
                visit(value)

    def walk(folder: Traversable) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                walk(entry)
            elif entry.name.endswith(".yaml"):
                visit(OmegaConf.to_container(OmegaConf.create(entry.read_text()), resolve=False))

    walk(files("eigencam.configs") / group)
    return found


def raised() -> str:
    """The content of the file."""
    things = [BoxFiles, Preprocess, *(thing for group in GROUPS for thing in targets(group).values())]
    told = {thing.__qualname__: versions(thing) for thing in things}
    return json.dumps({name: told[name] for name in sorted(told) if told[name] != {"version": 1}}, indent=1) + "\n"
