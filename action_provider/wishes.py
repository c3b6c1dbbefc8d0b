"""The pool for what somebody submits: the default one, or the one that their options ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from headrace.action_provider.errors import Conflict, InvalidRequest
from headrace.action_provider.state import Service
from headrace.bus.errors import PoolLimit
from headrace.bus.names import DEFAULT_POOL
from headrace.bus.queues.pools import canonical
from headrace.bus.store.models import EndpointRecord, FunctionRecord
from headrace.schemas import Violation

MOST_OPTION_BYTES = 64 * 1024
MOST_OPTION_DEPTH = 32


async def pool_for(
    service: Service,
    principal: str,
    at: EndpointRecord,
    options: Mapping[str, Any] | None,
    *,
    runtime: Mapping[str, str] | None = None,
    wanted: bool = True,
    environment: str = "",
    accounts: Mapping[str, str] | None = None,
) -> str:
    """The name of the pool. One that sleeps is woken up, unless it is not `wanted` now.

    `environment` is the text of what the functions need (`headrace.bus.functions.requirements`). `accounts` are the
    user names of the principal's accounts, which an endpoint is told only if its pools run as different local users.
    An endpoint that is there is asked whether it takes the options, which it says within milliseconds; one that is
    away says so when it is back, and the tasks end then. Raises `PoolFailed`, `EnvironmentUnusable`,
    `InvalidRequest`, `Conflict` and `BusUnavailable`.
    """
    if not options and not environment and not at.per_user:
        return DEFAULT_POOL
    endpoint = at.endpoint_id
    _check(options or {})
    try:
        record = await service.pools.use(
            endpoint,
            principal,
            options or {},
            environment=environment,
            runtime=runtime,
            wanted=wanted,
            per_user=at.per_user,
            accounts=accounts if at.per_user else None,
        )
    except PoolLimit as error:
        raise Conflict(str(error)) from None
    if wanted and not record.answered:
        managers = await service.tables.presence.managers(endpoint)
        answer_s = service.settings.pool_answer_s
        # All of them: one may be able to do what another one is not.
        await service.pools.until(lambda: _is_settled(service, endpoint, record.pool, managers), answer_s)
        now = service.pools.get(endpoint, record.pool)
        refusal = None if now is None else now.refusal(managers)
        if refusal is not None:
            raise refusal
    return record.pool


def _is_settled(service: Service, endpoint: UUID, pool: str, managers: set[str]) -> bool:
    record = service.pools.get(endpoint, pool)
    # An endpoint that is away, or deleted by now, answers nothing.
    return not managers or record is None or record.running_now or record.failure(managers) is not None


def _check(options: Mapping[str, Any]) -> None:
    try:
        # Whoever reads the wish, further down its own stack, must be able to: see the endpoint's `check_options`.
        size = len(canonical(options)) if _depth(options) <= MOST_OPTION_DEPTH else None
    except RecursionError:
        size = None
    if size is None:
        problem = f"is nested more than {MOST_OPTION_DEPTH} deep"
    else:
        if size <= MOST_OPTION_BYTES:
            return
        problem = f"takes {size} bytes; at most {MOST_OPTION_BYTES} can be kept"
    raise InvalidRequest(
        f"user_endpoint_config {problem}", violations=(Violation(pointer="/user_endpoint_config", problem=problem),)
    )


def _depth(value: Any) -> int:
    below: Iterable[Any] = ()
    if isinstance(value, Mapping):
        below = value.values()
    elif isinstance(value, list | tuple):
        below = value
    else:
        return 0
    return 1 + max(map(_depth, below), default=0)


def environment_of(functions: Iterable[FunctionRecord]) -> str:
    """The environment of functions that are submitted together. Raises `InvalidRequest` when they need several."""
    environments = {function.needs.text: function.name for function in functions}
    if len(environments) > 1:
        names = " and ".join(map(repr, list(environments.values())[:2]))
        problem = f"{names} need different packages, and so different pools: submit them in requests of their own"
        raise InvalidRequest(problem, violations=(Violation(pointer="/tasks", problem=problem),))
    return next(iter(environments), "")
