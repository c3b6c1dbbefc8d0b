"""Where the service may send: never into its own network, unless its administrator says so.

Whoever may make a subscription could otherwise have the service ask what only it can reach: other services on its
machine and network, and the addresses at which clouds give out credentials. What counts is the address that a name
leads to at the moment of connecting, not the name: see `headrace.bus.eventing.sinks.client`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRANSLATED: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_NAT64_WELL_KNOWN: Final = _TRANSLATED[0]
_TRAPS: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Public addresses behind which a cloud's own services answer its machines."""
_SPECIAL: Final = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20", "5f00::/16"))
)
"""What IANA has set aside, and not every release of Python knows."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What is allowed besides the public internet: networks, and hosts by their names."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> AddressPolicy:
        """Read host names, addresses and networks (`10.1.0.0/16`). Raises `ValueError`, which names the entry."""
        networks, hosts = [], set()
        for entry in entries:
            text = entry.strip()
            try:
                networks.append(ipaddress.ip_network(text.strip("[]"), strict=False))
                continue
            except ValueError:
                pass
            if not text or any(sign in text for sign in "/:*@? \t") or text.replace(".", "").isdigit():
                raise ValueError(f"{entry!r} is neither a host's name nor an address nor a network such as 10.1.0.0/16")
            hosts.add(text.lower().rstrip("."))
        return cls(tuple(networks), frozenset(hosts))

    def texts(self) -> list[str]:
        """The entries, as `of` reads them."""
        return [*map(str, self.networks), *sorted(self.hosts)]

    def problem(self, host: str, address: Address, *, secure: bool) -> str | None:
        """Why nothing is sent to a host at this address, or None. `secure`: by TLS."""
        if self._is_named(host, address):
            return None
        if not _is_public(address):
            return (
                f"{_shown(host, address)} is not in the public internet, and the administrator has not allowed it"
                " (--sink-allow)"
            )
        if not secure:
            return (
                f"{_shown(host, address)} is reached without TLS, and the administrator has not allowed it"
                " (--sink-allow); use https"
            )
        return None

    def _is_named(self, host: str, address: Address) -> bool:
        return host.lower().rstrip(".") in self.hosts or any(
            candidate in network
            for candidate in _meanings(address)
            for network in self.networks
            if candidate.version == network.version
        )


def _is_public(address: Address) -> bool:
    return all(
        each.is_global
        and not (each.is_multicast or each.is_reserved or each.is_unspecified or each.is_loopback)
        and not (each.is_link_local or each.is_private or getattr(each, "is_site_local", False))
        and each not in _TRAPS
        and not any(each.version == network.version and each in network for network in _SPECIAL)
        for each in _meanings(address)
    )


def _meanings(address: Address) -> list[Address]:
    """The addresses that a packet to this one may end up at: IPv6 has several ways to write an IPv4 address."""
    if address.version == 4:
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[Address] = []
    if address in _NAT64_WELL_KNOWN:
        # By itself it is a public prefix; where it leads, only the address inside says.
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    if address in _TRANSLATED[1]:
        return [ipaddress.IPv4Address(0)]  # a private translation, whose form only its network knows
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    return [address, *inner]


def _shown(host: str, address: Address) -> str:
    return host if host == str(address) else f"{host} ({address})"
