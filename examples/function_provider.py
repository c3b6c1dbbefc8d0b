"""A function as a step of a workflow: the body of the action is the function's arguments, by name.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

import httpx
from action import send, service
from weather import read_months

from headrace.sdk import Client


def summarise(
    amounts: list[float],
    how: Literal["total", "mean"] = "total",
    *,
    digits: Annotated[int, "Places behind the point"] = 1,
) -> dict[str, Any]:
    """Sums up a month's rain.

    Args:
        amounts: Millimetres of each day.
        how: What is wanted.
    """
    value = sum(amounts) if how == "total" else sum(amounts) / len(amounts)
    return {how: round(value, digits), "days": len(amounts)}


def main() -> None:
    url, token = service()
    november = next(month for month in read_months() if month.name == "2012-11")
    with Client(url, token) as client:
        endpoint_id = client.get_endpoints()[0]["endpoint_id"]
        function_id = client.register_function(summarise, default_endpoint=endpoint_id)

    provider = f"/actions/functions/{function_id}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0) as http:
        described = http.get(provider).raise_for_status().json()
        print(f"{described['title']}: {', '.join(described['input_schema']['properties'])}")

        wrong = http.post(f"{provider}/run", json={"request_id": str(uuid.uuid4()), "body": {"amounts": "rain"}})
        print(f"{wrong.status_code}: {wrong.json()['description']}")

        body = {"amounts": list(november.precipitation), "how": "mean", "digits": 2}
        action = send(http, "POST", f"{provider}/run", {"request_id": str(uuid.uuid4()), "body": body})
        while action["status"] == "ACTIVE":
            time.sleep(0.2)
            action = send(http, "GET", f"{provider}/{action['action_id']}/status")
        print(f"{action['status']}: {action['details']['output']}")


if __name__ == "__main__":
    main()
