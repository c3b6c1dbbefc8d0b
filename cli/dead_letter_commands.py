"""`headrace dead-letter`: deliveries that were given up: look at them, deliver them anew, remove them."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import MOST_SHOWN, Columns, LimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import json_option

_MOST: Final = 1000
"""As the service has it."""

app = typer.Typer(help="Deliveries that were given up: list, show, redrive and purge them.", no_args_is_help=True)

LettersArgument = Annotated[list[UUID] | None, typer.Argument(help="These letters; or choose them by options.")]
SubscriptionOption = Annotated[UUID | None, typer.Option(help="Only those of this subscription.")]
CodeOption = Annotated[str | None, typer.Option(help="Only those given up with this code, such as InputFailed.")]
FilterOption = Annotated[str | None, typer.Option("--filter", help="Only those whose event passes this filter (JSON).")]
MostOption = Annotated[int | None, typer.Option("--limit", min=1, max=_MOST, help="At most so many, the newest.")]


@app.callback()
def group() -> None:
    """Deliveries that were given up."""


@app.command("list")
def list_dead_letters(
    subscription: SubscriptionOption = None,
    limit: LimitOption = MOST_SHOWN,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List deliveries that were given up, whole with --json: the event, why, and every attempt."""
    with service(home) as client:
        letters = client.list_dead_letters(subscription, limit + 1 if limit < _MOST else limit)
    columns: Columns = {
        "ID": "dead_letter_id",
        "SUBSCRIPTION": "subscription_name",
        "SOURCE": "source",
        "EVENT": "event_id",
        "ATTEMPTS": lambda letter: len(letter.get("attempts") or ()),
        "REASON": "reason",
    }
    say_records(letters, columns, as_json=as_json, limit=limit)


@app.command()
def show(letter: Annotated[UUID, typer.Argument()], home: OfHomeOption = None) -> None:
    """Show a delivery that was given up, whole: the event, why, and every attempt."""
    with service(home) as client:
        output.say_json(client.get_dead_letter(letter))


@app.command()
def redrive(
    letters: LettersArgument = None,
    subscription: SubscriptionOption = None,
    code: CodeOption = None,
    filter_: FilterOption = None,
    limit: MostOption = None,
    endpoint: Annotated[UUID | None, typer.Option(help="Run them at this endpoint instead.")] = None,
    per_second: Annotated[float | None, typer.Option(min=0.001, help="How many begin in a second.")] = None,
    home: OfHomeOption = None,
) -> None:
    """Deliver anew what was given up, each from its first attempt on."""
    which = _which(letters, subscription, code, filter_, limit)
    with service(home) as client:
        done = client.redrive_dead_letters(endpoint_id=endpoint, per_second=per_second, **which)
    left = f"; {done['left']} cannot be: their event or subscription is gone" if done["left"] else ""
    output.say(f"Delivering {done['redriven']} anew{left}.")


@app.command()
def purge(
    letters: LettersArgument = None,
    subscription: SubscriptionOption = None,
    code: CodeOption = None,
    filter_: FilterOption = None,
    limit: MostOption = None,
    yes: YesOption = False,
    home: OfHomeOption = None,
) -> None:
    """Remove deliveries that were given up, for good."""
    which = _which(letters, subscription, code, filter_, limit)
    confirmed("Remove these deliveries for good?", yes=yes)
    with service(home) as client:
        output.say(f"Removed {client.purge_dead_letters(**which)}.")


def _which(
    letters: list[UUID] | None, subscription: UUID | None, code: str | None, filter_: str | None, limit: int | None
) -> dict[str, Any]:
    if not (letters or subscription or code or filter_):
        raise typer.BadParameter("say which: letters, --subscription, --code or --filter")
    which = {"dead_letter_ids": letters or None, "subscription_id": subscription, "code": code, "limit": limit}
    return {**which, "filter": json_option(filter_, "--filter")}
