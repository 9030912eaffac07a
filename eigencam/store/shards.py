"""The part of a run that one process does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

S = TypeVar("S", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `k` of `of`, from 1 on, of a run's batches.

    >>> Shard.parse("3/16").pick(range(32))
    range(4, 6)
    """

    k: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """ValueError for what is not `k/n` with 1 <= k <= n."""
        k, slash, of = text.partition("/")
        if not (slash and k.isdecimal() and of.isdecimal() and 1 <= int(k) <= int(of)):
            raise ValueError(f"shard={text}; allowed: 1/1, or k/n with 1 <= k <= n, as 3/16")
        return cls(int(k), int(of))

    def pick(self, batches: S) -> S:
        """A contiguous part."""
        n = len(batches)
        return batches[n * (self.k - 1) // self.of : n * self.k // self.of]  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """As it stands in the names of files, `3of16`."""
        return f"{self.k}of{self.of}"

    @property
    def suffix(self) -> str:
        """Of its files' names; "" for the whole."""
        return f"-{self.name}" if self.of > 1 else ""
