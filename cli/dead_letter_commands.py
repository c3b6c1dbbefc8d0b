"""`headrace dead-letter`: deliveries that were given up."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.service import JsonOption, OfHomeOption, service, shown

app = typer.Typer(help="List deliveries that were given up.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """List deliveries that were given up."""


@app.command("list")
def list_dead_letters(
    subscription: Annotated[UUID | None, typer.Option(help="Only those of this subscription.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List deliveries that were given up, whole with --json: the event, why, and every attempt."""
    with service(home) as client:
        letters = client.list_dead_letters(subscription, limit)
    if as_json:
        output.say_json(letters)
        return
    output.say_table(
        ["ID", "SUBSCRIPTION", "SOURCE", "EVENT", "ATTEMPTS", "REASON"],
        [_row(letter) for letter in letters],
    )


def _row(letter: dict[str, Any]) -> list[str]:
    keys = ("dead_letter_id", "subscription_name", "source", "event_id")
    return [
        *(shown(letter.get(key)) for key in keys),
        str(len(letter.get("attempts") or ())),
        shown(letter.get("reason")),
    ]
