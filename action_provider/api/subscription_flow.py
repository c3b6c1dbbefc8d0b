"""The flow of subscriptions: what a request says of it, and how a queue is shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.state import Service
from headrace.bus.eventing.flow.keeper import lease_key
from headrace.bus.eventing.flow.policy import Flow
from headrace.bus.eventing.flow.queue import depth, group_of, read_plans
from headrace.bus.eventing.leases import holder_of
from headrace.bus.eventing.subscriptions import SubscriptionRecord

_MOST_FAILING: Final = 100


def flowing(record: SubscriptionRecord, body: Mapping[str, Any], *, end: int) -> SubscriptionRecord:
    """The record with the flow, and the pause or its end, that a body asks for; `end` is that of DELIVERIES."""
    flow, pauses = record.flow, record.pauses
    if "flow" in body:
        if flow is not None:
            # What is queued by now is delivered all the same.
            pauses = msgspec.structs.replace(pauses, resumed=end)
        flow = None if body["flow"] is None else msgspec.convert(body["flow"], Flow)
    if "paused" in body:
        drop = body.get("backlog") == "drop"
        pauses = pauses.begin(time.time(), end, drop=drop) if body["paused"] else pauses.end(end, drop=drop)
    return msgspec.structs.replace(record, flow=flow, pauses=pauses)


async def queue_document(service: Service, record: SubscriptionRecord) -> dict[str, Any]:
    """What is queued of a subscription, who serves it, and what has failed. Raises `BusUnavailable`."""
    held_by = await holder_of(service.tables.leases, lease_key(record))
    plans = await read_plans(service.connection, record.subscription_id, _MOST_FAILING)
    return {
        "depth": await depth(service.connection, record.subscription_id),
        "holder": None if held_by is None else held_by.holder,
        "group_id": group_of(record.subscription_id),
        "failing": [
            {
                "key": plan.key,
                "events": len(plan.members),
                "attempt": plan.attempt,
                "due": timestamp(plan.due) if plan.due else None,
                "error": f"{plan.failed[-1].error}: {plan.failed[-1].message}"[:500],
            }
            for plan in plans
            if plan.failed
        ],
    }
