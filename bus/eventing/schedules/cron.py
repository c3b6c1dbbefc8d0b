"""Cron lines as people know them, on a wall clock.

APScheduler's trigger finds the next fitting time; it is asked on a clock without time zones (`timing` does those), and
gets the fields in its own numbers: its week begins with Monday as 0, and it takes day of month *and* day of week where
cron takes *or* when both are restricted.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Final

from apscheduler.triggers.cron import CronTrigger

from headrace.bus.errors import ScheduleInvalid

MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", re.ASCII)
_MOST_CHARACTERS = 200
# Leap days may be eight years apart (1896, 1904), and fall on a given weekday every 40.
_HORIZON = datetime.timedelta(days=41 * 366)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a line: its name, its smallest and largest number, and names for them from the smallest on."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


class Cron:
    """A cron line: five fields (minute, hour, day of month, month, day of week), or six with seconds in front."""

    def __init__(self, line: str) -> None:
        """Raises `ScheduleInvalid`, which names the field."""
        texts = _fields(line)
        second, minute, hour, day, month, weekday = (
            _values(field, text) for field, text in zip(_FIELDS, texts, strict=True)
        )
        self.every_hour: Final = len(hour) == 24
        """Whether it fits each hour of the day: such a line follows time as it passes, also when clocks are changed."""
        days: list[tuple[set[int] | None, set[int] | None]] = [(day, weekday)]
        if not (texts[3].startswith("*") or texts[5].startswith("*")):
            days = [(day, None), (None, weekday)]
        self._triggers = [
            CronTrigger(
                second=_listed(second),
                minute=_listed(minute),
                hour=_listed(hour),
                month=_listed(month),
                day="*" if of_month is None else _listed(of_month),
                day_of_week="*" if of_week is None else _listed({(number - 1) % 7 for number in of_week}),
                timezone=datetime.UTC,
            )
            for of_month, of_week in days
        ]

    def next(self, wall: datetime.datetime) -> datetime.datetime | None:
        """The first fitting time at this one or later, both without a zone; None when there is none within 40 years."""
        since = wall.replace(tzinfo=datetime.UTC)
        found = []
        for trigger in self._triggers:
            trigger.end_date = since + _HORIZON
            try:
                time = trigger.get_next_fire_time(None, since)
            except (OverflowError, ValueError):  # behind the year 9999
                time = None
            if time is not None:
                found.append(time.replace(tzinfo=None))
        return min(found, default=None)


def _fields(line: str) -> list[str]:
    texts = MACROS.get(line.strip().lower(), line).lower().split() if len(line) <= _MOST_CHARACTERS else []
    if len(texts) == 5:
        return ["0", *texts]
    if len(texts) == 6:
        return texts
    raise ScheduleInvalid(
        f"{line[:80]!r} is no cron line: expected five fields (minute, hour, day of month, month, day of week), six"
        f" with seconds in front, or one of {', '.join(MACROS)}",
        pointer="/cron",
    )


def _values(field: _Field, text: str) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        form = _PART.fullmatch(part)
        if form is None:
            raise _wrong(field, part, "expected *, a number, a range such as 1-5, or either with a step such as */5")
        first, last, step = form.groups()
        least = field.least if first is None else _number(field, part, first)
        most = _number(field, part, last) if last else (least if first is not None and step is None else field.most)
        if first is None and field.most == 7:
            most = 6  # Sunday is 0 and 7: once is enough
        if least > most:
            raise _wrong(field, part, "the range ends before it begins")
        if step is not None and int(step) == 0:
            raise _wrong(field, part, "a step is at least 1")
        values.update(range(least, most + 1, int(step or 1)))
    return {number % 7 for number in values} if field.most == 7 else values


def _number(field: _Field, part: str, text: str) -> int:
    if text in field.names:
        return field.least + field.names.index(text)
    if not text.isdigit() or not field.least <= int(text) <= field.most:
        names = f", or one of {', '.join(field.names)}" if field.names else ""
        raise _wrong(field, part, f"{text!r} is not a number from {field.least} to {field.most}{names}")
    return int(text)


def _wrong(field: _Field, part: str, problem: str) -> ScheduleInvalid:
    return ScheduleInvalid(f"the {field.name} {part!r} of a cron line: {problem}", pointer="/cron")


def _listed(values: set[int]) -> str:
    """The trigger's form of some numbers, in as few ranges as can be: it tries each of them at every step."""
    ranges: list[list[int]] = []
    for number in sorted(values):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}-{last}" for first, last in ranges)
