"""`headrace endpoint`: endpoints on this machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from headrace.bus.names import DEFAULT_POOL
from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.records import AllOrLimitOption, say_records
from headrace.cli.service import JsonOption
from headrace.cli.values import read_text

if TYPE_CHECKING:
    from headrace.bus.network import Network
    from headrace.endpoint.directory import EndpointDirectory, Endpoints
    from headrace.sdk.profile import Profile

app = typer.Typer(help="Configure, start, stop and watch endpoints on this machine.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The endpoint's name on this machine.")]

_UNCONFIGURED: Final = "default"
_START_WITHIN_S = 10.0
_STOP_WITHIN_S = 11.5
"""Beside what running tasks get."""
GRACE_S: Final = 3.5
MOST_GRACE_S: Final = 7 * 86_400.0
_LOOK_S = 0.05


@app.command()
def configure(
    name: NameArgument,
    endpoint_id: Annotated[
        UUID | None, typer.Option(help="An id that this endpoint had before, or shall have. By default a new one.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make an endpoint's directory with commented files of configuration: config.yaml and those for users' options."""
    directory = endpoints_of(home).create(name)
    if endpoint_id is not None:
        directory.keep_registration(endpoint_id, None, None)
    output.say(f"Configured the endpoint {name}: edit {directory.config_file}")
    elsewhere = expanded(home) != expanded(DEFAULT_HOME)
    of_home = f" --home {shlex.quote(str(expanded(home)))}" if elsewhere else ""
    output.note(f"Start it with: headrace endpoint start {name}{of_home}")


@app.command()
def start(
    name: NameArgument = _UNCONFIGURED,
    home: HomeOption = DEFAULT_HOME,
    workers: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Tasks at a time, in place of what config.yaml says.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The service; by default that of HOME/profile.json.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with a token of yours, '-' for standard input; goes with --url.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it runs; `headrace endpoint stop` ends it.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, max=MOST_GRACE_S, help="Seconds that running tasks get when it is told to stop.")
    ] = GRACE_S,
) -> None:
    """Run an endpoint, in the foreground until Ctrl-C or with --detach. Its first start registers it with the service.

    The endpoint `default` needs no `configure` before.
    """
    import asyncio

    from headrace.endpoint.manager import Manager, ManagerSettings

    endpoints = endpoints_of(home)
    if name == _UNCONFIGURED and not any(each.name == name for each in endpoints.list()):
        endpoints.create(name)
    directory = endpoints.get(name)
    config = directory.config()
    service_url, token, network = _service(expanded(home), directory, url, token_file)
    _refuse_if_running(directory)
    _log_to(directory, config.log_level)

    settings = ManagerSettings(url=service_url, token=token, workers=workers, grace_s=grace, network=network)

    def run() -> None:
        asyncio.run(Manager(directory, settings).run())

    if detach:
        _detach(directory, run)
    else:
        run()


def _refuse_if_running(directory: EndpointDirectory) -> None:
    # Before anything is written to the log of the one that runs. The lock decides, should two start at once.
    if directory.running_pid() is not None:
        with directory.locked():
            pass


def _detach(directory: EndpointDirectory, run: Callable[[], None]) -> None:
    from headrace.cli.detached import run_detached
    from headrace.endpoint.directory import read_json

    def has_workers() -> bool:
        status = read_json(directory.pool_file(DEFAULT_POOL, "status.json"))
        return directory.running_pid() is not None and isinstance(status, dict) and bool(status.get("workers"))

    pid = run_detached(run, is_ready=has_workers, log=directory.log_file, within_s=_START_WITHIN_S)
    output.say(f"Started the endpoint {directory.name} as process {pid}.")
    if not has_workers():
        output.note(f"It has no workers yet: see {directory.log_file}")


@app.command()
def stop(
    name: NameArgument = _UNCONFIGURED,
    home: HomeOption = DEFAULT_HOME,
    now: Annotated[bool, typer.Option("--now", "--force", help="Do not wait for running tasks.")] = False,
) -> None:
    """Stop an endpoint: it takes no more tasks, running ones get its grace (`start --grace`), then they and all that
    waits are handed back to the queue."""
    import os
    import signal

    directory = endpoints_of(home).get(name)
    pid = directory.running_pid()
    if pid is None:
        output.say(f"The endpoint {name} is not running.")
        return
    until = time.monotonic() + _STOP_WITHIN_S + _grace_s(directory)
    try:
        os.kill(pid, signal.SIGTERM)
        if now:
            # Two signals that are sent at once can be taken for one.
            time.sleep(_LOOK_S)
            os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise CommandError(f"the endpoint {name} runs as process {pid} of another user, who must stop it") from None
    while directory.running_pid() == pid:
        if time.monotonic() > until:
            raise CommandError(f"the endpoint {name} (process {pid}) has not stopped; try --now, or `kill -9 {pid}`")
        time.sleep(_LOOK_S)
    output.say(f"Stopped the endpoint {name}.")


def _grace_s(directory: EndpointDirectory) -> float:
    """What the manager that runs was started with."""
    from headrace.endpoint.directory import read_json

    settings = read_json(directory.pool_file(DEFAULT_POOL))
    return float(settings.get("grace_s", GRACE_S)) if isinstance(settings, dict) else GRACE_S


@app.command("list")
def list_endpoints(
    home: HomeOption = DEFAULT_HOME, limit: AllOrLimitOption = None, as_json: JsonOption = False
) -> None:
    """List the endpoints on this machine."""
    endpoints = [described(directory) for directory in endpoints_of(home).list()]
    columns = {"NAME": "name", "ID": "endpoint_id", "STATE": "state", "PROCESS": "pid", "DIRECTORY": "directory"}
    say_records(endpoints, columns, as_json=as_json, limit=limit)


def endpoints_of(home: Path) -> Endpoints:
    """The endpoints under a home."""
    from headrace.endpoint.directory import Endpoints

    return Endpoints(expanded(home))


def _service(
    home: Path, directory: EndpointDirectory, url: str | None, token_file: Path | None
) -> tuple[str, str | None, Network]:
    """The service, where there is one a token of the owner's, and how this machine gets there.

    An endpoint belongs to its home, so the home's profile goes before the environment.
    """
    from headrace.sdk.errors import NotConfigured
    from headrace.sdk.profile import service_url

    if token_file is not None and url is None:
        raise typer.BadParameter("--token-file goes with --url")
    if url is not None:
        token = read_text(token_file).strip() if token_file is not None else None
        return service_url(url, "--url"), token, network_of(home)
    try:
        profile = profile_of(home)
    except NotConfigured:
        registration = directory.registration()
        if registration is None or registration.url is None or directory.token() is None:
            raise
        return registration.url, None, network_of(home)
    return profile.url, profile.token, profile.network


def profile_of(home: Path) -> Profile:
    """The profile of a home, or of the environment. Raises `NotConfigured`."""
    from headrace.sdk.profile import Profile

    path = home / "profile.json"
    return Profile.read(path) if path.exists() else Profile.find()


def network_of(home: Path) -> Network:
    """How this machine gets out, by its environment and a home's profile."""
    from headrace.sdk.profile import network_of as found

    return found(home / "profile.json")


def _log_to(directory: EndpointDirectory, level: str) -> None:
    """What the manager says goes to the terminal, and to the endpoint's log, where its pools write as well."""
    import logging

    directory.rotate_log()
    output.configure_logging(level)
    handler = logging.FileHandler(directory.log_file, encoding="utf-8")
    root = logging.getLogger()
    handler.setFormatter(root.handlers[0].formatter)
    root.addHandler(handler)
    # One line for each sign of life is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def described(directory: EndpointDirectory) -> dict[str, Any]:
    """What can be seen of an endpoint here, without asking the service."""
    registration, pid = directory.registration(), directory.running_pid()
    return {
        "name": directory.name,
        "endpoint_id": str(registration.endpoint_id) if registration else None,
        "state": "running" if pid else "stopped",
        "pid": pid,
        "directory": str(directory.path),
    }
