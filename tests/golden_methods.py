"""The inputs of methods' and networks' golden numbers: two small networks, float64, one thread, images from
formulas."""

import copy
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_file import Case, Entry, numbers, plain
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image

from eigencam.explainer import Explainer
from eigencam.methods.base import gives_boxes, is_class_specific
from eigencam.methods.files import BoxFiles, MapFiles
from eigencam.networks.network import Network, Preprocess, load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.store.build import find, instantiate
from eigencam.store.versions import versions_of
from eigencam.targets import box_score

Cases = dict[str, Callable[[], Case]]

NETWORKS = ("scenes_vgg", "scenes_resnet")
SIZE = 64
LABELS = {"scenes_vgg": (0, 11), "scenes_resnet": (0, 7), "scenes_vit": (0, 7), "scenes_vig": (0, 7), "acol": (0, 7)}
"""The class of each image's map: one with a high probability."""

FEW: dict[str, Any] = {
    "samples": 3,
    "channels": 6,
    "masks": 6,
    "permutations": 2,
    "steps": 3,
    "groups": 4,
    "sizes": 2,
    "designs": 2,
    "copies": 2,
    "window": 20,
    "stride": 14,
    "count": 20,
    "limit": 40,
    "min_area": 200,
    "distance": 0.5,
}
"""Replacements for packaged parameters that only set a number of repetitions."""

MORE: dict[str, dict[str, dict[str, Any]]] = {
    "AttentionRollout": {"discard": {"discard": 0.3}},
    "ExpectedGradients": {"noise": {"references": 2, "sigma": 0.1}},
    "KPCACAM": {"width": {"width": 1.5}},
    "LIME": {"slic": {"segmentation": "slic", "segments": 12, "samples": 10}},
}
"""Settings in addition to the packaged ones, by class, for code that these do not reach."""

OF_TRANSFORMERS = ("rollout", "gae", "transformer_attribution", "legrad", "attnlrp", "cp_lrp", "cp_lrp_gamma", "vitcx")
ELSEWHERE = {
    "acol": "acol",
    "vscam_reading": "scenes_vig",
    "cam": "scenes_resnet",
    **dict.fromkeys(OF_TRANSFORMERS, "scenes_vit"),
}
FITTED = ("broadcam", "fam_support_reading", "lcam_fm", "lcam_img")


def nodes(group: str) -> dict[str, dict[str, Any]]:
    """The nodes with `_target_` of a group's YAMLs, by the option's name; copies."""
    return copy.deepcopy(_nodes(group))


@lru_cache
def _nodes(group: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def walk(folder: Traversable) -> None:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir():
                walk(entry)
            elif entry.name.endswith(".yaml"):
                content: Any = OmegaConf.to_container(OmegaConf.create(entry.read_text()), resolve=False)
                found.update({entry.name[:-5]: content} if "_target_" in content else content)

    walk(files("eigencam.configs") / group)
    return {name: node for name, node in found.items() if isinstance(node, dict) and "_target_" in node}


@lru_cache(maxsize=4)
def network(name: str) -> Network:
    """A packaged network of the scenes with its weights, float64."""
    node = nodes("model")[name]
    if not name.endswith(("vit", "vig")):
        node["preprocess"]["size"] = SIZE
    return load_network(node, dtype=torch.float64)


@lru_cache(maxsize=1)
def originals() -> tuple[NDArray[np.uint8], ...]:
    """(80, 100, 3) uint8: waves, a disc and a bar of one colour."""
    y, x = np.mgrid[:80, :100]
    made = []
    for k in range(2):
        waves = [127 + 100 * np.sin(x / (7 + 3 * k) + c) * np.cos(y / (9 - 2 * k) + 2 * c) for c in range(3)]
        image = np.stack(waves, axis=-1)
        image[(x - 38 - 20 * k) ** 2 + (y - 40) ** 2 < (15 + 5 * k) ** 2] = (230, 40 + 100 * k, 30)
        image[60:70, 20 : 60 + 20 * k] = (20, 60, 220)
        made.append(image.round().clip(0, 255).astype(np.uint8))
    return tuple(made)


def network_versions(*names: str) -> dict[str, int]:
    """The versions that a method's inputs depend on."""
    things = [Preprocess, *(find(nodes("model")[name]["_target_"]) for name in names)]
    return {thing.__name__: thing.version for thing in things}


def inputs(size: int) -> torch.Tensor:
    """(N, 3, size, size) uint8: the originals, resized to the nearest pixels."""
    place = [(np.arange(size) + 0.5) * side / size for side in (80, 100)]
    rows, columns = (p.astype(int) for p in place)
    return torch.from_numpy(np.stack([image[rows][:, columns].transpose(2, 0, 1) for image in originals()]))


def run(method: Any, name: str) -> Case:
    """Maps or boxes of the images, each for a different class."""
    used = network(name)
    size = used.preprocess.shape[0]
    found = compute_maps(
        used,
        {"m": method},
        inputs(size),
        labels=LABELS[name],
        original=lambda n: originals()[n],
        ids=("0", "1"),
        regions=[(0.0, 0.0, 100.0, 80.0)] * 2,
        population=(2, lambda k: inputs(size)[k].numpy()),
        chunk=32,
    )
    if found.boxes:
        boxes = np.concatenate(found.boxes["m"])
        return {"boxes": numbers(boxes[:, :4]), "scores": numbers(boxes[:, 4])}
    return {f"map {n}": numbers(values) for n, values in enumerate(found.maps["m"])}


def entry(thing: Any, cases: dict[str, Callable[[], Case]]) -> Entry:
    """An entry of a class or function."""
    defaults = {
        name: plain(parameter.default)
        for name, parameter in inspect.signature(thing).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return Entry(versions_of(thing), defaults, {name: make() for name, make in cases.items()})


def _files() -> Case:
    """The maps of a folder: as they are, of another size, and of another type."""
    with tempfile.TemporaryDirectory() as folder:
        place = np.arange(63.0).reshape(7, 9)
        np.save(Path(folder, "0.npy"), np.sin(place))
        Image.fromarray((place % 50).astype(np.uint8)).save(Path(folder, "1.png"))
        return run(MapFiles(folder), "scenes_vgg")


def _box_files() -> Case:
    """The boxes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        found = [{"image_id": n, "category_id": 1, "bbox": [3 + n, 4, 20, 30], "score": 0.5} for n in range(2)]
        path = Path(folder, "boxes.json")
        path.write_text(json.dumps([*found, {**found[0], "bbox": [1, 2, 8, 9], "score": 0.9}]))
        method = BoxFiles(str(path))
        method.lacking(["0", "1"])
        return run(method, "scenes_vgg")


class Spots(torch.nn.Module):
    """A detector of three places, whose scores are the redness or blueness there."""

    def __init__(self) -> None:
        super().__init__()
        self.red = torch.nn.Conv2d(3, 2, 1, bias=False)
        weight = torch.tensor([[4.0, -2, -2], [-2, -2, 4]]).view(2, 3, 1, 1)
        self.red.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[8.0, 16, 40, 50], [20, 20, 50, 56], [10, 44, 44, 60]], dtype=x.dtype)
        seen = self.red(x)
        places = [
            seen[:, k, y1:y2, x1:x2] for k, (x1, y1, x2, y2) in zip((0, 0, 1), boxes.long().tolist(), strict=True)
        ]
        scores = torch.stack([place.mean((1, 2)).sigmoid() for place in places], 1)
        return [{"boxes": boxes, "scores": one, "labels": torch.tensor([1, 1, 2])} for one in scores]


def _detected(method: Any) -> Case:
    """The maps for two of the detections of each image."""
    plain = Preprocess(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    explain = Explainer(Spots().double(), "red", preprocess=plain)
    found = [explain(image, {"m": method}, target=[box_score(0), box_score(2)]) for image in originals()]
    return {f"map {n}, {k}": numbers(one["m"].raw) for n, both in enumerate(found) for k, one in enumerate(both)}


def method_entries(more: Mapping[Any, Cases]) -> Iterator[tuple[str, partial[Entry]]]:
    """Name and function of an entry for each class of methods, with more cases of some."""
    by_class: dict[Any, dict[str, Callable[[], Case]]] = {BoxFiles: {"box files": _box_files}}
    for option, node in nodes("method").items():
        thing = find(node["_target_"])
        settings = {option: node} | {
            f"{option} {name}": {"_target_": node["_target_"], **more}
            for name, more in (MORE.get(thing.__name__, {}) if thing not in by_class else {}).items()
        }
        for name, setting in settings.items():
            by_class.setdefault(thing, {}).update(_cases(option, name, setting))
    for thing, cases in by_class.items():
        yield f"{thing.__name__}@{thing.version}", partial(_method_entry, thing, cases | more.get(thing, {}))


def _method_entry(thing: Any, cases: dict[str, Callable[[], Case]]) -> Entry:
    made = entry(thing, cases)
    used = {name.rpartition(", ")[2] for name in cases} & LABELS.keys()
    return replace(made, versions=made.versions | network_versions(*sorted(used)))


def _cases(option: str, name: str, node: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Case]]]:
    if option == "files":
        yield name, _files
        return
    few = {key: FEW.get(key, value) for key, value in node.items()}
    if option == "drise":
        yield name, lambda: _detected(instantiate(few))
        return
    thing = find(node["_target_"])
    where = (ELSEWHERE[option],) if option in ELSEWHERE else ("scenes_resnet",) if option in FITTED else NETWORKS
    if not is_class_specific(thing) and gives_boxes(thing):
        where = where[:1]  # it sees the image alone
    if "channels" in inspect.signature(thing).parameters:
        few["channels"] = FEW["channels"]
    if option in FITTED:
        few["file"] = f"eigencam:{option}-scenes_resnet.safetensors"
    for used in where:
        yield f"{name}, {used}", lambda used=used, few=few: run(instantiate(few), used)
