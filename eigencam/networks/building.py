"""From the `model` node of a config to a module with its weights: by a constructor or by a library's name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from eigencam.networks import libraries
from eigencam.networks.libraries import Described, Library, is_file_name, timm_module
from eigencam.networks.weights import hash_parameters, load_weights, torchvision_network, weight_file
from eigencam.store.build import instantiate
from eigencam.store.identity import describe

UNTRAINED = "untrained"
_OURS = ("weights", "weights_backbone", "progress", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
         "checkpoint_path", "cache_dir")  # fmt: skip
"""Arguments of a library's constructors that choose weights."""


@dataclass(frozen=True, slots=True)
class Built:
    """A module and its metadata.

    Attributes:
        module: the network.
        sha256: SHA-256 of the weights file, or of the parameters where the constructor gave them.
        classes: class space of the outputs, according to the weights; None if they do not say.
        preprocess: fields of a `Preprocess` that the weights define.
        untrained: which of its weights are random, in words; "" if none are.
        top1: reported top-1 accuracy on ILSVRC's validation images, %; None: not known.
    """

    module: nn.Module
    sha256: str
    classes: str | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    untrained: str = ""
    top1: float | None = None


def build(description: Mapping[str, Any], weights: str | None) -> Built:
    """Build the module of a description.

    Args:
        description: the `model` node.
        weights: a name, a file, or None: those that the constructor sets.

    Raises:
        FileNotFoundError: no such weights file, or the library's weights cannot be downloaded.
        ValueError: no such network, or the weights do not fit.
    """
    args, drop = description.get("args") or {}, description.get("drop") or ()
    if library := description.get("library"):
        return _of_library(library, description["name"], weights, args, drop)
    constructor = {"_target_": description["_target_"], **args}
    if weights is not None and not is_file_name(weights):
        module, sha256 = torchvision_network(constructor, str(weights))
        said = libraries.describe("torchvision", description["_target_"].rsplit(".", 1)[-1], str(weights))
        return Built(module, sha256, top1=said.top1)
    module = seeded(constructor, 0, description)
    if weights is not None:
        return Built(module, load_weights(module, weight_file(weights), drop))
    return Built(module, hash_parameters(module), untrained=random_part(module, seeded(constructor, 1, description)))


def _of_library(
    library: Library, name: str, weights: str | None, args: Mapping[str, Any], drop: Sequence[str]
) -> Built:
    """A library's network; with the library's weights, those of a file, or none."""
    if taken := sorted(args.keys() & set(_OURS)):
        raise ValueError(f"model.args.{taken[0]}: weights are chosen by model.weights")
    libraries.check_name(library, name)
    said = libraries.describe(library, name, weights, args)
    if weights is not None and not is_file_name(weights):
        if not said.weights:
            raise ValueError(f"model={library}/{name}: the library has none; set model.weights to a file, or null")
        if library == "timm":
            return _timm_network(name, said, args)
        module, sha256 = torchvision_network({"_target_": libraries.target(name), **args}, said.weights)
        return Built(module, sha256, said.classes, said.preprocess, top1=said.top1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random weights each time
        module = _constructed(library, name, args)
    if weights is None:
        return Built(module, hash_parameters(module), said.classes, said.preprocess, UNTRAINED)
    return Built(module, load_weights(module, weight_file(weights), drop), said.classes, said.preprocess)


def _constructed(library: Library, name: str, args: Mapping[str, Any]) -> nn.Module:
    """A network with random weights; its constructor's error is shortened to one line."""
    try:
        if library == "timm":
            return timm_module().create_model(name, **args)
        from torchvision.models import get_model

        backbone = {} if name in libraries.names("torchvision") else {"weights_backbone": None}
        return get_model(name, weights=None, **backbone, **args)
    except Exception as error:  # constructors raise whatever they like
        raise ValueError(f"model={library}/{name}{_with(args)}: {_line(error)}") from None


def _timm_network(name: str, said: Described, args: Mapping[str, Any]) -> Built:
    """A timm network with timm's weights, from timm's cache or downloaded."""
    full = f"{name.partition('.')[0]}.{said.weights}"
    try:
        module = timm_module().create_model(full, pretrained=True, **args)
    except (TypeError, AssertionError, KeyError) as error:
        raise ValueError(f"model=timm/{full}{_with(args)}: {_line(error)}") from None
    except Exception as error:  # the hub's client and its transport raise types of their own
        if re.search(r"size mismatch|Missing key|Unexpected key", str(error)):
            raise ValueError(f"model=timm/{full}: its weights do not fit model.args={dict(args)}") from None
        raise FileNotFoundError(
            f"timm's weights {full} could not be downloaded ({_line(error)}); set model.weights to a file of them, or "
            "to null for an untrained network"
        ) from None
    other_head = "num_classes" in args and libraries.describe("timm", full).outputs != args["num_classes"]
    untrained = f"partly {UNTRAINED}: its classifier" if other_head else ""
    return Built(module, hash_parameters(module), said.classes, said.preprocess, untrained, said.top1)


def _with(args: Mapping[str, Any]) -> str:
    return f" with model.args={dict(args)}" if args else ""


def _line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:240]}{' ...' if len(words) > 240 else ''}"


def seeded(constructor: Mapping[str, Any], seed: int, description: Mapping[str, Any]) -> nn.Module:
    """A module whose random weights, if it has any, are the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = instantiate(constructor)
    if not isinstance(module, nn.Module):
        name = description["name"]
        raise ValueError(f"model {name}: {description['_target_']} returned {type(module).__name__}, not an nn.Module")
    check_module(module, f"model {description['name']}")
    return module


def check_module(module: object, name: str) -> None:
    """ValueError if a network is no module, has parameters without values, or is compiled."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"a network as {name}; an nn.Module is needed, built and with its weights")
    for parameter, p in module.named_parameters():
        if p.is_meta or isinstance(p, nn.parameter.UninitializedParameter):
            why = "on the meta device" if p.is_meta else "a lazy module that has not run yet"
            raise ValueError(f"{name}: parameter {parameter} has no values: {why}")
    for inner in module.modules():
        if "_orig_mod" in inner._modules or inner._compiled_call_impl is not None:
            raise ValueError(
                f"{name}: compiled by torch.compile, and nothing inside of compiled code can be observed; give the "
                "network itself, which `_orig_mod` holds"
            )


def random_part(module: nn.Module, other: nn.Module) -> str:
    """Which weights are random, in words: those that differ between two modules built with different seeds.

    Vectors are ignored: in trained and untrained networks alike, many of them are all ones or zeros.
    """
    theirs = dict(other.named_parameters())
    matrices = {name: p for name, p in module.named_parameters() if p.ndim > 1}
    drawn = [name for name, p in matrices.items() if name in theirs and not _same(p, theirs[name])]
    if not drawn:
        return ""
    if len(drawn) == len(matrices):
        return UNTRAINED
    return f"partly {UNTRAINED}: {', '.join(drawn[:3])}{', ...' if len(drawn) > 3 else ''}"


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def constructor_identity(description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a description that determines the module, without its weights."""
    args = description.get("args") or {}
    if description.get("library") == "timm":
        name = description["name"].partition(".")[0]
        return {"library": "timm", "name": name, **({"parameters": dict(args)} if args else {})}
    target = libraries.target(description["name"]) if description.get("library") else description["_target_"]
    return describe({"_target_": target, **args}, computes=False)
