"""A step of a workflow that waits for an event, and one that publishes it: nothing but HTTP.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
from action import send, service


def step(http: httpx.Client, provider: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run an action, as a workflow service does."""
    return send(http, "POST", f"{provider}/run", {"request_id": str(uuid.uuid4()), "body": body})


def main() -> None:
    url, token = service()
    run = f"run-{uuid.uuid4()}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0) as http:
        wanted = {"exact": {"type": "org.example.run.complete", "subject": run}}
        waiting = step(http, "/actions/events/wait", {"filter": wanted, "timeout": "PT1M"})
        print(f"{waiting['status']}: {waiting['display_status']}")

        # What the instrument's computer would do, at any time, knowing nothing of who waits.
        event = {
            "type": "org.example.run.complete",
            "source": "/beamline/7",
            "subject": run,
            "data": {"path": "/data/42"},
        }
        published = step(http, "/actions/events/publish", event)
        print(f"{published['status']}: {published['display_status']}")

        while waiting["status"] == "ACTIVE":
            time.sleep(0.1)
            waiting = send(http, "GET", f"/actions/events/wait/{waiting['action_id']}/status")
        found = waiting["details"]["event"]["data"]["path"]
        print(f"{waiting['status']}: {waiting['display_status']}, the data are in {found}")


if __name__ == "__main__":
    main()
