"""Images that cannot be decoded, have an invalid truth, or have changed: they are left out, or the run is refused."""

from pathlib import Path

from eigencam.datasets.base import BadImageError, BadTruthError
from eigencam.datasets.digest import is_changed
from eigencam.running.loading import Batch
from eigencam.running.prepare import Job
from eigencam.running.run_state import Work
from eigencam.store.image_digests import KnownDigests


def refuse_gaps(job: Job) -> None:
    """Raise ValueError if existing results were made without images that this run does not leave out."""
    summaries = [result.summary for result in job.results.values() if result.complete]
    policies = (
        ("on_bad_image", "bad_images", "images that could not be decoded"),
        ("on_bad_truth", "bad_truths", "images with an invalid truth"),
    )
    for policy, kind, what in policies:
        reasons = {reason for one in summaries if one for reason in getattr(one, kind).values()}
        if reasons and getattr(job.config, policy) == "fail":
            ending = f"{policy}=skip accepts these results"
            raise ValueError("\n".join([f"existing results lack {what}:", *sorted(reasons), ending]))


def refuse_changed(known: KnownDigests, batch: Batch, root: Path) -> None:
    """Raise ValueError if an image is not the one that other results in the folder were made from."""
    found = known.of([truth.image_id for truth in batch.truths])
    for truth, digest, before in zip(batch.truths, batch.digests, found, strict=True):
        if is_changed(before, digest):
            raise ValueError(
                f"image {truth.image_id} is not the one that results in {root} were made from: "
                f"{before} there, {digest} here; put it back, or write elsewhere (paths.results=DIR)"
            )


def note_bad(work: Work, batch: Batch) -> None:
    """Record images that are left out. Raise what the policies do not allow, or a bad truth if no truth was valid."""
    config, ids = work.job.config, work.job.dataset.ids
    for i, error in batch.bad.items():
        truth = isinstance(error, BadTruthError)
        policy = config.on_bad_truth if truth else config.on_bad_image
        if policy == "fail" or not (truth or isinstance(error, BadImageError)):
            raise error
        work.bad[ids[i]] = str(error)
        if truth and len(work.bad) == len(ids):
            raise error
        for result in work.todo.values():
            result.add_bad("bad_truths" if truth else "bad_images", ids[i], str(error))
