"""What is run: the same functions for every system. Only the standard library, for every worker imports this."""

from __future__ import annotations


def no_op() -> None:
    """Do nothing."""


def echo(data: bytes) -> bytes:
    """Give the data back."""
    return data


def ten_ms() -> None:
    """Takes ten milliseconds."""
    import time

    time.sleep(0.01)


def tell_start(port: int, label: str) -> float:
    """Tell the UDP port on this machine when this call started (unix seconds), and return the same."""
    import time

    started_at = time.time()
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(f"{label} {started_at!r}".encode(), ("127.0.0.1", port))
    return started_at
