"""Plans: deliveries that are to be one call, and what follows from how it ended.

A queued delivery lies in DELIVERIES until it has succeeded or is a dead letter; a plan lies beside it and says with
which others it goes, how often they were tried, and when they are tried again. The first attempt of a single delivery
needs no plan: the id of its bundle follows from the delivery. So whoever takes over reads plans and queue, and knows
all.

Plans are made from plans and results alone, and their ids follow from what is in them: whoever repeats a step makes the
same ones. A plan is removed when what follows from it is stored, and only then is that begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

import msgspec

from headrace.bus import ids
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt
from headrace.bus.structs import reader


class Member(msgspec.Struct, array_like=True, frozen=True):
    """A delivery of a plan, without its attempts, and the message of DELIVERIES that holds it."""

    place: int
    delivery: Delivery


class Plan(msgspec.Struct, array_like=True, frozen=True):
    """Deliveries that go together in their next attempt, number `attempt`, after the `failed` ones."""

    endpoint: UUID
    members: list[Member]
    attempt: int = 1
    used_up: int = 0
    """How many attempts do not count: those of larger batches that were cut, and of an earlier life."""
    failed: list[FailedAttempt] = []
    due: float = 0.0
    """Not before: unix seconds."""
    key: str | None = None
    """Where the subscription has an order: what its events have in common."""

    @property
    def order(self) -> int:
        """Its place in the order of events."""
        return min(member.delivery.sequence for member in self.members)

    @property
    def counted(self) -> int:
        """How many attempts count against the most that there may be, this one among them."""
        return self.attempt - self.used_up

    @property
    def plan_id(self) -> UUID:
        """The id of the attempt's bundle."""
        singles = [each.bundle_id(self.endpoint).hex for each in self.deliveries()]
        if len(singles) == 1:
            return UUID(singles[0])
        digest = hashlib.blake2b("".join(singles).encode(), digest_size=6, person=b"headrace batch").digest()
        return ids.repeatable_bundle_id(self.endpoint, int.from_bytes(digest, "big"), "batch", *singles)

    def then(
        self, failure: FailedAttempt, *, members: list[Member] | None = None, counts: bool = True, due: float = 0.0
    ) -> Plan:
        """The next attempt, of all or some of its members; whether the one that failed counts against the most."""
        return msgspec.structs.replace(
            self,
            members=self.members if members is None else members,
            attempt=self.attempt + 1,
            used_up=self.used_up if counts else self.used_up + 1,
            failed=[*self.failed, failure.shortened()],
            due=due,
        )

    def of(self, members: list[Member]) -> Plan:
        """The same attempt of some of its members."""
        return msgspec.structs.replace(self, members=members)

    def elsewhere(self, waited: FailedAttempt, endpoint: UUID) -> Plan:
        """The same attempt at another endpoint: this one did not begin."""
        return msgspec.structs.replace(self, endpoint=endpoint, failed=[*self.failed, waited.shortened()], due=0.0)

    @property
    def name(self) -> str:
        """What it is stored under."""
        return f"{self.plan_id.hex}-{self.endpoint.hex}"

    def deliveries(self) -> list[Delivery]:
        """Its deliveries with their attempts."""
        return [
            msgspec.structs.replace(
                member.delivery,
                attempt=self.attempt,
                used_up=self.used_up,
                failed=self.failed,
                endpoint=self.endpoint,
            )
            for member in self.members
        ]

    @property
    def origin(self) -> Delivery:
        """What its bundle is for. Of a batch the oldest event says it: it is the first that waits too long."""
        deliveries = self.deliveries()
        oldest = min(deliveries, key=lambda each: each.published_at)
        return oldest if len(deliveries) == 1 else oldest.standing_for(deliveries)

    def encode(self) -> bytes:
        """As it is stored in DELIVERIES."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        """Raises `DecodeError`."""
        return _read(data)


_encode = msgspec.msgpack.Encoder().encode
_read = reader(Plan, "a plan of deliveries")


def single(place: int, delivery: Delivery, endpoint: UUID, key: str | None) -> Plan:
    """The plan of one queued delivery that goes alone."""
    return Plan(
        endpoint,
        [Member(place, _bare(delivery))],
        attempt=delivery.attempt,
        used_up=delivery.used_up,
        failed=delivery.failed,
        key=key,
    )


def together(members: Sequence[tuple[int, Delivery]], endpoint: UUID, key: str | None) -> Plan:
    """The plan of a batch of deliveries, none of which was tried before."""
    return Plan(endpoint, [Member(place, _bare(delivery)) for place, delivery in members], key=key)


def _bare(delivery: Delivery) -> Delivery:
    return msgspec.structs.replace(delivery, attempt=1, used_up=0, failed=[])
