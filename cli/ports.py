"""Which port to listen on."""

from __future__ import annotations

import errno
import socket

from headrace.cli.errors import CommandError, PortTaken


def choose(given: int | None, *, host: str, remembered: int | None, usual: int, option: str) -> int:
    """The port to use: the given one; none given, that of the last start, or else the usual one.

    Given 0, any that is free, and that of the last start before others: whoever knew it finds it again.
    Raises `PortTaken` when the port is not free, or may not be used.
    """
    if given == 0:
        if remembered is not None and _problem(host, remembered) is None:
            return remembered
        return _free(host, option)
    port = given or remembered or usual
    problem = _problem(host, port)
    if problem is not None:
        raise PortTaken(problem.format(option=option))
    return port


def listen(host: str, port: int, option: str) -> socket.socket:
    """A socket that listens there. Raises `PortTaken`."""
    listener = _socket_for(host)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortTaken(_explain(error, host, port).format(option=option)) from error
    return listener


def host_and_port(text: str, option: str) -> tuple[str, int]:
    """What `HOST:PORT` means; a port alone is one of this machine alone. Raises `CommandError`."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise CommandError(f"{option} is {text!r}, which is not HOST:PORT, such as 127.0.0.1:4743")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect there."""
    return host in ("localhost", "::1") or host.startswith("127.")


def is_any(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    return host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def outward_address() -> str:
    """The address of this machine as others see it, or the loopback address where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only asks the routing table (RFC 5737 address).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def in_url(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _free(host: str, option: str) -> int:
    with _socket_for(host) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise PortTaken(_explain(error, host, 0).format(option=option)) from error
        return int(probe.getsockname()[1])


def _problem(host: str, port: int) -> str | None:
    with _socket_for(host) as probe:
        # As servers do: a connection of the last start that still lingers is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return _explain(error, host, port)
    return None


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use; stop what listens there, or choose another with {{option}}"
            " (0 takes a free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs the rights of an administrator; choose one above 1023 with {{option}}"
    return f"cannot listen on {host}: {error.strerror or error}; give --host an address of this machine"


def _socket_for(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
