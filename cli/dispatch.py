"""`headrace dispatch`: the dispatcher alone, for services that only answer HTTP."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headrace.cli.options import (
    DEFAULT_HOME,
    NATS_PORT,
    CaFileOption,
    HomeOption,
    KeysOption,
    LogLevelOption,
    NatsWaitOption,
    expanded,
)
from headrace.cli.sink_allow import SinkAllowOption, allowed_sinks


def dispatch(
    home: HomeOption = DEFAULT_HOME,
    nats_url: Annotated[str, typer.Option(help="Where the dispatcher finds NATS.")] = f"nats://127.0.0.1:{NATS_PORT}",
    keys: KeysOption = None,
    sink_allow: SinkAllowOption = None,
    ca_file: CaFileOption = None,
    nats_wait: NatsWaitOption = 10.0,
    log_level: LogLevelOption = "info",
) -> None:
    """Match events and watch deliveries, without HTTP, until Ctrl-C. Any number of them may run."""
    from headrace.action_provider import runtime
    from headrace.action_provider.dispatching import dispatch_async
    from headrace.action_provider.settings import ServiceSettings
    from headrace.bus.network import Network
    from headrace.cli.home import Home
    from headrace.cli.output import configure_logging
    from headrace.cli.signals import Signals

    configure_logging(log_level)
    place = Home(expanded(home))
    place.prepare()
    settings = ServiceSettings(
        home=place.path,
        keys_dir=expanded(keys) if keys else place.keys,
        nats_url=nats_url,
        sinks=allowed_sinks(sink_allow),
        network=Network(ca_file=expanded(ca_file) if ca_file else None),
        start_timeout_s=nats_wait,
    )

    async def run() -> int:
        signals = Signals()
        async with signals.caught():
            await signals.unless_stopped(dispatch_async(settings))
        return 130 if signals.number == signals.number.SIGINT else 0

    sys.exit(runtime.run(run()))
