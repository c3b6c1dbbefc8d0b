"""`headrace login`: remember a service and a token for the SDK and the commands on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, CaFileOption, HomeOption, expanded
from headrace.cli.values import read_text


def login(
    url: Annotated[str, typer.Option(help="The service, such as https://headrace.example.org.")],
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token, '-' for standard input. By default it is asked for."),
    ] = None,
    ca_file: CaFileOption = None,
    home: HomeOption = DEFAULT_HOME,
    timeout: Annotated[float, typer.Option(help="How many seconds the service may take to answer.")] = 30.0,
) -> None:
    """Check a token and remember it, with its service and --ca-file, in HOME/profile.json.

    The token is never an argument: every user of a machine sees the arguments of all programs.
    """
    from headrace.sdk.client import Client
    from headrace.sdk.profile import Profile

    profile = Profile.find(url, _token(url, token_file), ca_file=ca_file)
    _warn_without_tls(profile.url)
    if ca_file is not None and profile.url.startswith("http:"):
        output.note(f"--ca-file has no effect on {url}, which is without TLS; it counts for a bus that has TLS.")
    with Client(profile=profile, timeout_s=timeout) as client:
        client.version()
        who = client.whoami()
    path = expanded(home) / "profile.json"
    try:
        profile.write(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
    output.say(f"Logged in to {profile.url} as {who['principal']}; remembered in {path}.")


def _token(url: str, token_file: Path | None) -> str:
    if token_file is not None:
        token = read_text(token_file).strip()
    elif sys.stdin.isatty():
        token = typer.prompt(f"Token for {url}", hide_input=True).strip()
    else:
        token = sys.stdin.readline().strip()
    if not token:
        raise CommandError("no token was given: pass it on standard input, or with --token-file FILE")
    return token


def _warn_without_tls(url: str) -> None:
    from urllib.parse import urlsplit

    from headrace.bus.hosts import is_loopback

    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        output.note(
            f"headrace: warning: {url} is without TLS: who can see the network can read the token and all data."
        )
