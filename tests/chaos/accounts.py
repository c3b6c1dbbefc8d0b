"""The reckoning after a run: what was submitted, what was seen, what is stored, and what the functions did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from chaos.system_under_fire import Failure, Load
from plain_http import NO_TLS

from headrace.bus.ids import split_task_id

AGE_AT_KILL_S = 8.0
"""How old a run may be at the failure that caused its repetition: longest task (2 s), longest outage (5 s), storing."""


LONGEST_SILENCE_S = 20.0
"""Under load something runs all the time, but for outages and restarts on a busy machine."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task's function, written down by itself at its start (unix seconds)."""

    number: int
    run: str
    at: float
    seconds: float


@dataclass(slots=True)
class Reckoning:
    """What came of all tasks of a load."""

    acknowledged: int = 0
    tasks: int = 0
    runs: int = 0
    repeated: int = 0
    repeated_once: int = 0
    lost_once: int = 0
    oldest_s: float = 0.0
    slowest_s: float = 0.0
    longest_silence_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.acknowledged} acknowledged bundles, {self.runs} runs: "
            f"{self.repeated} repeated, the oldest begun {self.oldest_s:.2f} s "
            f"before the failure; rerun_on_loss=False: {self.repeated_once} repeated, {self.lost_once} TaskLost; "
            f"slowest task {self.slowest_s:.1f} s, longest silence {self.longest_silence_s:.1f} s"
        )


def reckon(load: Load, failures: Sequence[Failure]) -> Reckoning:
    """Hold a load to the promises. Raises `AssertionError` for the first one that is broken."""
    reckoning, runs = Reckoning(), read_runs(load.directory / "effects")
    with httpx.Client(
        base_url=load.system.up.url,
        headers={"Authorization": f"Bearer {load.system.up.token}"},
        timeout=30,
        verify=NO_TLS,
    ) as http:
        known: set[int] = set()
        for name in load.groups:
            known |= _reckon_client(load, name, http, runs, reckoning)
    strangers = {number for number in runs if number not in known}
    assert not strangers, f"{len(strangers)} tasks ran that nobody can see: {sorted(strangers)[:5]}"
    reckoning.runs = sum(map(len, runs.values()))
    _check_repetitions(runs, failures, reckoning)
    reckoning.longest_silence_s = _longest_silence_s(runs)
    assert reckoning.longest_silence_s < LONGEST_SILENCE_S, "something stood still"
    return reckoning


def _longest_silence_s(runs: dict[int, list[Run]]) -> float:
    moments = sorted(run.at for each in runs.values() for run in each)
    return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


def read_runs(path: Path) -> dict[int, list[Run]]:
    """Every run of every task, in order."""
    runs: dict[int, list[Run]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        number, run, at, seconds = line.split()
        runs[int(number)].append(Run(int(number), run, float(at), float(seconds)))
    return dict(runs)


def _reckon_client(
    load: Load, name: str, http: httpx.Client, runs: dict[int, list[Run]], reckoning: Reckoning
) -> set[int]:
    stored = {
        task["task_id"]: task | {"once": kind == "once"}
        for kind, group in load.groups[name].items()
        for task in _group(http, group)
    }
    lines = load.lines(f"{name}.results")
    seen, ended = _seen(lines), {line["task"]: line["at"] for line in lines}
    submitted = {line["task"]: line for line in load.lines(f"{name}.submitted")}
    acknowledged = {UUID(line["bundle"]) for line in load.lines(f"{name}.acknowledged")}
    lost = acknowledged - {split_task_id(UUID(task))[0] for task in stored}
    assert not lost, f"{name}: {len(lost)} bundles were acknowledged and are gone: {[str(each) for each in lost][:5]}"
    reckoning.acknowledged += len(acknowledged)
    if name in load.killed:
        # What it had not sent when it died was never taken, and nobody was told otherwise.
        submitted = {task: line for task, line in submitted.items() if task in stored}
    else:
        missing = set(submitted) - set(seen)
        assert not missing, f"{name}: {len(missing)} futures without an end"
    assert set(seen) <= set(stored), f"{name} saw {len(set(seen) - set(stored))} results that are not stored"
    assert set(submitted) <= set(stored), f"{name}: {len(set(submitted) - set(stored))} submitted tasks are missing"
    if submitted:
        reckoning.tasks += len(stored)
    numbers = {line["number"] for line in submitted.values()}
    waits_s = [ended[task] - line["at"] for task, line in submitted.items() if task in ended]
    reckoning.slowest_s = max([reckoning.slowest_s, *waits_s])
    for task_id, task in stored.items():
        outcome = _outcome(task)
        assert seen.get(task_id, outcome) == outcome, f"{name} saw {seen[task_id]} and {outcome} is stored"
        if outcome == "TaskLost":
            assert task["once"], f"{task_id} was given up: {task}"
            reckoning.lost_once += bool(submitted)
            continue
        number, run = task["result"]
        numbers.add(number)
        assert run in {each.run for each in runs[number]}, f"{task_id} has the result of a run that did not happen"
        if task["once"]:
            reckoning.repeated_once += len(runs[number]) - 1
            assert len(runs[number]) == 1, f"{task_id} must not run twice and ran {len(runs[number])} times"
    for line in submitted.values():
        if line["kind"].startswith("once"):
            assert len(runs.get(line["number"], ())) <= 1, f"{line} must not run twice"
    _sample(http, stored)
    return numbers


def _group(http: httpx.Client, group: str) -> list[dict[str, Any]]:
    answer = http.get(f"/api/v1/task-groups/{group}")
    if answer.status_code == 404:
        return []
    assert answer.status_code == 200, answer.text
    tasks: list[dict[str, Any]] = answer.json()["tasks"]
    return tasks


def _seen(lines: list[dict[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for line in lines:
        assert line["task"] not in seen, f"{line['task']} ended twice"
        seen[line["task"]] = line.get("error") or line["value"]
    return seen


def _outcome(task: dict[str, Any]) -> Any:
    if task["state"] == "succeeded":
        return task["result"]
    assert task["state"] == "failed", f"not a final state: {task}"
    return task["error"]["code"]


def _sample(http: httpx.Client, stored: dict[str, dict[str, Any]]) -> None:
    """A task asked for alone is the same as in its group."""
    every = max(1, len(stored) // 40)
    for task_id in list(stored)[::every]:
        alone = http.get(f"/api/v1/tasks/{task_id}").json()
        assert _outcome(alone) == _outcome(stored[task_id])


def _check_repetitions(runs: dict[int, list[Run]], failures: Sequence[Failure], reckoning: Reckoning) -> None:
    """Nothing ran again without a failure in between that lost it, nor had it ended long before that failure."""
    at = sorted(failure.at for failure in failures if failure.loses_work)
    for each in runs.values():
        for first, second in pairwise(each):
            between = [moment for moment in at if first.at - 0.5 <= moment <= second.at]
            assert between, f"task {first.number} ran at {first.at} and {second.at}, and nothing failed in between"
            age_s = min(moment - first.at for moment in between)
            assert age_s < AGE_AT_KILL_S, f"task {first.number} had run {age_s:.1f} s before the failure"
            reckoning.repeated += 1
            reckoning.oldest_s = max(reckoning.oldest_s, age_s)
