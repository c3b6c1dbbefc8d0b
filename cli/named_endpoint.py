"""An endpoint of one's own by its name, on this machine or at the service, or by its id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from headrace.cli.endpoint_commands import endpoints_of, profile_of
from headrace.cli.errors import CommandError
from headrace.cli.options import expanded

if TYPE_CHECKING:
    from headrace.endpoint.directory import EndpointDirectory
    from headrace.sdk.client import Client

AnyNameArgument = Annotated[
    str, typer.Argument(help="The endpoint's name on this machine or at the service, or its id; it must be yours.")
]


def owners_client(home: Path) -> Client:
    """A client with the owner's token: that of a home, or of the environment. Raises `NotConfigured`."""
    from headrace.sdk.client import Client

    return Client(profile=profile_of(expanded(home)))


def directory_of(name: str, home: Path) -> EndpointDirectory | None:
    """The endpoint of this name, or else of this id, on this machine."""
    directories = endpoints_of(home).list()
    named = next((each for each in directories if each.name == name), None)
    return named or next((each for each in directories if _has_id(each, name)), None)


def endpoint_id_of(client: Client, name: str, home: Path) -> UUID:
    """The endpoint of this name here, else at the service. Raises `CommandError`."""
    directory = directory_of(name, home)
    registration = directory.registration() if directory is not None else None
    if registration is not None:
        return registration.endpoint_id
    me = client.whoami()["principal"]
    own = {each["name"]: each["endpoint_id"] for each in client.get_endpoints() if each["owner"] == me}
    try:
        return UUID(own.get(name) or name)
    except ValueError:
        raise CommandError(
            f"you have no endpoint {name!r}, neither here nor at the service (there: {', '.join(own) or 'none'});"
            " one that was never started is not registered yet"
        ) from None


def _has_id(directory: EndpointDirectory, text: str) -> bool:
    registration = directory.registration()
    try:
        return registration is not None and registration.endpoint_id == UUID(text)
    except ValueError:
        return False
