"""From a composed config to a job: everything is checked, and all faults are reported, before an image is read."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from omegaconf import DictConfig

from eigencam.datasets.base import Dataset
from eigencam.datasets.checks import truth_faults
from eigencam.datasets.names import checked_ids
from eigencam.datasets.pairs import partner_of
from eigencam.datasets.reading import expand
from eigencam.datasets.subset import chosen
from eigencam.evaluation.base import asks_network, sources_of, takes_boxes, weights_of
from eigencam.files import one_line
from eigencam.methods.base import Method, content_of, gives_boxes, is_class_specific, lack_of, tapped
from eigencam.methods.refusal import refusal, traced
from eigencam.networks import randomized
from eigencam.networks.classifier import read_head
from eigencam.networks.libraries import check_name, is_file_name
from eigencam.networks.network import Network, load_network
from eigencam.networks.verification import for_pairs
from eigencam.networks.weights import weight_file
from eigencam.passes.calls import NetworkError
from eigencam.running.faults import blame
from eigencam.running.loggers import Logger
from eigencam.running.run_config import BATCH_SIZES, DTYPES, DataConfig, RunConfig, checked, chosen_device
from eigencam.store.build import instantiate, signature_errors
from eigencam.store.identity import describe, describe_dataset, identity_of
from eigencam.store.records import Result


@dataclass(slots=True)
class Job:
    """A checked run: one network, one dataset, methods, evaluators, and the results they fill.

    Attributes:
        results: the results by (method, evaluator), including those of unsupported methods.
        unsupported: reason by method, for methods that cannot run on the network.
        loggers: called with finished results.
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
    config = checked(composed, faults)
    stop(faults)
    faults += _name_faults(config)
    dataset = attempt("dataset", faults, build_dataset, config)
    methods, evaluators, loggers = (
        _built(group, getattr(config, group), faults) for group in ("method", "evaluator", "logger")
    )
    faults += model_faults(config.model)
    faults += _truth_faults(dataset, config.on_bad_truth)
    stop(faults)
    network = _network(config, dataset, faults)
    seen = attempt(f"model {network.name}", faults, traced, network)
    stop(faults)
    unsupported = _refusals(config, methods, network, dataset, faults)
    if seen.unread and network.classes is not None:  # class-agnostic methods need no logits
        network = replace(network, classes=None)
    sources = {
        name: attempt(f"evaluator.{name}", faults, _sources, network, dataset, evaluator)
        for name, evaluator in evaluators.items()
    }
    faults += _evaluator_faults(network, methods, evaluators)
    job = Job(config, network, dataset, methods, evaluators, {}, unsupported, loggers)
    faults += _target_faults(job)
    stop(faults)
    job.results.update(_results(job, sources))
    if not all(result.complete for result in job.results.values()):
        stop(list(_probe_faults(job)))
    return job


def _name_faults(config: RunConfig) -> Iterator[str]:
    """Names that cannot be part of a folder's name."""
    chosen_names = {
        "model.name": [config.model.get("name", "")],
        "method": config.method,
        "evaluator": config.evaluator,
    }
    for what, names in chosen_names.items():
        for name in names:
            if not re.fullmatch(r"[\w.]+", str(name)):
                yield f"{what} {name!r}: allowed in names: letters, digits, _ and ."


def _built(group: str, nodes: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The objects that a group's nodes describe, by name; None for those that cannot be built."""
    made: dict[str, Any] = {}
    for name, node in nodes.items():
        where = f"{group}.{name}"
        made[name] = attempt(where, faults, build_node, where, node)
    return made


def _network(config: RunConfig, dataset: Dataset, faults: list[str]) -> Network:
    """The network on its device, wrapped for a dataset of pairs; sets the batch size that `auto` stands for."""
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
    return network


def _evaluator_faults(network: Network, methods: Mapping[str, Method], evaluators: Mapping[str, Any]) -> Iterator[str]:
    """Evaluators that need something which the network or a method does not provide."""
    for e, evaluator in evaluators.items():
        if network.classes is None and asks_network(evaluator):
            asked = "it needs the network's probability of the class"
            yield f"evaluator.{e}: {asked}, and {network.name} has no classifier"
    for m, method in methods.items():
        for e, evaluator in evaluators.items():
            if gives_boxes(method) and not takes_boxes(evaluator):
                yield f"evaluator.{e}: it takes maps, and method {m} returns boxes; leave one of them out"


def _results(job: Job, sources: Mapping[str, dict[str, str]]) -> Iterator[tuple[tuple[str, str], Result]]:
    """The result of each method and evaluator, by its identity; `sources` are checksums of evaluators' files."""
    config, network = job.config, job.network
    root = expand(config.paths["results"])
    shared = identity_of(
        network=network.identity,
        dataset=describe_dataset(config.dataset, job.dataset),
        target=config.target,
        dtype="float32" if config.dtype == "tf32" else config.dtype,
        channels_last=config.channels_last,
        tf32=config.dtype == "tf32" and network.device.type == "cuda",  # CPUs have no TF32
    )
    asked = {name: describe(config.evaluator[name], content=sources[name]) for name in job.evaluators}
    for m, method in job.methods.items():
        described = describe(config.method[m], content=content_of(method))
        for e in job.evaluators:
            names = (job.dataset.name, network.name, m, e)
            yield (m, e), Result(root, names, shared | {"method": described, "evaluator": asked[e]})


def _truth_faults(dataset: Dataset | None, policy: str) -> list[str]:
    """Faults of the truth that are known before the first batch."""
    try:
        return list(truth_faults(dataset, skip=policy == "skip")) if dataset else []
    except Exception:  # of a user's dataset: the run reports it with line and image
        return []


def _refusals(
    config: RunConfig, methods: Mapping[str, Method], network: Network, dataset: Dataset, faults: list[str]
) -> dict[str, str]:
    """Reasons of methods that are to be left out; faults that stop the run go to `faults`."""
    unsupported: dict[str, str] = {}
    for name, method in methods.items():
        try:
            reason = refusal(method, network)
        except NetworkError as error:  # the same for every method
            faults += [str(error)] if str(error) not in faults else []
            continue
        except ValueError as error:
            faults.append(f"method.{name}.layer: {error}")
            continue
        except Exception as error:  # a user's method may raise anything
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
    """Checksums of the files that an evaluator's parameters name, by parameter.

    Raises ValueError if a file does not fit the network or the dataset.
    """
    if weights := weights_of(evaluator):
        randomized.reweighted(network.module, weights)
        return {"weights": hashlib.sha256(weight_file(weights).read_bytes()).hexdigest()}
    return sources_of(evaluator, dataset)


def build_node(where: str, node: Mapping[str, Any]) -> Any:
    """Build what a node with `_target_` describes. Raises ValueError with one line per fault."""
    errors = list(signature_errors(node, where))
    if errors:
        raise ValueError("\n".join(errors))
    return instantiate(node)


def build_dataset(config: DataConfig) -> Dataset:
    """Build the dataset, or the part of it that `limit`, `seed` and `images` choose; see `build_node`."""
    made = build_node("dataset", config.dataset)
    checked_ids(made.ids, getattr(made, "name", "dataset"))
    return chosen(made, config.limit, config.seed, config.images)


def attempt(where: str, faults: list[str], make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return `make(...)`, or None with the error's text added to `faults`."""
    try:
        return make(*args, **kwargs)
    except Exception as error:  # a user's class may raise anything
        text = one_line(error) if isinstance(error, OSError) and error.errno else str(error)
        if not isinstance(error, ValueError | OSError | TypeError):
            text = str(blame(where, error))
        if where == "dataset" and isinstance(error, FileNotFoundError):
            text += " (where to look: dataset.root, or paths.* and the variables EIGENCAM_*)"
    faults.append(text if text.startswith(where) else f"{where}: {text}")
    return None


def model_faults(model: Mapping[str, Any]) -> Iterator[str]:
    """Faults of a `model` node, before anything is built."""
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
    """Faults that a forward pass of a black image shows: layers without maps, outputs that are not the classes."""
    layers = [layer for n, m in job.methods.items() if n not in job.unsupported for layer in tapped(m)]
    image = torch.zeros(1, *job.network.preprocess.input_shape, dtype=torch.uint8)
    try:
        outputs = job.network.forward(image, layers=layers).logits.shape[1]
    except ValueError as error:
        yield f"model {job.network.name}: {error}"
        return
    if job.comparable and outputs != len(job.dataset.classes):
        yield (
            f"model.classes={job.network.classes}: {job.network.name} has {outputs} outputs, {job.dataset.name} "
            f"{len(job.dataset.classes)} classes; list all {outputs} in dataset.classes, in the order of the outputs, "
            "or name another class space and set target=predicted, or cut the outputs"
        )


def _target_faults(job: Job) -> Iterator[str]:
    specific = [n for n, m in job.methods.items() if is_class_specific(m) and n not in job.unsupported]
    if job.config.target != "predicted" and specific and not job.comparable:
        yield (
            f"target={job.config.target}: the classes of {job.dataset.name} ({job.dataset.class_space}) are not those "
            f"of {job.network.name} ({job.network.classes}), so {', '.join(specific)} cannot be asked for a true "
            f"class; set target=predicted, or, if the classes of your own dataset are the network's, "
            f"dataset.class_space={job.network.classes} and dataset.classes=FILE"
        )


def stop(faults: list[str]) -> None:
    """Raise ValueError with the faults found so far, if there are any."""
    if faults:
        raise ValueError("\n".join(faults))
