"""Taking messages from a durable pull consumer as if they were pushed.

One request for messages stands all the time; the next is made when half of it is used up, so a message is under way
the moment it is stored. Nothing is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from headrace.bus.errors import BusUnavailable
from headrace.bus.nats.connection import RETRY_HEADER, Connection
from headrace.bus.nats.message import Message

logger = logging.getLogger(__name__)

_EXPIRES_S = 30.0
_HEARTBEAT_S = 2.0
_CALM_EXPIRES_S = 120.0
_CALM_HEARTBEAT_S = 15.0
_SILENCE = 2.5
_REFUSED_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message taken from a consumer. It is ours until it is acked, or until the consumer's time for acks is over."""

    subject: str
    data: bytes
    ack_subject: str
    sequence: int
    deliveries: int
    stored_ns: int
    """When it was stored: unix nanoseconds, the server's clock."""
    retry: bool
    """Whether its sender says that it may have been sent before."""
    headers: dict[str, str]

    @classmethod
    def of_message(cls, message: Message) -> Delivery:
        """Read the facts out of the ack subject (`$JS.ACK.…`, with or without domain and account)."""
        parts = message.reply.split(".")
        offset = 4 if len(parts) >= 11 else 2
        _, _, deliveries, sequence, _, stored_ns = parts[offset : offset + 6]
        return cls(
            subject=message.subject,
            data=message.data,
            ack_subject=message.reply,
            sequence=int(sequence),
            deliveries=int(deliveries),
            stored_ns=int(stored_ns),
            retry=RETRY_HEADER in message.headers,
            headers=dict(message.headers),
        )


class Puller:
    """Keeps a request for up to `batch` messages standing and hands each to `on_delivery` (quick, not blocking).

    `room` says how many more the owner would take at this moment; call `wake` when there is room again.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        on_delivery: Callable[[Delivery], None],
        *,
        batch: int = 256,
        room: Callable[[], int] | None = None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_refused` is called when a request is refused: the consumer, or its stream, may be gone."""
        self._on_refused = on_refused
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._consumer = consumer
        self._on_delivery = on_delivery
        self._batch = batch
        self._room = room or (lambda: batch)
        self._standing = 0
        self.heartbeat_s = _HEARTBEAT_S
        """How often the server gives a sign of life for a request; 2.5 times without one mean that it lost it."""
        self._calm = False
        self._sign_s = _HEARTBEAT_S
        self._wake = asyncio.Event()
        self._heard_at = 0.0
        self._round = 0

    async def run(self) -> None:
        """Pull until cancelled. Survives lost connections."""
        loop = asyncio.get_running_loop()
        subscription = await self._connection.subscribe_inbox(f"pull-{self._consumer}.*", self._on_message)
        self._connection.on_connected.append(self._reset)
        try:
            # Lost already? Then the next connection resets us.
            with contextlib.suppress(BusUnavailable):
                await self._connection.flush()
            self._heard_at = loop.time()
            while True:
                # Cleared first: what wakes us while we ask must not be forgotten.
                self._wake.clear()
                await self._ask(subscription.subject)
                try:
                    async with asyncio.timeout(_SILENCE * self._sign_s):
                        await self._wake.wait()
                except TimeoutError:
                    # It sends a sign of life for every request that it knows; such a silence means that it lost ours.
                    # (A server that has just started may drop requests: the account behind them is not there yet.)
                    if loop.time() - self._heard_at >= _SILENCE * self._sign_s:
                        self._reset()
        finally:
            self._connection.on_connected.remove(self._reset)
            await subscription.cancel()

    def wake(self) -> None:
        """Look again whether more may be asked for."""
        self._wake.set()

    def _reset(self) -> None:
        # A new round has a subject of its own: a late end of an old request must not be counted.
        self._round += 1
        self._standing = 0
        self._calm = False
        self._wake.set()

    async def _ask(self, inbox: str) -> None:
        if self._standing > self._batch // 2:
            return
        count = min(self._batch, self._room()) - self._standing
        if count <= 0:
            return
        # Requests get lost by servers that have just started, and then there is a new connection first. So once one
        # has come to its end in order on this connection, rarer signs do: they are most of what an idle pool costs.
        self._sign_s = max(self.heartbeat_s, _CALM_HEARTBEAT_S) if self._calm else self.heartbeat_s
        expires_s = _CALM_EXPIRES_S if self._calm else _EXPIRES_S
        request = {"batch": count, "expires": int(expires_s * 1e9), "idle_heartbeat": int(self._sign_s * 1e9)}
        body = msgspec.json.encode(request)
        # Counted before it is sent: counted after it, a request that the connection's end overtook would be taken for
        # one of the next connection, which nobody would ask then.
        self._standing += count
        this_round = self._round
        try:
            await self._connection.publish(self._subject, body, reply=f"{inbox.removesuffix('.*')}.{this_round}")
        except BusUnavailable:
            if this_round == self._round:
                self._standing -= count
                asyncio.get_running_loop().call_later(_REFUSED_WAIT_S, self._wake.set)

    def _on_message(self, message: Message) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if message.status:
            if message.subject.endswith(f".{self._round}"):
                self._ended(message)
            return
        if message.reply:
            self._standing = max(0, self._standing - 1)
            self._on_delivery(Delivery.of_message(message))
            if self._standing <= self._batch // 2:
                self._wake.set()

    def _ended(self, message: Message) -> None:
        if message.status == 100:
            return
        unused = message.headers.get("Nats-Pending-Messages")
        self._standing = max(0, self._standing - int(unused)) if unused is not None else 0
        if message.status in (404, 408):
            self._calm = True
            self._wake.set()
            return
        logger.info("A request for messages ended early: %s.", message.headers.get("Description", message.status))
        self._on_refused()
        asyncio.get_running_loop().call_later(_REFUSED_WAIT_S, self._wake.set)
