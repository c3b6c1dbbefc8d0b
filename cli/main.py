"""The `headrace` command: puts the groups of commands together, and turns errors into one line and a status.

Statuses: 0 done, 1 an error that the message names, 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headrace.bus.collection import collect_seldom
from headrace.cli import (
    action_commands,
    bus_commands,
    dead_letter_commands,
    endpoint_commands,
    event_commands,
    feed_commands,
    flow_commands,
    function_commands,
    group_commands,
    hook_commands,
    keys_commands,
    output,
    schedule_commands,
    subscription_commands,
    task_commands,
    token_commands,
    user_commands,
    watch_commands,
)
from headrace.cli.backup_commands import backup, restore
from headrace.cli.boot_commands import disable_on_boot, enable_on_boot
from headrace.cli.called import called
from headrace.cli.configuration_commands import reload, render_user_config, validate
from headrace.cli.dispatch import dispatch
from headrace.cli.doctor_command import doctor
from headrace.cli.endpoint_deletion import delete
from headrace.cli.endpoint_status import pools, status
from headrace.cli.endpoint_tasks import kill, tasks
from headrace.cli.login_command import login
from headrace.cli.serve import serve
from headrace.cli.sharing_commands import share, unshare
from headrace.cli.up import up
from headrace.schemas.errors import HeadraceError

app = typer.Typer(
    name="headrace",
    help="Plain Python functions on your own endpoints: called directly, as workflow steps, and by events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(up)
app.command()(login)
app.command()(doctor)
endpoint_commands.app.command()(status)
endpoint_commands.app.command()(pools)
endpoint_commands.app.command()(tasks)
endpoint_commands.app.command()(kill)
endpoint_commands.app.command()(enable_on_boot)
endpoint_commands.app.command()(disable_on_boot)
endpoint_commands.app.command()(validate)
endpoint_commands.app.command()(render_user_config)
endpoint_commands.app.command()(reload)
endpoint_commands.app.command()(share)
endpoint_commands.app.command()(unshare)
endpoint_commands.app.command()(delete)
app.add_typer(endpoint_commands.app, name="endpoint")
app.add_typer(function_commands.app, name="function")
app.add_typer(task_commands.app, name="task")
app.add_typer(action_commands.app, name="action")
app.add_typer(event_commands.app, name="event")
app.add_typer(bus_commands.app, name="bus")
app.add_typer(subscription_commands.app, name="subscription")
app.add_typer(schedule_commands.app, name="schedule")
app.add_typer(hook_commands.app, name="hook")
app.add_typer(watch_commands.app, name="watch")
app.add_typer(dead_letter_commands.app, name="dead-letter")
app.add_typer(feed_commands.app, name="feed")
app.add_typer(flow_commands.app, name="flow")
app.add_typer(user_commands.app, name="user")
app.add_typer(group_commands.app, name="group")
app.add_typer(token_commands.app, name="token")
app.command()(serve)
app.command()(dispatch)
app.add_typer(keys_commands.app, name="keys")
app.command()(backup)
app.command()(restore)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed  # takes a while, and only this command asks

    output.say(f"headrace {installed('headrace')}")


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What all commands have in common."""


def main() -> None:
    """The console script."""
    collect_seldom()
    try:
        called(app, sys.argv[1:])(prog_name="headrace")
    except HeadraceError as error:
        output.fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough (`headrace … | head`).
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
