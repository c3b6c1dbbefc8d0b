"""What the service answers, as people want to see it, or programs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from headrace.cli import output

Record = dict[str, Any]
Column = str | Callable[[Record], object]
"""A key of records, or what makes a cell of one."""
Columns = Mapping[str, Column]
"""By their headings."""


MOST_SHOWN: Final = 50
LimitOption = Annotated[int, typer.Option(min=1, help="At most so many.")]
"""Of lists of what happens, which may be long: `MOST_SHOWN` by default."""
AllOrLimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; by default all.")]
"""Of lists of what was made by somebody."""


def _attribute(name: str) -> Callable[[Record], object]:
    # What is stored may be no event that can be read.
    return lambda stored: (stored["event"] or {}).get(name)


EVENT_COLUMNS: Final[Columns] = {
    "SEQUENCE": "sequence",
    "STORED": "stored_at",
    "TYPE": _attribute("type"),
    "SOURCE": _attribute("source"),
    "ID": _attribute("id"),
    "SUBJECT": _attribute("subject"),
}
"""Of stored events."""


def say_records(
    records: Sequence[Record], columns: Columns, *, as_json: bool, more: bool = False, limit: int | None = None
) -> None:
    """Records, at most `limit` of them, below the headings of `columns`, or whole as JSON; `more` says that they are
    only the first ones."""
    if limit is not None and len(records) > limit:
        records, more = records[:limit], True
    if as_json:
        output.say_json(records)
        return
    output.say_table([*columns], [[shown(_cell(record, column)) for column in columns.values()] for record in records])
    if more:
        output.note(f"(the first {len(records)}; --limit gives more)")


def say_made(record: Record, key: str, *, as_json: bool) -> None:
    """The name of what was made, which stands under `key`; or all of it as JSON."""
    if as_json:
        output.say_json(record)
    else:
        output.say(str(record[key]))


def first_of(records: Iterator[Record], limit: int) -> tuple[list[Record], bool]:
    """At most `limit` records, and whether there are more."""
    some = list(itertools.islice(records, limit))
    return some, next(records, None) is not None


def shown(value: object) -> str:
    """A value as a cell of a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value)


def _cell(record: Record, column: Column) -> object:
    return record.get(column) if isinstance(column, str) else column(record)
