"""Stopping the tasks of an action that is given up."""

from __future__ import annotations

import asyncio

from headrace.action_provider.cancelling import cancelling_for
from headrace.action_provider.providers.task_results import TaskResults
from headrace.action_provider.state import Service
from headrace.bus.tasks.cancelling import cancel
from headrace.bus.tasks.results import ResultWatch


async def stop(service: Service, results: TaskResults, *, within_s: float) -> None:
    """Cancel what has no result, by force: what waits never starts, what runs is ended with all its processes.

    `results` then has the ends, also of those that run, as far as they come in `within_s`. Raises `BusUnavailable`.
    """
    unfinished = [each for each in results.collectors if not each.complete]
    # For whole bundles, and first: one that a service stores at this moment is not started either.
    await asyncio.gather(*(cancel(service.connection, service.keys, each.address, force=True) for each in unfinished))
    async with ResultWatch(service.connection, unfinished) as watch:
        address = unfinished[0].address
        tasks = [task.task_id for task in results.in_order() if task.result is None]
        await cancelling_for(service, force=True).tasks(address.principal, address.group, tasks)
        await watch.catch_up()
        await watch.until_complete(within_s)
