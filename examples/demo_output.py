"""What the demo shows: a title for each step with its time, and small tables."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo_action import Request
from demo_functions import Statistics
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WIDTH = 110
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_NEXT = (
    ("headrace up", "start one that keeps what it has; then, in another terminal:"),
    ("python examples/submit.py", "call a function and wait for its result"),
    ("python examples/map_months.py", "many calls at once"),
    ("python examples/source_code.py", "register a whole module"),
    ("python examples/action.py", "run a function as an action, with nothing but HTTP"),
    ("python examples/on_event.py", "run a function when an event is published"),
)


class Step:
    """What one step has to say."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(_indented(Text(text)))

    def show(self, table: Table) -> None:
        """A table."""
        self._console.print()
        self._console.print(_indented(table))


class Output:
    """The demo on the terminal."""

    def __init__(self) -> None:
        # As wide where it is not read on a terminal, so that a log of it looks like it.
        self._console = Console(highlight=False, width=None if Console().is_terminal else _WIDTH)
        self._steps = 0
        self._began = time.monotonic()

    def title(self, months: int, days: int) -> None:
        """Say what is about to be seen."""
        self._console.print(Text("Headrace: one function, three doors", style="bold"))
        self._console.print(
            f"The input: Seattle's weather, measured by NOAA on {days} days ({months} months), examples/data/."
        )

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One numbered step; says how long it took once it is done."""
        self._steps += 1
        self._console.print()
        self._console.print(Text(f"{self._steps}. {title}", style="bold cyan"))
        began = time.monotonic()
        yield Step(self._console)
        self._console.print(_indented(Text(f"→ {time.monotonic() - began:.2f} s", style="green")))

    def failure(self, problem: str, logs: str = "") -> None:
        """Say why the demo ends here."""
        self._console.print()
        if logs:
            self._console.print(Text(logs, style="dim"), soft_wrap=True)
        self._console.print(Text(f"The demo failed: {problem}", style="bold red"), soft_wrap=True)

    def farewell(self) -> None:
        """Say that it is over, and what to try next."""
        took_s = time.monotonic() - self._began
        self._console.print()
        self._console.print(Text(f"All of it took {took_s:.1f} s and left nothing behind.", style="bold"))
        self._console.print()
        self._console.print(Text("To try next:", style="bold"))
        table = _table("command", "what it does")
        table.show_header = False
        folder = _shown(Path(sys.executable).parent)
        for command, purpose in _NEXT:
            table.add_row(Text(f"{folder}/{command}", style="cyan"), purpose)
        self._console.print(_indented(table))
        self._console.print(_indented(Text("docs/tutorial/first-steps.md walks through all of this.")))


def months_table(statistics: Mapping[str, Statistics]) -> Table:
    """Mean and standard deviation, months down, years across."""
    years = sorted({name[:4] for name in statistics})
    table = _table("daily maximum in °C, mean ± std", *years)
    for number, month in enumerate(_MONTHS, start=1):
        of_years = [statistics.get(f"{year}-{number:02}") for year in years]
        table.add_row(month, *(_mean_std(each) if each else "" for each in of_years))
    return table


def strings_table(answers: Mapping[str, Mapping[str, Any]]) -> Table:
    """What `string_stats` gave."""
    table = _table("text", "uppercase", "length")
    for name, answer in answers.items():
        table.add_row(name, answer["uppercase"], str(answer["length"]))
    return table


def requests_table(requests: Sequence[Request]) -> Table:
    """The life of an action, request by request."""
    table = _table("request", "/actions/compute/v3", "status", "outcome", "ms")
    for each in requests:
        table.add_row(each.what, each.line, str(each.status_code), each.outcome, f"{each.took_s * 1000:.0f}")
    return table


def years_table(statistics: Mapping[str, Statistics]) -> Table:
    """Mean and standard deviation of each year."""
    table = _table("daily maximum in °C", *statistics)
    table.add_row("mean ± std", *map(_mean_std, statistics.values()))
    return table


def rain_table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Days with rain and its sum, months down, years across."""
    years = sorted({name[:4] for name in reports})
    table = _table("rain in mm, on days", *years)
    for number, month in enumerate(_MONTHS, start=1):
        of_years = [reports.get(f"{year}-{number:02}") for year in years]
        table.add_row(month, *(f"{each['total']:.1f} on {each['days']}" if each else "" for each in of_years))
    return table


def _shown(folder: Path) -> Path:
    """As short as it can be typed from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _indented(content: Text | Table) -> Padding:
    return Padding(content, (0, 0, 0, 3), expand=False)


def _mean_std(statistics: Statistics) -> str:
    return f"{statistics['mean']:.1f} ± {statistics['std']:.1f}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name)
    return table
