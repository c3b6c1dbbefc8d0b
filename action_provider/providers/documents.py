"""Status documents and errors, strict: they satisfy the published description and the toolkit's clients alike."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from starlette.responses import Response

from headrace.action_provider.errors import Answer, answer_to
from headrace.action_provider.http import reply
from headrace.action_provider.provider_access import Access
from headrace.action_provider.providers.provider import Description
from headrace.action_provider.providers.requests import duration_text
from headrace.action_provider.settings import ServiceSettings
from headrace.bus.store.actions import ActionRecord

MOST_DISPLAY_STATUS = 64
_MOST_TITLE = 128
_MOST_DESCRIPTION = 4096
_MOST_KEYWORDS = 1024

_CODES = {
    400: "BadActionRequest",
    401: "UnauthorizedRequest",
    403: "UnauthorizedRequest",
    404: "ActionNotFound",
    409: "ActionConflict",
    422: "RequestValidationError",
    429: "QueueFull",
}


def status_document(action: ActionRecord) -> dict[str, Any]:
    """The action as clients see it; satisfies `action-status.json`."""
    document: dict[str, Any] = {
        "action_id": action.action_id,
        "status": action.status,
        "creator_id": action.creator,
        "details": action.details or {},
        "monitor_by": list(action.monitor_by),
        "manage_by": list(action.manage_by),
        "start_time": timestamp(action.started_at),
        "release_after": action.release_after,
        "display_status": _cut(action.display_status or action.status, MOST_DISPLAY_STATUS),
    }
    if action.label is not None:
        document["label"] = action.label
    if action.ended_at is not None:
        document["completion_time"] = timestamp(action.ended_at)
    return document


def description_document(description: Description, access: Access, settings: ServiceSettings) -> dict[str, Any]:
    """What introspection answers; satisfies `provider-description.json`."""
    document: dict[str, Any] = {
        "types": ["Action"],
        "api_version": "1.0",
        "title": _cut(description.title, _MOST_TITLE),
        "synchronous": description.synchronous,
        "log_supported": True,
        "visible_to": list(access.visible_to),
        "runnable_by": list(access.runnable_by),
        "administered_by": list(access.administered_by),
        "admin_contact": settings.admin_contact,
        "maximum_deadline": duration_text(settings.longest_action_s),
        "globus_auth_scope": settings.action_scope,
        "input_schema": description.input_schema,
    }
    if description.subtitle:
        document["subtitle"] = _cut(description.subtitle, _MOST_TITLE)
    if description.description:
        document["description"] = _cut(description.description, _MOST_DESCRIPTION)
    keywords = _together(description.keywords, _MOST_KEYWORDS)
    if keywords:
        document["keywords"] = keywords
    return document


def error_response(error: Exception, *, route: str) -> Response:
    """What to answer when something raised: `{"code", "description"}`, as providers do."""
    answer = answer_to(error, route=route)
    more = answer.more if "authorization_parameters" in answer.more else {}
    code = answer.code if more else _code(answer)
    return reply({"code": code, "description": answer.detail, **more}, answer.status, answer.headers)


def timestamp(unix_s: float) -> str:
    """A time as ISO 8601 has it, in UTC, with its offset."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).isoformat(timespec="microseconds")


def _together(texts: Iterable[str], most: int) -> list[str]:
    """The first of these texts that have so many characters together."""
    taken: list[str] = []
    for text in texts:
        most -= len(text)
        if most < 0:
            break
        taken.append(text)
    return taken


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _code(answer: Answer) -> str:
    return _CODES.get(answer.status, "BadActionRequest" if answer.status < 500 else "ActionProviderError")
