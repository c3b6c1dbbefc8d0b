"""Who may see an action, manage it, or use a provider at all."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.provider_access import EVERYBODY, PUBLIC, Access
from headrace.bus.store.actions import ActionRecord


async def may_see(caller: Caller, access: Access) -> bool:
    """Whether a caller may read the provider's description."""
    if PUBLIC in access.visible_to or EVERYBODY in access.visible_to:
        return True
    return await is_among(caller, (*access.visible_to, *access.administered_by))


async def may_run(caller: Caller, access: Access) -> bool:
    """Whether a caller may start actions. (`public` is nobody here: without a token there is no creator.)"""
    return EVERYBODY in access.runnable_by or await is_among(caller, access.runnable_by)


async def may_monitor(caller: Caller, action: ActionRecord, access: Access) -> bool:
    """Whether a caller may see an action and its log."""
    return await is_among(caller, (action.creator, *action.monitor_by, *access.administered_by))


async def may_manage(caller: Caller, action: ActionRecord, access: Access) -> bool:
    """Whether a caller may cancel, resume and release an action. Who may is not thereby one who may see it, but learns
    of its state by doing so."""
    return await is_among(caller, (action.creator, *action.manage_by, *access.administered_by))


async def is_among(caller: Caller, urns: Iterable[str]) -> bool:
    """Whether one of these is the caller, one of the caller's linked identities, or one of the caller's groups."""
    wanted = list(urns)
    return any(map(caller.is_, wanted)) or bool(await caller.among(wanted))
