"""`headrace doctor`: is everything there that tasks need, and if not, what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import profile_of
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.service import JsonOption

if TYPE_CHECKING:
    from headrace.cli.findings import Finding
    from headrace.endpoint.directory import EndpointDirectory

_MARKS: Final = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM", "skipped": "-"}


def doctor(
    endpoint: Annotated[
        str | None,
        typer.Argument(help="An endpoint on this machine by its name, or any by its id. By default all that run here."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    task: Annotated[bool, typer.Option(help="Run a sample task at each endpoint.")] = True,
    within: Annotated[float, typer.Option(min=1, help="Seconds that the sample task may wait, and run.")] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Check permissions, disk, connectivity, releases, clocks and endpoints, and run a sample task.

    Status 0: all is well, perhaps with warnings. Status 1: there is a problem, with what to do about it. What is
    looked at is left as it was; the sample task's function is removed.
    """
    findings = []
    for finding in _findings(expanded(home), endpoint, run_task=task, within_s=within):
        findings.append(finding)
        if not as_json:
            _say(finding)
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        output.say_json({"ok": not problems, "findings": [finding.document() for finding in findings]})
    elif problems:
        output.say(f"{problems} {'problem' if problems == 1 else 'problems'} found.")
    else:
        output.say("No problem found.")
    sys.exit(1 if problems else 0)


def _say(finding: Finding) -> None:
    what = finding.check if finding.endpoint is None else f"{finding.endpoint}: {finding.check}"
    output.say(f"{_MARKS[finding.state]:8}{what:24} {finding.said}")
    if finding.advice:
        output.say(f"{'':33}-> {finding.advice}")


def _findings(home: Path, endpoint: str | None, *, run_task: bool, within_s: float) -> Iterator[Finding]:
    from headrace.cli.endpoint_checks import EndpointCheck, directory_findings
    from headrace.cli.findings import problem, skipped
    from headrace.cli.home_checks import home_findings
    from headrace.cli.service_checks import ServiceCheck
    from headrace.sdk.client import Client
    from headrace.sdk.errors import NotConfigured

    named = _id(endpoint)
    here = [] if named else _directories(home, endpoint)
    yield from home_findings(home)
    for directory in here:
        yield from directory_findings(directory)
    try:
        profile = profile_of(home)
    except NotConfigured as error:
        yield problem("service", str(error), "the message says how")
        return
    service = ServiceCheck(profile)
    yield from service.findings()
    if not (service.answers and service.accepted):
        yield skipped("endpoints", "nothing more can be asked")
        return
    with Client(profile=profile) as client:
        targets = [(named, str(named))] if named else list(_registered(here))
        if not targets and endpoint is None:
            targets = [(UUID(each["endpoint_id"]), each["name"]) for each in client.get_endpoints()]
        if not targets:
            yield skipped("endpoints", "there is none that could be asked for")
        for endpoint_id, name in targets:
            check = EndpointCheck(
                client=client, endpoint_id=endpoint_id, name=name, within_s=within_s, run_task=run_task
            )
            yield from check.findings()


def _directories(home: Path, name: str | None) -> list[EndpointDirectory]:
    """The one that was named, or all that run here."""
    from headrace.endpoint.directory import Endpoints

    endpoints = Endpoints(home)
    if name is not None:
        return [endpoints.get(name)]
    return [directory for directory in endpoints.list() if directory.running_pid() is not None]


def _registered(directories: list[EndpointDirectory]) -> Iterator[tuple[UUID, str]]:
    for directory in directories:
        registration = directory.registration()
        if registration is not None and directory.token() is not None:
            yield registration.endpoint_id, directory.name


def _id(endpoint: str | None) -> UUID | None:
    try:
        return None if endpoint is None else UUID(endpoint)
    except ValueError:
        return None
