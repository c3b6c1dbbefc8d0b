"""`headrace task`: list tasks, look at them and cancel them."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import MOST_SHOWN, Columns, LimitOption, first_of, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.values import duration_s

if TYPE_CHECKING:
    from headrace.sdk.logs import StreamName

_SHOWN = (
    *("task_id", "state", "function_id", "endpoint_id", "task_group_id"),
    *("submitted_at", "stored_at", "taken_at", "started_at", "ended_at", "result_stored_at"),
    *("attempts", "worker"),
)

app = typer.Typer(help="List, show and cancel tasks, and see what they print.", no_args_is_help=True)


class Stream(enum.StrEnum):
    """What a task prints to."""

    STDOUT = "stdout"
    STDERR = "stderr"


@app.command()
def show(
    task_id: Annotated[UUID, typer.Argument()],
    wait: Annotated[str | None, typer.Option(help="Wait for its end for so long, such as 30s or 5m.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Show a task's state and, once it has ended, its value or error. Looking changes nothing."""
    with service(home) as client:
        task = client.get_task(task_id, wait_s=None if wait is None else duration_s(wait, "--wait"))
    if as_json:
        output.say_json(task)
        return
    for key in _SHOWN:
        if task.get(key) is not None:
            output.say(f"{key + ':':18}{shown(task[key])}")
    if task.get("error"):
        error = task["error"]
        code = f" ({error['code']})" if _kind(error) != error["code"] else ""
        output.say(f"{'error:':18}{_kind(error)}: {error['message']}{code}")
        if error.get("traceback"):
            output.say()
            output.say(error["traceback"].rstrip())
    elif task["state"] == "succeeded":
        output.say("result:")
        if "python_object" in task:
            output.say(task["python_object"])
        else:
            output.say_json(task["result"])


@app.command("list")
def list_tasks(
    state: Annotated[list[str] | None, typer.Option(help="Only tasks in this state; may be given again.")] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="Only those of this endpoint.")] = None,
    function: Annotated[UUID | None, typer.Option(help="Only calls of this function.")] = None,
    group: Annotated[UUID | None, typer.Option(help="Only those of this task group.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was stored, or has ended, since: 15m, 12h, 7d, or a time.")
    ] = None,
    limit: LimitOption = MOST_SHOWN,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List your tasks: first what has no result, latest first, then what has ended, latest first.

    Looking changes nothing. One document for each with --json, without values: `headrace task show` has them.
    """
    with service(home) as client:
        found = client.list_tasks(
            state=state or None,
            endpoint_id=endpoint,
            function_id=function,
            task_group_id=group,
            since=since,
            page_size=min(limit, 1000),
        )
        tasks, more = first_of(found, limit)
        names = {} if as_json or not tasks else {each["function_id"]: each["name"] for each in client.list_functions()}
    columns: Columns = {
        "TASK": "task_id",
        "STATE": "state",
        "FUNCTION": lambda task: names.get(task.get("function_id", ""), task.get("function_id")),
        "SUBMITTED": "submitted_at",
        "TOOK": _took,
        "ERROR": _failed_with,
    }
    say_records(tasks, columns, as_json=as_json, more=more)


@app.command()
def logs(
    task_id: Annotated[UUID, typer.Argument()],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    stream: Annotated[Stream | None, typer.Option(help="Only this one.")] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many lines of what there is now, the last.")] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Print what a task has printed: its stdout to stdout, its stderr to stderr. With --json, a line for each piece."""
    only: StreamName | None = None if stream is None else "stderr" if stream is Stream.STDERR else "stdout"
    with service(home) as client:
        if follow:
            chunks = client.task_logs(task_id, follow=True, stream=only, tail=tail)
        else:
            chunks = iter(client.log_chunks(task_id, stream=only, tail=tail))
        attempt = 1
        for chunk in chunks:
            if as_json:
                output.say(json.dumps(dataclasses.asdict(chunk)))
                continue
            if chunk.cut_bytes:
                output.note(f"[headrace: {chunk.cut_bytes} bytes of {chunk.stream} cut]")
            if chunk.attempt > attempt:
                output.note(f"[headrace: attempt {chunk.attempt}, on {chunk.worker}]")
                attempt = chunk.attempt
            print(chunk.text, end="", flush=True, file=sys.stderr if chunk.stream == "stderr" else sys.stdout)


@app.command()
def cancel(
    task_ids: Annotated[list[UUID] | None, typer.Argument(metavar="TASK_ID...")] = None,
    group: Annotated[UUID | None, typer.Option(help="Cancel every task of this group.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Stop them even while they run.")] = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Cancel tasks. One that waits never starts; one that runs is stopped only with --force."""
    if bool(task_ids) == (group is not None):
        raise typer.BadParameter("give the ids of tasks, or --group with the id of a group")
    with service(home) as client:
        if group is not None:
            _say_cancelled(client.cancel_group(group, force=force), force=force, as_json=as_json)
            return
        tasks = [client.cancel(task_id, force=force) for task_id in task_ids or ()]
    if as_json:
        output.say_json(tasks[0] if len(tasks) == 1 else tasks)
        return
    for task in tasks:
        output.say(_became_of(task, force=force))


def _became_of(task: dict[str, Any], *, force: bool) -> str:
    task_id, state = task["task_id"], task["state"]
    if state == "cancelled":
        return f"Cancelled {task_id}."
    if state == "running" and not force:
        return f"Task {task_id} runs, and goes on; `headrace task cancel --force {task_id}` stops it."
    if state == "running":
        return f"Asked to stop {task_id}; `headrace task show {task_id}` tells what became of it."
    return f"Nothing to cancel: {task_id} is {state}."


def _say_cancelled(answer: dict[str, Any], *, force: bool, as_json: bool) -> None:
    if as_json:
        output.say_json(answer)
        return
    group, running = answer["task_group_id"], len(answer["running"])
    cancelled = answer["states"].get("cancelled", 0)
    output.say(f"Cancelled {cancelled} tasks of group {group}; {answer['found']} found that had not ended.")
    if running and not force:
        output.say(f"{running} run, and go on; `headrace task cancel --force --group {group}` stops them.")
    elif running:
        output.say(f"Asked to stop {running} that run.")


def _failed_with(task: dict[str, Any]) -> str | None:
    error = task.get("error")
    return f"{_kind(error)}: {error['message']}".splitlines()[0][:60] if error else None


def _kind(error: dict[str, Any]) -> str:
    """What a person calls it: the type of what the function raised, else our code."""
    own = str(error["type"] or "")
    return error["code"] if own.startswith("headrace.") or not own else own


def _took(task: dict[str, Any]) -> str | None:
    """How long its last attempt ran."""
    if "started_at" not in task or "ended_at" not in task:
        return None
    started, ended = (datetime.fromisoformat(task[name]) for name in ("started_at", "ended_at"))
    return f"{max(0.0, (ended - started).total_seconds()):.3f} s"
