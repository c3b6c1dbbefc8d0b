"""Objects: arguments and results that are too large for a message, streamed to and from the object store.

SDKs move their own; a pool, with its code token, what a bundle that it was sent refers to, or is to bring forth.
"""

from __future__ import annotations

import re
import time
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import endpoint_for
from headrace.action_provider.api.pools import CodeToken, needed
from headrace.action_provider.errors import BodyTooLarge, Conflict, Forbidden, InvalidRequest, NotFound
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.action_provider.routing import bearer_of
from headrace.action_provider.state import Service
from headrace.action_provider.streaming import StreamedAnswer, body_pieces
from headrace.bus.names import Address, token
from headrace.bus.store.models import ObjectRecord
from headrace.bus.store.objects import Kind, ObjectStore

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{1,15})-")
_OCTETS = "application/octet-stream"


def store_of(service: Service) -> ObjectStore:
    """The object store behind a service."""
    return ObjectStore(service.connection, service.tables, grace_s=service.settings.object_grace_s)


async def get_object(call: Call) -> Response:
    """An object of the caller's. A broken download goes on with `Range: bytes=N-`."""
    return await answer_with(call, call.caller.principal, _sha256(call))


async def put_object(call: Call) -> Response:
    """Store an object under its SHA-256; what is there already stays. It goes when nothing needs it for a while."""
    return await _stored(call, call.caller.principal, _sha256(call))


async def use_objects(call: Call) -> Response:
    """Say that a bundle which is about to be submitted needs these objects of the caller's.

    The pool may read them from then on, and they stay as long as the bundle is queued or runs. Those in `missing` have
    to be uploaded before the bundle is.
    """
    body, service = call.body, call.service
    endpoint = await endpoint_for(service, call.caller, call.path_id("endpoint_id"))
    address = _address(body, endpoint.endpoint_id, body["pool"], call.caller.principal)
    return reply({"missing": await store_of(service).use(address.principal, body["objects"], address, "a")})


async def use_pool_objects(call: Call) -> Response:
    """Say that results of a bundle in this pool's hands consist of these objects; `missing` are to be uploaded."""
    body, holder = call.body, _holder(call)
    address = _address(body, holder.endpoint_id, holder.pool, body["principal"])
    # That somebody has sent this pool such a bundle, and has not got all of its results: only then may it give any.
    if await call.service.connection.read_last("TASKS", address.task_subject) is None:
        raise Forbidden(f"there is no bundle {address.bundle} of {address.principal} in the queue of this pool")
    return reply({"missing": await store_of(call.service).use(address.principal, body["objects"], address, "r")})


async def get_pool_object(call: Call) -> Response:
    """An object that a bundle for this pool refers to."""
    owner = await _needed_by_pool(call, "a")
    return await answer_with(call, owner, _sha256(call))


async def put_pool_object(call: Call) -> Response:
    """Store an object of which a result of a bundle in this pool's hands consists."""
    owner = await _needed_by_pool(call, "r")
    return await _stored(call, owner, _sha256(call))


async def answer_with(call: Call, owner: str, sha256: str, media_type: str = _OCTETS) -> Response:
    """An object as an answer. Raises `ObjectMissing` and `ObjectDamaged`."""
    store = store_of(call.service)
    record = await store.find(owner, sha256)
    start = _start(call, record)
    headers = {
        "Content-Length": str(record.size - start),
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
    }
    if call.request.method == "HEAD":
        return Response(None, 200, headers, media_type)
    if start:
        headers["Content-Range"] = f"bytes {start}-{record.size - 1}/{record.size}"
    return StreamedAnswer(
        store.read(owner, sha256, record, start), status=206 if start else 200, headers=headers, media_type=media_type
    )


async def _stored(call: Call, owner: str, sha256: str) -> Response:
    limit = call.service.settings.object_bytes
    announced = call.request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(f"an object may have {limit} bytes at most, and this one has {announced}")
    record = await store_of(call.service).put(owner, sha256, body_pieces(call.request), most_bytes=limit)
    return reply({"sha256": sha256, "size": record.size}, 201)


def _holder(call: Call) -> CodeToken:
    """The pool in the path, by its token. Raises `Unauthenticated` and `Forbidden`."""
    endpoint_id, pool = call.path_id("endpoint_id"), call.path("pool")
    holder = CodeToken.read(bearer_of(call.request), call.service.keys, now_s=time.time())
    if (holder.endpoint_id, holder.pool) != (endpoint_id, pool):
        raise Forbidden(f"this code token is for pool {holder.pool!r} of endpoint {holder.endpoint_id}")
    return holder


async def _needed_by_pool(call: Call, kind: Kind) -> str:
    """The owner of an object that a bundle of this pool needs. Raises `Forbidden`."""
    holder, sha256 = _holder(call), _sha256(call)
    owner = needed(call, "principal")
    try:
        token(owner)
        bundle = UUID(needed(call, "bundle"))
    except ValueError:
        raise InvalidRequest("bundle must be the id of a bundle, a UUID") from None
    use = await store_of(call.service).check_use(owner, sha256, bundle, kind)
    if use is None or (use.endpoint_id, use.pool) != (holder.endpoint_id, holder.pool):
        raise Forbidden(f"no bundle of {owner} for this pool needs object {sha256}")
    return owner


def _address(body: dict[str, str], endpoint_id: UUID, pool: str, principal: str) -> Address:
    return Address(
        endpoint=endpoint_id,
        pool=pool,
        principal=principal,
        group=UUID(body["task_group_id"]),
        bundle=UUID(body["bundle_id"]),
    )


def _sha256(call: Call) -> str:
    text = call.path("sha256")
    if _SHA256.fullmatch(text) is None:
        raise NotFound(f"there is no object {text[:80]!r}; its name is its SHA-256, 64 hexadecimal digits")
    return text


def _start(call: Call, record: ObjectRecord) -> int:
    wanted = call.request.headers.get("range", "")
    form = _RANGE.fullmatch(wanted)
    if form is None:
        return 0  # other ranges may be answered with the whole (RFC 9110, 14.2)
    start = int(form[1])
    if start >= max(record.size, 1):
        raise Conflict(f"the object has {record.size} bytes; there is nothing from byte {start} on")
    return start


_POOL_QUERY = (
    Query(name="principal", description="Whose task it is.", required=True),
    Query(name="bundle", description="The id of the task's bundle.", required=True),
)

ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/objects/{sha256}",
        handler=get_object,
        summary="Download a large argument or result of your own",
        response_type=_OCTETS,
    ),
    Operation(
        method="PUT",
        path="/api/v1/objects/{sha256}",
        handler=put_object,
        summary="Upload a large argument",
        response_schema="object",
        status=201,
        reads_body=False,
        streams=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/object-uses",
        handler=use_objects,
        summary="Say which objects a bundle needs",
        request_schema="object-use",
        response_schema="object-used",
    ),
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/pools/{pool}/object-uses",
        handler=use_pool_objects,
        summary="Say which objects a bundle's results consist of",
        auth="own",
        request_schema="pool-object-use",
        response_schema="object-used",
    ),
    Operation(
        method="GET",
        path="/api/v1/endpoints/{endpoint_id}/pools/{pool}/objects/{sha256}",
        handler=get_pool_object,
        summary="Download an argument of a task that the pool was sent",
        auth="own",
        response_type=_OCTETS,
        query=_POOL_QUERY,
    ),
    Operation(
        method="PUT",
        path="/api/v1/endpoints/{endpoint_id}/pools/{pool}/objects/{sha256}",
        handler=put_pool_object,
        summary="Upload a result of a task that the pool has in hand",
        auth="own",
        response_schema="object",
        status=201,
        reads_body=False,
        streams=True,
        query=_POOL_QUERY,
    ),
)
