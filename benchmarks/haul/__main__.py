"""The long haul: `make long-haul`, or

python -m benchmarks.haul [--factor 0.01] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, workload
from benchmarks.haul.probes import Point
from benchmarks.haul.series import SERIES, Haul
from benchmarks.run import RESULTS
from benchmarks.systems.headrace import Headrace


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives 1 when a series could not be measured."""
    options = _options(arguments)
    options.results.mkdir(exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 200)
    points: list[Point] = []
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="work-", dir=options.results) as directory:
        facts = machine.facts(Path(directory))
        for name in options.only or SERIES:
            try:
                for point in _measured(name, Path(directory) / name, options.factor):
                    points.append(point)
                    console.print(f"{point.series}: {point.at}", style="dim", highlight=False)
            except Exception as error:
                problems[name] = f"{type(error).__name__}: {error}"
    for series, group in groupby(points, lambda point: point.series):
        _show(console, series, list(group))
    for name, problem in problems.items():
        console.print(f"{name} failed: {problem}", style="red", highlight=False)
    document = {
        "machine": facts,
        "factor": options.factor,
        "points": [asdict(point) for point in points],
        "problems": problems,
    }
    path = options.results / f"long-haul-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"\nAll figures: {path}", highlight=False)
    return int(bool(problems))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.haul", description="Measure Headrace as things grow.")
    parser.add_argument("--factor", type=float, default=1.0, help="how far to go: 1 is a million tasks, 0.01 a minute")
    parser.add_argument("--only", action="append", choices=list(SERIES), help="only this series; may be repeated")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the figures go, as JSON")
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    if options.factor <= 0:
        parser.error("--factor must be above 0")
    return options


def _measured(name: str, work: Path, factor: float) -> Iterator[Point]:
    work.mkdir()
    system = Headrace(work)
    try:
        system.start()
        workload.warm_up(system)
        yield from SERIES[name](Haul(system, work, factor))
    finally:
        system.stop()


def _show(console: Console, series: str, points: Sequence[Point]) -> None:
    names = list(dict.fromkeys(name for point in points for name in point.figures))
    table = Table(title=series, title_justify="left", title_style="bold")
    table.add_column(series, justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for point in points:
        table.add_row(str(point.at), *(_cell(point.figures.get(name)) for name in names))
    if len(points) > 1 and points[0].at:
        first, last = points[0], points[-1]
        table.add_section()
        table.add_row("last : first", *_ratios(names, first.figures, last.figures))
    console.print(table)


def _cell(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:.0f}" if abs(figure) >= 100 else f"{figure:.2f}"


def _ratios(names: Iterable[str], first: dict[str, Any], last: dict[str, Any]) -> Iterator[str]:
    for name in names:
        yield f"{last[name] / first[name]:.2f}" if first.get(name) and last.get(name) else ""


if __name__ == "__main__":
    sys.exit(main())
