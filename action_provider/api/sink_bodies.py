"""What a request says of a sink: checked, its secrets concealed, its consent asked for; and a sink as it is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.errors import refused
from headrace.action_provider.state import Service
from headrace.bus.errors import NetworkUnusable, SinkProblem
from headrace.bus.eventing.signatures import GITHUB, SignatureForm
from headrace.bus.eventing.sinks.models import Sink, concealed, revealed
from headrace.bus.eventing.sinks.settings import SinkSettings
from headrace.bus.eventing.sinks.urls import checked_headers, checked_url, origin_of
from headrace.bus.eventing.subscriptions import SubscriptionRecord

_PLAIN = ("mode", "timeout_s", "concurrency", "batch_size", "rate_per_minute", "ca", "handshake")
_OF_FUNCTIONS = ("function_id", "endpoint_id", "endpoint", "input", "offline", "flow")
_ASK_WITHIN_S = 5.0


async def new_sink(service: Service, subscription_id: UUID, body: Mapping[str, Any]) -> Sink | None:
    """The sink of a new subscription; None where it runs a function. Raises `InvalidRequest`."""
    if (body.get("target") is None) == (body.get("function_id") is None):
        raise refused("/target", "give function_id, or target to send events by HTTP: one of them")
    if body.get("target") is None:
        return None
    _check_alone(body)
    return await sink_of(service, subscription_id, body["target"])


async def with_changed_sink(
    service: Service, record: SubscriptionRecord, body: Mapping[str, Any]
) -> SubscriptionRecord:
    """The record with what the body says of its sink. Raises `InvalidRequest`."""
    if record.target is not None:
        _check_alone(body)
    if body.get("target") is None:
        return record
    if record.target is None:
        raise refused("/target", "this subscription runs a function; make another one for a sink")
    sink = await sink_of(service, record.subscription_id, body["target"], record.target)
    return msgspec.structs.replace(record, target=sink)


def _check_alone(body: Mapping[str, Any]) -> None:
    for name in _OF_FUNCTIONS:
        if body.get(name):
            raise refused(f"/{name}", "only for subscriptions that run a function; a sink gets events as they are")


async def sink_of(service: Service, subscription_id: UUID, body: Mapping[str, Any], before: Sink | None = None) -> Sink:
    """The sink that a body describes. Secrets that it does not name are those of the sink `before`, as long as that is
    at the same host.

    Raises `InvalidRequest`, which names the place.
    """
    url = _url(body["url"])
    plain = {name: body[name] for name in _PLAIN if body.get(name) is not None}
    sink = Sink(url=url, **plain)
    sink = _with_secrets(service, subscription_id, body, sink, before)
    sink = msgspec.structs.replace(sink, signature=_signature(body, sink, before))
    return await _checked(service, subscription_id, sink)


def described_sink(sink: Sink | None) -> dict[str, Any] | None:
    """A sink as its owner sees it: that there are secrets, and not what they are."""
    if sink is None:
        return None
    form = sink.signature
    return {
        "url": sink.url,
        **{name: getattr(sink, name) for name in _PLAIN if name != "ca"},
        "ca": sink.ca or None,
        "signature": None if form is None else {name: getattr(form, name) for name in SignatureForm.__struct_fields__},
        "has_token": bool(sink.token),
        "header_names": list(sink.header_names),
        "gone_at": timestamp(sink.gone_at) if sink.gone_at else None,
    }


def _url(text: str) -> str:
    try:
        return checked_url(text)
    except ValueError as error:
        raise refused("/target/url", str(error)) from None


def _with_secrets(
    service: Service, subscription_id: UUID, body: Mapping[str, Any], sink: Sink, before: Sink | None
) -> Sink:
    kept = before is not None and origin_of(before.url) == origin_of(sink.url)
    if before is not None and not kept:
        # Whoever may change the address must not learn by it what was told to nobody but the host before.
        before = None
    fields: dict[str, Any] = {}
    for name in ("secret", "token"):
        if body.get(name) is not None:
            fields[name] = concealed(service.keys, subscription_id, name, body[name])
        elif before is not None and name not in body:
            fields[name] = getattr(before, name)
    if body.get("headers") is not None:
        taken = frozenset({"authorization"}) if body.get("token") else frozenset()
        try:
            headers = checked_headers(body["headers"], taken)
        except ValueError as error:
            raise refused("/target/headers", str(error)) from None
        fields["headers"] = concealed(service.keys, subscription_id, "headers", json.dumps(headers)) if headers else b""
        fields["header_names"] = tuple(sorted(headers))
    elif before is not None and "headers" not in body:
        fields["headers"], fields["header_names"] = before.headers, before.header_names
    return msgspec.structs.replace(sink, **fields)


def _signature(body: Mapping[str, Any], sink: Sink, before: Sink | None) -> SignatureForm | None:
    said = body.get("signature")
    if said is None:
        known = before.signature if before is not None and "signature" not in body else None
        return (known or GITHUB) if sink.secret else None
    if not sink.secret:
        raise refused("/target/signature", "what is signed needs a `secret` to sign with")
    form = msgspec.convert(said, SignatureForm)
    if form.timestamp_header and "signed" not in said:
        form = msgspec.structs.replace(form, signed="{timestamp}.{body}")
    if problem := form.problem():
        raise refused("/target/signature", problem)
    names = [name.lower() for name in (form.header, form.timestamp_header, form.id_header) if name]
    try:
        checked_headers(dict.fromkeys(names, ""), frozenset({"authorization", *map(str.lower, sink.header_names)}))
    except ValueError as error:
        raise refused("/target/signature", str(error)) from None
    return form


async def _checked(service: Service, subscription_id: UUID, sink: Sink) -> Sink:
    """The sink once it is known that it may be reached, and consents where it is asked."""
    from headrace.bus.eventing.sinks.client import SinkClient, check_address
    from headrace.bus.eventing.sinks.handshake import ask

    settings = SinkSettings(policy=service.settings.sinks, network=service.settings.network)
    try:
        context = settings.context_for(sink)
        await check_address(sink.url, settings.policy, timeout_s=_ASK_WITHIN_S)
        if not sink.handshake:
            return sink
        secrets = revealed(service.keys, subscription_id, sink)
        headers = {name.lower(): value for name, value in secrets.headers.items()}
        if secrets.token:
            headers["authorization"] = f"Bearer {secrets.token}"
        within_s = min(sink.timeout_s, _ASK_WITHIN_S)
        async with SinkClient(sink.url, settings.policy, context=context, timeout_s=within_s, connections=1) as client:
            origin = urlsplit(service.settings.public_url).hostname or "headrace"
            rate = await ask(client, origin=origin, rate_per_minute=sink.rate_per_minute, headers=headers)
        return msgspec.structs.replace(sink, rate_per_minute=rate)
    except SinkProblem as problem:
        pointer = "/target/handshake" if problem.kind == "SinkUnwilling" else "/target/url"
        raise refused(pointer, str(problem)) from None
    except (ValueError, NetworkUnusable) as error:
        raise refused("/target/ca", str(error)) from None
