"""The state of a network's prediction for an image, read from its logits."""

import torch
from torch import Tensor

ANSWERS = ("nonfinite", "constant", "ok", "none")
"""The states of a prediction."""


def answer_codes(logits: Tensor) -> Tensor:
    """(N,) int64: the state of each prediction (N, K) as its index in `ANSWERS`, on the device."""
    if not logits.shape[1]:
        return torch.full((len(logits),), ANSWERS.index("none"), device=logits.device)
    finite = logits.isfinite().all(1)
    varies = (logits != logits[:, :1]).any(1) if logits.shape[1] > 1 else torch.ones_like(finite)
    return torch.where(finite, 1 + varies.long(), 0)


def answer_states(logits: Tensor) -> list[str]:
    """(N,) states of the predictions (N, K), named like a map's states; `none` without a classifier.

    `nonfinite` if a logit is not finite; `constant` if all of K > 1 are equal, so no class is preferred.

    >>> answer_states(torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, torch.nan], [-torch.inf, 1.0]]))
    ['ok', 'constant', 'nonfinite', 'nonfinite']
    """
    return [ANSWERS[code] for code in answer_codes(logits).tolist()]
