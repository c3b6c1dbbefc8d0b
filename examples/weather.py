"""The measurements that the examples work on: the daily weather of Seattle (see data/README.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("data") / "seattle-weather.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day: `date` as YYYY-MM-DD, temperatures in °C, precipitation in mm, the weather in one word."""

    date: str
    temp_max: float
    temp_min: float
    precipitation: float
    weather: str

    def description(self) -> str:
        """The day in one sentence."""
        rain = f", {self.precipitation:g} mm" if self.precipitation else ""
        return f"{self.date}: {self.weather}, {self.temp_min:g} to {self.temp_max:g} °C{rain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One month: `name` as YYYY-MM, and its days in order."""

    name: str
    days: tuple[Day, ...]

    @property
    def temp_max(self) -> list[float]:
        """The highest temperature of each day, in °C."""
        return [day.temp_max for day in self.days]

    @property
    def precipitation(self) -> list[float]:
        """The precipitation of each day, in mm."""
        return [day.precipitation for day in self.days]


def read_days(file: Path = FILE) -> list[Day]:
    """All days, in order."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Day(
                date=row["date"].replace("/", "-"),
                temp_max=float(row["temp_max"]),
                temp_min=float(row["temp_min"]),
                precipitation=float(row["precipitation"]),
                weather=row["weather"],
            )
            for row in csv.DictReader(lines)
        ]


def read_months(file: Path = FILE) -> list[Month]:
    """All months, in order."""
    by_name: dict[str, list[Day]] = {}
    for day in read_days(file):
        by_name.setdefault(day.date[:7], []).append(day)
    return [Month(name=name, days=tuple(days)) for name, days in by_name.items()]
