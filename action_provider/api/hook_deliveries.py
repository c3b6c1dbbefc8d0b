"""What other systems send to webhooks: believed by its signature, published, and only then answered.

Nobody needs a token of Headrace here. Before a signature has been checked nothing of a delivery is read but its bytes,
and an id that nobody has costs as much work as one with a wrong signature. Of a refused delivery the log has the
hook's id, and nothing that was sent. Source of the handshake and of `access_token`: CloudEvents, HTTP 1.1 Web Hooks
for Event Delivery 1.0.2.
"""

from __future__ import annotations

import hmac
import logging
import time
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from headrace.action_provider.api.events import publish_body, published_document
from headrace.action_provider.bodies import parse_json, read_body
from headrace.action_provider.errors import (
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from headrace.action_provider.http import Call, Operation, reply
from headrace.bus.errors import EventRefused, InputFailed, SignatureInvalid
from headrace.bus.eventing.bindings import BATCH_CONTENT_TYPE, mode_of
from headrace.bus.eventing.events import CONTENT_TYPE, MOST_EVENT_BYTES
from headrace.bus.eventing.hooks import HookRecord, concealed, event_of, new_secret, revealed
from headrace.bus.eventing.signatures import Verdict, verify
from headrace.bus.keys import KeyRing

logger = logging.getLogger(__name__)

_WRONG: dict[Verdict, str] = {
    "wrong": "the signature does not fit: another secret, or another body than the one that was signed",
    "stale": "the time of the delivery is missing, or too far from now: it may be an old one that somebody repeats",
}


async def deliver(call: Call) -> Response:
    """Store what another system announces, once its signature has been checked.

    The same delivery twice is stored once, and the answer says so. Hooks of the kind `cloudevents` take events in the
    structured and the binary form, and batches.
    """
    request, settings = call.request, call.service.settings
    content_type = request.headers.get("content-type", "")
    is_batch = "cloudevents-batch" in content_type.lower()
    limit = settings.body_bytes if is_batch else MOST_EVENT_BYTES
    body = await read_body(request, limit=limit, timeout_s=settings.body_timeout_s)
    hook = await _believed(call, body)
    headers = {"Cache-Control": "private, no-store"}
    if hook.kind == "cloudevents":
        document = await publish_body(call, content_type, body, bus=hook.bus, publisher=hook.owner, check=True)
        return reply(document, 202, headers)
    _check_form(hook, content_type)
    try:
        event = event_of(hook, content_type, dict(request.headers), body, parse_json)
    except EventRefused as error:
        raise MalformedRequest(str(error)) from None
    except InputFailed as error:
        raise InvalidRequest(f"the hook's templates do not fit this delivery: {error}") from None
    published = await call.service.publishing.publish(event, bus=hook.bus, publisher=hook.owner, check=True)
    return reply(published_document(event, published), 202, headers)


async def handshake(call: Call) -> Response:
    """Say whether an origin may send events here: the handshake of CloudEvents' webhooks.

    The answer comes at once; an address for a later one (`WebHook-Request-Callback`) is never called. There is no limit
    to the rate, so the answer to `WebHook-Request-Rate` is `*`.
    """
    hook_id = call.path_id("hook_id")
    found = await call.service.tables.hooks.get(hook_id.hex)
    if found is None:
        raise NotFound(f"there is no hook {hook_id}")
    headers = {"Allow": "OPTIONS, POST"}
    asked = call.request.headers.get("webhook-request-origin", "").strip()
    if asked:
        if not _is_allowed(found.value, asked):
            raise Forbidden("this origin may not send events here; the hook's owner says who may (`origins`)")
        headers["WebHook-Allowed-Origin"] = asked
        headers["WebHook-Allowed-Rate"] = "*"
    return Response(status_code=204, headers=headers)


async def _believed(call: Call, body: bytes) -> HookRecord:
    """The hook of the address, when whoever sent this knows its secret.

    Raises `NotFound`, `Unauthenticated`, `Forbidden` and `Unavailable`.
    """
    hook_id = call.path_id("hook_id")
    keys = call.service.keys
    found = await call.service.tables.hooks.get(hook_id.hex)
    # For an id that nobody has everything is done as well, so time does not tell which ids there are.
    hook = _nobodys(keys, hook_id) if found is None else found.value
    try:
        secret = revealed(keys, hook)
    except SignatureInvalid:
        logger.error(
            "The secret of hook %s was concealed under a key that is forgotten; give it a new one.",
            hook_id,
            extra={"action": "hook_secret_lost", "hook_id": str(hook_id)},
        )
        raise Unavailable("this hook has lost its secret; its owner has to give it a new one") from None
    verdict = _verdict(call.request, hook, secret, body)
    if found is None:
        raise NotFound(f"there is no hook {hook_id}")
    if verdict == "genuine":
        return hook
    logger.info(
        "A delivery to hook %s was refused.", hook_id, extra={"action": "hook_refused", "hook_id": str(hook_id)}
    )
    if verdict == "missing":
        raise Unauthenticated(_missing(hook))
    raise Forbidden(_WRONG[verdict])


def _verdict(request: Request, hook: HookRecord, secret: str, body: bytes) -> Verdict:
    signed = verify(hook.signature, secret, body, request.headers, now=time.time())
    if hook.kind != "cloudevents":
        return signed
    if given := _token(request):
        return "genuine" if hmac.compare_digest(given.encode(), secret.encode()) else "wrong"
    # Only the body is signed: attributes that are headers could be anybody's.
    return signed if _is_whole(request.headers.get("content-type", "")) else "missing"


def _token(request: Request) -> str:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else request.query_params.get("access_token", "")


def _is_whole(content_type: str) -> bool:
    """Whether the events are in the body with all they have."""
    try:
        return mode_of(content_type) != "binary"
    except EventRefused:
        return True  # Refused for its form, once it is known who sent it.


def _missing(hook: HookRecord) -> str:
    if hook.kind == "cloudevents":
        return (
            "send the hook's secret as `Authorization: Bearer SECRET`, or sign the body (structured or batch) in the"
            f" header {hook.signature.header}"
        )
    return f"this needs a signature of the body in the header {hook.signature.header}"


def _nobodys(keys: KeyRing, hook_id: UUID) -> HookRecord:
    secret = concealed(keys, hook_id, new_secret())
    return HookRecord(hook_id=hook_id, name="", owner="", kind="generic", secret=secret, created_at=0.0)


def _check_form(hook: HookRecord, content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if hook.kind == "github" and media_type != "application/json":
        raise UnsupportedMediaType("set the webhook's content type to application/json at GitHub")


def _is_allowed(hook: HookRecord, origin: str) -> bool:
    return any(each == "*" or each.lower() == origin.lower() for each in hook.origins)


ROUTES = (
    Operation(
        method="POST",
        path="/hooks/{hook_id}",
        handler=deliver,
        summary="Deliver to a webhook; believed by its signature",
        auth="none",
        request_schema="event",
        response_schema="publication",
        status=202,
        reads_body=False,
        any_query=True,
        request_type=CONTENT_TYPE,
        other_requests=((BATCH_CONTENT_TYPE, "event-batch"),),
    ),
    Operation(
        method="OPTIONS",
        path="/hooks/{hook_id}",
        handler=handshake,
        summary="Ask to be let send events to a webhook",
        auth="none",
        status=204,
        any_query=True,
    ),
)
