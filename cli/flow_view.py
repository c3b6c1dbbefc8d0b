"""What a person sees of a run while it goes on: a live table in a terminal, else a line for each entry of the log."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from headrace.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from headrace.sdk.flows import Entry

_MOST_ROWS = 30
_MOST_TEXT = 200


class Lines:
    """A line on stderr for each entry. `answers`: where somebody may press Enter to resume an action."""

    def __init__(self, answers: TextIO | None = None) -> None:
        self._answers = answers
        self._began = time.monotonic()

    @property
    def key(self) -> int | None:
        """The file that can be read when somebody has pressed Enter."""
        return None if self._answers is None else self._answers.fileno()

    def take_key(self) -> bool:
        """Read the answer away; at the end of the file there will be none any more."""
        answered = self._answers is not None and self._answers.readline() != ""
        if not answered:
            self._answers = None
        return answered

    def note(self, text: str) -> None:
        """A line that is in no log."""
        output.note(f"  {text}")

    def tell(self, entry: Entry) -> None:
        """Show an entry."""
        name = entry.details.get("state_name") or ""
        words = said(entry)
        output.note(f"{time.monotonic() - self._began:8.1f} s  {entry.code:<24} {name}{'  ' if words else ''}{words}")
        if entry.code == "FlowInactive" and self.key is not None:
            output.note("Press Enter once this is done, Ctrl-C to cancel the run.")

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While the run goes on."""
        yield


@dataclass(slots=True)
class _Row:
    state: str
    kind: str
    began: float
    words: str = ""
    mark: str = "…"
    took_s: float | None = None


@dataclass(slots=True)
class _Rows:
    rows: list[_Row] = field(default_factory=list)

    def take(self, entry: Entry) -> None:
        code, name = entry.code, str(entry.details.get("state_name") or "")
        resumed = code == "FlowResumed" and name and not self.rows
        if resumed or (code.endswith("Started") and code != "FlowStarted"):
            self.rows.append(_Row(name, str(entry.details["state_type"]), time.monotonic()))
        elif self.rows and (code == "FlowInactive" or not code.startswith("Flow")):
            row = self.rows[-1]
            row.words = said(entry) or row.words
            if code.endswith(("Completed", "Failed")):
                row.mark = "✓" if code.endswith("Completed") else "✗"
                row.took_s = time.monotonic() - row.began


class LiveTable(Lines):
    """A table on a terminal, drawn anew while the run goes on."""

    def __init__(self, answers: TextIO | None = None) -> None:
        super().__init__(answers)
        self._rows = _Rows()
        self._note = ""

    def note(self, text: str) -> None:
        """Below the table, until the next."""
        self._note = text

    def tell(self, entry: Entry) -> None:
        """Show an entry."""
        self._rows.take(entry)
        self._note = ""
        if entry.code == "FlowInactive" and self.key is not None:
            self._note = f"{said(entry)}\nPress Enter once this is done, Ctrl-C to cancel the run."

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While the run goes on; afterwards the table stays."""
        from rich.console import Console
        from rich.live import Live

        with Live(get_renderable=self._drawn, console=Console(stderr=True), refresh_per_second=8):
            yield

    def _drawn(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, caption=Text(self._note) if self._note else None, caption_justify="left")
        for title in ("", "STATE", "TYPE", "TOOK", ""):
            table.add_column(title, overflow="fold" if not title else "ellipsis")
        hidden = len(self._rows.rows) - _MOST_ROWS
        if hidden > 0:
            table.add_row("", f"({hidden} before)", "", "", "")
        for row in self._rows.rows[-_MOST_ROWS:]:
            took_s = time.monotonic() - row.began if row.took_s is None else row.took_s
            # What providers say is text, and no markup.
            table.add_row(row.mark, Text(row.state), row.kind, f"{took_s:.1f} s", Text(row.words))
        return table


def view(*, plain: bool, once: bool) -> Lines:
    """A table where somebody looks on, else lines."""
    answers = sys.stdin if sys.stdin.isatty() and not once else None
    return Lines(answers) if plain or not sys.stderr.isatty() else LiveTable(answers)


def said(entry: Entry) -> str:
    """What an entry says besides its code, in a line."""
    details = entry.details
    status = details.get("status")
    if isinstance(status, dict):
        words = status.get("display_status") or ""
        more = status.get("details")
        if status.get("status") == "INACTIVE" and isinstance(more, dict):
            words = _waits_for(more)
        return _line(f"{status.get('status')}{': ' if words else ''}{words}")
    if "exception" in details:
        caught = f" (goes on with {details['next']})" if details.get("next") else ""
        return _line(f"{details['exception']}: {_text(details.get('cause'))}{caught}")
    if details.get("next"):
        return f"then {details['next']}"
    return _line(str(details.get("run_id") or ""))


def _waits_for(details: dict[str, Any]) -> str:
    """What an INACTIVE action wants of somebody."""
    wanted = [str(details.get("description") or details.get("code") or "")]
    authorization = details.get("authorization_parameters")
    scopes = authorization.get("required_scopes") if isinstance(authorization, dict) else details.get("required_scope")
    if scopes:
        wanted.append(f"consent to {_text(scopes)}")
    if details.get("resolution_url"):
        wanted.append(f"see {details['resolution_url']}")
    return "; ".join(filter(None, wanted))


def _text(value: Any) -> str:
    if isinstance(value, dict) and value.get("description"):
        return str(value["description"])
    return value if isinstance(value, str) else json.dumps(value)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_TEXT else f"{line[:_MOST_TEXT]}…"
