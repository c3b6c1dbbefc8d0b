"""`headrace schedule`: events at given times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, Columns, say_made, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import document_of, given, json_option

app = typer.Typer(help="Create, look at, pause and delete schedules: events at given times.", no_args_is_help=True)

CronOption = Annotated[
    str | None, typer.Option(help='A cron line, such as "30 6 * * 1-5": minute, hour, day, month, day of week.')
]
EveryOption = Annotated[float | None, typer.Option("--every-s", help="An interval in seconds.")]
AtOption = Annotated[str | None, typer.Option(help="The one time, such as 2026-03-01T06:30:00Z.")]
ZoneOption = Annotated[
    str | None, typer.Option(help="Of --cron, and of times without an offset, such as Europe/Berlin; UTC by default.")
]
StartOption = Annotated[str | None, typer.Option(help="No tick before this time.")]
EndOption = Annotated[str | None, typer.Option(help="No tick after this time.")]
JitterOption = Annotated[
    float | None, typer.Option("--jitter-s", help="How many seconds later an event may be published than its tick is.")
]


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="What people call it.")] = None,
    cron: CronOption = None,
    every_s: EveryOption = None,
    at: AtOption = None,
    timezone: ZoneOption = None,
    start: StartOption = None,
    end: EndOption = None,
    jitter_s: JitterOption = None,
    misfire: Annotated[
        str | None,
        typer.Option(help="Ticks that nobody was there to publish: skip, once (the last of them; the default) or all."),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="Ticks while what an earlier one started still runs: allow (the default), skip, queue (until that has"
            " ended) or replace (that is cancelled)."
        ),
    ] = None,
    bus: Annotated[str | None, typer.Option(help="Where the events are published; by default `default`.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Of the events; by default headrace.schedule.tick.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of the events; by default /schedules/ID.")] = None,
    subject: Annotated[str | None, typer.Option(help="Of the events.")] = None,
    data: Annotated[str | None, typer.Option(help="The events' payload as JSON; @FILE for a file with it.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A whole schedule as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Publish an event at given times: --cron, --every-s or --at."""
    document = document_of(file, "a schedule", "name, cron, event")
    document |= given(
        name=name,
        bus=bus,
        cron=cron,
        every_s=every_s,
        at=at,
        timezone=timezone,
        start=start,
        end=end,
        jitter_s=jitter_s,
        misfire=misfire,
        overlap=overlap,
    )
    event = given(type=type_, source=source, subject=subject, data=json_option(data, "--data"))
    if event:
        document["event"] = {**document.get("event", {}), **event}
    with service(home) as client:
        created = client.create_schedule(document)
    say_made(created, "schedule_id", as_json=as_json)


@app.command("list")
def list_schedules(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your schedules."""
    with service(home) as client:
        schedules = client.list_schedules()
    columns: Columns = {"ID": "schedule_id", "NAME": "name", "TIMES": _times, "NEXT": _state, "LAST": "last_tick"}
    say_records(schedules, columns, as_json=as_json, limit=limit)


@app.command()
def show(schedule_id: Annotated[UUID, typer.Argument()], home: OfHomeOption = None) -> None:
    """Show a schedule of yours, as JSON."""
    with service(home) as client:
        output.say_json(client.get_schedule(schedule_id))


@app.command()
def preview(
    schedule_id: Annotated[UUID | None, typer.Argument(help="A schedule; without it, give its times.")] = None,
    cron: CronOption = None,
    every_s: EveryOption = None,
    at: AtOption = None,
    timezone: ZoneOption = None,
    start: StartOption = None,
    end: EndOption = None,
    jitter_s: JitterOption = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many ticks.")] = 10,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Show the next ticks of a schedule of yours, or of one that you have not made yet."""
    times = given(cron=cron, every_s=every_s, at=at, timezone=timezone, start=start, end=end, jitter_s=jitter_s)
    if schedule_id is not None and times:
        raise typer.BadParameter("give the id of a schedule or times, not both")
    with service(home) as client:
        ticks = client.preview_schedule(times if schedule_id is None else schedule_id, count)
    say_records(ticks, {"TICK": "scheduled", "LOCAL": "local", "PUBLISHED": "due"}, as_json=as_json)


@app.command()
def pause(schedule_id: Annotated[UUID, typer.Argument()], home: OfHomeOption = None) -> None:
    """Let a schedule of yours rest: ticks that would come meanwhile are none."""
    with service(home) as client:
        client.pause_schedule(schedule_id)
    output.say(f"Paused {schedule_id}.")


@app.command()
def resume(schedule_id: Annotated[UUID, typer.Argument()], home: OfHomeOption = None) -> None:
    """Let a paused schedule of yours go on from now."""
    with service(home) as client:
        schedule = client.resume_schedule(schedule_id)
    output.say(f"Resumed {schedule_id}; its next tick: {shown(schedule['next_tick'])}.")


@app.command()
def delete(schedule_id: Annotated[UUID, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Delete a schedule of yours. Events that it has published stay."""
    confirmed(f"Delete the schedule {schedule_id}?", yes=yes)
    with service(home) as client:
        client.delete_schedule(schedule_id)
    output.say(f"Deleted {schedule_id}.")


def _times(schedule: dict[str, Any]) -> str:
    if schedule["cron"] is not None:
        return f"{schedule['cron']} ({schedule['timezone']})"
    return f"every {schedule['every_s']:g} s" if schedule["every_s"] is not None else f"at {schedule['at']}"


def _state(schedule: dict[str, Any]) -> str:
    return "paused" if schedule["paused"] else schedule["next_tick"] or "ended"
