"""The options of a subscription whose events go to an address by HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from headrace.cli.errors import CommandError
from headrace.cli.values import read_text

_KEPT: Final = ("url", "mode", "timeout_s", "concurrency", "batch_size", "rate_per_minute", "ca", "handshake")


class Mode(StrEnum):
    """How events are sent."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"


ToOption = Annotated[
    str | None, typer.Option("--to", metavar="URL", help="In place of --function: send the events there by HTTP.")
]
ModeOption = Annotated[Mode | None, typer.Option(help="With --to: CloudEvents' modes; structured by default.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout-s", help="With --to: for one attempt.")]
RateOption = Annotated[int | None, typer.Option("--rate-per-minute", min=1, help="With --to: requests at most.")]
SecretFileOption = Annotated[
    Path | None, typer.Option(help="With --to: a file with the secret that requests are signed with (HMAC-SHA256).")
]
TokenFileOption = Annotated[Path | None, typer.Option(help="With --to: a file with a bearer token.")]
HeaderFileOption = Annotated[
    list[str] | None,
    typer.Option("--header-file", metavar="NAME=FILE", help="With --to: a header, its value from a file. Repeatable."),
]
AuthorityOption = Annotated[
    Path | None, typer.Option("--to-ca-file", help="With --to: authorities (PEM) to trust in place of the system's.")
]
HandshakeOption = Annotated[
    bool, typer.Option("--handshake", help="With --to: ask for consent first, as CloudEvents' webhooks have it.")
]


def with_target(document: dict[str, Any], to: str | None, **given: Any) -> dict[str, Any]:
    """The document of a subscription with its target; `given` are the options above by their fields.

    Raises `CommandError`.
    """
    target = dict(document.get("target") or {})
    if to is not None:
        target["url"] = to
    for name in ("mode", "timeout_s", "concurrency", "rate_per_minute"):
        if given.get(name) is not None:
            target[name] = given[name]
    for name, field in (("secret_file", "secret"), ("token_file", "token"), ("ca_file", "ca")):
        if given.get(name) is not None:
            target[field] = read_text(given[name]).strip()
    if given.get("header_files"):
        target["headers"] = _headers(given["header_files"])
    if given.get("handshake"):
        target["handshake"] = True
    if target and "url" not in target:
        raise CommandError("say where the events go: --to URL")
    return {**document, "target": target} if target else document


def kept_target(known: dict[str, Any] | None) -> dict[str, Any]:
    """What of a target stays when some of it is changed; its secrets stay by themselves. Raises `CommandError`."""
    if known is None:
        raise CommandError("this subscription runs a function; make another one for an address")
    return {name: known[name] for name in _KEPT if known[name] is not None}


def _headers(given: Iterable[str]) -> dict[str, str]:
    headers = {}
    for each in given:
        name, sign, file = each.partition("=")
        if not sign or not name or not file:
            raise CommandError(f"--header-file is {each[:80]!r}; expected NAME=FILE")
        headers[name] = read_text(Path(file)).strip()
    return headers
