"""What is queued for pools that cannot be had ends, with the endpoint's words; what nobody takes is looked after."""

from __future__ import annotations

import asyncio
import logging

from headrace.action_provider.state import Service
from headrace.bus.errors import BusError, TaskError
from headrace.bus.names import lane_tasks
from headrace.bus.store.models import PoolRecord
from headrace.bus.tasks.giving_up import fail_queued

logger = logging.getLogger(__name__)


async def keep_pools(service: Service) -> None:
    """End what waits for failed pools, and wake pools whose tasks nobody takes, until cancelled."""
    loop = asyncio.get_running_loop()
    ended: dict[str, int] = {}
    next_sweep = loop.time()
    while True:
        news = service.pools.news
        try:
            await _end_failed(service, ended)
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + service.settings.pools_sweep_s
                await service.pools.sweep()
        except BusError as error:
            logger.info("The pools are looked at later: %s", error, extra={"action": "pools_not_swept"})
            await asyncio.sleep(service.settings.pools_sweep_s)
        try:
            async with asyncio.timeout_at(next_sweep):
                await news.wait()
        except TimeoutError:
            continue


async def _end_failed(service: Service, ended: dict[str, int]) -> None:
    """End what is queued for failed pools; `ended` remembers, by key, up to which revision of the record."""
    failing = service.pools.failing()
    for key in ended.keys() - {each.key for each in failing}:
        del ended[key]
    for record in failing:
        if ended.get(record.key) == record.revision:
            continue
        pool = record.value
        refusal = pool.refusal(await service.tables.presence.managers(pool.endpoint_id))
        if refusal is not None:
            await _end(service, pool, refusal)
            ended[record.key] = record.revision


async def _end(service: Service, pool: PoolRecord, refusal: TaskError) -> None:
    subjects = lane_tasks(pool.endpoint_id, pool.pool, pool.principal)
    count = await fail_queued(service.connection, service.keys, subjects, refusal)
    if count:
        logger.warning(
            "Ended %d tasks of %s: endpoint %s cannot give them the pool %s.",
            count,
            pool.principal,
            pool.endpoint_id,
            pool.pool,
            extra={"action": "pool_failed", "endpoint_id": str(pool.endpoint_id), "pool": pool.pool},
        )
