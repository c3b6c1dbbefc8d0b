"""Attempts that deliveries made together with others. The id of a batch follows from all that are in it, so it is
searched for: among the plans of the subscription, what it has queued or running, and its results since the event.

Bundle and result of a batch name the events in it, without their being decoded. How far one call reads is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from headrace.bus.errors import DecodeError
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.flow.plans import Plan
from headrace.bus.eventing.flow.queue import group_of, read_plans
from headrace.bus.eventing.traces.stories import AttemptStory, Story, attempt_of
from headrace.bus.ids import task_id
from headrace.bus.keys import KeyRing
from headrace.bus.names import token
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.task_views import TaskView, ended_tasks, queued_tasks, with_mark

MOST_LOOKED_AT: Final = 2000
"""Results of a subscription that are read for an event, the oldest first."""
_MOST_PLANS: Final = 1000
_PAGE: Final = 200
_PAGE_BYTES: Final = 4 * 1024 * 1024


async def tell_batches(connection: Connection, keys: KeyRing, stories: Sequence[Story], *, since: float) -> None:
    """Add to these deliveries of one event, which was stored then (unix seconds), what they did in batches.

    Costs three reads and more for each subscription that queues and whose delivery has not ended alone. Raises
    `BusUnavailable`.
    """
    open_ = [each for each in stories if each.record.kept and each.state in ("unknown", "waiting", "failed")]
    for subscription in {each.record.subscription_id for each in open_}:
        await _tell(connection, keys, [each for each in open_ if each.record.subscription_id == subscription], since)


async def _tell(connection: Connection, keys: KeyRing, stories: Sequence[Story], since: float) -> None:
    record = stories[0].record
    where = f"{token(record.owner)}.{group_of(record.subscription_id).hex}"
    # In the order in which a delivery goes through them, so that one that moves on is met further on.
    plans = await read_plans(connection, record.subscription_id, _MOST_PLANS)
    planned = [(plan, story) for plan in plans for story in stories if _holds(plan, story)]
    for plan, story in planned:
        task, due_at = task_id(plan.plan_id, 0), plan.due or since
        story.tell_of_batch(AttemptStory(plan.attempt, task, plan.endpoint, "waiting", due_at=due_at))
    async for page in _pages(connection, "TASKS", {"seq": 1, "next_by_subj": f"task.*.*.{where}.*"}):
        views = queued_tasks(keys, page).values()
        marked = await asyncio.gather(*(with_mark(connection, each) for each in views if _stands_for(each, stories)))
        _tell_tasks(marked, stories)
    start = datetime.fromtimestamp(since, UTC).isoformat()
    async for page in _pages(connection, "RESULTS", {"start_time": start, "next_by_subj": f"result.*.{where}.>"}):
        _tell_tasks(ended_tasks(keys, page).values(), stories)
        if all(each.state == "succeeded" for each in stories):
            break
    for plan, story in planned:
        story.remember(plan.failed)


def _tell_tasks(views: Iterable[TaskView], stories: Sequence[Story]) -> None:
    for view in views:
        for story, delivery in _stands_for(view, stories):
            story.tell_of_batch(attempt_of(delivery.attempt, view))
            story.remember(delivery.failed)


def _stands_for(view: TaskView, stories: Sequence[Story]) -> list[tuple[Story, Delivery]]:
    try:
        delivery = Delivery.decode(view.origin)
    except DecodeError:
        return []
    return [(story, delivery) for story in stories if delivery.stands_for(story.delivery)]


def _holds(plan: Plan, story: Story) -> bool:
    wanted = story.delivery
    deliveries = (member.delivery for member in plan.members)
    return any((each.sequence, each.replay) == (wanted.sequence, wanted.replay) for each in deliveries)


async def _pages(connection: Connection, stream: str, query: dict[str, Any]) -> AsyncIterator[list[StoredMessage]]:
    seen, pending = 0, 1
    while pending and seen < MOST_LOOKED_AT:
        page, pending = await connection.read_many(stream, {**query, "batch": _PAGE, "max_bytes": _PAGE_BYTES})
        if not page:
            return
        seen += len(page)
        query = {"seq": page[-1].sequence + 1, "next_by_subj": query["next_by_subj"]}
        yield page
