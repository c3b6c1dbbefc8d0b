"""What the generated parts of the reference are made of."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]

NOTE = "<!-- Written by docs/generate.py from the code; change it there. -->\n"


def table(head: Sequence[str], rows: Rows) -> str:
    """A table of Markdown."""
    lines = [head, ["---" for _ in head], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
