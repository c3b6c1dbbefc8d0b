"""Subscriptions: create, list, read, change, delete."""

from __future__ import annotations

from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.sink_bodies import with_changed_sink
from headrace.action_provider.api.subscription_bodies import changed, check, described, new_record
from headrace.action_provider.api.subscription_flow import flowing, queue_document
from headrace.action_provider.api.subscription_trials import check_shape, tried
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.bus.errors import RecordConflict
from headrace.bus.eventing.flow.queue import queue_end
from headrace.bus.eventing.subscription_keeping import remove_subscription
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.store.records import Record


async def create(call: Call) -> Response:
    """Let events that pass a filter run a function. Everything is checked now: what is accepted can be delivered."""
    record = flowing(await new_record(call), call.body, end=0)
    function = await check(call, record)
    schema = None if function is None else function.input_schema
    check_shape(record.input, schema or {})
    if call.body.get("sample") is not None:
        await tried(CompiledSubscription.of(record), schema, call.body["sample"])
    await call.service.tables.subscriptions.create(record.subscription_id.hex, record)
    return reply(described(record), 201)


async def validate(call: Call) -> Response:
    """Check a subscription as if it were made, and try it on an event. Nothing is stored, and nothing runs.

    What would be refused is refused in the same words. Without `sample` an event is made from the filter.
    """
    record = flowing(await new_record(call), call.body, end=0)
    function = await check(call, record)
    schema = None if function is None else function.input_schema
    trial = await tried(CompiledSubscription.of(record), schema, call.body.get("sample"))
    return reply({"subscription": described(record), **trial.document()})


async def change(call: Call) -> Response:
    """Change a subscription, which keeps its id: what is not named stays. Everything is checked as for a new one.

    Events that were matched before go on as they were; attempts that come later follow the new policies.
    """
    subscription_id = call.path_id("subscription_id")
    flow = {"flow", "paused"} & call.body.keys()
    end = await queue_end(call.service.connection) if flow else 0
    while True:
        found = await own_row(call, subscription_id)
        record = flowing(changed(found.value, call.body), call.body, end=end)
        record = await with_changed_sink(call.service, record, call.body)
        function = await check(call, record)
        check_shape(record.input, ({} if function is None else function.input_schema) or {})
        try:
            await call.service.tables.subscriptions.update(found, record)
        except RecordConflict:
            continue  # Somebody else changed it: what they said of other things stays.
        return reply(described(record))


async def list_subscriptions(call: Call) -> Response:
    """The caller's subscriptions, newest first."""
    records = [r.value for r in await call.service.tables.subscriptions.list() if call.caller.is_(r.value.owner)]
    records.sort(key=lambda record: -record.created_at)
    return reply({"subscriptions": [described(record) for record in records]})


async def get(call: Call) -> Response:
    """One of the caller's subscriptions, with its queue where it has one."""
    record = await _own(call)
    document = described(record)
    if record.kept:
        document["queue"] = await queue_document(call.service, record)
    return reply(document)


async def delete(call: Call) -> Response:
    """End a subscription: events that come later are not delivered, and deliveries that wait are dropped."""
    record = await _own(call)
    await remove_subscription(call.service.connection, call.service.tables, record)
    return no_content()


async def _own(call: Call) -> SubscriptionRecord:
    return await own_subscription(call, call.path_id("subscription_id"))


async def own_subscription(call: Call, subscription_id: UUID) -> SubscriptionRecord:
    """A subscription of the caller. Raises `NotFound`."""
    return (await own_row(call, subscription_id)).value


async def own_row(call: Call, subscription_id: UUID) -> Record[SubscriptionRecord]:
    """The same, with its revision. Raises `NotFound`."""
    found = await call.service.tables.subscriptions.get(subscription_id.hex)
    if found is None or not call.caller.is_(found.value.owner):
        raise NotFound(f"there is no subscription {subscription_id} of yours")
    return found


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/subscriptions",
        handler=create,
        summary="Let events run a function, or go to an address by HTTP",
        request_schema="subscription-request",
        response_schema="subscription",
        status=201,
    ),
    Operation(
        method="POST",
        path="/api/v1/subscriptions/validate",
        handler=validate,
        summary="Try a subscription without making it",
        request_schema="subscription-request",
        response_schema="subscription-trial",
    ),
    Operation(
        method="GET",
        path="/api/v1/subscriptions",
        handler=list_subscriptions,
        summary="List your subscriptions",
        response_schema="subscription-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/subscriptions/{subscription_id}",
        handler=get,
        summary="Read a subscription of your own",
        response_schema="subscription",
    ),
    Operation(
        method="PATCH",
        path="/api/v1/subscriptions/{subscription_id}",
        handler=change,
        summary="Change a subscription of your own",
        request_schema="subscription-change",
        response_schema="subscription",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/subscriptions/{subscription_id}",
        handler=delete,
        summary="End a subscription of your own",
        status=204,
    ),
)
