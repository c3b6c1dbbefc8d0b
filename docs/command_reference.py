"""cli.md: the command line, from its own help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from tables import NOTE, table

from headrace.cli.main import app

_CLI = """\
# The command line

Statuses: 0 done, 1 an error that the message names, 2 wrong usage, 130 stopped with Ctrl-C; the
text of a command names others. Messages go to standard error, results to standard output; `--json`, where there is
one, prints one JSON document.

Commands that speak to a service find it as the SDK does: `HEADRACE_URL` and `HEADRACE_TOKEN`, else the `profile.json`
in `HEADRACE_HOME` (by default `~/.headrace`), which `headrace up` and `headrace login` write.
"""


def commands() -> str:
    """The command line, from its own help."""
    parts = [NOTE, _CLI]
    for name, command in _commands("headrace", typer.main.get_command(app)):
        parts.append(f"## `{' '.join([name, *_arguments(command)])}`\n")
        parts.append(" ".join(str(command.help).split()) + "\n")
        rows = [(_option_names(each), _option_text(each)) for each in command.params if _is_shown(each)]
        if rows:
            parts.append(table(("", ""), rows))
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if not below:
        yield name, command
        return
    for word, each in below.items():
        yield from _commands(f"{name} {word}", each)


def _arguments(command: Any) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    return [_argument(each) if each.required else f"[{_argument(each)}]" for each in arguments]


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("[]")


def _is_shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def _option_names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _option_text(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    notes = []
    if parameter.required and parameter.param_type_name == "option":
        notes.append("needed")
    if isinstance(parameter.default, str | int | Path) and not isinstance(parameter.default, bool):
        notes.append(f"default: `{parameter.default}`")
    if parameter.envvar:
        notes.append(f"environment: `{parameter.envvar}`")
    return f"{text} ({'; '.join(notes)})" if notes else text
