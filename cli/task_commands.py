"""`headrace task`: look at tasks and cancel them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.service import JsonOption, service, shown
from headrace.cli.token_commands import duration_s

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
    for key in ("task_id", "state", "endpoint_id", "task_group_id", "started_at", "ended_at", "attempts", "worker"):
        if task.get(key) is not None:
            output.say(f"{key + ':':16}{shown(task[key])}")
    if task.get("error"):
        error = task["error"]
        output.say(f"{'error:':16}{error['type']}: {error['message']} ({error['code']})")
        if error.get("traceback"):
            output.say()
            output.say(error["traceback"].rstrip())
    elif task["state"] == "succeeded":
        output.say("result:")
        output.say_json(task.get("result"))


@app.command()
def cancel(
    task_id: Annotated[UUID, typer.Argument()],
    force: Annotated[bool, typer.Option("--force", help="Stop it even while it runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask to cancel a task. One that waits never starts; one that runs is stopped only with --force."""
    with service() as client:
        task = client.cancel(task_id, force=force)
    if as_json:
        output.say_json(task)
    elif task["state"] in ("pending", "running"):
        output.say(f"Asked to cancel {task_id}; `headrace task show {task_id}` tells what became of it.")
    else:
        output.say(f"Nothing to cancel: {task_id} is {task['state']}.")
