"""The truth for scoring boxes and maps made elsewhere: ILSVRC's, VOC's, or a COCO file's.

If some truths are invalid, scoring stops at the first such image, or leaves these images out and counts them.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, get_args

from eigencam.datasets.base import BadTruthError, Truth
from eigencam.datasets.checks import known_faults, truth_faults
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.subset import chosen_positions
from eigencam.datasets.voc import Task, Voc
from eigencam.evaluation.predictions import read_coco_truth

Policy = Literal["fail", "skip"]
_SKIP = "--on-bad-truth skip leaves such images out, and counts them"


@dataclass(frozen=True, slots=True)
class Truths:
    """Images and their truths.

    Attributes:
        name: of the set.
        ids: of the images.
        truth: returns the truth of image `i`; raises `BadTruthError` if it is invalid.
        policy: whether to raise that error, or to leave the image out.
        masks: whether there are masks.
        left_out: the fault by id for images left out; filled while the truths are read.
    """

    name: str
    ids: list[str]
    truth: Callable[[int], Truth]
    policy: Policy
    masks: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def part(self, limit: int | None, seed: int | None, images: str | None) -> "Truths":
        """Return a part of the images, by `limit`, `seed` and `images` as in a run."""
        kept = chosen_positions(self.ids, limit, seed, images)
        return replace(self, ids=[self.ids[i] for i in kept], truth=lambda i: self.truth(kept[i]))

    def of(self, wanted: Container[str]) -> Iterator[Truth]:
        """Yield the truth of each requested image."""
        for i, name in enumerate(self.ids):
            if name in wanted:
                try:
                    yield self.truth(i)
                except BadTruthError as error:
                    self.left_out[name] = str(error)
                    check(self.left_out, self.policy)


def check(faults: Mapping[str, str], policy: Policy) -> None:
    """Raise the first of the faults as `BadTruthError`, unless such images are left out."""
    if faults and policy == "fail":
        raise BadTruthError(f"{next(iter(faults.values()))} ({_SKIP})")


def left_out(faults: Mapping[str, str], n: int) -> dict[str, str]:
    """The protocol's entry on images with an invalid truth. BadTruthError if these are all `n`."""
    if not faults:
        return {}
    first = next(iter(faults.values()))
    if len(faults) == n:
        raise BadTruthError(f"{first} (so for all {n} images: none has a valid truth)")
    return {"bad truth": f"{len(faults)} of {n} left out, e.g. {first}"}


def open_truths(root: Path, chosen: str, policy: Policy, *, maps: bool, allow_missing: bool) -> Truths:
    """Return the images that `--truth` and `--set` of `eigencam score` name.

    Args:
        root: ILSVRC's or VOC's folder, or a COCO file.
        chosen: `ilsvrc`, VOC's YEAR/TASK/IMAGE_SET, or `auto`.
        policy: for images with an invalid truth.
        maps: whether maps are scored, which need the images' sizes.
        allow_missing: whether to leave out images without files.

    Raises:
        FileNotFoundError: nothing of the kind exists there.
        BadTruthError: some truths (with `skip`: all of them) are invalid.
        ValueError: there are several sets and none is chosen, or `--set` is not understood.
    """
    if root.is_file() and root.name.endswith((".json", ".json.gz")):
        if chosen != "auto":
            raise ValueError(f"--set {chosen}: {root} has one set of images; leave the option out")
        faults: dict[str, str] = {}
        truths = read_coco_truth(root, faults)
        check(faults, policy)
        ids = [*(truth.image_id for truth in truths), *faults]
        return Truths(root.name, ids, _first(truths, list(faults.values())), policy)
    if chosen == "auto":
        sets = voc_sets(root)
        if len(sets) > 1:
            raise ValueError(f"{root} has several of VOC's sets: choose one, --set {' or --set '.join(sets)}")
        chosen = sets[0] if sets else "ilsvrc"
    if chosen == "ilsvrc":
        data = Ilsvrc(root, images=False)
        # Boxes need no image; a map needs its image's size, which not every form of the truth includes.
        known = [name not in data.faults for name in data.ids]
        if maps and (data.annotation.sizes[known] == 0).any():
            data = Ilsvrc(root, allow_missing=allow_missing)
        return _checked(Truths("ilsvrc", data.ids, data.truth, policy), data)
    year, _, rest = chosen.partition("/")
    task, _, image_set = rest.partition("/")
    if not (year.isdigit() and task and image_set):
        raise ValueError(f"--set {chosen}: allowed are auto, ilsvrc, and YEAR/TASK/IMAGE_SET as 2007/Main/test")
    data = Voc(root, int(year), image_set, cast(Task, task), allow_missing=allow_missing)
    return _checked(Truths(chosen, data.ids, data.truth, policy, masks=task == "Segmentation"), data)


def _first(truths: Sequence[Truth], faults: Sequence[str]) -> Callable[[int], Truth]:
    """A function that returns the truth of image `i`, or raises its fault; the images with a valid truth come first."""

    def truth(i: int) -> Truth:
        if i < len(truths):
            return truths[i]
        raise BadTruthError(faults[i - len(truths)])

    return truth


def _checked(truths: Truths, data: Ilsvrc | Voc) -> Truths:
    """The same truths, after all checks that are possible before an image is scored."""
    check(known_faults(data), truths.policy)
    if fault := next(truth_faults(data, skip=True), None):
        raise BadTruthError(fault)
    return truths


def voc_sets(root: Path) -> list[str]:
    """VOC's usual sets that exist in `root`: `YEAR/TASK/IMAGE_SET`."""
    return [
        f"{year}/{task}/{image_set}"
        for year, image_set in ((2007, "test"), (2007, "val"), (2012, "val"))
        for task in get_args(Task)
        for folder in (root / f"VOCdevkit/VOC{year}", root / f"VOC{year}", root)
        if folder.name == f"VOC{year}" and (folder / "ImageSets" / task / f"{image_set}.txt").is_file()
    ]
