"""`headrace action`: list actions and look at them."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from headrace.cli import output
from headrace.cli.records import MOST_SHOWN, Columns, LimitOption, first_of, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, service

_SHOWN = (
    *("action_id", "status", "display_status", "label", "creator_id", "monitor_by", "manage_by"),
    *("start_time", "completion_time", "release_after"),
)

ProviderOption = Annotated[
    str, typer.Option(help="Of which provider: its address behind /actions/, or the id of a function.")
]

app = typer.Typer(help="List and show actions: what workflows, and you, have started.", no_args_is_help=True)


class Status(enum.StrEnum):
    """What an action can be."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Role(enum.StrEnum):
    """What one can be to an action."""

    CREATOR = "creator_id"
    MONITOR = "monitor_by"
    MANAGER = "manage_by"


@app.command("list")
def list_actions(
    provider: ProviderOption = "compute/v3",
    status: Annotated[list[Status] | None, typer.Option(help="Only in this state; may be given again.")] = None,
    role: Annotated[
        list[Role] | None, typer.Option(help="Those in which you have this role; may be given again.")
    ] = None,
    limit: LimitOption = MOST_SHOWN,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List actions: those that go on, oldest first, then those that have ended, in the order of their ends.

    All states and your own actions, unless you say otherwise.
    """
    with service(home) as client:
        found = client.list_actions(
            provider, status=status or list(Status), roles=role or [Role.CREATOR], page_size=min(limit + 1, 500)
        )
        actions, more = first_of(found, limit)
    columns: Columns = {
        "ACTION": "action_id",
        "STATUS": "status",
        "LABEL": "label",
        "STARTED": lambda action: action["start_time"][:19].replace("T", " "),
        "SAYS": "display_status",
    }
    say_records(actions, columns, as_json=as_json, more=more)


@app.command()
def show(
    action_id: Annotated[str, typer.Argument()],
    provider: ProviderOption = "compute/v3",
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Show an action's status and details."""
    with service(home) as client:
        action = client.get_action(action_id, provider)
    if as_json:
        output.say_json(action)
        return
    for key in _SHOWN:
        if action.get(key):
            output.say(f"{key + ':':18}{shown(action[key])}")
    output.say("details:")
    output.say_json(action["details"])
