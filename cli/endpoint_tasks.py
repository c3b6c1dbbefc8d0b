"""`headrace endpoint tasks` and `kill`: what is at an endpoint, whoever submitted it, for its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import NameArgument, endpoints_of
from headrace.cli.options import DEFAULT_HOME, HomeOption
from headrace.cli.own_service import own_service
from headrace.cli.records import MOST_SHOWN, LimitOption, first_of, say_records
from headrace.cli.service import JsonOption, YesOption, confirmed

if TYPE_CHECKING:
    pass

_DEFAULT: Final = "default"
_UNFINISHED: Final = ("pending", "running")
_MOST_NAMED: Final = 5000


def tasks(
    name: NameArgument = _DEFAULT,
    state: Annotated[
        list[str] | None, typer.Option(help="Tasks in this state; may be given again. By default what has not ended.")
    ] = None,
    limit: LimitOption = MOST_SHOWN,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """List the tasks at an endpoint of yours, whoever submitted them; without values and messages, which are theirs."""
    with own_service(endpoints_of(home).get(name)) as (client, endpoint_id):
        found = client.list_endpoint_tasks(endpoint_id, state=state or _UNFINISHED, page_size=min(limit, 1000))
        some, more = first_of(found, limit)
    columns = {
        "TASK": "task_id",
        "STATE": "state",
        "OF": "principal",
        "FUNCTION": "function_id",
        "SUBMITTED": "submitted_at",
        "STARTED": "started_at",
    }
    say_records(some, columns, as_json=as_json, more=more)


def kill(
    name: NameArgument = _DEFAULT,
    task: Annotated[list[UUID] | None, typer.Option(help="This task; may be given again.")] = None,
    principal: Annotated[str | None, typer.Option(help="All tasks of this principal (a URN).")] = None,
    pool: Annotated[str | None, typer.Option(help="All tasks of this pool.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All tasks of everybody.")] = False,
    queued_only: Annotated[bool, typer.Option("--queued-only", help="Let those go on that run.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Cancel tasks at an endpoint of yours, whoever submitted them: what waits never starts, what runs is stopped.

    Those who wait for them get TaskCancelled.
    """
    if not (task or principal or pool or everything):
        raise typer.BadParameter("say which tasks: --task, --principal, --pool or --all")
    if len(task or ()) > _MOST_NAMED:
        raise typer.BadParameter(f"name at most {_MOST_NAMED} tasks at a time")
    if not task:
        whose = "everybody" if principal is None else principal
        confirmed(f"Cancel all tasks of {whose} at {name if pool is None else f'the pool {pool} of {name}'}?", yes=yes)
    with own_service(endpoints_of(home).get(name)) as (client, endpoint_id):
        answer = client.cancel_endpoint_tasks(
            endpoint_id,
            task or None,
            principal=principal,
            pool=pool,
            everything=everything,
            force=not queued_only,
        )
    if as_json:
        output.say_json(answer)
        return
    running, missing = len(answer["running"]), answer["states"].get("unknown", 0)
    output.say(f"Cancelled {answer['states'].get('cancelled', 0)} tasks at {name}.")
    if running:
        output.say(f"{running} run, and go on." if queued_only else f"Asked to stop {running} that run.")
    if missing:
        output.note(f"{missing} have ended, or are none of this endpoint.")
