"""`headrace up`: NATS, the service and one endpoint, in one command."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.auth_options import AdminOption, AuthOption
from headrace.cli.options import DEFAULT_HOME, HTTP_PORT, NATS_PORT, HomeOption, LogLevelOption, expanded, http_address
from headrace.cli.sink_allow import SinkAllowOption, allowed_sinks


class Durability(StrEnum):
    """What an acknowledgement means."""

    ALWAYS = "always"
    RELAXED = "relaxed"


def up(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Anything but this machine itself needs TLS before it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"The HTTP port; 0 is a free one. By default that of the last start, the first time {HTTP_PORT}.",
            show_default=False,
        ),
    ] = None,
    nats_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Likewise for NATS; the first time {NATS_PORT}.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Tasks at a time. By default one for each processor.", show_default=False),
    ] = None,
    no_endpoint: Annotated[bool, typer.Option("--no-endpoint", help="Start no endpoint here.")] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Written as JSON once everything answers, and removed at the end.", show_default=False),
    ] = None,
    durability: Annotated[
        Durability,
        typer.Option(
            help="'always' survives a power cut. 'relaxed' is faster and may lose the last two minutes then,"
            " acknowledged or not."
        ),
    ] = Durability.ALWAYS,
    nats_server: Annotated[
        Path | None, typer.Option(help="Another NATS server than the one that comes along.", show_default=False)
    ] = None,
    public_host: Annotated[
        str | None,
        typer.Option(help="The name under which other machines reach this one, if --host is not it."),
    ] = None,
    public_url: Annotated[
        str,
        typer.Option(
            help="Where users reach the service, such as https://headrace.example.org: what addresses in answers begin"
            " with. By default http:// and --public-host.",
            show_default=False,
        ),
    ] = "",
    public_nats_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Where SDKs and endpoints on other machines find NATS, when not at --public-host, such as"
            " wss://headrace.example.org/nats. May be repeated: they take the first that they can reach.",
            show_default=False,
        ),
    ] = None,
    nats_websocket: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Let NATS take WebSockets as well, there, without TLS: for a proxy before it. Port 0 is a free one.",
            show_default=False,
        ),
    ] = None,
    sink_allow: SinkAllowOption = None,
    auth: AuthOption = None,
    admin: AdminOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Start everything: a NATS server, the service and one endpoint. Ctrl-C stops it."""
    from headrace.cli import ports
    from headrace.cli.output import configure_logging
    from headrace.cli.system import UpSettings, run

    configure_logging(log_level)
    status = run(
        UpSettings(
            home=expanded(home),
            host=host,
            port=port,
            nats_port=nats_port,
            workers=workers,
            endpoint=not no_endpoint,
            ready_file=expanded(ready_file) if ready_file else None,
            relaxed=durability is Durability.RELAXED,
            nats_server=expanded(nats_server) if nats_server else None,
            public_host=public_host,
            public_url=http_address(public_url, "--public-url"),
            public_nats_urls=tuple(public_nats_url or ()),
            sinks=allowed_sinks(sink_allow).texts(),
            auth=tuple(auth or ()),
            admins=tuple(admin or ()),
            nats_websocket=ports.host_and_port(nats_websocket, "--nats-websocket") if nats_websocket else None,
        )
    )
    sys.exit(status)
