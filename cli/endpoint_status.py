"""`headrace endpoint status` and `pools`: what an endpoint does, here and as the service knows it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from headrace.cli import output
from headrace.cli.endpoint_commands import NameArgument, described, endpoints_of
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption
from headrace.cli.own_service import own_service
from headrace.cli.records import Columns, Record, say_records, shown
from headrace.cli.service import JsonOption
from headrace.cli.watch_status import watcher_lines

if TYPE_CHECKING:
    from headrace.endpoint.directory import EndpointDirectory

_DEFAULT: Final = "default"
_STOPPED: Final = 3
"""As service managers have it: 3 is "not running", 4 is "not known"."""
_NOT_SEEN: Final = 4
_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB


def status(name: NameArgument = _DEFAULT, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show what an endpoint on this machine does, and what the service knows of it.

    Status 0: it runs, and the service sees it. 3: it does not run here. 4: it runs, but the service has no sign of life
    of it, or does not answer.
    """
    from headrace.endpoint.watch.report import STATUS_FILE, read_status

    directory = endpoints_of(home).get(name)
    document = {
        **described(directory),
        "service": _known(directory),
        "watch": read_status(directory.watch_path / STATUS_FILE),
    }
    if as_json:
        output.say_json(document)
    else:
        _say(document)
    if document["state"] != "running":
        sys.exit(_STOPPED)
    sys.exit(0 if _is_seen(directory, document["service"]) else _NOT_SEEN)


def _is_seen(directory: EndpointDirectory, known: dict[str, Any]) -> bool:
    """Whether the service has a sign of life of the manager on this machine: the endpoint may have others elsewhere."""
    managers = [each["manager"] for each in known.get("managers", ())]
    return known.get("status") == "online" and directory.manager in managers


def pools(name: NameArgument = _DEFAULT, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the pools of an endpoint on all its machines: workers, how busy they are, and those that cannot be had.

    Those, `failed`, are listed until nobody has asked for them for an hour.
    """
    known = _known(endpoints_of(home).get(name))
    if "problem" in known:
        raise CommandError(known["problem"])
    columns: Columns = {
        "POOL": "pool",
        "OF": "principal",
        "HOST": "host",
        "STATE": lambda pool: pool.get("state", "running"),
        "WORKERS": _while_it_runs(lambda pool: pool.get("workers")),
        "IDLE": _while_it_runs(_idle),
        "QUEUED": _while_it_runs(lambda pool: pool.get("queued")),
        "MEMORY": _memory,
        "SINCE": "since",
        "PROBLEM": _problem,
    }
    say_records(known["pools"], columns, as_json=as_json)


def _while_it_runs(cell: Callable[[Record], object]) -> Callable[[Record], object]:
    # A pool that cannot be had, or sleeps, says its state, and nothing of workers.
    return lambda pool: None if "state" in pool else cell(pool)


def _problem(pool: Record) -> str:
    return str(pool.get("problem", "")).partition("\n")[0]


def _memory(pool: Record) -> str | None:
    memory = pool.get("memory_bytes")
    return None if memory is None else f"{memory / _MIB:.0f} MiB"


def _idle(pool: dict[str, Any]) -> int:
    return max(0, int(pool.get("workers", 0)) - int(pool.get("busy", 0)))


def _say(document: dict[str, Any]) -> None:
    for key in ("name", "endpoint_id", "state", "pid", "directory"):
        output.say(f"{key + ':':13}{shown(document[key])}")
    known: dict[str, Any] = document["service"]
    output.say(f"{'service:':13}{known.get('problem') or known['status']}")
    for manager in known.get("managers", ()):
        output.say(f"{'machine:':13}{_machine_line(manager)}")
    for pool in known.get("pools", ()):
        output.say(f"{'pool:':13}{_pool_line(pool)}")
    for line in watcher_lines(document["watch"]) if document["watch"] else ():
        output.say(line)
    queue = known.get("queue")
    if queue:
        output.say(f"{'queue:':13}{queue['used']} bundles are not finished{_most(queue['bundles'])}")
        for each in queue["principals"]:
            output.say(f"{'':13}{each['principal']}: {each['waiting']} wait, {each['taken']} are in a pool's hands")


def _machine_line(manager: dict[str, Any]) -> str:
    load = manager.get("load") or {}
    parts = [f"{manager['host']}: Headrace {manager['headrace_version']}, Python {manager['python_version']}"]
    if "load_1m" in load:
        parts.append(f"load {load['load_1m']:.1f} on {load['cpus']} processors")
    if "memory_available_bytes" in load:
        parts.append(
            f"{load['memory_available_bytes'] / _GIB:.1f} of {load['memory_bytes'] / _GIB:.1f} GiB memory free"
        )
    if "disk_free_bytes" in load:
        parts.append(f"{load['disk_free_bytes'] / _GIB:.1f} GiB disk free")
    return ", ".join(parts)


def _pool_line(pool: dict[str, Any]) -> str:
    whose = f" of {pool['principal']}" if "principal" in pool else ""
    where = f" on {pool['host']}" if pool.get("host") else ""
    if "state" in pool:
        since, problem = pool.get("since"), _problem(pool)
        return (
            f"{pool['pool']}{whose}{where}: {pool['state']}"
            f"{f' since {since}' if since else ''}{f' ({problem})' if problem else ''}"
        )
    memory = f", {pool['memory_bytes'] / _MIB:.0f} MiB" if "memory_bytes" in pool else ""
    workers = f"{pool.get('workers', 0)} workers, {pool.get('busy', 0)} busy, {_idle(pool)} idle"
    return f"{pool['pool']}{whose}{where}: {workers}, {pool.get('queued', 0)} tasks waiting here{memory}"


def _most(limit: int | None) -> str:
    return "" if limit is None else f" (at most {limit})"


def _known(directory: EndpointDirectory) -> dict[str, Any]:
    from headrace.sdk.errors import ClientError

    try:
        with own_service(directory) as (client, endpoint_id):
            known = client.get_endpoint_status(endpoint_id)
            return {**known, "queue": client.get_endpoint_queue(endpoint_id)}
    except (ClientError, CommandError) as error:
        return {"problem": str(error)}
