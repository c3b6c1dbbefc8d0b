"""Measures one system once, in a process of its own, with that system's Python:

    python -m benchmarks.measure SYSTEM --work DIR --records FILE [--only MEASURE ...]

Each measure is one line of JSON in FILE, written when it is taken, so that a crash keeps what was there before:
`{"measure", "figures"}`, `{"measure", "detail"}`, or `{"measure", "problem"}` with the reason why there is no figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmarks import memory, providers, workload
from benchmarks.systems import OURS, SYSTEMS, Entry, System

COLD_START = "cold_start"
MEMORY = "memory"


class Records:
    """The lines of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, measure: str, **fields: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"measure": measure, **fields}) + "\n")

    def take(self, measure: str, figures: Callable[[], workload.Figures]) -> bool:
        """Write what the measure gives, or why it gave nothing; whether it worked."""
        try:
            self.write(measure, figures=figures())
        except Exception as error:
            self.write(measure, problem=f"{type(error).__name__}: {error}")
            return False
        return True


def measure(entry: Entry, work: Path, records: Records, only: Collection[str]) -> None:
    """Start the system, take its measures, stop it."""
    system: System | None = None

    def wanted(name: str) -> bool:
        return not only or name in only

    def started() -> workload.Figures:
        nonlocal system
        began = time.perf_counter()
        system = entry.make(work)
        system.start()
        if entry.runs_functions:
            workload.first_result(system)
        return {"cold_start_s": time.perf_counter() - began}

    records.write("version", detail=version(entry.distribution) if entry.distribution else platform.python_version())
    try:
        if not records.take(COLD_START, started) or system is None:
            return
        if wanted(MEMORY):
            records.take(MEMORY, lambda: _memory(system, records, "at rest"))
        measures = workload.MEASURES if entry.runs_functions else {}
        if any(map(wanted, measures)):
            workload.warm_up(system)
        for name, take in measures.items():
            if wanted(name):
                records.take(name, lambda take=take: take(system))  # type: ignore[misc]  # bound in the loop on purpose
        _take_own(system, records, wanted, "doors")
        if isinstance(system, providers.HasProvider) and wanted(providers.PROVIDER):
            records.take(providers.PROVIDER, lambda: providers.provider(system))
        if wanted(MEMORY):
            records.take(MEMORY, lambda: _memory(system, records, "after the work"))
        _take_own(system, records, lambda name: wanted(name) and (name in only or _is_worth(entry, name)), "events")
        # Last: NATS keeps memory of the 100 000 tasks for a while, which no other system is given.
        _take_own(system, records, wanted, "sharing")
    finally:
        if system is not None:
            system.stop()


def _is_worth(entry: Entry, name: str) -> bool:
    """Whether to take a measure of events when nobody asks for it: what takes long, only once."""
    return name not in ("subscriptions", "filters") or entry.name == OURS


def _take_own(
    system: System, records: Records, wanted: Callable[[str], bool], module: Literal["doors", "events", "sharing"]
) -> None:
    """The measures of a module that only Headrace has."""
    with suppress(ImportError):
        from benchmarks.systems.headrace import Headrace

        if isinstance(system, Headrace):
            from benchmarks import doors, events, sharing

            modules: Mapping[str, Mapping[str, Callable[[Headrace], workload.Figures]]] = {
                "doors": doors.MEASURES,
                "events": events.MEASURES,
                "sharing": sharing.MEASURES,
            }
            for name, take in modules[module].items():
                if wanted(name):
                    records.take(name, lambda take=take: take(system))  # type: ignore[misc]  # likewise


def _memory(system: System | None, records: Records, moment: str) -> workload.Figures:
    role = getattr(system, "role", _program)
    processes = memory.of_all(role)
    records.write(MEMORY, detail={"moment": moment, "processes": processes})
    key = "memory_rest" if moment == "at rest" else "memory_work"
    return {f"{key}_mb": sum(each["pss_mb"] for each in processes)}


def _program(command: Sequence[str]) -> str:
    return Path(command[0]).name if command and command[0] else "?"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one system once.")
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("--work", type=Path, required=True, help="a directory that is empty")
    parser.add_argument("--records", type=Path, required=True, help="the file to append to")
    parser.add_argument("--only", nargs="*", default=[], help="take only these measures")
    arguments = parser.parse_args()
    measure(SYSTEMS[arguments.system], arguments.work, Records(arguments.records), arguments.only)


if __name__ == "__main__":
    main()
