"""ILSVRC CLS-LOC validation: 50,000 images of 1000 classes, with boxes of the labelled object.

    data = Ilsvrc("ILSVRC_root")                        # Kaggle's layout, image-net.org's, class folders, flat
    data = Ilsvrc("ILSVRC_root", count=1000, seed=0)    # the same 1000 on every machine
    data = Ilsvrc("metadata_root", images=False)        # only the ground truth, to score existing predictions

Rows are in the order of the image ids, independent of the folders' layout. The licence of the images does not allow us
to ship or download them: the user names a folder.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.annotation_cache import Files
from eigencam.datasets.base import BadImageError, BadTruthError, Truth, checksum
from eigencam.datasets.completeness import some
from eigencam.datasets.decoding import image_size, read_rgb
from eigencam.datasets.devkit import N_CLASSES, WNID
from eigencam.datasets.digest import file_digest
from eigencam.datasets.ilsvrc_sources import Source, data_places, image_id_of, validation_id
from eigencam.datasets.ilsvrc_truth import HOW_TO_GET as TRUTH_HOW_TO_GET
from eigencam.datasets.ilsvrc_truth import IlsvrcTruth, folders, read_truths
from eigencam.datasets.names import JPEG, PNG, by_stem
from eigencam.datasets.reading import Reading, expand
from eigencam.datasets.subset import sample

N_IMAGES = 50_000
IMAGE_PLACES = ("Data/CLS-LOC/val", "CLS-LOC/val", "ILSVRC2012_img_val", "val", "images", ".")
HOW_TO_GET = (
    "The images are in ILSVRC2012_img_val.tar of image-net.org (free account) and in Kaggle's "
    "imagenet-object-localization-challenge; name the folder they are in with `images`"
)


class Ilsvrc:
    """ILSVRC validation images and their ground truth; an `eigencam.datasets.base.Dataset`.

    Attributes:
        annotation: ground truth of the chosen images as arrays, row `i` being `ids[i]`.
        paths: files of the chosen images, row by row; empty for `images=False`.
        faults: faults in the images' ground truth, by id; `truth` raises them.
    """

    version = 1

    name = "ilsvrc"
    class_space = "imagenet"

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        split: str = "val",
        source: Source | None = None,
        images: str | Path | Literal[False] | None = None,
        blacklist: str | Path | None = None,
        subset: str | Path | None = None,
        count: int | None = None,
        seed: int = 0,
        allow_missing: bool = False,
    ) -> None:
        """Find the images, read the ground truth, and check that they match.

        Args:
            root: folder with images and ground truth in one of the layouts of `read_truth`. Several folders are joined:
                a list, or one text with the system's path separator (`A:B`).
            split: only `val` has public ground truth.
            source: which ground truth to read: text, xml, csv or devkit; by default the first available one.
            images: folder of the images, flat or in class folders; by default searched below `root`. False for
                ground truth without images: then `image` raises.
            blacklist: file of images to leave out, one per line: number in 1..50000 as in the devkit's
                `ILSVRC2014_clsloc_validation_blacklist.txt` (1,762 images), or id. By default none is left out.
            subset: file whose first column lists the ids to keep; further columns are ignored.
            count: keep this many: those with the smallest SHA-256 of `seed/id`. They are spread evenly over the ids, do
                not depend on the other images, and are a subset of every larger count.
            seed: seed of that choice.
            allow_missing: use only the images that are there and have ground truth.

        Raises:
            FileNotFoundError: there is no ground truth or no image, or some images are missing.
            ValueError: an option or a file is wrong, or images and ground truth contradict each other.
        """
        if split != "val":
            raise ValueError(f"split={split!r}: allowed is 'val' (test truth is secret, train is half without boxes)")
        roots = folders(root)
        truth = read_truths(root, source)
        rows = _keep(truth.ids, blacklist, subset)
        self.split = split
        self.paths = Files(())
        files: dict[str, str] = {}
        if images is not False:
            places = [data_places(one, IMAGE_PLACES) for one in roots] if images is None else [[expand(images)]]
            files = _images(places)
            rows = _present(
                truth, rows, files, [one for several in places for one in several], allow_missing, whole=subset is None
            )
        if count is not None:
            if not 1 <= count <= len(rows):
                raise ValueError(f"count={count}: allowed are 1..{len(rows)}, the images there are to choose from")
            rows = sample(truth.ids, rows, count, seed)
        self.annotation: IlsvrcTruth = truth.select(rows)
        self.ids: list[str] = self.annotation.ids
        if images is not False:
            self.paths = Files(files[name] for name in self.ids)
        self.classes: tuple[str, ...] = (
            truth.synsets.words or truth.synsets.wnids or tuple(str(index) for index in range(N_CLASSES))
        )
        self._one_size: tuple[int, int] | None = None
        self.faults = {name: truth.faults[name] for name in self.ids if name in truth.faults}
        self._check(", ".join(map(str, roots)))

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB. Raises `BadImageError` if it cannot be decoded."""
        if not self.paths:
            raise FileNotFoundError(f"{self.ids[i]}: the dataset was made with images=False, without images")
        return read_rgb(self.paths[i])

    def digest(self, i: int) -> str:
        """Return the digest of image `i`'s encoded bytes (`eigencam.datasets.digest`)."""
        return file_digest(self.paths[i])

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`; its size is that of the file.

        Raises:
            BadTruthError: it is invalid, or the image's size differs from that of its boxes: it was resized or
                replaced.
            BadImageError: neither the ground truth nor a readable image gives the size.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        if not self.paths:
            return self.annotation.truth(i)
        try:
            size = image_size(self.paths[i])
        except BadImageError:
            if not self.annotation.sizes[i, 0]:
                raise
            return self.annotation.truth(i)
        return self.annotation.of_image(i, size, str(self.paths[i]), self._one_size)

    def identity(self) -> dict[str, object]:
        """Split, n, and checksums of ground truth and image files, which also reflect how the images were chosen."""
        boxes = (self.annotation.boxes_of(i).tolist() for i in range(len(self.ids)))
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self.annotation.labels.tolist(), boxes, strict=True)),
            "pictures": checksum(path.stat().st_size for path in self.paths),
        }

    def _check(self, roots: str) -> None:
        """Detect a wrong data folder before a run starts, by reading a few images' headers."""
        counts = np.diff(self.annotation.offsets)
        if bare := [i for i in np.flatnonzero(counts == 0).tolist() if self.ids[i] not in self.faults]:
            raise ValueError(
                f"{roots}: {len(bare)} of {len(self.ids)} images have a label but no box "
                f"({self.annotation.source}), e.g. {some(self.ids[i] for i in bare)}: get the boxes too, or choose "
                f"another source. {TRUTH_HOW_TO_GET}"
            )
        self._check_folders(self.annotation.synsets.wnids or ())
        right = [i for i in range(len(self.paths)) if self.ids[i] not in self.faults]
        looked_at = right[:: max(1, len(right) // 8)]
        sizes = Counter(self._sizes(looked_at)).most_common(1)
        self._one_size = next((size for size, count in sizes if 2 * count > len(looked_at)), None)
        found: dict[str, str] = {}
        for i in looked_at:
            try:
                self.truth(i)
            except BadTruthError as error:
                found[self.ids[i]] = str(error)
            except BadImageError:
                continue  # left to the run, which counts bad images
        if 2 * len(found) > len(looked_at):
            raise BadTruthError(next(iter(found.values())))
        self.faults |= found

    def _check_folders(self, wnids: Sequence[str]) -> None:
        """Raise a ValueError if an image lies in the folder of a class that is not its label's."""
        number = {wnid: k for k, wnid in enumerate(wnids)}
        names = [folder.name for folder in self.paths.folders]
        named = np.array([number.get(name, -2) if WNID.fullmatch(name) else -1 for name in names], np.int64)
        if not (number and len(self.paths)):
            return
        labels, by_folder = self.annotation.labels, named[self.paths.codes]
        if (wrong := (labels >= 0) & (by_folder != -1) & (by_folder != labels)).any():
            i = int(wrong.argmax())
            raise ValueError(f"{self.paths[i]} lies in another class's folder: its truth says {wnids[labels[i]]}")

    def _sizes(self, rows: Iterable[int]) -> Iterator[tuple[int, int]]:
        for i in rows:
            with suppress(BadImageError):
                yield image_size(self.paths[i])


def _keep(ids: list[str], blacklist: str | Path | None, subset: str | Path | None) -> list[int]:
    """The rows that remain after `blacklist` and `subset`."""
    row = {name: i for i, name in enumerate(ids)}
    kept = row.keys()
    if subset is not None:
        kept = _named(subset, lambda line: image_id_of(line.replace(",", " ").split()[0]))
        if unknown := sorted(kept - row.keys()):
            raise ValueError(f"{subset}: {len(unknown)} of {len(kept)} ids have no truth, e.g. {some(unknown)}")
    if blacklist is not None:
        kept = kept - _named(blacklist, _blacklisted)
    if not kept:
        raise ValueError(f"no image is left of {len(ids)} by subset={subset}, blacklist={blacklist}")
    return sorted(row[name] for name in kept)


def _named(path: str | Path, read: Callable[[str], str]) -> set[str]:
    """The ids of the images that a list names, one per line."""
    with Reading(expand(path), "a list of images") as file:
        return {read(line) for line in file.lines()}


def _blacklisted(line: str) -> str:
    if not line.isdigit():
        return image_id_of(line)
    if not 1 <= int(line) <= N_IMAGES:
        raise ValueError(f"image number {line}; allowed are 1..{N_IMAGES}")
    return validation_id(int(line))


def _images(folders: list[list[Path]]) -> dict[str, str]:
    """Image files by id; each root's are those of its first folder that has any."""
    files: dict[str, str] = {}
    for of_root in folders:
        found = next((found for folder in of_root if (found := by_stem(folder, [(*JPEG, *PNG)], 1))), {})
        if twice := sorted(files.keys() & found.keys()):
            raise ValueError(f"{len(twice)} images are in two of the roots, e.g. {some(twice)}: leave one root out")
        files.update(found)
    return files


def _present(
    truth: IlsvrcTruth, rows: list[int], files: dict[str, str], folders: list[Path], allow_missing: bool, whole: bool
) -> list[int]:
    """The rows whose image exists; raises if any does not, or if (`whole`) images have no ground truth."""
    present = [i for i in rows if truth.ids[i] in files]
    missing = [truth.ids[i] for i in rows if truth.ids[i] not in files]
    bare = sorted(files.keys() - set(truth.ids)) if whole else []
    looked = ", ".join(str(folder) if folder.is_dir() else f"{folder} (does not exist)" for folder in folders)
    if not present:
        raise FileNotFoundError(
            f"none of the {len(rows)} ILSVRC images is there, e.g. {some(missing)}; looked in {looked}. {HOW_TO_GET}"
        )
    if allow_missing:
        return present
    proceed = f"allow_missing=true evaluates the {len(present)} that are there"
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(rows)} ILSVRC images are missing, e.g. {some(missing)}; looked in {looked}. "
            f"{HOW_TO_GET}; {proceed}"
        )
    if bare:
        raise FileNotFoundError(
            f"{len(bare)} of {len(files)} ILSVRC images have no truth ({truth.source}), e.g. {some(bare)}; {proceed}"
        )
    return present
