"""References of methods for networks of text and images; see `references_camfam`."""

from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import patch

import references_authors as authors
import torch
from references import Case, Pair
from references_cam import at_layer
from torch import Tensor

from eigencam.methods.gscore import GScoreCAM

GSCORE = "anguyen8/gScoreCAM@87c35a1"


def scored(channels: int) -> Callable[[Case], Tensor]:
    """Return gScoreCAM by the authors' weights."""

    def made(case: Case) -> Tensor:
        activations, gradients = at_layer(case, case.inputs)
        found = []
        with authors.loaded(GSCORE, "pytorch_grad_cam/gscore_cam.py") as theirs, patch("torch.cuda.empty_cache"):
            for x, y, a, g in zip(case.inputs, case.targets.tolist(), activations, gradients, strict=True):
                method = SimpleNamespace(
                    model=case.module().float(), is_clip=False, topk=channels, use_bot=False, mute=True, batch_size=16
                )
                weights = theirs.GScoreCAM.get_cam_weights(
                    method, x[None].float(), None, y, a[None].numpy(), g[None].numpy()
                )
                found.append((torch.from_numpy(weights)[0, :, None, None] * a).sum(0).relu())
        return torch.stack(found)

    return made


PAIRS = [Pair("gscorecam channels=20", GScoreCAM(20), GSCORE, scored(20), unfit=authors.absent(GSCORE))]
