"""What requests are made of: ids, segments of paths, bodies and queries, checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from headrace.bus.errors import ArgumentNotSerialisable
from headrace.bus.tasks.bundles import STATES
from headrace.sdk.arguments import as_uuid

Id = UUID | str
Document = dict[str, Any]
"""A JSON document as the service gave it."""


def id_text(value: Id, name: str) -> str:
    """An id as paths and bodies have it. Raises `ValueError`."""
    return str(as_uuid(value, name))


def id_or_none(value: Id | None, name: str) -> str | None:
    """The same, where there may be none."""
    return None if value is None else id_text(value, name)


def check_text(value: object, name: str) -> None:
    """Raises `TypeError` for what is no text, and `ValueError` for one that cannot be sent."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {type(value).__name__}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} is {value!r}, which holds half of a character")


def quoted(value: str, name: str) -> str:
    """A text as one segment of a path, whatever is in it. Raises what `check_text` does, `ValueError` for none."""
    check_text(value, name)
    if not value:
        raise ValueError(f"{name} is empty")
    return quote(value, safe="")


def body_of(document: Mapping[str, Any], name: str) -> Document:
    """What somebody gave as the body of a request. Raises `TypeError` for no mapping, and what `check_json` does."""
    if not isinstance(document, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(document).__name__}")
    check_json(document)
    return dict(document)


def segment(value: str, name: str) -> str:
    """One segment of a path: what a slash or a question mark would send elsewhere raises `ValueError`.

    URNs of users of an issuer hold percent signs, which are sent as such. Raises `TypeError` for what is no text.
    """
    check_text(value, name)
    text = value.replace("%", "%25") if value.startswith("urn:") else value
    odd = "/?#\\" if value.startswith("urn:") else "/?#%\\"
    if not value or any(character in value for character in odd) or value in (".", ".."):
        raise ValueError(f"{name} is {value!r}, which cannot be one")
    return text


def states(wanted: str | Iterable[str]) -> str:
    """One or several states of tasks, as a query has them. Raises `ValueError`."""
    named = [each.strip() for each in (wanted.split(",") if isinstance(wanted, str) else wanted)]
    for each in named or [""]:
        if each not in STATES:
            raise ValueError(f"state is {each!r}, which is none of {', '.join(STATES)}")
    return ",".join(named)


def time_text(moment: datetime | str | None) -> str | None:
    """A moment as queries have it. A time without a zone is one of this machine's."""
    return moment.astimezone().isoformat() if isinstance(moment, datetime) else moment


def given(**fields: Any) -> Document:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def as_json(value: Any) -> Any:
    """A value as a body has it: UUIDs and times as texts."""
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, list | tuple) else value


def items(answer: Any, name: str) -> list[Document]:
    """The list in an answer."""
    listed: list[Document] = answer[name]
    return listed


def check_json(document: object) -> None:
    """Raises `ArgumentNotSerialisable` for what JSON cannot carry."""
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentNotSerialisable(f"JSON cannot carry this: {error}; `Executor.submit` might") from error
