"""Giving up tasks that are queued for a pool that cannot be had: each ends as failed, and says why."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from headrace.bus.errors import TaskError
from headrace.bus.keys import KeyRing
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.endings import end_unstarted
from headrace.bus.tasks.task_views import TaskView, queued_tasks

_PAGE = 100


async def fail_queued(connection: Connection, key_ring: KeyRing, subjects: str, error: TaskError) -> int:
    """End all that is queued under a pattern of subjects; gives how many tasks.

    What has a stored result keeps it. Safe to do twice, and by many at once. Raises `BusUnavailable` and `StreamFull`.
    """
    ended = 0
    async for messages in pages.messages(connection, "TASKS", subjects, batch=_PAGE):
        by_bundle: dict[UUID, list[TaskView]] = defaultdict(list)
        for view in queued_tasks(key_ring, messages).values():
            by_bundle[view.address.bundle].append(view)
        for views in by_bundle.values():
            await end_unstarted(connection, key_ring, [(view, error) for view in views], "failed", dated=False)
            ended += len(views)
    return ended
