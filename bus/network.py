"""How this machine gets out to the service and the bus: proxies, certificates, other addresses."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from headrace.bus.errors import NetworkUnusable
from headrace.bus.hosts import is_loopback

_HTTP_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_PROXY_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to a NATS server: its URL, and the proxy before it, if any."""

    url: str
    proxy: str | None = field(default=None, repr=False)

    @property
    def is_short(self) -> bool:
        """Whether nothing stands before NATS there."""
        return self.proxy is None and urlsplit(self.url).scheme not in ("ws", "wss")

    def __str__(self) -> str:
        return self.url if self.proxy is None else f"{self.url} (through {shown(self.proxy)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What stands between this machine and the others. The proxies are URLs, which may hold a password."""

    http_proxy: str | None = field(default=None, repr=False)
    https_proxy: str | None = field(default=None, repr=False)
    all_proxy: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()
    """Hosts without a proxy: names (and what is below them), addresses, networks, `*`; each perhaps with a port."""
    ca_file: Path | None = None
    """Certificates of authorities that are trusted besides those of the system."""
    nats_urls: tuple[str, ...] = ()
    """Where the bus is for this machine, in place of what the service says."""

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Network:
        """What the usual variables say (in small letters first), and HEADRACE_CA_FILE and HEADRACE_NATS_URL."""

        def usual(name: str) -> str | None:
            return environ.get(name) or environ.get(name.upper()) or None

        ca_file = environ.get("HEADRACE_CA_FILE")
        return cls(
            http_proxy=usual("http_proxy"),
            https_proxy=usual("https_proxy"),
            all_proxy=usual("all_proxy"),
            no_proxy=_words(usual("no_proxy") or ""),
            ca_file=Path(ca_file).expanduser().absolute() if ca_file else None,
            nats_urls=_words(environ.get("HEADRACE_NATS_URL", "")),
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Network:
        """Read what `document` wrote."""
        ca_file = document.get("ca_file")
        return cls(
            http_proxy=document.get("http_proxy"),
            https_proxy=document.get("https_proxy"),
            all_proxy=document.get("all_proxy"),
            no_proxy=tuple(document.get("no_proxy") or ()),
            ca_file=Path(ca_file) if ca_file else None,
            nats_urls=tuple(document.get("nats_urls") or ()),
        )

    def document(self) -> dict[str, Any]:
        """For a file that nobody else may read."""
        return {
            "http_proxy": self.http_proxy,
            "https_proxy": self.https_proxy,
            "all_proxy": self.all_proxy,
            "no_proxy": list(self.no_proxy),
            "ca_file": str(self.ca_file) if self.ca_file else None,
            "nats_urls": list(self.nats_urls),
        }

    def proxy_for(self, url: str) -> str | None:
        """The proxy for an HTTP or WebSocket URL. Raises `NetworkUnusable` for one of a kind that we do not speak."""
        parts = urlsplit(url)
        secure = parts.scheme in ("https", "wss")
        return self._usable((self.https_proxy if secure else self.http_proxy) or self.all_proxy, url)

    def ways(self, urls: Iterable[str]) -> list[Way]:
        """The ways to the bus, in the order in which they are tried.

        `ws` and `wss` go through the proxy for HTTP and HTTPS. `nats` and `tls` go through `all_proxy`; where there is
        only `https_proxy`, which seldom lets such ports through and is seldom meant for them, it is tried second.

        Raises `NetworkUnusable`.
        """
        return [way for url in self.nats_urls or urls for way in self._ways_to(url)]

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts the system's authorities (SSL_CERT_FILE, as OpenSSL has it, is in their place) and `ca_file`.

        Raises `NetworkUnusable`.
        """
        context = ssl.create_default_context()
        if _knows_nobody(context):
            import certifi

            context.load_verify_locations(certifi.where())
        if self.ca_file is not None:
            try:
                context.load_verify_locations(self.ca_file)
            except (OSError, ssl.SSLError) as error:
                reason = error.strerror if type(error) is not ssl.SSLError and error.strerror else "not certificates"
                raise NetworkUnusable(
                    f"the certificates in {self.ca_file} cannot be read: {reason}; HEADRACE_CA_FILE or --ca-file"
                    " must name a PEM file"
                ) from error
        return context

    def http_options(self, url: str) -> dict[str, Any]:
        """Arguments of an `httpx.Client` for this URL. Raises `NetworkUnusable`."""
        found = self.proxy_for(url)
        proxy: Any = found
        if found is not None and found.startswith("https:"):
            from headrace.bus.light_httpx import httpx

            proxy = httpx.Proxy(found, ssl_context=self.ssl_context())
        # Without TLS a context that trusts nobody does, and takes no time.
        verify = self.ssl_context() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return {"proxy": proxy, "verify": verify, "trust_env": False}

    def _ways_to(self, url: str) -> list[Way]:
        if urlsplit(url).scheme in ("ws", "wss"):
            return [Way(url=url, proxy=self.proxy_for(url))]
        proxy = self._usable(self.all_proxy, url)
        if proxy is not None:
            return [Way(url=url, proxy=proxy)]
        proxy = self._usable(self.https_proxy, url)
        return [Way(url=url)] + ([Way(url=url, proxy=proxy)] if proxy is not None else [])

    def _usable(self, proxy: str | None, url: str) -> str | None:
        """The proxy, unless the URL is one that needs none."""
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname or "", parts.port or _HTTP_PORTS.get(parts.scheme)
        # A proxy is for the way out: it cannot reach this machine's own loopback.
        if not proxy or is_loopback(host) or any(_matches(entry, host, port) for entry in self.no_proxy):
            return None
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if not _is_whole(proxy):
            # Without any of it: nobody can say which part is the password.
            raise NetworkUnusable(
                "the URL of the proxy cannot be read (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY): in its user and password"
                " write each '/' as %2F, '#' as %23, '?' as %3F, '[' as %5B and ']' as %5D; its port is a number"
            )
        if urlsplit(proxy).scheme not in _PROXY_SCHEMES or not urlsplit(proxy).hostname:
            raise NetworkUnusable(
                f"the proxy {shown(proxy)} is of a kind that Headrace cannot use: it must be an http:// or https:// URL"
                f" (HTTPS_PROXY, ALL_PROXY); with NO_PROXY={host} there is none"
            )
        return proxy


def _is_whole(url: str) -> bool:
    """Whether a URL is taken apart where its author meant it to be: an unquoted `/` or `#` ends user and password."""
    try:
        parts = urlsplit(url)
        return "@" not in f"{parts.path}{parts.query}{parts.fragment}" and (parts.port or 0) >= 0
    except ValueError:
        return False


def shown(url: str) -> str:
    """A URL without the user and the password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


DIRECT: Final = Network()
"""No proxy, and the system's authorities."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _knows_nobody(context: ssl.SSLContext) -> bool:
    """Whether no certificates are installed: in a small container, or with Python's own build for macOS."""
    if context.cert_store_stats()["x509_ca"]:
        return False
    directory = ssl.get_default_verify_paths().capath
    return directory is None or not any(Path(directory).iterdir())


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY is about this host."""
    if entry == "*":
        return True
    entry, with_port = _split_port(entry)
    if with_port is not None and with_port != port:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.lstrip("*").lstrip(".").lower()
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, int(port[1:]) if port[1:].isdigit() else None
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and ":" not in host:
        return host, int(port)
    return entry, None
