"""Faults in a dataset's ground truth that can be found before the first batch is read.

A reader whose lists reveal impossible boxes or labels records them in `faults`, by image id; `truth` raises them as
`BadTruthError`. Masks are separate files, so a few are opened. If none of them has a pixel of a target object, their
values follow another convention, such as the usual 0 and 255.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from eigencam.datasets.base import MASK_VALUES, VOID, BadImageError, BadTruthError, Dataset, Truth

LOOKED_AT = 64
"""Masks that are opened until one has a pixel of a target object."""

_WITHOUT_MASK = 4  # after so many images without a mask, no more are opened
_SHOWN = 5
_SKIP = "on_bad_truth=skip leaves such images out, and counts them"


def known_faults(dataset: Dataset) -> Mapping[str, str]:
    """The faults of its images that the dataset's lists reveal, by id."""
    faults: Mapping[str, str] = getattr(dataset, "faults", {})
    return {name: faults[name] for name in dataset.ids if name in faults} if faults else {}


def checked_truth(dataset: Dataset, i: int) -> Truth:
    """The ground truth of image `i`.

    Raises:
        BadTruthError: it is invalid, is of classes that the dataset does not have, or belongs to another image.
    """
    truth = dataset.truth(i)
    if truth.image_id != dataset.ids[i]:
        raise truth.fault(f"image_id {truth.image_id!r}; allowed is that of the dataset's ids, {dataset.ids[i]!r}")
    return truth.of_classes(len(dataset.classes))


def truth_faults(dataset: Dataset, skip: bool = False) -> Iterator[str]:
    """Yield the reasons why a run cannot use the dataset's ground truth.

    Args:
        dataset: the dataset.
        skip: whether images with invalid ground truth are left out; then only faults of all images are reported.
    """
    faults, n = known_faults(dataset), len(dataset.ids)
    if faults and (not skip or len(faults) == n):
        yield from _shown(list(faults.values()), n)
    else:
        yield from _faults_of_masks(dataset, skip)


def _shown(faults: list[str], n: int) -> Iterator[str]:
    """The first faults of `n` images; the last line gives their number."""
    *first, last = faults[:_SHOWN]
    yield from first
    if len(faults) == n:
        yield f"{last} (so for all {n} images looked at: no truth is right)"
    else:
        yield f"{last} ({len(faults)} of {n} images have an invalid truth; {_SKIP})"


def _faults_of_masks(dataset: Dataset, skip: bool) -> Iterator[str]:
    """Yield the fault of the opened masks if none has a pixel of a target object.

    Masks of images without objects are not considered.
    """
    n = len(dataset.ids)
    values = np.zeros(VOID + 1, bool)
    masks: list[Truth] = []
    wrong: list[str] = []
    right = without = 0
    for i in range(0, n, max(1, n // LOOKED_AT)):
        try:
            truth = checked_truth(dataset, i)
        except BadImageError:
            continue  # the run reports it
        except BadTruthError as error:
            wrong.append(str(error))
            if not skip:
                yield f"{error} ({_SKIP})"
                return
            continue
        right += 1
        if truth.mask is None:
            without += 1
        elif truth.sought_pixels().any():
            return
        elif truth.mask.any() or truth.sought().any() or (truth.foreground == "label" and truth.label >= 0):
            values |= np.bincount(truth.mask.ravel(), minlength=VOID + 1) > 0
            masks.append(truth)
        if without == _WITHOUT_MASK:
            return
    if masks:
        wanted = "1 and more" if masks[0].foreground == "any" else "1 + label"
        seen = f"they have {', '.join(map(str, np.flatnonzero(values)))}; {MASK_VALUES}"
        yield f"none of the {len(masks)} masks looked at has a pixel of a target object, {wanted}: {seen}"
    elif wrong and not right:
        yield from _shown(wrong, len(wrong))
