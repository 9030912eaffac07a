"""The keys of a run's config: types, defaults, allowed values, and their faults, before anything is built."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from multiprocessing import get_all_start_methods
from typing import Any, TypeVar

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eigencam.passes.precision import set_float32_precision
from eigencam.store.shards import Shard

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "autocast": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Dtypes of a network's parameters; with `tf32` and `autocast` passes are less precise (`set_float32_precision`)."""

BATCH_SIZES = {"cpu": 16, "cuda": 128}
"""Initial batch size of `batch_size=auto`; halved if it does not fit into memory."""

T = TypeVar("T")
CHOICES = {
    "target": ("ground_truth", "predicted", "each"),
    "on_unsupported": ("fail", "skip"),
    "on_bad_image": ("skip", "fail"),
    "on_bad_truth": ("fail", "skip"),
    "dtype": tuple(DTYPES),
    "rows_in": ("auto", "threads", "processes"),
}


@dataclass
class DataConfig:
    """The keys that choose the images."""

    paths: Any = MISSING
    dataset: Any = MISSING
    limit: int | None = None
    seed: int | None = None
    images: Any = None


@dataclass
class RunConfig(DataConfig):
    """The keys of a run's config; see `configs/run.yaml`."""

    model: Any = MISSING
    method: dict[str, Any] = field(default_factory=dict)
    evaluator: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    target: str = "ground_truth"
    on_unsupported: str = "fail"
    on_bad_image: str = "skip"
    on_bad_truth: str = "fail"
    dtype: str = "float32"
    channels_last: bool = False
    device: str = "auto"
    batch_size: Any = "auto"
    chunk: int = 64
    workers: Any = "auto"
    rows_in: str = "auto"
    flush_s: float = 10.0
    shard: str = "1/1"
    own_folder: bool = False
    timing: bool = True


def typed(composed: DictConfig, form: type[T], faults: list[str]) -> T | None:
    """Return the config as plain values of a dataclass; unknown keys and wrong types (then None) go to `faults`."""
    known = {f.name for f in fields(form)}  # type: ignore[arg-type]
    faults += [
        f"{key}: unknown key; allowed: {', '.join(sorted(known))}" for key in composed if key not in known | {"hydra"}
    ]
    try:
        kept = OmegaConf.masked_copy(composed, [k for k in composed if k in known])
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(form), kept))
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        hint = "; in the file, put a name that YAML reads as a value in quotes" if text.startswith("Key ") else ""
        faults.append(f"{error.full_key}: {text}{hint}")
        return None
    assert isinstance(config, form)  # to_object returns the structured config's class
    model = getattr(config, "model", None)
    if isinstance(model, dict) and isinstance(model.get("layer"), int):
        model["layer"] = str(model["layer"])  # YAML reads the layer names of an `nn.Sequential` as numbers
    return config


def machine_faults(device: str, workers: object) -> Iterator[str]:
    """Faults of the keys `device` and `workers`."""
    if workers != "auto" and not (isinstance(workers, int) and workers >= 0):
        yield f"workers={workers}; allowed: auto, 0, 1, ..."
    try:
        torch.empty(0, device="cpu" if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError if torch was built without CUDA
        reason = str(error).splitlines()[0]
        yield f"device={device}: {reason}; allowed: auto, cpu, and cuda, cuda:0, ... if there are any"


def chosen_device(device: str, dtype: str = "float32") -> str:
    """The device that `auto` stands for; sets float32 to full precision unless the config's `dtype` says otherwise."""
    set_float32_precision(tf32=dtype == "tf32", autocast=dtype == "autocast")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def checked(composed: DictConfig, faults: list[str]) -> RunConfig:
    """Return the config as plain values; unknown keys, wrong types and choices go to `faults`."""
    config = typed(composed, RunConfig, faults)
    if config is None:
        return RunConfig()
    config.method, config.evaluator = (_chosen(group, getattr(config, group)) for group in ("method", "evaluator"))
    for node in config.method.values():
        if isinstance(node, dict) and isinstance(node.get("layer"), int):
            node["layer"] = str(node["layer"])  # YAML reads the layer names of an `nn.Sequential` as numbers
    for key, allowed in CHOICES.items():
        if getattr(config, key) not in allowed:
            faults.append(f"{key}={getattr(config, key)}; allowed: {', '.join(allowed)}")
    if config.chunk < 1:
        faults.append(f"chunk={config.chunk}; allowed: 1 or more")
    if config.batch_size != "auto" and not (type(config.batch_size) is int and config.batch_size >= 1):
        faults.append(f"batch_size={config.batch_size}; allowed: auto, or 1 or more")
    faults += [f"{key}: none chosen; give {key}=[...]" for key in ("method", "evaluator") if not getattr(config, key)]
    try:
        Shard.parse(config.shard)
    except ValueError as error:
        faults.append(str(error))
    if config.rows_in == "processes" and "fork" not in get_all_start_methods():
        faults.append("rows_in=processes: this system cannot fork; allowed: auto, threads")
    faults += machine_faults(config.device, config.workers)
    return config


def _chosen(group: str, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of the chosen options; an experiment's settings for other options (no `_target_`) are dropped."""
    options = files("eigencam.configs") / group
    left = {name for name, node in nodes.items() if "_target_" not in node and (options / f"{name}.yaml").is_file()}
    return {name: node for name, node in nodes.items() if name not in left}
