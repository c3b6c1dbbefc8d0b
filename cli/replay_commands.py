"""`headrace event replay`: events of the past, delivered once more."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, say_made, say_records
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.values import json_option

app = typer.Typer(help="Deliver events of the past once more: create, list, show, pause, resume, cancel.")

ReplayArgument = Annotated[UUID, typer.Argument(help="The replay's id.")]


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Deliver events of the past once more: create, list, show, pause, resume, cancel."""
    if context.invoked_subcommand is None:
        output.say(context.get_help())


@app.command()
def create(
    subscription: Annotated[UUID | None, typer.Option(help="To this subscription; or give --function.")] = None,
    function: Annotated[UUID | None, typer.Option(help="To this function, without a subscription.")] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="The endpoint that runs --function.")] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", help="The arguments of --function as JSON with templates over `event`; @FILE for a file."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Where it begins: a time, or 90s, 15m, 12h, 7d ago.")] = None,
    until: Annotated[str | None, typer.Option(help="Before which time it ends; by default now.")] = None,
    from_: Annotated[int | None, typer.Option("--from", min=1, help="Where it begins: the first place.")] = None,
    to: Annotated[int | None, typer.Option(min=1, help="Where it ends: the last place.")] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Only events that pass this filter as well (JSON; @FILE).")
    ] = None,
    per_second: Annotated[float | None, typer.Option(min=0.001, help="How many begin in a second.")] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    bus: Annotated[str | None, typer.Option(help="The bus, with --function.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Deliver a range of events once more, in their order, to a subscription or a function."""
    with service(home) as client:
        replay = client.create_replay(
            subscription,
            function_id=function,
            endpoint_id=endpoint,
            input=json_option(input_, "--input"),
            since=since,
            until=until,
            from_sequence=from_,
            to_sequence=to,
            wanted=json_option(filter_, "--filter"),
            per_second=per_second,
            name=name,
            bus=bus,
        )
    say_made(replay, "replay_id", as_json=as_json)
    if replay["forgotten_until"] and not as_json:
        output.note(f"The bus holds nothing that was stored before {replay['forgotten_until']} any more.")


@app.command("list")
def list_replays(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your replays, newest first."""
    with service(home) as client:
        replays = client.list_replays()
    columns = {
        "ID": "replay_id",
        "NAME": "name",
        "STATE": "state",
        "SENT": "sent",
        "LEFT": "left",
        "MISSING": "missing",
        "CREATED": "created_at",
    }
    say_records(replays, columns, as_json=as_json, limit=limit)


@app.command()
def show(replay_id: ReplayArgument, home: OfHomeOption = None) -> None:
    """Show a replay: its range, its state, how far it has come, and which events were missing."""
    with service(home) as client:
        output.say_json(client.get_replay(replay_id))


@app.command()
def pause(replay_id: ReplayArgument, home: OfHomeOption = None) -> None:
    """Let a replay rest where it is."""
    with service(home) as client:
        _tell(client.pause_replay(replay_id))


@app.command()
def resume(
    replay_id: ReplayArgument,
    per_second: Annotated[float | None, typer.Option(min=0.001, help="How many begin in a second from now on.")] = None,
    home: OfHomeOption = None,
) -> None:
    """Let a replay go on that was paused or has failed."""
    with service(home) as client:
        _tell(client.change_replay(replay_id, state="running", per_second=per_second))


@app.command()
def cancel(replay_id: ReplayArgument, home: OfHomeOption = None) -> None:
    """End a replay. Deliveries that it has made go on."""
    with service(home) as client:
        _tell(client.cancel_replay(replay_id))


def _tell(replay: dict[str, Any]) -> None:
    output.say(f"{replay['replay_id']} is {replay['state']}; {replay['sent']} sent, {replay['left']} left to look at.")
