"""Reproducing results: the commands of a result's runs are run into a fresh folder; rows and metrics are compared."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from eigencam.reporting.reproduce import DIFFERENT, NOT_RUN, ROUNDING, SAME, Ran, Verdict, rerun
from eigencam.running.foreign_commands import Foreign
from eigencam.store.claim import Again, Claim
from eigencam.store.finish import first_difference
from eigencam.store.reader import Stored, read

NEAR = 0.1
"""Largest difference that counts as rounding, for metrics in percent; for others it is a tenth of this."""


def commands_of(stored: Stored) -> tuple[str, ...]:
    """Return the commands that computed a result, each once."""
    return tuple(dict.fromkeys(shlex.join(run.command) for run in stored.computing))


def make_again(
    results: Sequence[Stored], foreign: Foreign, limit: int | None, say: Callable[[str], None]
) -> dict[str, Verdict]:
    """Reproduce some results, and return the outcome of each by folder name.

    Args:
        results: complete ones.
        foreign: what this command line grants to other people's commands.
        limit: maximum number of images per dataset; larger datasets get no verdict.
        say: called with the few lines meant for a person.
    """
    verdicts: dict[str, Verdict] = {}
    groups: dict[tuple[str, ...], list[Stored]] = {}
    for stored in results:
        groups.setdefault(commands_of(stored), []).append(stored)
    for commands, same in groups.items():
        ran = rerun(commands, foreign, limit, say)
        verdicts |= {stored.folder.name: _verdict(stored, foreign.results, ran) for stored in same}
    return verdicts


def note(stored: Stored, verdict: Verdict, command: str) -> None:
    """Record the outcome in a claimed result, unless it was not run."""
    kinds: dict[str, Again] = {SAME: "same", ROUNDING: "same within rounding", DIFFERENT: "different"}
    if stored.claim is not None and verdict.kind in kinds:
        checked = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        replace(stored.claim, again=kinds[verdict.kind], checked=checked, command=command).write(stored.folder)


def claimed(results: Sequence[Stored]) -> list[Stored]:
    """Return the complete results that are claimed and not yet reproduced."""
    return [
        stored for stored in results if stored.summary and isinstance(stored.claim, Claim) and not stored.claim.again
    ]


def _verdict(stored: Stored, root: Path, ran: Ran) -> Verdict:
    new = read(root / stored.folder.name, hashed=True)
    if new is None or new.summary is None:
        reason = next(
            iter(ran.reasons.values()), "its commands make another result here: other versions, weights or data"
        )
        return Verdict(NOT_RUN, reason)
    old, now = stored.summary, new.summary
    if old is None or old.unsupported or now.unsupported:
        same = old is not None and bool(old.unsupported) == bool(now.unsupported)
        return Verdict(SAME if same else DIFFERENT, "" if same else f"not run here: {now.unsupported}")
    if now.n < old.n:
        return Verdict(NOT_RUN, f"{now.n} of {old.n} images were scored")
    if not (difference := first_difference(stored.rows(), new.rows())) and now.n == old.n:
        return Verdict(SAME)
    values = {metric["name"]: metric for metric in now.metrics}
    for metric in old.metrics:
        near = NEAR if metric["unit"] == "%" else NEAR / 10
        other = values.get(metric["name"])
        if other is None or not _is_near(metric["value"], other["value"], near):
            found = "missing" if other is None else f"{other['value']:.6g}"
            return Verdict(DIFFERENT, f"{metric['name']} {metric['value']:.6g}, {found} now; {difference}")
    return Verdict(ROUNDING, difference)


def _is_near(one: float, other: float, near: float) -> bool:
    return abs(one - other) <= near * 1.000001 or (one != one and other != other)
