"""A row that could not be decoded."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Unparsable:
    text: str
    """Its bytes as text, what is no UTF-8 escaped; of a line beyond all limits the beginning."""
    reason: Literal["unparsable", "too_long"] = "unparsable"

    @classmethod
    def of(
        cls, data: bytes, reason: Literal["unparsable", "too_long"] = "unparsable"
    ) -> "Unparsable":
        return cls(data.decode(errors="backslashreplace").rstrip("\r\n"), reason)
