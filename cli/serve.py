"""`headrace serve`: the HTTP service alone, for deployments where NATS and endpoints run elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.auth_options import AdminOption, AuthOption, auth_settings
from headrace.cli.options import (
    DEFAULT_HOME,
    HTTP_PORT,
    MOST_ACTION_VALUE_BYTES,
    NATS_PORT,
    CaFileOption,
    HomeOption,
    KeysOption,
    LogLevelOption,
    NatsWaitOption,
    expanded,
    http_address,
)
from headrace.cli.provider_options import ProvidersOption, provider_settings
from headrace.cli.sink_allow import SinkAllowOption, allowed_sinks


def serve(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 is a free one.")] = HTTP_PORT,
    public_url: Annotated[
        str,
        typer.Option(
            help="Where users reach the service, such as https://headrace.example.org: what addresses in answers begin"
            " with. By default where it listens.",
            show_default=False,
        ),
    ] = "",
    listen_fd: Annotated[
        int | None, typer.Option(help="An inherited socket to listen on, in place of --host and --port.", hidden=True)
    ] = None,
    nats_url: Annotated[str, typer.Option(help="Where the service finds NATS.")] = f"nats://127.0.0.1:{NATS_PORT}",
    public_nats_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Where SDKs and endpoints find NATS, when not at --nats-url: nats://, tls://, ws:// or wss://. May be"
            " repeated: they take the first that they can reach."
        ),
    ] = None,
    keys: KeysOption = None,
    dispatcher: Annotated[bool, typer.Option(help="Match events and watch deliveries in this process too.")] = True,
    action_value_bytes: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST_ACTION_VALUE_BYTES,
            help="Bytes that the values of an action may have together, as JSON; larger ones are given by reference.",
        ),
    ] = 49_152,
    sink_allow: SinkAllowOption = None,
    providers: ProvidersOption = None,
    auth: AuthOption = None,
    admin: AdminOption = None,
    ca_file: CaFileOption = None,
    nats_wait: NatsWaitOption = 10.0,
    log_level: LogLevelOption = "info",
) -> None:
    """Run the HTTP service alone, in the foreground, until Ctrl-C."""
    from headrace.action_provider.server import serve as run
    from headrace.action_provider.settings import ServiceSettings
    from headrace.bus.network import Network
    from headrace.bus.spare_memory import keep_for_messages
    from headrace.cli.home import Home
    from headrace.cli.output import configure_logging

    configure_logging(log_level)
    keep_for_messages()
    place = Home(expanded(home))
    place.prepare()
    authorities = expanded(ca_file) if ca_file else None
    for_providers = provider_settings(providers, home=place.path)
    sign_in = auth_settings(auth, admin, home=place.path, ca_file=authorities)
    run(
        ServiceSettings(
            home=place.path,
            keys_dir=expanded(keys) if keys else place.keys,
            nats_url=nats_url,
            network=Network(ca_file=authorities),
            public_nats_urls=tuple(public_nats_url or ()),
            host=host,
            port=port,
            public_url=http_address(public_url, "--public-url"),
            action_value_bytes=action_value_bytes,
            listen_fd=listen_fd,
            dispatcher=dispatcher,
            sinks=allowed_sinks(sink_allow),
            auth=sign_in,
            **for_providers,
            start_timeout_s=nats_wait,
        )
    )
