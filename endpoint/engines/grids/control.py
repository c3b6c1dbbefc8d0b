"""Tells places on other machines which calls are to end, over connections that the places make to the pool.

A place sends 16 random bytes. The pool answers with records of a call's id (16 bytes) and a MAC (32 bytes: BLAKE2b
under the pool's secret, over the random bytes, the number of the record and the id), so nobody else can end a call.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import hmac
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from headrace.endpoint.engines.grids.orders import Control

_NONCE_BYTES = 16
_KEY_BYTES = 16
_MAC_BYTES = 32
_MOST_REMEMBERED = 1_000
_MOST_PLACES = 20_000
_CONNECT_S = 5.0
_LONGEST_PAUSE_S = 30.0


def _mac(secret: bytes, nonce: bytes, number: int, key: bytes) -> bytes:
    data = nonce + number.to_bytes(8, "little") + key
    return hashlib.blake2b(data, key=secret, digest_size=_MAC_BYTES).digest()


class Announcer:
    """The pool's side. It belongs to an event loop."""

    def __init__(self) -> None:
        self.secret = os.urandom(32)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._places: dict[asyncio.StreamWriter, tuple[bytes, int]] = {}
        self._remembered: collections.deque[bytes] = collections.deque(maxlen=_MOST_REMEMBERED)

    async def start(self, address: str | None, ports: tuple[int, int]) -> None:
        """Listen on an address (None is all) at one of these ports. Raises `OSError` when none of them is free."""
        first, end = ports
        for port in range(first, end) if end > first else (first,):
            try:
                self._server = await asyncio.start_server(self._on_place, address, port)
            except OSError as error:
                problem = error
            else:
                self.port = self._server.sockets[0].getsockname()[1]
                return
        raise OSError(f"no port from {first} to {end} is free for the nodes: {problem}")

    def kill(self, keys: Iterable[UUID]) -> None:
        """Tell all places, and those that come, that these calls are to end."""
        for key in keys:
            self._remembered.append(key.bytes)
            for place in list(self._places):
                self._tell(place, key.bytes)

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for place in list(self._places):
            place.close()

    async def _on_place(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                nonce = await reader.readexactly(_NONCE_BYTES)
            if len(self._places) < _MOST_PLACES:
                self._places[writer] = (nonce, 0)
                for key in self._remembered:
                    self._tell(writer, key)
                while await reader.read(1024):
                    pass  # it has nothing to say
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._places.pop(writer, None)
            writer.close()

    def _tell(self, place: asyncio.StreamWriter, key: bytes) -> None:
        nonce, number = self._places[place]
        self._places[place] = nonce, number + 1
        place.write(key + _mac(self.secret, nonce, number, key))


class Listener:
    """A place's side: a thread that calls `on_kill`, and connects again for as long as the place is there."""

    def __init__(self, control: Control, on_kill: Callable[[list[UUID]], None]) -> None:
        self._control = control
        self._on_kill = on_kill
        self._closed = threading.Event()
        self._connection: socket.socket | None = None
        threading.Thread(target=self._listen, name="headrace-control", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        pause_s = 0.1
        while not self._closed.is_set():
            began = time.monotonic()
            connection = self._connection = self._connect()
            if connection is not None:
                with connection, contextlib.suppress(OSError):
                    self._read(connection)
            if time.monotonic() - began > _LONGEST_PAUSE_S:
                pause_s = 0.1
            self._closed.wait(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _connect(self) -> socket.socket | None:
        for address in self._control.addresses:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((address, self._control.port), timeout=_CONNECT_S)
                connection.settimeout(None)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return connection
        return None

    def _read(self, connection: socket.socket) -> None:
        nonce, number, size = os.urandom(_NONCE_BYTES), 0, _KEY_BYTES + _MAC_BYTES
        connection.sendall(nonce)
        while True:
            record = connection.recv(size, socket.MSG_WAITALL)
            if len(record) < size:
                return
            key, mac = record[:_KEY_BYTES], record[_KEY_BYTES:]
            if not hmac.compare_digest(mac, _mac(self._control.secret, nonce, number, key)):
                return  # whoever that is, it is not the pool
            number += 1
            self._on_kill([UUID(bytes=key)])
