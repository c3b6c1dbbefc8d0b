"""What is shown of an endpoint's pools: what their managers tell of them, and what became of those that were wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.http import Call
from headrace.bus.queues.pools import is_of_user
from headrace.bus.store.models import EndpointRecord, PoolRecord, PresenceRecord


def pool_states(call: Call, endpoint: EndpointRecord, managers: Sequence[PresenceRecord]) -> list[dict[str, Any]]:
    """The pools of an endpoint; of others' configurations only its owner sees anything."""
    sees_all = _is_owner(call, endpoint)
    records = {
        each.value.pool: each.value
        for each in call.service.pools.of(endpoint.endpoint_id)
        if sees_all or each.value.principal == call.caller.principal
    }
    return [*_running(managers, records), *_troubled(managers, records)]


def manager_states(call: Call, endpoint: EndpointRecord, managers: Sequence[PresenceRecord]) -> dict[str, Any]:
    """The managers of an endpoint and how busy their machines are; nothing unless for its owner, and itself."""
    if not _is_owner(call, endpoint):
        return {}
    return {"managers": [_manager(each) for each in managers]}


def _manager(manager: PresenceRecord) -> dict[str, Any]:
    state = {
        "manager": manager.manager,
        "host": manager.host,
        "python_version": manager.python_version,
        "headrace_version": manager.headrace_version,
        "seen_at": timestamp(manager.seen_at),
    }
    return state if manager.load is None else {**state, "load": msgspec.to_builtins(manager.load)}


def _is_owner(call: Call, endpoint: EndpointRecord) -> bool:
    return call.caller.endpoint_id is not None or call.caller.is_(endpoint.owner)


def _running(managers: Sequence[PresenceRecord], records: dict[str, PoolRecord]) -> Iterator[dict[str, Any]]:
    for manager in managers:
        for pool in manager.pools:
            told = {name: value for name, value in msgspec.structs.asdict(pool).items() if value is not None}
            state = {**told, "host": manager.host}
            record = records.get(pool.pool)
            if record is not None:
                yield {**state, "principal": record.principal}
            elif not is_of_user(pool.pool):
                yield state


def _troubled(managers: Sequence[PresenceRecord], records: dict[str, PoolRecord]) -> Iterator[dict[str, Any]]:
    """Those that wait for room, are being furnished, or cannot be had."""
    hosts = {manager.manager: manager.host for manager in managers}
    for record in records.values():
        for report in record.reports:
            is_building = report.state == "starting" and report.problem
            if report.manager in hosts and (report.state in ("waiting", "failed") or is_building):
                yield {
                    "pool": record.pool,
                    "principal": record.principal,
                    "host": hosts[report.manager],
                    "state": report.state,
                    "problem": report.problem,
                    "since": timestamp(report.at),
                }
