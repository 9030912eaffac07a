"""How well a network in training localizes: MaxBoxAccV2 of its maps on a validation split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from eigencam.datasets.base import Dataset
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.fitting.job import FitJob
from eigencam.methods.base import Method
from eigencam.methods.cam import CAM
from eigencam.passes.calls import evaluating
from eigencam.running.batch_maps import compute_maps
from eigencam.store.identity import describe_dataset

EVALUATOR = MaxBoxAcc("all", (0.3, 0.5, 0.7))
MAX_BOX_ACC_V2 = "validation_max_box_acc_v2"
"""Name in the log."""
BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation split: `node`, its description, and the dataset built from it."""

    node: Mapping[str, Any]
    dataset: Dataset

    @property
    def identity(self) -> dict[str, Any]:
        """Return what changes the choice of an epoch."""
        return describe_dataset(self.node, self.dataset)

    def measured(self, job: FitJob, module: nn.Module, method: Method | None = None) -> dict[str, float]:
        """Return accuracy and MaxBoxAccV2 (of the true class) of a network as it is now, fractions of 1.

        Args:
            job: the fit; images of the split that cannot be decoded are left out, like those of the fit.
            module: the network in training, of the form of the job's.
            method: the method whose maps are measured; None: CAM.
        """
        maps = {"map": method or CAM()}
        network = replace(job.network, module=module, classes=self.dataset.class_space, _examined=[])
        other, count = replace(job, dataset=self.dataset, bad={}), len(self.dataset.ids)
        grid = [list(range(start, min(start + BATCH_SIZE, count))) for start in range(0, count, BATCH_SIZE)]
        rows, right = [], []
        with evaluating(module):
            for batch in other.batches(grid, network.preprocess):
                labels = [truth.label for truth in batch.truths]
                found = compute_maps(network, maps, batch.images, labels=labels, index=batch.index)
                for n, truth in enumerate(batch.truths):
                    score_map = ScoreMap(found.maps["map"][n], truth.size, batch.regions[n])
                    rows.append({**EVALUATOR.row(score_map, truth), "image": truth.image_id, "label": truth.label})
                right += [top[:1] == [label] for top, label in zip(found.top5, labels, strict=True)]
        if not rows:
            raise ValueError(f"none of the {count} images of {self.dataset.name} (fit.validation) could be decoded")
        metric = EVALUATOR.summary(pd.DataFrame(rows))[0]
        if np.isnan(metric.value):
            raise ValueError(f"{self.dataset.name} (fit.validation): {metric.note}")
        return {"validation_accuracy": float(np.mean(right)), MAX_BOX_ACC_V2: metric.value / 100}
