"""`headrace endpoint share` and `unshare`: who may use an endpoint of yours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import endpoints_of, profile_of
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.service import JsonOption
from headrace.cli.values import PUBLIC, urn_of

if TYPE_CHECKING:
    from headrace.sdk.client import Client

_NameArgument = Annotated[
    str, typer.Argument(help="The endpoint's name on this machine or at the service, or its id; it must be yours.")
]
_WithOption = Annotated[
    list[str],
    typer.Option(
        "--with",
        help="A user (ada or a URN), a group (group:lab or a URN), or `public` for everybody; may be repeated.",
    ),
]


def share(
    name: _NameArgument, with_: _WithOption, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Let users, groups or everybody use an endpoint, at once and until `unshare`: functions run as whoever started it.

    This goes on top of what its config.yaml says (`public`, `shared_with`).
    """
    guests = [urn_of(each) for each in with_]
    with _client(home) as client:
        endpoint_id = _endpoint_id(client, name, home)
        for guest in guests:
            known = client.share_endpoint(endpoint_id, guest)
    _say(known, as_json)


def unshare(
    name: _NameArgument, with_: _WithOption, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Take back who may use an endpoint. Sessions of those who lose it end at once; what they had queued still runs."""
    guests = [urn_of(each) for each in with_]
    with _client(home) as client:
        endpoint_id = _endpoint_id(client, name, home)
        for guest in guests:
            known = client.unshare_endpoint(endpoint_id, guest)
    _note_what_comes_back(name, guests, home)
    _say(known, as_json)


def _client(home: Path) -> Client:
    from headrace.sdk.client import Client

    return Client(profile=profile_of(expanded(home)))


def _endpoint_id(client: Client, name: str, home: Path) -> UUID:
    """The endpoint of this name here, else at the service. Raises `CommandError`."""
    for directory in endpoints_of(home).list():
        registration = directory.registration() if directory.name == name else None
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


def _note_what_comes_back(name: str, guests: list[str], home: Path) -> None:
    directory = next((each for each in endpoints_of(home).list() if each.name == name), None)
    if directory is None:
        return
    config = directory.config()
    for guest in guests:
        if guest in config.shared_with or (guest == PUBLIC and config.public):
            output.note(f"{directory.config_file} still says so: take it out there, or the next start shares it again.")


def _say(endpoint: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.say_json(endpoint)
        return
    who = ["everybody with an account"] if endpoint["public"] else [endpoint["owner"], *endpoint["shared_with"]]
    output.say(f"The endpoint {endpoint['name']} can be used by: {', '.join(who)}")
