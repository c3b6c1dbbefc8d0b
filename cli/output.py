"""What the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, NoReturn


def say(text: str = "") -> None:
    """A line for the person at the terminal, as the command's result."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line beside the result: on stderr, so that a pipe does not get it."""
    print(text, file=sys.stderr, flush=True)


def say_json(document: Any) -> None:
    """A document for a program."""
    say(json.dumps(document, indent=2, default=str))


def say_table(columns: list[str], rows: list[list[str]]) -> None:
    """Rows below their headings (if it has any), aligned; a table without rows says so on stderr."""
    if not rows:
        note("(none)")
        return
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    for row in [columns, *rows] if any(columns) else rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fail(message: str, status: int = 1) -> NoReturn:
    """End with one message for a person, and no traceback."""
    note(f"headrace: {message}")
    sys.exit(status)


def configure_logging(level: str = "INFO") -> None:
    """Logs go to stderr, one line per fact, with the time and who speaks."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    # They tell of each request, or repeat what we say in our own words.
    for chatty in ("httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
