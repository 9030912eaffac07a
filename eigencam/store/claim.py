"""A result that came in a bundle is claimed: somebody else says that it was computed so.

    claim.json          the bundle that it came in, and what became of it when it was made again here

A seal shows damage, no lie: rows and metrics can be made up that agree with one another. So a result of a bundle stays
claimed, in every table, until `eigencam reproduce` has made it again on this machine.
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
    """What is known of a result that came in a bundle.

    Attributes:
        bundle: checksum of the bundle's file.
        host: name of the machine that made the bundle.
        made: when, `2026-03-01T12:00:00Z`.
        again: what came of making it again here; "" where nobody has.
        checked: when that was.
        command: what made it again.
    """

    bundle: str
    host: str
    made: str
    again: Again = ""
    checked: str = ""
    command: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether it was made again here, and came out the same."""
        return self.again in ("same", "same within rounding")

    def __str__(self) -> str:
        """What a table's footnote says."""
        if not self.again:
            return "claimed by others, not made again here"
        words = "and came out different" if self.again == "different" else f"the {self.again}"
        return f"claimed by others, made again here {words}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a claim.

        Raises:
            FileNotFoundError: there is none.
            DamagedError: it is not what was written.
        """
        content = read_json(path)
        texts = {key: content.get(key, "") for key in cls.__dataclass_fields__}
        if not all(isinstance(text, str) for text in texts.values()) or texts["again"] not in AGAIN:
            raise DamagedError(path, "no claim")
        return cls(**texts)

    def write(self, folder: Path) -> None:
        """Write it into a result's folder."""
        write_json(folder / CLAIM, asdict(self), sync=True)
