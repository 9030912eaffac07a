"""A result from a bundle is claimed: it was computed elsewhere, and has not been reproduced here.

    claim.json          the bundle that the result came in, and the outcome of reproducing it here

A seal shows damage but not lies: consistent rows and metrics can be made up. A result from a bundle therefore stays
claimed, in every table, until `eigencam reproduce` has reproduced it on this machine.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from eigencam.store.seal import DamagedError, read_json, write_json

CLAIM = "claim.json"
Again = Literal["", "same", "same within rounding", "different"]
AGAIN: tuple[Again, ...] = ("", "same", "same within rounding", "different")


@dataclass(frozen=True, slots=True)
class Claim:
    """The origin of a result that came in a bundle.

    Attributes:
        bundle: checksum of the bundle's file.
        host: name of the machine that made the bundle.
        made: time at which the bundle was made, `2026-03-01T12:00:00Z`.
        again: outcome of reproducing it here; "" if nobody has.
        checked: time at which it was reproduced.
        command: the command that reproduced it.
    """

    bundle: str
    host: str
    made: str
    again: Again = ""
    checked: str = ""
    command: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether it was reproduced here with the same values."""
        return self.again in ("same", "same within rounding")

    def __str__(self) -> str:
        """The text of a table's footnote."""
        if not self.again:
            return "claimed by others, not made again here"
        words = "and came out different" if self.again == "different" else f"the {self.again}"
        return f"claimed by others, made again here {words}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a claim.

        Raises:
            FileNotFoundError: there is none.
            DamagedError: it has changed since it was written.
        """
        content = read_json(path)
        texts = {key: content.get(key, "") for key in cls.__dataclass_fields__}
        if not all(isinstance(text, str) for text in texts.values()) or texts["again"] not in AGAIN:
            raise DamagedError(path, "no claim")
        return cls(**texts)

    def write(self, folder: Path) -> None:
        """Write it into a result's folder."""
        write_json(folder / CLAIM, asdict(self), sync=True)
