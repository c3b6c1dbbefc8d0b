"""Run a function as an action, with nothing but HTTP: what a workflow service does, in any language.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
from weather import read_months

SOURCE = "def total(amounts):\n    return round(sum(amounts), 1)\n"


def service() -> tuple[str, str]:
    """URL and token: from the environment, else from what `headrace up` and `headrace login` write."""
    if "HEADRACE_URL" in os.environ:
        return os.environ["HEADRACE_URL"], os.environ["HEADRACE_TOKEN"]
    home = Path(os.environ.get("HEADRACE_HOME") or Path.home() / ".headrace")
    profile = json.loads((home / "profile.json").read_text())
    return profile["url"], profile["token"]


def send(http: httpx.Client, method: str, path: str, body: object = None) -> dict[str, Any]:
    """One request; its answer. Raises `httpx.HTTPStatusError` when it is refused."""
    answer = http.request(method, path, json=body)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def main() -> None:
    url, token = service()
    november = next(month for month in read_months() if month.name == "2012-11")
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0) as http:
        endpoints = http.get("/api/v1/endpoints").raise_for_status().json()["endpoints"]
        function = {"name": "total", "source": SOURCE, "python_version": platform.python_version()}
        function_id = send(http, "POST", "/api/v1/functions", function)["function_id"]

        provider = "/actions/compute/v3"
        print(f"provider: {send(http, 'GET', provider)['title']}")
        request = {
            "request_id": str(uuid.uuid4()),
            "body": {
                "endpoint_id": endpoints[0]["endpoint_id"],
                "tasks": [{"function_id": function_id, "args": [november.precipitation]}],
            },
        }
        action = send(http, "POST", f"{provider}/run", request)
        while action["status"] == "ACTIVE":
            time.sleep(0.2)
            action = send(http, "GET", f"{provider}/{action['action_id']}/status")
        print(f"{action['status']}: {action['details']}")
        send(http, "POST", f"{provider}/{action['action_id']}/release")


if __name__ == "__main__":
    main()
