"""Action requests: lenient in. A null is absent, a number is taken as a request id, what is unknown is passed over."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.action_provider.errors import InvalidRequest
from headrace.bus.store.actions import ActionRecord
from headrace.bus.store.records import Record
from headrace.schemas import SchemaViolation, Violation, validate

DEFAULT_RELEASE_AFTER: Final = "P30D"

_KNOWN = ("request_id", "body", "label", "monitor_by", "manage_by", "deadline", "release_after", "allowed_clients")
_DURATION = re.compile(
    r"P(?:([\d.]+)Y)?(?:([\d.]+)M)?(?:([\d.]+)W)?(?:([\d.]+)D)?(?:T(?:([\d.]+)H)?(?:([\d.]+)M)?(?:([\d.]+)S)?)?"
)
_UNITS_S = (365 * 86_400.0, 30 * 86_400.0, 7 * 86_400.0, 86_400.0, 3600.0, 60.0, 1.0)
_MOST_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """What a caller asked for. `deadline` is in unix seconds, `release_after` both as ISO 8601 text and in seconds."""

    request_id: str
    body: dict[str, Any]
    label: str | None = None
    monitor_by: tuple[str, ...] = ()
    manage_by: tuple[str, ...] = ()
    deadline: float | None = None
    release_after: str = DEFAULT_RELEASE_AFTER
    release_after_s: float = 30 * 86_400.0
    digest: str = field(default="", repr=False)
    """SHA-256 of everything that was asked for: equal requests have equal digests."""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What was asked for, without what is absent or unknown; reads as an equal request."""
    resumes: Record[ActionRecord] | None = field(default=None, repr=False)
    """The action that has waited, since a consent was missing, and begins with this request."""

    @classmethod
    def read(cls, document: object) -> ActionRequest:
        """Read a request. Raises `InvalidRequest`."""
        if not isinstance(document, dict):
            raise _refused("Field '__root__': the request must be a JSON object", "", "is not an object")
        try:
            validate("action-request", document)
        except SchemaViolation as error:
            raise InvalidRequest(envelope_problems(error.violations), violations=error.violations) from None
        given = {name: document[name] for name in _KNOWN if document.get(name) is not None}
        given["request_id"] = str(given["request_id"])
        release_after = _release_after(given.get("release_after", DEFAULT_RELEASE_AFTER))
        return cls(
            request_id=given["request_id"],
            body=given["body"],
            label=given.get("label"),
            monitor_by=tuple(dict.fromkeys(given.get("monitor_by", ()))),
            manage_by=tuple(dict.fromkeys(given.get("manage_by", ()))),
            deadline=_deadline(given["deadline"]) if "deadline" in given else None,
            release_after=release_after,
            release_after_s=duration_s(release_after),
            digest=_digest(given),
            document=given,
        )


def check_deadline(request: ActionRequest) -> None:
    """Raises `InvalidRequest` when the deadline has passed."""
    if request.deadline is not None and request.deadline <= time.time():
        raise _refused("Field 'deadline': it has passed already", "/deadline", "has passed")


def check_body(schema: str, body: dict[str, Any]) -> None:
    """Check a request's body against the provider's input schema, by name. Raises `InvalidRequest`."""
    try:
        validate(schema, body)
    except SchemaViolation as error:
        raise InvalidRequest(body_problems(error.violations), violations=error.violations) from None


def body_problems(violations: tuple[Violation, ...]) -> str:
    """Violations of the input schema as one text: `Field '$.tasks[0].args' (category: 'type'): …`, …"""
    return "; ".join(f"Field '{_path(v)}' (category: '{v.keyword}'): {_short(v.problem)}" for v in violations)


def envelope_problems(violations: tuple[Violation, ...]) -> str:
    """Violations of the request around the body, as one text: `Field 'request_id': field required`, …"""
    texts = []
    for violation in violations:
        name = _path(violation).removeprefix("$").removeprefix(".") or "__root__"
        problem = "field required" if violation.keyword == "required" else _short(violation.problem)
        texts.append(f"Field '{name}': {problem}")
    return "; ".join(texts)


def duration_s(text: str) -> float:
    """Seconds of an ISO 8601 duration; a year has 365 days and a month 30. Raises `InvalidRequest`."""
    form = _DURATION.fullmatch(text)
    if form is None:
        raise _refused(f"Field 'release_after': {text[:64]!r} is not an ISO 8601 duration", "/release_after", "format")
    return sum(float(number) * unit for number, unit in zip(form.groups(), _UNITS_S, strict=True) if number)


def duration_text(seconds: float) -> str:
    """Seconds as an ISO 8601 duration."""
    days, rest = divmod(seconds, 86_400)
    if rest == 0 and days:
        return f"P{days:.0f}D"
    return f"PT{seconds:.6f}".rstrip("0").rstrip(".") + "S"


def _release_after(given: str | float) -> str:
    if isinstance(given, str) and not given.isdecimal():
        return given
    return duration_text(float(given))


def _deadline(given: str | float) -> float:
    if not isinstance(given, str):
        return float(given)
    try:
        moment = datetime.datetime.fromisoformat(given)
    except ValueError:
        text = f"Field 'deadline': {given[:64]!r} is not an ISO 8601 date and time"
        raise _refused(text, "/deadline", "is not a date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _digest(given: dict[str, Any]) -> str:
    alike = {
        **given,
        "monitor_by": sorted(set(given.get("monitor_by", ()))),
        "manage_by": sorted(set(given.get("manage_by", ()))),
    }
    return hashlib.sha256(json.dumps(alike, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _path(violation: Violation) -> str:
    path = "$"
    for step in violation.pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        path += f"[{name}]" if name.isdecimal() else f".{name}"
    missing = re.match(r"'([^']*)' is a required property", violation.problem)
    return f"{path}.{missing[1]}" if violation.keyword == "required" and missing else path


def _short(problem: str) -> str:
    return problem if len(problem) <= _MOST_TEXT else f"{problem[:200]} … {problem[-80:]}"


def _refused(text: str, pointer: str, problem: str) -> InvalidRequest:
    return InvalidRequest(text, violations=(Violation(pointer=pointer, problem=problem),))
