"""What is wrong with a definition, and where."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """What a problem means for who wants to run the flow."""

    ERROR = "error"
    """Neither the Flows service nor this machine takes it."""
    UNSUPPORTED = "unsupported"
    """The Flows service takes it; it cannot run on one's own machine."""
    WARNING = "warning"
    """It runs, and may do something else than its author meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: `pointer` is a JSON pointer (RFC 6901), `line` counts from 1 where it is known."""

    pointer: str
    problem: str
    line: int | None = None
    severity: Severity = Severity.ERROR

    def sentence(self) -> str:
        """For a person: where, and what."""
        place = f"line {self.line}, {self.pointer or '/'}" if self.line is not None else self.pointer or "/"
        kind = "" if self.severity is Severity.ERROR else f" ({self.severity})"
        return f"{place}: {self.problem}{kind}"

    def document(self) -> dict[str, object]:
        """For a program."""
        return {
            "severity": str(self.severity),
            "pointer": self.pointer,
            "line": self.line,
            "problem": self.problem,
        }


def pointer(*parts: str | int) -> str:
    """The JSON pointer to a place."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known word is close, else nothing."""
    names = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[found[0]]!r}?" if found else ""
