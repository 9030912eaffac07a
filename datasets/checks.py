"""Faults in a dataset's ground truth that can be found before the first batch is read.

A reader whose lists reveal impossible boxes or labels records them in `faults`, by image id; `truth` raises them as
`BadTruthError`. Masks are separate files, so a few are opened. If none of them has a pixel of a target object, their
values follow another convention, such as the usual 0 and 255. If no image has a box of its label's class, the labels of
images and boxes are counted in different ways.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eigencam.datasets.base import MASK_VALUES, BadImageError, BadTruthError, Dataset, Truth

LOOKED_AT = 64
"""Approximate number of masks that are opened in search of a pixel of a target object."""

_WITHOUT_MASK = 4  # after so many images without a mask, no more are opened
_FEW = 8  # fewer images than this may all lack a target object
_SHOWN = 5
_SKIP = "on_bad_truth=skip leaves such images out, and counts them"


def known_faults(dataset: Dataset) -> Mapping[str, str]:
    """The faults in the images' ground truth that the dataset's lists reveal, by id."""
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
        yield from _faults_of_objects(dataset, skip)


def _shown(faults: list[str], n: int) -> Iterator[str]:
    """The first faults of `n` images; the last line gives their number."""
    *first, last = faults[:_SHOWN]
    yield from first
    if len(faults) == n:
        yield f"{last} (so for all {n} images looked at: none has a valid truth)"
    else:
        yield f"{last} ({len(faults)} of {n} images have an invalid truth; {_SKIP})"


def _faults_of_objects(dataset: Dataset, skip: bool) -> Iterator[str]:
    """Yield the fault of the masks or boxes looked at if none is of a target object.

    Images without objects are not considered, unless all masks are empty.
    """
    masks: list[Truth] = []
    boxed: list[Truth] = []
    wrong: list[str] = []
    empty = right = without = 0
    for found in _looked_at(dataset):
        if isinstance(found, str):
            wrong.append(found)
            if not skip:
                yield f"{found} ({_SKIP})"
                return
            continue
        right += 1
        labelled = found.foreground == "label" and found.label >= 0
        if found.mask is None:
            strange = labelled and len(found.boxes) and not found.sought().any()
            boxed += [found] if strange else []
            without += not strange
        elif found.sought_pixels().any():
            return
        elif found.mask.any() or found.sought().any() or labelled:
            masks.append(found)
        else:
            empty += 1
        if without == _WITHOUT_MASK:
            return
    if masks:
        yield _without_object(masks)
    elif wrong and not right:
        yield from _shown(wrong, len(wrong))
    elif right == len(boxed) >= _FEW:
        seen = f"{boxed[0].image_id} has the label {boxed[0].label} and boxes of {boxed[0].objects()}"
        yield f"none of the {right} images looked at has a box of its label's class: {seen}; are both counted from 0?"
    elif right == empty >= _FEW:
        yield f"none of the {right} masks looked at has an object, all are background; {MASK_VALUES}"


def _looked_at(dataset: Dataset) -> Iterator[Truth | str]:
    """Yield some truths, evenly spread, or the faults of invalid ones; images that cannot be decoded are skipped."""
    n = len(dataset.ids)
    for i in range(0, n, max(1, n // LOOKED_AT)):
        try:
            yield checked_truth(dataset, i)
        except BadImageError:
            continue
        except BadTruthError as error:
            yield str(error)


def _without_object(masks: Sequence[Truth]) -> str:
    """The fault of masks that have no pixel of a target object."""
    wanted = "1 and more" if masks[0].foreground == "any" else "1 + label"
    values = sorted({int(value) for one in masks if one.mask is not None for value in np.unique(one.mask)})
    seen = f"they have {', '.join(map(str, values))}; {MASK_VALUES}"
    return f"none of the {len(masks)} masks looked at has a pixel of a target object, {wanted}: {seen}"
