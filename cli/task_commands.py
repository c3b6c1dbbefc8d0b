"""`headrace task`: look at tasks and cancel them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.service import JsonOption, service, shown
from headrace.cli.token_commands import duration_s

_SHOWN = (
    *("task_id", "state", "endpoint_id", "task_group_id", "submitted_at", "stored_at", "taken_at", "started_at"),
    *("ended_at", "result_stored_at", "attempts", "worker"),
)

app = typer.Typer(help="Show and cancel tasks.", no_args_is_help=True)


@app.command()
def show(
    task_id: Annotated[UUID, typer.Argument()],
    wait: Annotated[str | None, typer.Option(help="Wait for its end for so long, such as 30s or 5m.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a task's state and, once it has ended, its value or error. Looking changes nothing."""
    with service() as client:
        task = client.get_task(task_id, wait_s=None if wait is None else duration_s(wait))
    if as_json:
        output.say_json(task)
        return
    for key in _SHOWN:
        if task.get(key) is not None:
            output.say(f"{key + ':':18}{shown(task[key])}")
    if task.get("error"):
        error = task["error"]
        output.say(f"{'error:':18}{error['type']}: {error['message']} ({error['code']})")
        if error.get("traceback"):
            output.say()
            output.say(error["traceback"].rstrip())
    elif task["state"] == "succeeded":
        output.say("result:")
        if "python_object" in task:
            output.say(task["python_object"])
        else:
            output.say_json(task["result"])


@app.command()
def cancel(
    task_id: Annotated[UUID, typer.Argument()],
    force: Annotated[bool, typer.Option("--force", help="Stop it even while it runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel a task. One that waits never starts; one that runs is stopped only with --force."""
    with service() as client:
        task = client.cancel(task_id, force=force)
    if as_json:
        output.say_json(task)
    elif task["state"] == "cancelled":
        output.say(f"Cancelled {task_id}.")
    elif task["state"] == "running" and not force:
        output.say(f"Task {task_id} runs, and goes on; `headrace task cancel --force {task_id}` stops it.")
    elif task["state"] == "running":
        output.say(f"Asked to stop {task_id}; `headrace task show {task_id}` tells what became of it.")
    else:
        output.say(f"Nothing to cancel: {task_id} is {task['state']}.")
