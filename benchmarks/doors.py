"""A function run as an action of a workflow. All times are of this machine's one clock."""

from __future__ import annotations

import time
import uuid

from benchmarks import functions
from benchmarks.asking import LIMIT_S, Asking
from benchmarks.systems.headrace import Headrace
from benchmarks.workload import Figures, percentiles

WARM_UP = 20
ACTIONS = 200

_POLL_S = 0.005


def action(system: Headrace) -> Figures:
    """From `POST …/run` to SUCCEEDED: in its answer, or by asking for the status every 5 ms."""
    times_s, at_once = [], 0
    function_id = system.client.register_function(functions.no_op)
    body = {"endpoint_id": system.ready["endpoint_id"], "tasks": [{"function_id": function_id}]}
    with Asking(system) as asking:
        for place in range(WARM_UP + ACTIONS):
            request = {"request_id": str(uuid.uuid4()), "body": body}
            began = time.perf_counter()
            document = asking.ask("POST", "/actions/compute/v3/run", request, accepted=(202,))
            asked_again = False
            while document["status"] not in ("SUCCEEDED", "FAILED"):
                if time.perf_counter() - began > LIMIT_S:
                    raise TimeoutError(f"an action was {document['status']} after {LIMIT_S:.0f} s")
                time.sleep(_POLL_S)
                asked_again = True
                document = asking.ask("GET", f"/actions/compute/v3/{document['action_id']}/status")
            took_s = time.perf_counter() - began
            if document["status"] != "SUCCEEDED":
                raise ValueError(f"an action failed: {document['details']}")
            if place >= WARM_UP:
                times_s.append(took_s)
                at_once += not asked_again
    return {**percentiles("action", times_s), "action_at_once_percent": 100.0 * at_once / ACTIONS}


MEASURES = {"action": action}
