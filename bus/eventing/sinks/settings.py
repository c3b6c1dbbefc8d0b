"""What an administrator says of sinks."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from headrace.bus.eventing.sinks.addresses import AddressPolicy
from headrace.bus.eventing.sinks.models import Sink
from headrace.bus.network import DIRECT, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """Where sinks may be, and whose certificates they may have."""

    policy: AddressPolicy = field(default_factory=AddressPolicy)
    network: Network = DIRECT

    def context_for(self, sink: Sink) -> ssl.SSLContext:
        """How the sink's certificate is checked. Raises `NetworkUnusable` and `ValueError`."""
        if not sink.ca:
            return self.network.ssl_context()
        try:
            return ssl.create_default_context(cadata=sink.ca)
        except ssl.SSLError as error:
            raise ValueError(f"these are no certificates in PEM: {error}") from error
