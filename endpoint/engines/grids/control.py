"""The connections that places on other machines make to their pool: one way it tells them which calls are to end, the
other way they tell it what running calls print.

Each side sends 16 random bytes. Records follow, both ways: a size (4 bytes), then a content that is sealed under keys
of the pool's secret and those bytes (`headrace.bus.sealing`), so nobody else can end a call, read what one prints, or
say that it has printed. A place begins with an empty record: it shows that it knows the secret.

    pool to place     the id of a call (16 bytes), which is to end
    place to pool     `Printed`, as msgpack
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import SignatureInvalid
from headrace.bus.sealing import SEAL_BYTES, Opener, Sealer
from headrace.endpoint.engines.grids.grid import OnPrinted, Piece
from headrace.endpoint.engines.grids.orders import Control

PIECE_BYTES: Final = 16 * 1024
"""No piece that is told of on the way is longer."""

_NONCE_BYTES = 16
_KEY_BYTES = 16
_SIZE_BYTES = 4
_MOST_RECORD_BYTES = PIECE_BYTES + 4096
_MOST_REMEMBERED = 1_000
_MOST_PLACES = 20_000
_MOST_UNSENT_BYTES = 1024 * 1024
_CONNECT_S = 5.0
_LONGEST_PAUSE_S = 30.0


class Printed(msgspec.Struct, array_like=True, frozen=True):
    """A piece of what a running call prints."""

    key: bytes
    worker: str
    piece: Piece


_read_printed = msgspec.msgpack.Decoder(Printed).decode
_encode = msgspec.msgpack.Encoder().encode


class _Line:
    """One side of a connection whose other side has shown its random bytes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sealer: Sealer, opener: Opener
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._sealer = sealer
        self._opener = opener

    @property
    def unsent_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    def send(self, content: bytes) -> None:
        record = self._sealer.seal(content)
        self._writer.write(len(record).to_bytes(_SIZE_BYTES, "little") + record)

    async def receive(self) -> bytes:
        """The next content. Raises `IncompleteReadError` at the end, and `SignatureInvalid`."""
        size = int.from_bytes(await self._reader.readexactly(_SIZE_BYTES), "little")
        if not SEAL_BYTES <= size <= _MOST_RECORD_BYTES:
            raise SignatureInvalid("a record has a size that the other side does not send")
        return self._opener.open(await self._reader.readexactly(size))

    def close(self) -> None:
        self._writer.close()


_GONE = (OSError, asyncio.IncompleteReadError, TimeoutError, SignatureInvalid)


class Announcer:
    """The pool's side. It belongs to an event loop."""

    def __init__(self, on_printed: OnPrinted | None = None) -> None:
        """`on_printed` is called in that loop."""
        self.secret = os.urandom(32)
        self.port = 0
        self._on_printed = on_printed
        self._server: asyncio.Server | None = None
        self._arriving: set[asyncio.StreamWriter] = set()
        self._places: set[_Line] = set()
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
                if place.unsent_bytes < _MOST_UNSENT_BYTES:
                    place.send(key.bytes)
                else:
                    place.close()  # it reads nothing, and is told when it comes again

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for place in self._places:
            place.close()
        for writer in self._arriving:
            writer.close()

    async def _on_place(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place: _Line | None = None
        self._arriving.add(writer)
        try:
            async with asyncio.timeout(_CONNECT_S):
                place = await self._arrived(reader, writer)
            if len(self._places) < _MOST_PLACES:
                self._places.add(place)
                for key in self._remembered:
                    place.send(key)
                while True:
                    self._take(await place.receive())
        except (*_GONE, msgspec.DecodeError):
            pass
        finally:
            self._arriving.discard(writer)
            if place is not None:
                self._places.discard(place)
            writer.close()

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Line:
        theirs, ours = await reader.readexactly(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        writer.write(ours)
        sealer, opener = Sealer(self.secret, "to place", theirs, ours), Opener(self.secret, "to pool", theirs, ours)
        place = _Line(reader, writer, sealer, opener)
        await place.receive()
        return place

    def _take(self, content: bytes) -> None:
        printed = _read_printed(content)
        if self._on_printed is not None:
            self._on_printed(UUID(bytes=printed.key), printed.worker, printed.piece)


class Listener:
    """A place's side, which connects again for as long as it is not closed. It belongs to an event loop."""

    def __init__(self, control: Control, on_kill: Callable[[list[UUID]], None]) -> None:
        """`on_kill` is called in that loop."""
        self._control = control
        self._on_kill = on_kill
        self._line: _Line | None = None
        self._connected = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="listen to the pool")

    async def wait_until_connected(self, within_s: float) -> None:
        """Wait for the first connection, but not for longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), within_s)

    def tell(self, key: UUID, worker: str, piece: Piece) -> None:
        """Tell of what a running call has printed, if that can be done at once."""
        line = self._line
        if line is not None and line.unsent_bytes < _MOST_UNSENT_BYTES:
            line.send(_encode(Printed(key.bytes, worker, piece)))

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        pause_s = 0.1
        while True:
            began = time.monotonic()
            for address in self._control.addresses:
                with contextlib.suppress(*_GONE):
                    await self._follow(address)
            if time.monotonic() - began > _LONGEST_PAUSE_S:
                pause_s = 0.1
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _follow(self, address: str) -> None:
        """Connect there, and listen until the connection is lost, or turns out not to be the pool's."""
        async with asyncio.timeout(_CONNECT_S) as connecting:
            reader, writer = await asyncio.open_connection(address, self._control.port)
            try:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                ours = os.urandom(_NONCE_BYTES)
                writer.write(ours)
                theirs = await reader.readexactly(_NONCE_BYTES)
                connecting.reschedule(None)
                secret = self._control.secret
                sealer, opener = Sealer(secret, "to pool", ours, theirs), Opener(secret, "to place", ours, theirs)
                line = self._line = _Line(reader, writer, sealer, opener)
                line.send(b"")
                self._connected.set()
                while True:
                    self._on_kill([UUID(bytes=(await line.receive())[:_KEY_BYTES])])
            finally:
                self._line = None
                writer.close()
