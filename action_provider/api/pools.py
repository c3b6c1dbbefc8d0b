"""Pools: their lanes, their credential, and the code that they were sent tasks for."""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from dataclasses import dataclass
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import check_allowed, own_endpoint
from headrace.action_provider.auth.pool_token import PoolToken
from headrace.action_provider.auth.withdrawal import keep_session, user_key
from headrace.action_provider.errors import Forbidden, InvalidRequest, NotFound, ProtocolMismatch, Unauthenticated
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.action_provider.protocol import PROTOCOL, service_version
from headrace.action_provider.routing import authenticate, bearer_of
from headrace.bus.errors import SignatureInvalid
from headrace.bus.keys import KeyRing, check_function_grant
from headrace.bus.store.models import EndpointRecord, SessionRecord
from headrace.schemas import Violation

_GRANT_REACH_S = 400 * 86_400.0
"""A bundle may wait for months for an endpoint that is away, so a grant that has expired still fetches code; the pool
itself compares the expiry with the time at which the bundle was stored. Beyond this reach it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeToken:
    """The right of one pool to fetch the code of tasks that it was sent: `<endpoint>.<pool>.<expires>.<MAC>`."""

    endpoint_id: UUID
    pool: str
    expires: int

    def text(self, keys: KeyRing) -> str:
        """The token, signed."""
        return f"{self._claims}.{keys.ticket('code', self._claims)}"

    @classmethod
    def read(cls, text: str, keys: KeyRing, *, now_s: float) -> CodeToken:
        """Take a token apart. Raises `Unauthenticated` when it is not ours, or has expired."""
        claims, _, ticket = text.rpartition(".")
        if not keys.check_ticket(ticket, "code", claims):
            raise Unauthenticated("this is not a code token of this service", problem="invalid_token")
        endpoint, pool, expires = claims.split(".")
        if int(expires) < now_s:
            raise Unauthenticated("this code token has expired; renew the pool's session", problem="invalid_token")
        return cls(endpoint_id=UUID(endpoint), pool=pool, expires=int(expires))

    @property
    def _claims(self) -> str:
        return f"{self.endpoint_id.hex}.{self.pool}.{self.expires}"


async def open_pool(call: Call) -> Response:
    """See to the pool's lanes, and hand out their names, its credential, secret and code token."""
    endpoint = await _opened_by(call)
    service, pool = call.service, call.body["pool"]
    endpoint_id, ttl_s = endpoint.endpoint_id, call.service.settings.session_ttl_s
    if not call.body.get("lanes"):
        raise ProtocolMismatch(
            "this endpoint is of an earlier release, which takes its tasks in a way that this service has given up;"
            f" run `pip install headrace=={service_version()}` there, and start it again"
        )
    session_id = uuid.uuid4().hex
    expires = int(time.time() + ttl_s)
    credentials = service.minter.pool_user(endpoint_id, pool, session_id, ttl_s)
    session = SessionRecord(
        session_id=session_id,
        kind="pool",
        principal=endpoint.owner,
        endpoint_id=endpoint_id,
        pool=pool,
        token_id=endpoint.token_id,
        user_key=user_key(credentials),
        expires_at=float(expires),
    )
    await keep_session(service.tables, session)
    service.metrics.sessions.labels("pool").inc()
    lanes = await service.lanes.open(endpoint_id, pool)
    tasks = await service.connection.api("STREAM.INFO.TASKS")
    return reply(
        {
            "endpoint_id": endpoint_id,
            "pool": pool,
            "nats_urls": service.settings.edge_urls,
            "jwt": credentials.jwt,
            "seed": credentials.seed,
            "inbox_prefix": credentials.inbox_prefix,
            "lanes": [
                {"consumer": lane.consumer, "principal": lane.principal, "remade_up_to": lane.remade_up_to}
                for lane in lanes
            ],
            "pool_secret": service.keys.pool_secret(endpoint_id, pool),
            "older_pool_secrets": service.keys.pool_secrets(endpoint_id, pool)[1:],
            "code_token": CodeToken(endpoint_id=endpoint_id, pool=pool, expires=expires).text(service.keys),
            "allowed_functions": endpoint.allowed_functions,
            # What is stored up to here may have been in other hands: the pool then reads its past before it runs it.
            "tasks_sequence": tasks["state"]["last_seq"],
            "bus_time": tasks["ts"],
            "max_payload": service.connection.max_payload,
            "expires_in_s": ttl_s,
            "protocol": PROTOCOL,
            "service_version": service_version(),
        },
        201,
    )


async def _opened_by(call: Call) -> EndpointRecord:
    """The endpoint whose pool asks, by its own token or the endpoint's."""
    token = PoolToken.read(bearer_of(call.request), call.service.keys)
    if token is None:
        caller = await authenticate(call.request, call.service)
        if caller.endpoint_id is None or caller.endpoint_id != call.path_id("endpoint_id"):
            raise Forbidden("only the endpoint itself may do this, with the token that its registration gave")
        call.known_caller = caller
        return await own_endpoint(call)
    if (token.endpoint_id, token.pool) != (call.path_id("endpoint_id"), call.body["pool"]):
        raise Forbidden(f"this token is for the pool {token.pool!r} of endpoint {token.endpoint_id} alone")
    found = await call.service.tables.endpoints.get(token.endpoint_id.hex)
    if found is None or found.value.token_id != token.token_id:
        raise Unauthenticated("the endpoint was deleted, or registered again since", problem="invalid_token")
    return found.value


async def fetch_code(call: Call) -> Response:
    """The code of one function, for the pool that holds a grant to run it. Nothing can be listed."""
    service = call.service
    endpoint_id, pool = call.path_id("endpoint_id"), call.path("pool")
    holder = CodeToken.read(bearer_of(call.request), service.keys, now_s=time.time())
    if (holder.endpoint_id, holder.pool) != (endpoint_id, pool):
        raise Forbidden(f"this code token is for pool {holder.pool!r} of endpoint {holder.endpoint_id}")
    function_id = call.path_id("function_id")
    _check_grant(call, endpoint_id, pool, function_id)
    endpoint = await service.tables.endpoints.get(endpoint_id.hex)
    if endpoint is None:
        # Not that the function is missing: the tasks are about to be cancelled, and must not fail for lack of code.
        raise Unauthenticated(
            f"endpoint {endpoint_id} was deleted, and its pools' tokens with it", problem="invalid_token"
        )
    function = await service.tables.functions.get(function_id.hex)
    code = await service.tables.function_code.get(function_id.hex)
    if function is None or code is None:
        raise NotFound(f"function {function_id} was deleted")
    check_allowed(endpoint.value, function.value)
    return reply(
        {
            "function_id": function_id,
            "name": function.value.name,
            "source": code.value.source,
            "pickled": code.value.pickled,
            "entry_point": code.value.entry_point or function.value.name,
            "python_version": function.value.python_version,
            "modules": code.value.modules,
            "requirements": list(function.value.requirements),
            "requires_python": function.value.requires_python,
            "owner": function.value.owner,
        }
    )


def _check_grant(call: Call, endpoint_id: UUID, pool: str, function_id: UUID) -> None:
    principal = needed(call, "principal")
    try:
        grant = base64.b64decode(needed(call, "grant"), validate=True)
        expires = int(needed(call, "grant_expires"))
    except (binascii.Error, ValueError):
        raise InvalidRequest("grant must be base64 and grant_expires a number of seconds") from None
    secrets = call.service.keys.pool_secrets(endpoint_id, pool)
    try:
        check_function_grant(secrets, grant, function_id, principal, expires)
    except SignatureInvalid as error:
        raise Forbidden(str(error)) from None
    if expires + _GRANT_REACH_S < time.time():
        raise Forbidden(f"the grant to run function {function_id} here has expired long ago; submit the task again")


def needed(call: Call, name: str) -> str:
    """A query parameter that must be there. Raises `InvalidRequest`."""
    value = call.query(name)
    if not value:
        problem = "is needed"
        raise InvalidRequest(
            f"the query parameter {name!r} {problem}", violations=(Violation(pointer=f"?{name}", problem=problem),)
        )
    return value


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/pools",
        handler=open_pool,
        summary="Open, or renew, a pool's session; with the token of the pool, or of its endpoint",
        auth="own",
        request_schema="pool-request",
        response_schema="pool-session",
        status=201,
        speaks_protocol=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/endpoints/{endpoint_id}/pools/{pool}/code/{function_id}",
        handler=fetch_code,
        summary="Fetch the code of a function that the pool was sent a task for",
        auth="own",
        response_schema="function-code",
        query=(
            Query(name="principal", description="Whose task it is.", required=True),
            Query(name="grant", description="The grant that came with the bundle, in base64.", required=True),
            Query(name="grant_expires", description="Its expiry, in unix seconds.", required=True),
        ),
    ),
)
