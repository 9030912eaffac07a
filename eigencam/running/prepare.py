"""From a composed config to a job: everything is checked, and all faults are told at once, before an image is read."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from typing import Any, TypeVar

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eigencam.datasets.base import Dataset
from eigencam.datasets.checks import truth_faults
from eigencam.datasets.names import checked_ids
from eigencam.datasets.pairs import partner_of
from eigencam.datasets.reading import expand
from eigencam.datasets.subset import chosen
from eigencam.evaluation.base import asks_network, sources_of, takes_boxes, weights_of
from eigencam.files import one_line
from eigencam.methods.base import Method, content_of, gives_boxes, is_class_specific, lack_of, tapped
from eigencam.methods.support import refusal, traced
from eigencam.networks import variants
from eigencam.networks.classifier import read_head
from eigencam.networks.libraries import check_name, is_file_name
from eigencam.networks.network import Network, load_network
from eigencam.networks.verification import for_pairs
from eigencam.networks.weights import weight_file
from eigencam.passes.calls import NetworkError, set_float32_precision
from eigencam.running.faults import blame
from eigencam.running.loggers import Logger
from eigencam.store.build import instantiate, signature_errors
from eigencam.store.identity import describe, describe_dataset, identity_of
from eigencam.store.records import Result, Shard

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "autocast": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""The types of a network's parameters; with `tf32` and `autocast` its passes round more (`set_float32_precision`)."""

BATCH_SIZES = {"cpu": 16, "cuda": 128}
"""What `batch_size=auto` begins with; halved where it does not fit into the memory."""

T = TypeVar("T")
CHOICES = {
    "target": ("ground_truth", "predicted", "each"),
    "on_unsupported": ("fail", "skip"),
    "on_bad_image": ("skip", "fail"),
    "on_bad_truth": ("fail", "skip"),
    "dtype": tuple(DTYPES),
}


@dataclass
class DataConfig:
    """The keys that say which images."""

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
    flush_s: float = 10.0
    shard: str = "1/1"
    own_folder: bool = False
    timing: bool = True


@dataclass(slots=True)
class Job:
    """A checked run: one network, one dataset, methods, evaluators, and the results they fill.

    Attributes:
        results: by (method, evaluator), of every method that can run.
        unsupported: reason by method, of those that cannot.
        loggers: that are told of finished results.
    """

    config: RunConfig
    network: Network
    dataset: Dataset
    methods: dict[str, Method]
    evaluators: dict[str, Any]
    results: dict[tuple[str, str], Result]
    unsupported: dict[str, str]
    loggers: dict[str, Logger] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether the network's classes are the dataset's."""
        return self.network.classes is not None and self.network.classes == self.dataset.class_space


def prepare(composed: DictConfig) -> Job:
    """Check a composed config and build what it names.

    Raises:
        ValueError: with one line for each fault found.
    """
    faults: list[str] = []
    config = _checked(composed, faults)
    stop(faults)
    faults += [
        f"{what} {name!r}: allowed in names: letters, digits, _ and ."
        for what, names in (
            ("model.name", [config.model.get("name", "")]),
            ("method", config.method),
            ("evaluator", config.evaluator),
        )
        for name in names
        if not re.fullmatch(r"[\w.]+", str(name))
    ]
    nodes = [(f"method.{name}", node) for name, node in config.method.items()]
    nodes += [(f"evaluator.{name}", node) for name, node in config.evaluator.items()]
    nodes += [(f"logger.{name}", node) for name, node in config.logger.items()]
    dataset = attempt("dataset", faults, build_dataset, config)
    built = {where: attempt(where, faults, build_node, where, node) for where, node in nodes}
    faults += model_faults(config.model)
    faults += _truth_faults(dataset, config.on_bad_truth)
    stop(faults)

    device = chosen_device(config.device, config.dtype)
    network = attempt("model", faults, load_network, config.model, device=device, dtype=DTYPES[config.dtype])
    stop(faults)
    if (partner := partner_of(dataset)) is not None:
        if config.batch_size not in ("auto", 1):
            faults.append(f"batch_size={config.batch_size}; allowed with {dataset.name}, a dataset of pairs: auto, 1")
        config.batch_size = 1
        network = attempt(f"model {network.name}", faults, for_pairs, network, partner)
        stop(faults)
    if config.batch_size == "auto":
        config.batch_size = BATCH_SIZES.get(network.device.type, BATCH_SIZES["cpu"])
    if config.channels_last:
        network.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seen = attempt(f"model {network.name}", faults, traced, network)
    stop(faults)
    methods = {name: built[f"method.{name}"] for name in config.method}
    evaluators = {name: built[f"evaluator.{name}"] for name in config.evaluator}
    unsupported = _refusals(config, methods, network, dataset, faults)
    if seen.unread and network.classes is not None:  # methods of no class need no logits
        network = replace(network, classes=None)
    sources = {
        name: attempt(f"evaluator.{name}", faults, _sources, network, dataset, evaluator)
        for name, evaluator in evaluators.items()
    }
    if network.classes is None:
        faults += [
            f"evaluator.{name}: it asks the network for the class's probability, and {network.name} has no classifier"
            for name, evaluator in evaluators.items()
            if asks_network(evaluator)
        ]
    faults += [
        f"evaluator.{e}: it takes maps, and method {m} gives boxes; leave one of them out"
        for m, method in methods.items()
        for e, evaluator in evaluators.items()
        if gives_boxes(method) and not takes_boxes(evaluator)
    ]
    loggers = {name: built[f"logger.{name}"] for name in config.logger}
    job = Job(config, network, dataset, methods, evaluators, {}, unsupported, loggers)
    faults += _target_faults(job)
    stop(faults)
    root = expand(config.paths["results"])
    shared = identity_of(
        network=network.identity,
        dataset=describe_dataset(config.dataset, dataset),
        target=config.target,
        dtype="float32" if config.dtype == "tf32" else config.dtype,
        channels_last=config.channels_last,
        tf32=config.dtype == "tf32" and network.device.type == "cuda",  # a CPU has none
    )
    asked = {name: describe(config.evaluator[name], content=sources[name]) for name in evaluators}
    for m, method in methods.items():
        described = describe(config.method[m], content=content_of(method))
        for e in evaluators:
            identity = shared | {"method": described, "evaluator": asked[e]}
            job.results[m, e] = Result(root, (dataset.name, network.name, m, e), identity)
    if not all(result.complete for result in job.results.values()):
        stop(list(_probe_faults(job)))
    return job


def _truth_faults(dataset: Dataset | None, policy: str) -> list[str]:
    """What is known to be wrong with the truth before the first batch."""
    try:
        return list(truth_faults(dataset, skip=policy == "skip")) if dataset else []
    except Exception:  # of a person's dataset: the run names it with its line and image
        return []


def _refusals(
    config: RunConfig, methods: Mapping[str, Method], network: Network, dataset: Dataset, faults: list[str]
) -> dict[str, str]:
    """Why methods cannot run, for those that are to be left out; what stops the run goes to `faults`."""
    unsupported: dict[str, str] = {}
    for name, method in methods.items():
        try:
            reason = refusal(method, network)
        except NetworkError as error:  # of every method
            faults += [str(error)] if str(error) not in faults else []
            continue
        except ValueError as error:
            faults.append(f"method.{name}.layer: {error}")
            continue
        except Exception as error:  # whatever a person's method may raise
            faults.append(str(blame(f"method.{name}", error)))
            continue
        if lack := lack_of(method, dataset.ids):
            faults.append(f"method.{name}: {lack}")
        if reason and config.on_unsupported == "fail":
            faults.append(f"method.{name}: {reason}; leave it out, or set on_unsupported=skip")
        elif reason:
            unsupported[name] = reason
    return unsupported


def _sources(network: Network, dataset: Dataset, evaluator: Any) -> dict[str, str]:
    """Checksums in the place of the files that an evaluator's parameters name, by parameter.

    ValueError where one does not fit the network or the dataset.
    """
    if weights := weights_of(evaluator):
        variants.reweighted(network.module, weights)
        return {"weights": hashlib.sha256(weight_file(weights).read_bytes()).hexdigest()}
    return sources_of(evaluator, dataset)


def typed(composed: DictConfig, form: type[T], faults: list[str]) -> T | None:
    """The config as plain values of a dataclass; unknown keys and wrong types (then None) go to `faults`."""
    known = {f.name for f in fields(form)}  # type: ignore[arg-type]
    faults += [
        f"{key}: unknown key; allowed: {', '.join(sorted(known))}" for key in composed if key not in known | {"hydra"}
    ]
    try:
        kept = OmegaConf.masked_copy(composed, [k for k in composed if k in known])
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(form), kept))
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        hint = "; a name that YAML reads as a value stands in quotes in its file" if text.startswith("Key ") else ""
        faults.append(f"{error.full_key}: {text}{hint}")
        return None
    assert isinstance(config, form)  # what to_object makes of a structured config
    model = getattr(config, "model", None)
    if isinstance(model, dict) and isinstance(model.get("layer"), int):
        model["layer"] = str(model["layer"])  # YAML reads the layer names of an `nn.Sequential` as numbers
    return config


def machine_faults(device: str, workers: object) -> Iterator[str]:
    """What is wrong with the two keys."""
    if workers != "auto" and not (isinstance(workers, int) and workers >= 0):
        yield f"workers={workers}; allowed: auto, 0, 1, ..."
    try:
        torch.empty(0, device="cpu" if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        reason = str(error).splitlines()[0]
        yield f"device={device}: {reason}; allowed: auto, cpu, and cuda, cuda:0, ... where there are any"


def chosen_device(device: str, dtype: str = "float32") -> str:
    """The device that `auto` stands for; float32 means float32 from here on, unless the config's `dtype` says less."""
    set_float32_precision(tf32=dtype == "tf32", autocast=dtype == "autocast")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _checked(composed: DictConfig, faults: list[str]) -> RunConfig:
    """The config as plain values; unknown keys, wrong types and choices go to `faults`."""
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
    faults += machine_faults(config.device, config.workers)
    return config


def _chosen(group: str, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes, without an experiment's settings of options that were not chosen: those have no `_target_`."""
    options = files("eigencam.configs") / group
    left = {name for name, node in nodes.items() if "_target_" not in node and (options / f"{name}.yaml").is_file()}
    return {name: node for name, node in nodes.items() if name not in left}


def build_node(where: str, node: Mapping[str, Any]) -> Any:
    """What a node with `_target_` describes; ValueError with one line for each of its faults."""
    errors = list(signature_errors(node, where))
    if errors:
        raise ValueError("\n".join(errors))
    return instantiate(node)


def build_dataset(config: DataConfig) -> Dataset:
    """What `dataset` describes, or the part of it that `limit`, `seed` and `images` ask for; see `build_node`."""
    made = build_node("dataset", config.dataset)
    checked_ids(made.ids, getattr(made, "name", "dataset"))
    return chosen(made, config.limit, config.seed, config.images)


def attempt(where: str, faults: list[str], make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`make(...)`, or None with the error's text added to `faults`."""
    try:
        return make(*args, **kwargs)
    except Exception as error:  # whatever a person's class may raise
        text = one_line(error) if isinstance(error, OSError) and error.errno else str(error)
        if not isinstance(error, ValueError | OSError | TypeError):
            text = str(blame(where, error))
        if where == "dataset" and isinstance(error, FileNotFoundError):
            text += " (where to look: dataset.root, or paths.* and the variables EIGENCAM_*)"
    faults.append(text if text.startswith(where) else f"{where}: {text}")
    return None


def model_faults(model: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a `model` node, before anything is built."""
    allowed = {
        "name",
        "library",
        "_target_",
        "args",
        "weights",
        "drop",
        "layer",
        "reshape",
        "prefix_tokens",
        "classes",
        "head",
        "preprocess",
    }
    for key in model:
        if key not in allowed:
            names = ", ".join(sorted(allowed))
            yield f"model.{key}: unknown key; allowed: {names} (the constructor's own go into model.args)"
    for key in ("name",) if model.get("library") else ("name", "_target_"):
        if not model.get(key):
            yield f"model.{key}: missing"
    if model.get("library") and model.get("name"):
        try:
            check_name(model["library"], model["name"])
        except ValueError as error:
            yield str(error)
    if model.get("_target_"):
        yield from signature_errors({"_target_": model["_target_"], **(model.get("args") or {})}, "model.args")
    weights = model.get("weights")
    if model.get("head"):
        try:
            weights = None if read_head(model["head"]).whole else weights
        except (ValueError, FileNotFoundError) as error:
            yield str(error)
    if weights is not None and is_file_name(weights):
        try:
            weight_file(weights)
        except FileNotFoundError as error:
            yield f"model.weights: {error}"


def _probe_faults(job: Job) -> Iterator[str]:
    """What a forward pass of a black image shows: layers that make no map, outputs that are not the classes."""
    layers = [layer for n, m in job.methods.items() if n not in job.unsupported for layer in tapped(m)]
    picture = torch.zeros(1, *job.network.preprocess.input_shape, dtype=torch.uint8)
    try:
        outputs = job.network.forward(picture, layers=layers).logits.shape[1]
    except ValueError as error:
        yield f"model {job.network.name}: {error}"
        return
    if job.comparable and outputs != len(job.dataset.classes):
        yield (
            f"model.classes={job.network.classes}: {job.network.name} has {outputs} outputs, {job.dataset.name} "
            f"{len(job.dataset.classes)} classes; name another class space and set target=predicted, or cut the outputs"
        )


def _target_faults(job: Job) -> Iterator[str]:
    specific = [n for n, m in job.methods.items() if is_class_specific(m) and n not in job.unsupported]
    if job.config.target != "predicted" and specific and not job.comparable:
        yield (
            f"target={job.config.target}: the classes of {job.dataset.name} ({job.dataset.class_space}) are not those "
            f"of {job.network.name} ({job.network.classes}), so {', '.join(specific)} cannot be asked for a true "
            "class; set target=predicted"
        )


def stop(faults: list[str]) -> None:
    """ValueError with the faults found so far, if there are any."""
    if faults:
        raise ValueError("\n".join(faults))
