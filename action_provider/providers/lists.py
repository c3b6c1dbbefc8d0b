"""Lists of a provider's actions."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.providers import lives
from headrace.action_provider.providers.provider import Provider
from headrace.action_provider.state import Service
from headrace.bus.store.actions import ActionRecord

_ROLES = ("creator_id", "monitor_by", "manage_by")
_STATES = ("ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED")


async def enumerate_actions(
    service: Service, provider: Provider, path: str, caller: Caller, query: Mapping[str, str]
) -> list[ActionRecord]:
    """The actions of the provider at `path` in which the caller has one of the roles, and that have one of the states.

    `?status=` (by default `active`) and `?roles=` (by default `creator_id`) are lists with commas, in any case; what is
    unknown in them is passed over.
    """
    states = _chosen(query.get("status"), _STATES, ("ACTIVE",))
    roles = _chosen(query.get("roles"), _ROLES, ("creator_id",))
    actions = []
    for found in await service.tables.actions.of_creator(caller.principal) if "creator_id" in roles else ():
        if found.value.provider == path:
            action = (await lives.status(service, provider, found)).value
            if action.status in states:
                actions.append(action)
    return actions


def _chosen(given: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> set[str]:
    wanted = {name.strip().lower() for name in (given or "").split(",")}
    return {name for name in known if name.lower() in wanted} or set(default)
