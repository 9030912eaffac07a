"""Which images a threshold is chosen on, so that the metric can be reported on the others.

`tune` is a share of the images, in (0, 1), drawn by a hash of their ids, whatever else is in the dataset; or a file
that lists ids, one a line. Without it a threshold is the best on the images that are scored, an oracle's.
"""

import hashlib
from functools import lru_cache

from eigencam.datasets.base import Dataset
from eigencam.datasets.reading import expand, read_lines

Tune = float | str | None
_EXPECTED = "the ids of the images that the threshold is chosen on, one a line"


def check_tune(tune: Tune) -> None:
    """Raise a ValueError unless `tune` is a share, the name of a file, or None."""
    share = isinstance(tune, float) and 0 < tune < 1
    if tune is not None and not share and not (isinstance(tune, str) and tune):
        raise ValueError(f"tune={tune!r}; allowed: a share of the images, 0 < tune < 1, a file of ids, or null")


def is_tuned_on(tune: Tune, image_id: str) -> bool:
    """Whether the threshold is chosen on an image."""
    if isinstance(tune, str):
        return image_id in _listed(tune)
    digest = hashlib.sha256(f"tune/{image_id}".encode()).digest()
    return tune is not None and int.from_bytes(digest[:8], "big") < tune * 2**64


def tune_sources(tune: Tune, dataset: Dataset) -> dict[str, str]:
    """SHA-256 of the list, if there is one.

    Raises:
        ValueError: it has none of the dataset's images, or all of them.
    """
    if not isinstance(tune, str):
        return {}
    there = len(_listed(tune) & set(dataset.ids))
    if there in (0, len(dataset.ids)):
        listed, n = next(iter(sorted(_listed(tune))), "nothing"), len(dataset.ids)
        raise ValueError(
            f"tune={tune}: lists {'none' if there == 0 else 'all'} of the {n} images of {dataset.name}, e.g. "
            f"{dataset.ids[0]}, but {listed}; allowed are some of them, the others are reported on"
        )
    return {"tune": hashlib.sha256(expand(tune).read_bytes()).hexdigest()}


@lru_cache(maxsize=4)
def _listed(file: str) -> frozenset[str]:
    return frozenset(read_lines(expand(file), _EXPECTED))
