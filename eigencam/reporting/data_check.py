"""Checks whether the data at hand are those of the results: the dataset's identity, and every image."""

from collections.abc import Iterator, Sequence
from typing import Any

from eigencam.configuring.stored_config import changed
from eigencam.datasets.base import Dataset
from eigencam.datasets.digest import digest_of, is_changed
from eigencam.datasets.subset import chosen
from eigencam.files import first_line
from eigencam.store.build import instantiate, signature_errors
from eigencam.store.canonical import canonical, checksum, plain
from eigencam.store.identity import describe_dataset
from eigencam.store.image_digests import KnownDigests, said_of
from eigencam.store.image_positions import Positions
from eigencam.store.reader import Stored
from eigencam.store.schema import CONFIG
from eigencam.store.trust import Trust


def data_faults(results: Sequence[Stored], settings: Sequence[str], trust: Trust) -> Iterator[str]:
    """Yield a line for each difference between the data at hand and those of some results.

    Args:
        results: complete, all of one dataset.
        settings: as on the command line, `paths.voc=DIR`.
        trust: what their configs may build.
    """
    first = results[0]
    name = "-".join(first.names[:1])
    try:
        node, dataset = _dataset(first, settings, trust)
        now = plain(describe_dataset(node, dataset))
    except Exception as error:  # any error of the reader
        yield f"{name}: its data were not read: {first_line(error)}"
        return
    yield from _images(results, dataset, name)
    described = first.identity["dataset"]
    for key in sorted({*described, *now}):
        if canonical(described.get(key)) != canonical(now.get(key)):
            yield f"{name}: {key} was {canonical(described.get(key))}, and is {canonical(now.get(key))}"


def _images(results: Sequence[Stored], dataset: Dataset, name: str) -> Iterator[str]:
    """Images that differ from those the results were made from, or can no longer be read."""
    known = KnownDigests(Positions(dataset.ids))
    for stored in results:
        for images, digests in said_of(stored.folder, checksum(stored.identity)):
            known.add(images, digests)
    for i, image in enumerate(dataset.ids):
        (before,) = known.of([image])
        if before is None:
            continue
        try:
            now = digest_of(dataset, i)
        except (ValueError, OSError) as error:
            yield f"{name}: image {image}: {first_line(error)}"
            continue
        if is_changed(before, now):
            yield f"{name}: image {image} is not the one that results were made from: {before} then, {now} now"


def _dataset(stored: Stored, settings: Sequence[str], trust: Trust) -> tuple[dict[str, Any], Dataset]:
    """The dataset that a stored config names, with its node."""
    from omegaconf import OmegaConf

    content = trust.confined(stored.config(), str(stored.folder / CONFIG))
    config: Any = OmegaConf.to_container(changed(OmegaConf.create(content), settings))
    node = config.get("dataset")
    if not isinstance(node, dict):
        raise ValueError(f"{stored.folder / CONFIG}: it names no dataset")
    if errors := list(signature_errors(node, "dataset")):
        raise ValueError(errors[0])
    return node, chosen(instantiate(node), *(config.get(key) for key in ("limit", "seed", "images")))
