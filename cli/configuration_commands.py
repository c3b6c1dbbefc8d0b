"""`headrace endpoint validate`, `render-user-config` and `reload`: an endpoint's files, looked at and taken over."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import NameArgument, endpoints_of
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption
from headrace.cli.values import json_option

if TYPE_CHECKING:
    from headrace.endpoint.configuration.files import ConfigurationFiles

_DEFAULT: Final = "default"
_SPEAKER: Final = "headrace.endpoint.configuration.reload: "
_WITHIN_S: Final = 10.0
_LOOK_S: Final = 0.05

_OptionsOption = Annotated[
    str | None, typer.Option("--options", help="A user's options: JSON, or @FILE (JSON or YAML, @- is standard input).")
]
_RuntimeOption = Annotated[
    str | None,
    typer.Option("--user-runtime", help="The user's side, `_GC.user_runtime`: JSON or @FILE; by default this machine."),
]
_IdentityOption = Annotated[
    str | None, typer.Option("--mapped-identity", help="Who the user is here, `_GC.mapped_identity`: JSON or @FILE.")
]


def validate(
    name: NameArgument = _DEFAULT,
    options: _OptionsOption = None,
    user_runtime: _RuntimeOption = None,
    mapped_identity: _IdentityOption = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Check an endpoint's files of configuration, and what comes of them for a user's options; nothing is started.

    A mistake is named with file and line, and ends the command with status 1.
    """
    from headrace.endpoint.errors import OptionsInvalid

    files = endpoints_of(home).get(name).configuration()
    for note in files.notes:
        output.note(f"{files.directory / 'config.yaml'}, {note}")
    known = _known(user_runtime, mapped_identity)
    try:
        pool = files.pool(_object(options, "--options"), **known)
    except OptionsInvalid as error:
        if options is not None:
            raise
        # Without options a template may ask for some: that is its right, and no mistake.
        output.note(f"Without options there is no pool: {error}\nCheck it with --options as well.")
    else:
        for note in pool.notes:
            output.note(f"{_rendered(files)}, {note}")
    output.say(f"The configuration of the endpoint {name} is valid.")


def render_user_config(
    name: NameArgument = _DEFAULT,
    options: _OptionsOption = None,
    user_runtime: _RuntimeOption = None,
    mapped_identity: _IdentityOption = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Print what user_config_template.yaml.j2 gives for a user's options.

    It is checked as well: a mistake is named with its line after the text, and ends the command with status 1.
    """
    files = endpoints_of(home).get(name).configuration()
    if not files.takes_options:
        raise CommandError(f"{files.directory} has no user_config_template.yaml.j2: config.yaml says all")
    chosen, known = _object(options, "--options"), _known(user_runtime, mapped_identity)
    output.say(files.render(chosen, **known).rstrip("\n"))
    files.pool(chosen, **known)


def reload(name: NameArgument = _DEFAULT, home: HomeOption = DEFAULT_HOME) -> None:
    """Have a running endpoint read its files again, and show what changed; no task is cut short.

    Files with a mistake change nothing: it is named with file and line, and ends the command with status 1.
    """
    from headrace.endpoint.configuration.reload import REFUSED

    directory = endpoints_of(home).get(name)
    # Told here at once, and the manager need not hear of it.
    directory.configuration().default_pool()
    pid = directory.running_pid()
    if pid is None:
        raise CommandError(f"the endpoint {name} is not running; its files count from its next start")
    read_so_far = directory.log_file.stat().st_size
    try:
        os.kill(pid, signal.SIGHUP)
    except (ProcessLookupError, PermissionError) as error:
        raise CommandError(f"the process {pid} of the endpoint {name} cannot be told: {error.strerror}") from error
    lines = _lines_after(directory.log_file, read_so_far)
    if any(line.startswith(REFUSED) for line in lines):
        raise CommandError("\n".join(lines))
    for line in lines:
        output.say(line)


def _lines_after(log: Path, offset: int) -> list[str]:
    """What the manager said of its configuration from there on, once it has said all."""
    from headrace.endpoint.configuration.reload import REFUSED, SAME, TAKEN

    until = time.monotonic() + _WITHIN_S
    while True:
        text = log.read_bytes()[offset:].decode(errors="replace")
        lines = [line.partition(_SPEAKER)[2] for line in text.splitlines() if _SPEAKER in line]
        if lines and (lines[-1] in (TAKEN, SAME) or lines[-1].startswith(REFUSED)):
            return lines
        if time.monotonic() > until:
            raise CommandError(f"the manager has not answered within {_WITHIN_S:g} s; see {log}")
        time.sleep(_LOOK_S)


def _known(user_runtime: str | None, mapped_identity: str | None) -> dict[str, Any]:
    from headrace.endpoint.configuration.runtime import own_runtime

    runtime = own_runtime() if user_runtime is None else _object(user_runtime, "--user-runtime")
    return {"user_runtime": runtime, "mapped_identity": _object(mapped_identity, "--mapped-identity")}


def _object(text: str | None, option: str) -> dict[str, Any]:
    document = json_option(text, option)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise CommandError(f'{option} is a JSON object, like {{"workers": 2}}; it was {text!r}')
    return document


def _rendered(files: ConfigurationFiles) -> str:
    return "config.yaml" if files.templates is None else f"{files.templates.main}, rendered"
