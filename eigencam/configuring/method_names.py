"""What may be given as a method's name: an option of the group, a function, a file, a folder.

eigencam                     an option of the `method` group (`--config-dir` adds your own)
smooth/gradcam               a packaged method inside a packaged wrapper (`eigencam.configuring.wrapped_methods`)
my_module.my_method          a class, or a function `(forward, targets) -> maps`, by its dotted name
my_method.py[:NAME]          the same in a file; NAME defaults to the file's name
my_method.yaml               a config as in `configs/method/`: the name and, below it, `_target_` and parameters
maps/                        a folder of maps, `<image id>.npy` or `.png`; written with a slash
boxes.json, boxes.txt[.gz]   boxes, in COCO's or the ILSVRC devkit's format; only evaluators that take boxes apply
"""

import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigencam.configuring.wrapped_methods import short_name
from eigencam.datasets.reading import Reading, expand
from eigencam.store.build import find

if TYPE_CHECKING:
    from omegaconf import DictConfig

NAMED_GROUPS = ("method", "evaluator", "logger")
_VALUE = re.compile(
    r"(?<![\w.'\"/+-])(?:[+-]?(?:nan|inf|\d[\d_]*(?:\.\d*)?(?:e[+-]?\d+)?)|true|false)(?![\w.'\"/-])", re.IGNORECASE
)
"""Values that Hydra's overrides would read as a number or a boolean."""

Nodes = dict[str, dict[str, Any]]


def quoted(overrides: Sequence[str]) -> list[str]:
    """Quote overrides so that names of methods, evaluators and loggers stay names, whatever they look like.

    >>> quoted(["method=[nan,cam]", "method=1e5", "dataset.count=3"])
    ["method=['nan',cam]", "method='1e5'", 'dataset.count=3']
    """
    return [
        f"{key}={_VALUE.sub(lambda found: repr(found[0]), value)}" if sign and key.lstrip("+") in NAMED_GROUPS else item
        for item in overrides
        for key, sign, value in [item.partition("=")]
    ]


def model_overrides(name: str, weights: str = "") -> list[str]:
    """Return the overrides for a network: an option of the group, a library's network, or your own by dotted name.

    >>> model_overrides("timm/resnet18.tv_in1k")
    ['model=timm/resnet18.tv_in1k']
    """
    quoted = weights.replace("\\", "\\\\").replace("'", "\\'")
    chosen = [f"model.weights='{quoted}'"] if weights else []
    if "." not in name or "/" in name:
        return [f"model={name}", *chosen]
    short = name.rsplit(".", 1)[-1]
    return ["model=custom", f"model._target_={name}", f"model.name={short}", "model.classes=own", *chosen]


def split(names: Sequence[str]) -> tuple[list[str], Nodes, list[str]]:
    """Separate options of the group from the user's own methods.

    Returns:
        The options; nodes with `_target_` for the others, by name; and all names in the given order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an invalid name, or the same name twice.
    """
    options: list[str] = []
    nodes: Nodes = {}
    order: list[str] = []
    for name in names:
        if _is_option(name):
            options.append(name)
            order.append(short_name(name))
            continue
        made = node(name)
        nodes |= made
        order += list(made)
    if len(set(order)) < len(order):
        twice = sorted({name for name in order if order.count(name) > 1})
        raise ValueError(f"named twice: {', '.join(twice)}; give every method once, under its own name")
    return options, nodes, order


def with_methods(config: "DictConfig", nodes: Nodes) -> "DictConfig":
    """Return a composed config with further methods."""
    from omegaconf import open_dict

    with open_dict(config):
        config.method = {**(config.get("method") or {}), **nodes}
    return config


def node(name: str) -> Nodes:
    """Return the config of a method that is not an option of the group, by its short name."""
    path = expand(name)
    if name.endswith("/") and not path.is_dir():
        raise FileNotFoundError(f"method {name}: no such folder")
    if path.is_dir():
        return {_short(path.resolve().name): _files("MapFiles", folder=str(path.resolve()))}
    if name.endswith((".json", ".json.gz", ".txt", ".txt.gz")):
        return {_short(path.name.split(".")[0]): _files("BoxFiles", file=str(_there(path)))}
    if name.endswith((".yaml", ".yml")):
        return _yaml(_there(path))
    file, _, inner = name.partition(":")
    if file.endswith(".py"):
        name = _in_file(_there(expand(file)), inner)
    if "." not in name:
        raise ValueError(f"method {name}: no option, dotted name, .py, .yaml, .json or .txt file, or folder of maps")
    try:
        target = find(name)
    except Exception as error:  # an import may raise anything; the user sees its message
        raise ValueError(f"method {name}: {' '.join(str(error).split())}") from None
    short = name.rsplit(".", 1)[-1]
    return {short: {"_target_": name, **({} if inspect.isclass(target) else {"_partial_": True})}}


def _is_option(name: str) -> bool:
    """A bare word is an option, whatever folders exist; `a/b` is one unless it is a folder."""
    return bool(re.fullmatch(r"[\w-]+(/[\w-]+)*", name)) and not ("/" in name and Path(name).is_dir())


def _in_file(file: Path, inner: str) -> str:
    """Return the dotted name of an object that a file defines. Raises ValueError if the name means another module."""
    sys.path.insert(0, str(file.parent))
    try:
        module = importlib.import_module(file.stem)
    except Exception as error:  # an import may raise anything; the user sees its message
        raise ValueError(f"method {file}: {' '.join(str(error).split())}") from None
    if Path(getattr(module, "__file__", None) or "").resolve() != file:
        raise ValueError(f"method {file}: another module is called {file.stem}; give the file another name")
    if not hasattr(module, inner or file.stem):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        has = f"it has {', '.join(own)}: {file.name}:{own[0]}" if own else "it defines nothing"
        raise ValueError(f"method {file.name}: no {inner or file.stem} in it; {has}")
    return f"{file.stem}.{inner or file.stem}"


def _files(kind: str, **parameters: str) -> dict[str, Any]:
    return {"_target_": f"eigencam.methods.files.{kind}", **parameters}


def _yaml(path: Path) -> Nodes:
    from omegaconf import OmegaConf

    with Reading(path, "a method's name and, below it, _target_ and parameters") as file:
        content = OmegaConf.to_container(OmegaConf.create(file.text()))
        if not isinstance(content, dict) or not all(isinstance(v, dict) and "_target_" in v for v in content.values()):
            raise ValueError("not a method")
    sys.path.insert(0, str(path.parent))
    return {str(key): dict(value) for key, value in content.items()}


def _there(path: Path) -> Path:
    with Reading(path) as file:
        return file.regular().resolve()


def _short(text: str) -> str:
    return re.sub(r"[^\w.]", "_", text)
