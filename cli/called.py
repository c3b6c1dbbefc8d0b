"""The command that is called, without the other sixty: making one of Typer's takes a millisecond each."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import typer
from typer.models import CommandInfo


def called(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """The part of `app` that these words of a command line name; where they name nothing, all of it.

    So what helps, lists or suggests still knows everything. One further command stays in any case, because Typer
    takes an app of one command for that command.
    """
    if not words:
        return app
    commands = [command for command in app.registered_commands if _name(command) == words[0]]
    groups = [group for group in app.registered_groups if group.name == words[0]]
    if not commands and not groups:
        return app
    part = copy.copy(app)
    part.registered_commands = commands + [other for other in app.registered_commands if other not in commands][:1]
    part.registered_groups = []
    for group in groups:
        inner = copy.copy(group)
        if group.typer_instance is not None:
            inner.typer_instance = called(group.typer_instance, words[1:])
        part.registered_groups.append(inner)
    return part


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
