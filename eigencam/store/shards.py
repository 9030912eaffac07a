"""The part of a run that one process computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

S = TypeVar("S", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `of` parts of a run's batches; `k` is its number, from 1.

    >>> Shard.parse("3/16").pick(range(32))
    range(4, 6)
    """

    k: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse `k/n` with 1 <= k <= n. Raises ValueError for anything else."""
        k, slash, count = text.partition("/")
        if not (slash and k.isdecimal() and count.isdecimal() and 1 <= int(k) <= int(count)):
            raise ValueError(f"shard={text}; allowed: 1/1, or k/n with 1 <= k <= n, as 3/16")
        return cls(int(k), int(count))

    def pick(self, batches: S) -> S:
        """Return the shard's contiguous part."""
        n = len(batches)
        return batches[n * (self.k - 1) // self.of : n * self.k // self.of]  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """Name in files, `3of16`."""
        return f"{self.k}of{self.of}"

    @property
    def suffix(self) -> str:
        """Suffix of its files' names; "" for an unsharded run."""
        return f"-{self.name}" if self.of > 1 else ""
