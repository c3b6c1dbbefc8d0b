"""`headrace endpoint delete`: an endpoint on this machine and at the service, or only at the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import endpoints_of, network_of
from headrace.cli.errors import CommandError
from headrace.cli.named_endpoint import AnyNameArgument, directory_of, endpoint_id_of, owners_client
from headrace.cli.options import DEFAULT_HOME, HomeOption
from headrace.cli.service import YesOption, confirmed

if TYPE_CHECKING:
    from headrace.endpoint.directory import EndpointDirectory


def delete(
    name: AnyNameArgument,
    home: HomeOption = DEFAULT_HOME,
    yes: YesOption = False,
    local: Annotated[
        bool, typer.Option("--local", help="Remove only what is on this machine; the service keeps the endpoint.")
    ] = False,
) -> None:
    """Delete an endpoint: here, where it is on this machine, and at the service, with what is queued for it. Results
    stay."""
    directory = directory_of(name, home)
    if directory is not None:
        _delete_here(directory, home, yes=yes, local=local)
    elif local:
        endpoints_of(home).get(name)  # which says what there is
    else:
        _delete_at_service(name, home, yes=yes)


def _delete_here(directory: EndpointDirectory, home: Path, *, yes: bool, local: bool) -> None:
    where = "on this machine" if local else "here and at the service, with what is queued for it"
    confirmed(f"Delete the endpoint {directory.name} {where}?", yes=yes)
    # Held while it is removed at the service, so that no manager starts, or runs, meanwhile.
    with directory.locked():
        if not local:
            _unregister(directory)
    endpoints_of(home).delete(directory.name)
    output.say(f"Deleted the endpoint {directory.name}.")


def _delete_at_service(name: str, home: Path, *, yes: bool) -> None:
    """Delete an endpoint that is on no machine any more, or on another one. Raises `CommandError`."""
    with owners_client(home) as client:
        known = client.get_endpoint_metadata(endpoint_id_of(client, name, home))
        online = client.get_endpoint_status(known["endpoint_id"])["status"] == "online"
        runs = " while it runs on another machine" if online else ""
        question = f"Delete the endpoint {known['name']} ({known['endpoint_id']}) at the service{runs},"
        confirmed(f"{question} with what is queued for it?", yes=yes)
        client.delete_endpoint(known["endpoint_id"])
    output.say(f"Deleted the endpoint {known['name']} at the service; it was not on this machine.")


def _unregister(directory: EndpointDirectory) -> None:
    from headrace.endpoint.errors import RegistrationRefused, ServiceAway
    from headrace.endpoint.service_client import ServiceClient

    registration, token = directory.registration(), directory.token()
    if registration is None or registration.url is None or token is None:
        return
    try:
        network = network_of(directory.path.parents[1])
        with ServiceClient(registration.url, network=network) as service:
            service.delete(token, registration.endpoint_id)
    except ServiceAway as error:
        raise CommandError(f"{error}; --local removes only what is on this machine") from error
    except RegistrationRefused as error:
        if error.status not in (401, 404):
            raise
        output.note(f"The service does not know this endpoint any more: {error}")
