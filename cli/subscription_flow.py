"""`headrace subscription show|pause|resume`, and the options of a subscription's flow."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.records import shown
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.values import duration_s, given, json_option

FlowOption = Annotated[
    str | None,
    typer.Option(
        "--flow", help='Limits, order and batches as JSON, such as {"concurrency": 4}; @FILE for a file; null for none.'
    ),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="At most so many calls at once.")]
PerSecond = Annotated[float | None, typer.Option(help="At most so many calls begin in a second, in the long run.")]
OrderBy = Annotated[
    str | None,
    typer.Option(help="Events with the same value here are delivered in their order: an attribute, or data.a.b."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch", min=1, help="Up to so many events go in one call, as a list.")
]
BatchWindow = Annotated[str | None, typer.Option(help="With --batch: so long an event waits for others, such as 5s.")]
BacklogOption = Annotated[
    str, typer.Option("--backlog", help="What becomes of events that come in the pause: keep or drop.")
]


def with_flow(
    document: dict[str, Any],
    *,
    flow: str | None,
    concurrency: int | None,
    per_second: float | None,
    order_by: str | None,
    batch: int | None,
    window: str | None,
) -> dict[str, Any]:
    """The document of a subscription with what was given of its flow; what is not named stays.

    Raises `CommandError` and `typer.BadParameter`.
    """
    if flow is not None:
        document["flow"] = json_option(flow, "--flow")
    known = document.get("flow") or {}
    if not isinstance(known, dict):
        raise CommandError('the flow of a subscription is an object, such as {"concurrency": 4}')
    said = given(concurrency=concurrency, order_by=order_by)
    if per_second is not None:
        said["rate"] = {**known.get("rate", {}), "per_second": per_second}
    if batch is not None or window is not None:
        parts = given(size=batch, window_s=None if window is None else duration_s(window, "--batch-window"))
        said["batch"] = {**known.get("batch", {}), **parts}
    if said:
        document["flow"] = {**known, **said}
    return document


def show(
    subscription_id: Annotated[UUID, typer.Argument()], as_json: JsonOption = False, home: OfHomeOption = None
) -> None:
    """Show a subscription of yours, and its queue where it has one."""
    with service(home) as client:
        found = client.get_subscription(subscription_id)
    if as_json:
        output.say_json(found)
        return
    queue = found.pop("queue", None)
    output.say_table(["", ""], [[name, shown(value)] for name, value in found.items() if value is not None])
    if queue is None:
        return
    output.say(f"{queue['depth']} deliveries wait or run; {queue['holder'] or 'nobody'} serves the queue.")
    if queue["failing"]:
        rows = [
            [shown(each["key"]), str(each["events"]), str(each["attempt"]), shown(each["due"]), each["error"]]
            for each in queue["failing"]
        ]
        output.say_table(["KEY", "EVENTS", "ATTEMPT", "NOT BEFORE", "FAILED WITH"], rows)


def pause(
    subscription_id: Annotated[UUID, typer.Argument()], backlog: BacklogOption = "keep", home: OfHomeOption = None
) -> None:
    """Let the deliveries of a subscription rest. Events that come meanwhile are kept for later, or dropped."""
    with service(home) as client:
        client.pause_subscription(subscription_id, backlog=backlog)
    output.say(f"Paused {subscription_id}.")


def resume(
    subscription_id: Annotated[UUID, typer.Argument()], backlog: BacklogOption = "keep", home: OfHomeOption = None
) -> None:
    """Let a paused subscription go on, with what came meanwhile or without it."""
    with service(home) as client:
        client.resume_subscription(subscription_id, backlog=backlog)
    output.say(f"Resumed {subscription_id}.")
