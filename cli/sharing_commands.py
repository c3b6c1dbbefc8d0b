"""`headrace endpoint share` and `unshare`: who may use an endpoint of yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import output
from headrace.cli.named_endpoint import AnyNameArgument, directory_of, endpoint_id_of, owners_client
from headrace.cli.options import DEFAULT_HOME, HomeOption
from headrace.cli.service import JsonOption
from headrace.cli.values import PUBLIC, urn_of

_WithOption = Annotated[
    list[str],
    typer.Option(
        "--with",
        help="A user (ada or a URN), a group (group:lab or a URN), or `public` for everybody; may be repeated.",
    ),
]


def share(
    name: AnyNameArgument, with_: _WithOption, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Let users, groups or everybody use an endpoint, at once and until `unshare`: functions run as whoever started it.

    This goes on top of what its config.yaml says (`public`, `shared_with`).
    """
    guests = [urn_of(each) for each in with_]
    with owners_client(home) as client:
        endpoint_id = endpoint_id_of(client, name, home)
        for guest in guests:
            known = client.share_endpoint(endpoint_id, guest)
    _say(known, as_json)


def unshare(
    name: AnyNameArgument, with_: _WithOption, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Take back who may use an endpoint. Sessions of those who lose it end at once; what they had queued still runs."""
    guests = [urn_of(each) for each in with_]
    with owners_client(home) as client:
        endpoint_id = endpoint_id_of(client, name, home)
        for guest in guests:
            known = client.unshare_endpoint(endpoint_id, guest)
    _note_what_comes_back(name, guests, home)
    _say(known, as_json)


def _note_what_comes_back(name: str, guests: list[str], home: Path) -> None:
    directory = directory_of(name, home)
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
