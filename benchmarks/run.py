"""The benchmark: Headrace beside its peers, in rounds. `make bench`, or

python -m benchmarks.run [--quick] [--rounds N] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import doors, events, machine, providers, report, sharing, workload
from benchmarks.measure import MEMORY
from benchmarks.memory import MARK
from benchmarks.systems import SYSTEMS, Entry

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
"""What `make bench` makes."""

ROUNDS = 3
QUICK = ("headrace", "headrace-relaxed", "process-pool")
LIMIT_S = 300.0
"""For one system in one round."""

_MEASURES = (*workload.MEASURES, *doors.MEASURES, *events.MEASURES, providers.PROVIDER, *sharing.MEASURES, MEMORY)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives 1 when something of ours could not be measured."""
    options = _options(arguments)
    names = [name for name in SYSTEMS if name in options.systems]
    console = Console()
    options.results.mkdir(exist_ok=True)
    # Beside the results, for temporary directories are often in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(prefix="work-", dir=options.results) as directory:
        work = Path(directory)
        facts = machine.facts(work)
        runs, moments = _rounds(names, options, work, console)
    systems = report.summary(runs)
    document = {
        "machine": facts,
        "moments": moments,
        "rounds": options.rounds,
        "systems": systems,
        "runs": [{"system": run.system, "round": run.round, "records": run.records} for run in runs],
    }
    path = _write(document, options.results)
    if not console.is_terminal:
        console = Console(width=200)
    report.show(console, systems, facts, moments, options.rounds)
    console.print(f"\nAll figures: {path}", highlight=False)
    return int(any(systems[name]["problems"] for name in names if not SYSTEMS[name].peer))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure Headrace beside its peers.")
    parser.add_argument("--quick", action="store_true", help=f"one round of {', '.join(QUICK)}: about a minute")
    parser.add_argument("--rounds", type=int, help=f"how often each system is measured (default {ROUNDS})")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        choices=[*SYSTEMS, *_MEASURES],
        help=f"only this system ({', '.join(SYSTEMS)}) or measure ({', '.join(_MEASURES)}); may be repeated",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the figures go, as JSON")
    parser.add_argument(
        "--peers", type=Path, default=PEERS_PYTHON, metavar="PYTHON", help="the Python that has the peers installed"
    )
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    chosen = [name for name in options.only if name in SYSTEMS]
    options.systems = chosen or (list(QUICK) if options.quick else list(SYSTEMS))
    options.measures = [name for name in options.only if name in _MEASURES]
    return options


def _rounds(
    names: Sequence[str], options: argparse.Namespace, work: Path, console: Console
) -> tuple[list[report.Run], list[dict[str, Any]]]:
    runs, moments = [], []
    for number in range(1, options.rounds + 1):
        # Each round begins with another system, so that none has always the same predecessor.
        start = (number - 1) % len(names)
        for name in [*names[start:], *names[:start]]:
            began = time.monotonic()
            moments.append({"round": number, "system": name, **machine.moment(work)})
            records = _measured(SYSTEMS[name], work / f"{number}-{name}", options)
            runs.append(report.Run(name, number, records))
            took_s = time.monotonic() - began
            console.print(f"round {number}: {SYSTEMS[name].title} ({took_s:.0f} s)", style="dim", highlight=False)
    return runs, moments


def _measured(entry: Entry, work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One system in a process of its own, which is killed with all it started when it takes too long."""
    # Not resolved: a virtual environment's Python is a link, and it is the link that knows the environment.
    python = options.peers.absolute() if entry.peer else Path(sys.executable)
    absent = _absent(entry, python)
    if absent:
        return [{"measure": "start", "problem": absent}]
    work.mkdir()
    records, log = work / "records.jsonl", work / "output.log"
    command = [str(python), "-m", "benchmarks.measure", entry.name, "--work", str(work), "--records", str(records)]
    if options.measures:
        command += ["--only", *options.measures]
    mark = f"{os.getpid()}-{work.name}"
    environment = {
        **os.environ,
        MARK: mark,
        # Peers look for their own commands there.
        "PATH": os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": str(ROOT),
    }
    problem = ""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(LIMIT_S)
            if status:
                problem = f"the measuring process ended with status {status}"
        except subprocess.TimeoutExpired:
            problem = f"it did not end within {LIMIT_S:.0f} s"
        finally:
            _end(process)
    found = _read(records)
    if problem:
        found.append({"measure": "run", "problem": f"{problem}: {_last_words(log)}"})
    shutil.rmtree(work, ignore_errors=True)
    return found


def _absent(entry: Entry, python: Path) -> str:
    """Why a system cannot be measured here, or nothing."""
    if not entry.peer or entry.distribution is None:
        return ""
    if not python.exists():
        return f"not available: there is no {python}; `make bench` makes it"
    probe = f"from importlib.metadata import version; print(version({entry.distribution!r}))"
    answer = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else f"not available: {entry.distribution} could not be installed here"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(records: Path) -> list[dict[str, Any]]:
    if not records.exists():
        return []
    return [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-500:] or "it said nothing"


def _write(document: dict[str, Any], results: Path) -> Path:
    text = json.dumps(document, indent=1) + "\n"
    path = results / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    for each in (path, results / "latest.json"):
        each.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
