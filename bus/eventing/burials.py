"""Burials: a delivery that is given up becomes a dead letter, and is counted and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.dead_letters import Attempt, DeadLetter, bury
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.nats.connection import Connection

logger = logging.getLogger(__name__)


class Burials:
    """What the dispatcher does with deliveries that nothing can save; `count` is told of each ("given_up")."""

    def __init__(
        self, connection: Connection, announcer: Announcer, runs: TickRuns, *, count: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._announcer = announcer
        self._runs = runs
        self._count = count

    async def bury(
        self, record: SubscriptionRecord, delivery: Delivery, event: CloudEvent | None, reason: str, code: str
    ) -> None:
        """Store the dead letter; `event` is None when the bus does not hold it any more.

        Raises `StreamFull` and `BusUnavailable`; burying again is one dead letter.
        """
        letter = DeadLetter(
            dead_letter_id=delivery.delivery_id(delivery.place(record.endpoint_id)),
            subscription_id=record.subscription_id,
            subscription_name=record.name,
            owner=record.owner,
            function_id=record.function_id,
            endpoint_id=delivery.place(record.endpoint_id),
            bus=delivery.bus,
            sequence=delivery.sequence,
            source=delivery.source,
            event_id=delivery.event_id,
            event=None if event is None else event.document,
            reason=reason,
            code=code,
            attempts=[Attempt.of(failed) for failed in delivery.failed],
            created_at=time.time(),
            redriven=delivery.redriven,
            replay_id=delivery.replay,
        )
        new = await bury(self._connection, letter)
        await self._announcer.failure(record, delivery, event, letter, new=new)
        await self._runs.end(delivery)
        self._count("given_up")
        logger.warning(
            "A delivery of subscription %s was given up: %s",
            record.subscription_id,
            reason[:500],
            extra={"action": "delivery_given_up", "subscription": str(record.subscription_id), "code": code},
        )
