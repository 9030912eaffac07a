"""`eigencam fit`: train what is learned from images: L-CAM, BroadCAM, a classifier, a whole network.

    config ──► all faults at once ──► images ──► fitter ──► <results>/fitted/METHOD-NETWORK.safetensors

A fitter is an object of the config's group `fit` with the members of `Fitter`. The result is a function of the config:
the order of the images and their augmentation depend on (seed, epoch, position in the dataset) alone, so no random
generator's state has to be saved. Training resumes from the last checkpoint, which is beside the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from eigencam.datasets.base import BadImageError, BadTruthError, Dataset
from eigencam.datasets.checks import truth_faults
from eigencam.datasets.reading import expand
from eigencam.files import write_text
from eigencam.methods.base import content_of
from eigencam.networks import fitted
from eigencam.networks.network import Network, Preprocess, check_layer, load_network
from eigencam.running.loading import Batch, InputImages, collate, die_with_parent
from eigencam.running.prepare import (
    attempt,
    build_dataset,
    build_node,
    model_faults,
    stop,
)
from eigencam.running.run_config import CHOICES, DataConfig, chosen_device, machine_faults, typed
from eigencam.store import locks
from eigencam.store.canonical import checksum, plain
from eigencam.store.environment import cores, keep_freed_memory
from eigencam.store.identity import describe, describe_dataset


@dataclass
class FitConfig(DataConfig):
    """The keys of a fit's config; see `configs/fit.yaml`."""

    model: Any = MISSING
    fit: Any = MISSING
    device: str = "auto"
    workers: Any = "auto"
    on_bad_truth: str = "fail"


@dataclass(slots=True)
class FitJob:
    """A checked fit.

    Attributes:
        network: the network whose activations are read.
        dataset: the images to learn from.
        fitter: the learner.
        about: metadata of the file; its checksum distinguishes fits.
        workers: processes that decode images.
        say: receives the few lines of progress output.
        skip_bad_truth: leave out images with impossible boxes, labels or masks.
        bad: images, by position, that could not be decoded.
        notes: what the fitter adds to `about` at the end.
        listed: ids of the images, for the .txt beside the file, with which an evaluation leaves them out.
    """

    network: Network
    dataset: Dataset
    fitter: "Fitter"
    about: dict[str, Any]
    workers: Any
    say: Callable[[str], None]
    skip_bad_truth: bool = False
    bad: dict[int, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """Where the weights go."""
        return expand(self.fitter.file.replace("{dataset}", self.dataset.name))

    @property
    def key(self) -> str:
        """Key of everything that changes the weights."""
        return checksum(self.about)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's path, beside the file."""
        return self.file.with_name(f"{self.file.stem}-{self.key}.checkpoint")

    def batches(self, positions: Iterable[Sequence[int]], preprocess: Preprocess) -> Iterator[Batch]:
        """Decoded images, batch by batch; those that cannot be decoded or used are left out and recorded in `bad`.

        Raises:
            Exception: anything else that a dataset raises for an image.
        """
        chosen = [list(batch) for batch in positions]
        workers = self.workers
        if workers == "auto":
            workers = cores() if len(chosen) > 4 else 0
        loader = DataLoader(
            InputImages(self.dataset, preprocess),
            batch_sampler=chosen,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=die_with_parent,
            generator=torch.Generator().manual_seed(0),  # else it draws from the process's own
        )
        skipped = (BadImageError, BadTruthError) if self.skip_bad_truth else BadImageError
        for batch in loader:
            for i, error in batch.bad.items():
                if not isinstance(error, skipped):
                    raise error
                self.bad[i] = str(error)
            if batch.index:
                yield batch


class Fitter(Protocol):
    """A learner. `file` is where the weights go; `{dataset}` in it is replaced by the dataset's name."""

    file: str

    @property
    def kind(self) -> str:
        """Name of the method that reads the file."""
        ...

    def layers_of(self, network: Network) -> list[str]:
        """The layers whose activations are read."""
        ...

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield the reasons why it cannot learn from this network and dataset."""
        ...

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The weights and the log."""
        ...


def fit(composed: DictConfig, *, say: Callable[[str], None] = print) -> Path:
    """Check, train unless the file is there already, and write the weights.

    Args:
        composed: a config of the form of `configs/fit.yaml`.
        say: receives the few lines of progress output.

    Returns:
        The file.

    Raises:
        ValueError: the config's faults, one per line, before anything is computed.
    """
    keep_freed_memory()
    job = prepare(composed, say)
    file = job.file
    title = f"{job.fitter.kind} for {job.network.name} on {len(job.dataset.ids)} images of {job.dataset.name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(file.with_name(f".{file.name}.lock"))
    except locks.HeldError:
        raise ValueError(f"{file}: another process is fitting it") from None
    with lock:
        if _fitted_already(job, file):
            say(f"{title}: nothing to do, {file} is there")
            return file
        tensors, log = job.fitter.fit(job)
        if bad := [job.bad[i] for i in sorted(job.bad)]:
            say("\n".join(["  left out:", *bad]))
        fitted.write(file, tensors, job.about | job.notes | {"log": log, "bad_images": len(bad)})
        if ids := job.listed or job.notes.get("head", {}).get("fitted_on"):
            write_text(file.with_suffix(".txt"), "\n".join([*ids, ""]))
        job.checkpoint.unlink(missing_ok=True)
    say(f"{title}: {file}")
    return file


def prepare(composed: DictConfig, say: Callable[[str], None] = print) -> FitJob:
    """Check a composed config and build the objects that it names.

    Raises:
        ValueError: with one line for each fault found.
    """
    faults: list[str] = []
    config = typed(composed, FitConfig, faults)
    stop(faults)
    assert config  # a config without faults
    faults += machine_faults(config.device, config.workers)
    dataset = attempt("dataset", faults, build_dataset, config)
    if dataset and "test" in (identity := dataset.identity()).values():
        part = next(key for key, value in identity.items() if value == "test")
        others = f"dataset=scenes_train, dataset.{part}=train"
        faults.append(f"dataset.{part}=test: these images are for evaluation; fit on others ({others})")
    if config.on_bad_truth not in CHOICES["on_bad_truth"]:
        faults.append(f"on_bad_truth={config.on_bad_truth}; allowed: {', '.join(CHOICES['on_bad_truth'])}")
    skip = config.on_bad_truth == "skip"
    if dataset:
        faults += truth_faults(dataset, skip)
    fitter = attempt("fit", faults, build_node, "fit", config.fit)
    faults += model_faults(config.model)
    stop(faults)
    device = chosen_device(config.device)
    network = attempt("model", faults, load_network, config.model, device=device)
    stop(faults)
    faults += _network_faults(fitter, network)
    stop(faults)
    faults += fitter.faults(network, dataset)
    stop(faults)
    options = describe({key: value for key, value in config.fit.items() if key != "file"}, content=content_of(fitter))
    about = {
        "kind": fitter.kind,
        "network": network.identity,
        "layers": fitter.layers_of(network),
        "dataset": describe_dataset(config.dataset, dataset),
        "fit": options,
    }
    return FitJob(network, dataset, fitter, plain(about), config.workers, say, skip)


def _network_faults(fitter: Fitter, network: Network) -> Iterator[str]:
    if network.classes is None:
        yield f"fit: what is fitted is for classes, and {network.name} has no classifier"
        return
    try:
        for layer in fitter.layers_of(network):
            check_layer(network.module, layer, f"fit: model {network.name}")
    except ValueError as error:
        yield str(error)


def _fitted_already(job: FitJob, file: Path) -> bool:
    """Whether the file is there and was made with the same config."""
    if not file.is_file():
        return False
    try:
        about = fitted.read(file).about
    except ValueError:
        return False
    return checksum({name: about.get(name) for name in job.about}) == job.key
