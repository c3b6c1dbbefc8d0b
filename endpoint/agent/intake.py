"""The door of a pool: deliveries come in, and bundles that are genuine and readable go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from headrace.bus.errors import DecodeError, SignatureInvalid, WireVersionUnknown
from headrace.bus.keys import bundle_keys
from headrace.bus.names import Address
from headrace.bus.nats.pull import Delivery
from headrace.bus.tasks.bundles import Bundle, bundle_key_expiry, decode_bundle
from headrace.endpoint.agent.acks import Acks
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.grant import PoolGrant

logger = logging.getLogger(__name__)

_FOREIGN_WAIT_S = 30
_FOREIGN_TRIES = 120


class Intake:
    """Opens deliveries with the secrets of the pool's `grant` of the moment."""

    def __init__(self, grant: Callable[[], PoolGrant], in_hand: InHand, acks: Acks, *, process: bytes) -> None:
        self._process = process
        self._grant = grant
        self._in_hand = in_hand
        self._acks = acks

    def take(self, delivery: Delivery) -> Held | None:
        """Take a bundle in hand. None when it is here already, or is not for us: then that has been answered."""
        try:
            address = Address.of_task_subject(delivery.subject)
            held = self._in_hand.bundles.get(address.bundle)
            if held is not None:
                # The server forgot that we hold it (it was restarted, or our signals were late): it is still ours.
                held.ack_subject = delivery.ack_subject
                return None
            bundle = self._opened(delivery, address)
        except WireVersionUnknown as error:
            self._leave_to_others(delivery, error)
            return None
        except (SignatureInvalid, DecodeError) as error:
            logger.warning(
                "Dropped a message that is no bundle for this pool: %s",
                error,
                extra={"action": "bundle_refused", "subject": delivery.subject},
            )
            self._acks.drop(delivery.ack_subject)
            return None
        held = Held(
            address=address,
            ack_subject=delivery.ack_subject,
            bundle=bundle,
            sequence=delivery.sequence,
            stored_ns=delivery.stored_ns,
            taken_at=time.time(),
            open={task.index for task in bundle.tasks},
            size=len(delivery.data),
            pool=self._process,
        )
        self._in_hand.take(held)
        return held

    def _opened(self, delivery: Delivery, address: Address) -> Bundle:
        grant = self._grant()
        if address.endpoint != grant.endpoint or address.pool != grant.pool:
            raise DecodeError(f"a bundle for {address.endpoint}/{address.pool}", raw=delivery.data[:64])
        expiry = bundle_key_expiry(delivery.data)
        bundle = decode_bundle(
            delivery.data, subject=delivery.subject, key=bundle_keys(grant.pool_secrets, address.principal, expiry)
        )
        functions, options = len(bundle.functions), len(bundle.options)
        if any(task.function >= functions or task.options >= options for task in bundle.tasks):
            raise DecodeError("a task of it names a function or options that are not in it", raw=delivery.data[:64])
        return bundle

    def _leave_to_others(self, delivery: Delivery, error: WireVersionUnknown) -> None:
        """While releases change, a bundle of another one waits for a pool that reads it; but not for ever, because
        nobody has checked who sent it."""
        kept = delivery.deliveries < _FOREIGN_TRIES
        if delivery.deliveries == 1 or not kept:
            logger.error(
                "%s %s. Upgrade this endpoint: `pip install --upgrade headrace`, and start it again.",
                "Left in the queue:" if kept else "Dropped:",
                error,
                extra={"action": "bundle_of_another_release", "subject": delivery.subject, "kept": kept},
            )
        if kept:
            self._acks.later(delivery.ack_subject, _FOREIGN_WAIT_S)
        else:
            self._acks.drop(delivery.ack_subject)
