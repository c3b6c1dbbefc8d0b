"""Why an event passes a filter, or does not: clause by clause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What became of one clause of a filter.

    `pointer` is its place in the filter, `clause` says what it asks for, `found` what the event has there; `parts` are
    the clauses that it is made of.
    """

    pointer: str
    clause: str
    passed: bool
    found: str = ""
    parts: tuple[Explanation, ...] = ()

    def document(self) -> dict[str, Any]:
        """The same as JSON has it."""
        document: dict[str, Any] = {"pointer": self.pointer, "clause": self.clause, "passed": self.passed}
        if self.found:
            document["found"] = self.found
        if self.parts:
            document["parts"] = [part.document() for part in self.parts]
        return document
