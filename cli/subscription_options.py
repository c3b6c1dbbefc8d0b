"""The options of a subscription's policies, and the document that they make."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli.errors import CommandError
from headrace.cli.values import duration_s, given, json_given

MaxAttempts = Annotated[int | None, typer.Option(min=1, help="How often a failing delivery is tried.")]
MaxAge = Annotated[
    str | None, typer.Option(help="Give deliveries up once the event is so old, such as 90s, 15m, 12h or 7d.")
]
PermanentErrors = Annotated[
    list[str] | None,
    typer.Option("--permanent-error", help="A type of exception that ends a delivery at once. May be repeated."),
]
Hold = Annotated[
    str | None,
    typer.Option(help="How long a delivery waits for an endpoint that is away, such as 10m; for ever by default."),
]
NextEndpoints = Annotated[
    list[UUID] | None, typer.Option("--next-endpoint", help="Where it goes after that. May be repeated.")
]
EndpointFrom = Annotated[
    str | None,
    typer.Option(help='In place of --endpoint: a template that gives its name, such as "{{ event.data.site }}".'),
]
AllowedEndpoints = Annotated[
    list[str] | None,
    typer.Option("--allowed-endpoint", help="With --endpoint-from: NAME=ID, an endpoint and its name. Repeat it."),
]

Start = Annotated[
    str | None,
    typer.Option(
        help="Where it starts: `now` (as by default), `earliest`, a time such as 2026-03-01T00:00:00Z, how long ago"
        " (12h), or the number of an event on its bus."
    ),
]
Expires = Annotated[
    str | None, typer.Option(help="When it ends: a time such as 2026-12-31T00:00:00Z, or in how long (30d).")
]

OnSuccess = Annotated[
    str | None, typer.Option(help="Publish an event of this type, with the function's value, when a delivery succeeds.")
]
OnFailure = Annotated[
    str | None, typer.Option(help="Publish an event of this type, with the reason, when a delivery is given up.")
]

JoinOption = Annotated[
    str | None,
    typer.Option(
        "--join",
        help='Events that come together, as JSON: {"of": {NAME: FILTER, ...}, "key": "{{ event.subject }}", "within_s":'
        " 600}; @FILE for a file.",
    ),
]


def with_policies(
    document: dict[str, Any],
    *,
    max_attempts: int | None = None,
    max_age: str | None = None,
    permanent_errors: Iterable[str] | None = None,
    hold: str | None = None,
    next_endpoints: Iterable[UUID] | None = None,
    endpoint_from: str | None = None,
    allowed_endpoints: Iterable[str] | None = None,
    start: str | None = None,
    expires: str | None = None,
    on_success: str | None = None,
    on_failure: str | None = None,
    join: str | None = None,
) -> dict[str, Any]:
    """The document of a subscription, with what was given; policies keep what is not named.

    Raises `CommandError` and `typer.BadParameter`.
    """
    retry = given(
        max_attempts=max_attempts,
        max_age_s=None if max_age is None else duration_s(max_age, "--max-age"),
        permanent_errors=list(permanent_errors or ()) or None,
    )
    offline = given(
        hold_s=None if hold is None else duration_s(hold, "--hold"),
        next_endpoints=[str(each) for each in next_endpoints or ()] or None,
    )
    announce = given(
        success=None if on_success is None else {"type": on_success},
        failure=None if on_failure is None else {"type": on_failure},
    )
    for name, policy in (("retry", retry), ("offline", offline), ("announce", announce)):
        if policy:
            document[name] = {**(document.get(name) or {}), **policy}
    document |= json_given(join=join)
    document |= given(
        start=None if start is None else _start(start),
        expires_at=None if expires is None else _time(expires, "--expires"),
    )
    if endpoint_from is not None or allowed_endpoints:
        document["endpoint"] = _choice(endpoint_from, allowed_endpoints or ())
        document.pop("endpoint_id", None)
    return document


def _start(text: str) -> Any:
    if text in ("now", "earliest"):
        return text
    return {"sequence": int(text)} if text.isdecimal() and text.isascii() else {"time": _time(text, "--start")}


def _time(text: str, option: str) -> str:
    """A time that is written out, or so long from now on (`--expires`) or before now (`--start`)."""
    if "T" in text or "-" in text:
        return text
    ahead = option == "--expires"
    try:
        distance = timedelta(seconds=duration_s(text, option))
    except CommandError as error:
        others = "" if ahead else "now, earliest, an event's place on its bus, "
        raise CommandError(f"{error}, or {others}a time such as 2026-03-01T00:00:00Z") from None
    now = datetime.now(UTC)
    return (now + distance if ahead else now - distance).isoformat()


def _choice(template: str | None, allowed: Iterable[str]) -> dict[str, Any]:
    named = dict(each.rpartition("=")[::2] for each in allowed)
    if template is None or not named or not all(named):
        raise typer.BadParameter("give --endpoint-from TEMPLATE and --allowed-endpoint NAME=ID, both")
    return {"template": template, "allowed": named}
