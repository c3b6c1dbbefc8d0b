"""Figures for people: medians over the rounds, and how they compare with ours."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import DOOR_ROWS, EVENT_ROWS, FILTER_ROWS, PROVIDER_ROWS, ROWS, Row
from benchmarks.systems import OURS, SYSTEMS

_UNEVEN = 1.25


@dataclass(frozen=True, slots=True)
class Run:
    """One system in one round."""

    system: str
    round: int
    records: list[dict[str, Any]]

    def figures(self) -> dict[str, float]:
        """All figures that were taken."""
        return {name: value for record in self.records for name, value in record.get("figures", {}).items()}

    def problems(self) -> dict[str, str]:
        """Why there is no figure, by measure."""
        return {record["measure"]: record["problem"] for record in self.records if "problem" in record}


def summary(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """For each system: medians over the rounds with the extremes, processes, problems, version."""
    by_system: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_system[run.system].append(run)
    return {name: _summary(runs_of) for name, runs_of in by_system.items()}


def show(
    console: Console,
    systems: Mapping[str, Mapping[str, Any]],
    machine: Mapping[str, Any],
    moments: Sequence[Mapping[str, Any]],
    rounds: int,
) -> None:
    """Print everything."""
    console.print(_machine_line(machine), highlight=False)
    console.print(_quiet_line(moments), highlight=False)
    caption = (
        f"medians over {rounds} {'round' if rounds == 1 else 'rounds'}; in parentheses how many times better Headrace"
        " (fsync before every acknowledgement) is: below 1 the other one is better"
    )
    of_functions = [name for name in systems if SYSTEMS[name].runs_functions]
    if of_functions:
        console.print(_table("Two workers each", ROWS, systems, of_functions, caption))
    with_provider = [name for name in systems if _has(PROVIDER_ROWS, systems[name])]
    if with_provider:
        console.print(_table("Action providers", PROVIDER_ROWS, systems, with_provider, caption))
    ours = [name for name in systems if name.startswith(OURS)]
    for title, rows in (("Actions", DOOR_ROWS), ("Events", EVENT_ROWS), ("Filters, on one core", FILTER_ROWS)):
        having = [name for name in ours if _has(rows, systems[name])]
        if having:
            console.print(_table(title, rows, systems, having, None))
    for name in ours:
        if systems[name]["processes"]:
            console.print(_memory_table(SYSTEMS[name].title, systems[name]["processes"]))
    _show_problems(console, systems)


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    values: dict[str, list[float]] = defaultdict(list)
    problems: dict[str, list[str]] = defaultdict(list)
    version, processes = None, []
    for run in runs:
        for name, value in run.figures().items():
            values[name].append(value)
        for measure, problem in run.problems().items():
            problems[measure].append(f"round {run.round}: {problem}")
        for record in run.records:
            if record["measure"] == "version":
                version = record.get("detail")
            elif record["measure"] == "memory" and "detail" in record:
                processes.append(record["detail"])
    return {
        "version": version,
        "medians": {name: statistics.median(taken) for name, taken in values.items()},
        "least": {name: min(taken) for name, taken in values.items()},
        "most": {name: max(taken) for name, taken in values.items()},
        "values": dict(values),
        "problems": dict(problems),
        "processes": _processes(processes),
    }


def _processes(details: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """moment → role → count, and medians of RSS and PSS of one process."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    times_seen: dict[str, int] = defaultdict(int)
    for detail in details:
        times_seen[detail["moment"]] += 1
        for process in detail["processes"]:
            found[detail["moment"]][process["role"]].append(process)
    return {
        moment: {
            role: {
                "count": round(len(processes) / times_seen[moment]),
                "rss_mb": statistics.median(each["rss_mb"] for each in processes),
                "pss_mb": statistics.median(each["pss_mb"] for each in processes),
            }
            for role, processes in roles.items()
        }
        for moment, roles in found.items()
    }


def _table(
    title: str,
    rows: Sequence[Row],
    systems: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    caption: str | None,
) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("")
    for name in names:
        version = systems[name]["version"]
        table.add_column(f"{SYSTEMS[name].title}\n{version or ''}", justify="right")
    for row in rows:
        if any(row.figure in systems[name]["medians"] or row.measure in systems[name]["problems"] for name in names):
            table.add_row(row.title, *(_cell(row, name, systems) for name in names))
    return table


def _has(rows: Sequence[Row], system: Mapping[str, Any]) -> bool:
    return any(row.figure in system["medians"] or row.measure in system["problems"] for row in rows)


def _cell(row: Row, name: str, systems: Mapping[str, Mapping[str, Any]]) -> str:
    system = systems[name]
    value = system["medians"].get(row.figure)
    if value is None:
        if "start" in system["problems"]:
            return "not available"
        return "failed" if {row.measure, "cold_start"} & set(system["problems"]) else "-"
    text = f"{_number(value)} {row.unit}"
    ours = systems.get(OURS, {"medians": {}})["medians"].get(row.figure)
    if name == OURS or not ours or not value or value < 0:
        return text
    times = ours / value if row.more_is_better else value / ours
    return f"{text} ({_number(times)}x)"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _memory_table(title: str, processes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(title=f"{title}: memory of one process, MB", title_justify="left")
    table.add_column("")
    moments = list(processes)
    for moment in moments:
        table.add_column(f"RSS\n{moment}", justify="right")
        table.add_column("PSS", justify="right")
    roles = dict.fromkeys(role for moment in moments for role in processes[moment])
    for role in roles:
        count = max(int(processes[moment].get(role, {}).get("count", 0)) for moment in moments)
        cells = []
        for moment in moments:
            sizes = processes[moment].get(role)
            cells += ["-", "-"] if sizes is None else [f"{sizes['rss_mb']:.0f}", f"{sizes['pss_mb']:.0f}"]
        table.add_row(f"{role} ({count})" if count > 1 else role, *cells)
    return table


def _machine_line(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['usable_processors']} processors, {machine['memory_gb']} GB; "
        f"{machine['system']}; Python {machine['python']}; files on {machine['file_system']}, "
        f"fsync {machine['fsync_ms']:.2f} ms; load {machine['load'][0]:.1f}; commit {machine['commit']}"
    )


def _quiet_line(moments: Sequence[Mapping[str, Any]]) -> str:
    """How even the machine was, seen while nothing of ours ran."""
    core_ms = [moment["core_ms"] for moment in moments]
    fsync_ms = [moment["fsync_ms"] for moment in moments]
    line = (
        f"before each measurement: a fixed piece of work on one core {min(core_ms):.1f} to {max(core_ms):.1f} ms, "
        f"fsync {min(fsync_ms):.2f} to {max(fsync_ms):.2f} ms"
    )
    if max(core_ms) > _UNEVEN * min(core_ms) or max(fsync_ms) > 2 * _UNEVEN * min(fsync_ms):
        line += "; something else kept the machine busy: read the figures with care"
    return line


def _show_problems(console: Console, systems: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [
        f"{SYSTEMS[name].title}, {measure}: {problem}"
        for name, system in systems.items()
        for measure, problems in system["problems"].items()
        for problem in problems
    ]
    if lines:
        console.print("\nNot measured, and why:")
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False)
