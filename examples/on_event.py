"""Run a function whenever an event is published that fits a filter.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from weather import read_months

from headrace.sdk import Client, NotFound

DELIVERIES_GROUP = "8f6c1d3e-5f0b-4c55-9b7e-0d1c0a6e7d01"
"""The task group of everything that events trigger."""


def wettest_day(event: dict[str, Any]) -> dict[str, Any]:
    """Takes the whole event, since the subscription has no `input` that says otherwise."""
    rain = event["data"]["rain"]
    return {"event": event["id"], "day": rain.index(max(rain)) + 1, "mm": max(rain)}


def result_for(client: Client, event_id: str, within_s: float = 20.0) -> Any:
    """What the function gave for an event. Raises `TimeoutError`."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            tasks = client.get_task_group(DELIVERIES_GROUP)["tasks"]
        except NotFound:  # nothing was delivered so far
            tasks = []
        for task in tasks:
            # Your other deliveries are in there as well, with results of other kinds.
            result = task.get("result")
            if isinstance(result, dict) and result.get("event") == event_id:
                return result
        time.sleep(0.1)
    raise TimeoutError(f"no result for the event {event_id} within {within_s:g} s")


def main() -> None:
    month = read_months()[0]
    with Client() as client:
        # A source of its own, so that whoever else uses this service does not trigger it.
        source = f"/examples/{uuid.uuid4()}"
        subscription = client.create_subscription(
            {
                "name": "wettest day",
                "filter": {"exact": {"source": source}, "prefix": {"type": "org.example.weather."}},
                "function_id": client.register_function(wettest_day),
            }
        )
        try:
            event_id = str(uuid.uuid4())
            event = {
                "specversion": "1.0",
                "id": event_id,
                "source": source,
                "type": "org.example.weather.month",
                "subject": month.name,
                "data": {"rain": month.precipitation},
            }
            answer = client.publish(event)
            print(f"published as number {answer['sequence']} of its bus")
            result = result_for(client, event_id)
            print(f"the wettest day of {month.name} was day {result['day']}, with {result['mm']} mm")
        finally:
            client.delete_subscription(subscription["subscription_id"])


if __name__ == "__main__":
    main()
