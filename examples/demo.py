"""`make demo`: one function through all three doors, on four years of Seattle's weather. Leaves nothing behind.

Starts a Headrace of its own in a temporary home, on free ports, and shows

1. direct submission: a function is called from Python and gives a future,
2. an action: the same function as a step of a workflow, over HTTP,
3. events: a function runs because something was published.

Every result is checked. Ends with status 0 when all steps gave what they should, else with 1 and the ends of the logs.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn
from uuid import UUID

import demo_output
from demo_action import Action
from demo_functions import WrongResult, array_stats, check_statistics, rain_report, string_stats
from demo_output import Output
from local_headrace import HeadraceDidNotStart, LocalHeadrace, headrace_up, log_tails, temporary_home
from weather import Month, read_days, read_months

from headrace.sdk import Client, Executor, NotFound

DELIVERIES_GROUP: Final = UUID("8f6c1d3e-5f0b-4c55-9b7e-0d1c0a6e7d01")
"""The task group of everything that events trigger (see docs/how-to/subscribe-to-events.md)."""

_DELIVERED_WITHIN_S = 30.0
_POLL_S = 0.05


def main() -> int:
    """Run the demo; its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)
    months = read_months()
    output = Output()
    output.title(len(months), sum(len(month.days) for month in months))
    with temporary_home() as home:
        try:
            show(output, home, months)
        except KeyboardInterrupt:
            output.failure("it was interrupted")
            return 130
        except HeadraceDidNotStart as error:
            output.failure(str(error))
            return 1
        except Exception as error:
            # Whoever sees Headrace for the first time gets an explanation, not a traceback of ours.
            output.failure(explained(error), log_tails(home))
            return 1
    output.farewell()
    return 0


def show(output: Output, home: Path, months: Sequence[Month]) -> None:
    """Start Headrace, go through the three doors, stop it."""
    with contextlib.ExitStack() as running:
        with output.step("Start Headrace: a NATS server, the service, and an endpoint with two workers") as step:
            up = running.enter_context(headrace_up(home))
            step.say(f"service   {up.url}")
            step.say(f"endpoint  {up.endpoint_id}")
            step.say(f"home      {up.home}")
        with Client(up.url, up.token) as client:
            function_id = submit_directly(output, client, up.endpoint_id, months)
            run_an_action(output, up, function_id, months)
            react_to_events(output, client, up.endpoint_id, months)
        with output.step("Stop everything"):
            running.close()


def submit_directly(output: Output, client: Client, endpoint_id: str, months: Sequence[Month]) -> str:
    """Door 1: the temperatures of each month, and three remarkable days. Gives the id of `array_stats`."""
    with Executor(endpoint_id, client=client) as executor:
        with output.step(f"Direct submission: array_stats on the temperatures of {len(months)} months") as step:
            function_id = executor.register_function(array_stats)
            step.say(f"array_stats is registered as {function_id}")
            futures = [executor.submit_to_registered_function(function_id, month.temp_max) for month in months]
            statistics = {month.name: future.result() for month, future in zip(months, futures, strict=True)}
            check_statistics(statistics, {month.name: month.temp_max for month in months})
            step.show(demo_output.months_table(statistics))
        days = read_days()
        texts = {
            "the hottest day": max(days, key=lambda day: day.temp_max).description(),
            "the coldest day": min(days, key=lambda day: day.temp_min).description(),
            "the wettest day": max(days, key=lambda day: day.precipitation).description(),
        }
        with output.step("Direct submission: string_stats on what the weather was like on three of the days") as step:
            answers = dict(zip(texts, executor.map(string_stats, texts.values()), strict=True))
            if [answer["length"] for answer in answers.values()] != [len(text) for text in texts.values()]:
                raise WrongResult(f"string_stats gave {answers}")
            step.show(demo_output.strings_table(answers))
    return function_id


def run_an_action(output: Output, up: LocalHeadrace, function_id: str, months: Sequence[Month]) -> None:
    """Door 2: the temperatures of each year in one action, the way a workflow service runs it."""
    years: dict[str, list[float]] = {}
    for month in months:
        years.setdefault(month.name[:4], []).extend(month.temp_max)
    tasks = [{"function_id": function_id, "args": [temperatures]} for temperatures in years.values()]
    body = {"endpoint_id": up.endpoint_id, "tasks": tasks}
    with output.step("Action over HTTP: the same function, one task for each year") as step:
        with Action(up.url, up.token) as action:
            action.introspect()
            action.run(body)
            # The same request again is the same action, not a second one: workflows repeat what they are unsure of.
            action.run(body, repeated=True)
            results = action.until_complete()
            action.release()
        step.show(demo_output.requests_table(action.requests))
        statistics = dict(zip(years, results, strict=True))
        check_statistics(statistics, years)
        step.show(demo_output.years_table(statistics))


def react_to_events(output: Output, client: Client, endpoint_id: str, months: Sequence[Month]) -> None:
    """Door 3: each month that is published is reported on by a function that nobody calls."""
    with output.step(f"Events: {len(months)} of them, one for each month, trigger a function") as step:
        client.create_subscription(
            {
                "name": "rain",
                "filter": {"prefix": {"type": "org.example.weather."}},
                "function_id": client.register_function(rain_report),
                "endpoint_id": endpoint_id,
                "input": {"args": ["{{ event.subject }}", "{{ event.data.rain }}"]},
            }
        )
        step.say('a subscription runs rain_report for every event whose type begins with "org.example.weather."')
        began = time.monotonic()
        for month in months:
            client.publish(event(month, "org.example.weather.month"))
        # Nobody subscribes to this one.
        client.publish(event(months[0], "org.example.tide.month"))
        stored_s = time.monotonic() - began
        reports = delivered(client, len(months))
        step.say(f"events stored: {len(months) + 1}, in {stored_s:.2f} s")
        step.say(f"reports there: {len(reports)}, {time.monotonic() - began:.2f} s after the first event was sent")
        for month in months:
            if reports.get(month.name) != rain_report(month.name, month.precipitation):
                raise WrongResult(f"the report on {month.name} is {reports.get(month.name)}")
        step.show(demo_output.rain_table(reports))


def event(month: Month, kind: str) -> dict[str, Any]:
    """One month as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": f"{kind}-{month.name}",
        "source": "/weather/seattle",
        "type": kind,
        "subject": month.name,
        "time": f"{month.days[-1].date}T23:59:59-08:00",
        "datacontenttype": "application/json",
        "data": {"rain": month.precipitation},
    }


def delivered(client: Client, wanted: int) -> dict[str, dict[str, Any]]:
    """The reports by month, once there are so many. Raises `WrongResult` when one failed or they do not come."""
    end = time.monotonic() + _DELIVERED_WITHIN_S
    while True:
        tasks = delivery_tasks(client)
        failed = [task for task in tasks if task["state"] == "failed"]
        if failed:
            raise WrongResult(f"a delivery failed: {failed[0]['error']}")
        reports = {task["result"]["month"]: task["result"] for task in tasks if task["state"] == "succeeded"}
        if len(reports) >= wanted:
            return reports
        if time.monotonic() > end:
            raise WrongResult(f"{len(reports)} of {wanted} deliveries were done after {_DELIVERED_WITHIN_S:g} s")
        time.sleep(_POLL_S)


def delivery_tasks(client: Client) -> list[dict[str, Any]]:
    """The tasks of all deliveries so far."""
    try:
        tasks: list[dict[str, Any]] = client.get_task_group(DELIVERIES_GROUP)["tasks"]
    except NotFound:  # none so far
        return []
    return tasks


def explained(error: BaseException) -> str:
    """What went wrong, and what to do about it where that is known."""
    if isinstance(error, ModuleNotFoundError) and error.name == "numpy":
        return (
            "array_stats needs numpy where it runs, and the workers' Python has none;"
            f" install it with `{sys.executable} -m pip install numpy`, or everything with `make demo`"
        )
    return f"{type(error).__name__}: {error}"


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
