"""`eigencam fit fit=flim`: FLIM makes a network's filters from hand-drawn markers, without backpropagation.

I. E. de Souza, A. X. Falcao, "Learning CNN filters from user-drawn image markers for coconut-tree image
classification", IEEE GRSL 2020 (arXiv 2008.03549).

The blocks of `model=flim` (`eigencam.networks.flim`) are made one after the other. The maps are standardised by each
channel's mean and deviation over all marked pixels. The k x k patches around the marked pixels are clustered; the
centres, scaled to norm 1, are the filters. The block's outputs are the maps of the next one, and the markers are
resized to them. Then a linear support vector machine is fitted to the last outputs for all images. The same markers
give the same filters.

The two public implementations differ, and `variant` says which is followed:

    pyflim  LIDS-UNICAMP/flim-python-demo@806da1d: the patches of each connected marker of each image are clustered into
            `per_marker` centres, and the centres of all markers give the block's filters; 0.01 is added to deviations;
            labels in files count from 0
    flim    LIDS-UNICAMP/FLIM@5438b27: the patches of each label are clustered into (number of filters) / (largest
            label) centres, rounded up; 0.001 is added to deviations; labels count from 1

Left out: FLIM's refinement of filters with a bias by backpropagation, its removal of similar filters, its choice of the
images to mark (at random, or those nearest to a k-means of a class's images), and the decoders of the authors' later
codes. Their support vector machine is one against one (its votes are not a linear layer); here it is one against the
others.

Markers are files (`markers=FOLDER`), one for each marked image, in the authors' text format. Or they are made from the
ground truth (`markers=truth`) by the rule of `eigencam.fitting.flim_markers`, for the first `per_class` images of each
class.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from eigencam.datasets.base import Dataset
from eigencam.datasets.reading import expand
from eigencam.fitting import flim_markers
from eigencam.fitting.flim_filters import Reduction, Variant, filters, patches, statistics
from eigencam.fitting.flim_markers import Labels
from eigencam.fitting.job import FitJob
from eigencam.fitting.svm import linear_svm
from eigencam.fitting.whole_network import head_notes, label_faults
from eigencam.methods.parameter_checks import above_zero, at_least, one_of
from eigencam.networks.classifier import LastLayer
from eigencam.networks.flim import FLIM, MarkerNorm
from eigencam.networks.network import Network
from eigencam.store.canonical import checksum

FROM_TRUTH = "truth"
LEAST = {"pyflim": 0.01, "flim": 0.001}
"""Added to deviations."""
FIRST = {"pyflim": 0, "flim": 1}
"""The smallest label in a file."""


@dataclass(frozen=True, slots=True)
class FLIMFit:
    """Makes the filters and the classifier of a FLIM network; see the module.

    Attributes:
        file: where the weights go; `{dataset}` is the dataset's name.
        variant: which of the two implementations.
        markers: a folder of marker files, `ID-seeds.txt` or `ID.txt`, or `truth`.
        write: a folder that the markers are written to; None: they are not written.
        per_class: marked images of each class, with `truth`.
        radius: radius of the discs, pixels of the image, with `truth`.
        per_marker: centres of each connected marker (`pyflim`).
        reduction: `kmeans` or `pca`: how the candidates are reduced to filters.
        penalty: C of the support vector machine.
        batch_size: images per batch.
    """

    file: str
    variant: Variant = "pyflim"
    markers: str = FROM_TRUTH
    write: str | None = None
    per_class: int = 5
    radius: float = 4.0
    per_marker: int = 5
    reduction: Reduction = "kmeans"
    penalty: float = 100.0
    batch_size: int = 64

    version = 1

    def __post_init__(self) -> None:
        for name, form in (("variant", Variant), ("reduction", Reduction)):
            one_of(self, name, get_args(form), prefix="fit.")
        at_least(self, 1, "per_class", "per_marker", "batch_size", prefix="fit.")
        at_least(self, 0, "radius", prefix="fit.")
        above_zero(self, "penalty", prefix="fit.")
        if self.markers != FROM_TRUTH and not expand(self.markers).is_dir():
            raise ValueError(f"fit.markers={self.markers}: no such folder; allowed: a folder of marker files, or truth")

    @property
    def kind(self) -> str:
        """`flim`."""
        return "flim"

    def identity(self) -> dict[str, Any]:
        """Return what changes the weights besides the parameters: the markers; `write` does not."""
        if self.markers == FROM_TRUTH:
            return {"write": None}
        texts = {path.name: path.read_text() for path in sorted(expand(self.markers).glob("**/*.txt"))}
        return {"markers": checksum(texts), "write": None}

    def layers_of(self, network: Network) -> list[str]:
        """Return the last layer."""
        del network
        return ["fc"]

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults: a network of another kind, images without a class, missing markers."""
        yield from label_faults(network, dataset)
        if not isinstance(network.module, FLIM):
            yield f"fit=flim: {network.name} is no FLIM network; model=flim is"
        elif network.module.fc.out_features != len(dataset.classes):
            outputs = network.module.fc.out_features
            yield f"fit=flim: model.args.classes={outputs}; {dataset.name} has {len(dataset.classes)} classes"
        if network.preprocess.resize != "squash":
            yield f"fit=flim: model.preprocess.resize={network.preprocess.resize}; allowed: squash"
        if self.markers == FROM_TRUTH and dataset.truth(0).mask is None:
            yield f"fit.markers=truth: {dataset.name} has no masks; give a folder of marker files"
        if self.markers != FROM_TRUTH and not any(self._file(name) for name in dataset.ids):
            ending = " or ".join(f"ID{suffix}" for suffix in flim_markers.SUFFIXES)
            yield f"fit.markers={self.markers}: no marker file of an image of {dataset.name} ({ending}) in it"

    def _file(self, image_id: str) -> Path | None:
        return flim_markers.marker_file(expand(self.markers), image_id)

    def marked(self, dataset: Dataset) -> dict[int, Labels]:
        """Return the label images, each of its image's size, by position in the dataset."""
        if self.markers != FROM_TRUTH:
            files = {i: path for i, name in enumerate(dataset.ids) if (path := self._file(name))}
            return {i: flim_markers.read_markers(path, FIRST[self.variant]) for i, path in files.items()}
        chosen: dict[int, Labels] = {}
        left = dict.fromkeys(range(len(dataset.classes)), self.per_class)
        for i in range(len(dataset.ids)):
            if not any(left.values()):
                break
            truth = dataset.truth(i)
            if left.get(truth.label, 0):
                left[truth.label] -= 1
                chosen[i] = flim_markers.drawn(truth, self.radius)
        return chosen

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Make the filters, then fit the classifier."""
        module, marked = job.network.module, self.marked(job.dataset)
        assert isinstance(module, FLIM)  # `faults` reports any other
        if self.write:
            for i, labels in marked.items():
                path = expand(self.write) / f"{job.dataset.ids[i]}{flim_markers.SUFFIXES[0]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                flim_markers.write_markers(path, labels, FIRST[self.variant])
        made = copy.deepcopy(module).cpu()
        with torch.no_grad():
            log = self._filters(job, made, marked)
            log += self._classifier(job, made)
        job.notes["head"] = head_notes(job, LastLayer("fc"), f"{self.variant}, {len(marked)} marked images")
        return dict(made.state_dict()), log

    def _filters(self, job: FitJob, made: FLIM, marked: dict[int, Labels]) -> list[dict[str, Any]]:
        """Set the filters block by block; return one entry of the log for each."""
        ((_, images),) = self._images(job, list(marked), len(marked))
        decoded = [i for i in marked if i not in job.bad]
        size, log = (images.shape[2], images.shape[3]), []
        labels = [flim_markers.resized(marked[i], size) for i in decoded]
        maps = made.lab(images)
        for number, block in enumerate(made.blocks):
            norm, conv = block[0], block[1]  # type: ignore[index]
            assert isinstance(norm, MarkerNorm)
            assert isinstance(conv, nn.Conv2d)
            norm.mean, norm.deviation = statistics(maps, labels, LEAST[self.variant])
            kernel, dilation, width = conv.kernel_size[0], conv.dilation[0], conv.out_channels
            around = patches(norm(maps), labels, kernel, dilation)
            try:
                points = filters(around, labels, self.variant, width, self.per_marker, self.reduction)
            except ValueError as error:
                raise ValueError(f"block {number + 1}: {error}") from None
            conv.weight.copy_(torch.from_numpy(points).view_as(conv.weight))
            maps = block(maps)
            labels = [flim_markers.resized(image, maps.shape[2:]) for image in labels]
            log.append({"block": number + 1, "patches": sum(map(len, around)), "filters": width})
            job.say(f"  block {number + 1}: {width} filters from {log[-1]['patches']} marked pixels")
        return log

    def _classifier(self, job: FitJob, made: FLIM) -> list[dict[str, Any]]:
        """Fit the support vector machine to all images."""
        features, labels = [], []
        with tqdm(total=len(job.dataset.ids), desc=f"{job.network.name}, features", unit="img") as bar:
            for classes, images in self._images(job, range(len(job.dataset.ids)), self.batch_size):
                features.append(made.features(images))
                labels.append(classes)
                bar.update(len(images))
        x, y = torch.cat(features), torch.cat(labels)
        weight, bias = linear_svm(x, y, made.fc.out_features, self.penalty)
        made.fc.weight.copy_(weight)
        made.fc.bias.copy_(bias)
        right = (x.double() @ weight.T + bias).argmax(1) == y
        share = float(right.double().mean())
        job.say(f"  classifier: {len(y)} images, {x.shape[1]} features, {100 * share:.1f} % of them right")
        return [{"pictures": len(y), "features": x.shape[1], "accuracy": share}]

    def _images(self, job: FitJob, positions: Iterable[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Classes (N,) and images (N, 3, H, W) in 0..1, on the CPU."""
        chosen = list(positions)
        grid = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        for batch in job.batches(grid, job.network.preprocess):
            classes = torch.tensor([truth.label for truth in batch.truths])
            yield classes, job.network.preprocess.normalize(batch.images, torch.float32)
