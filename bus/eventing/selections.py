"""Some of the subscriptions, picked by their records and kept up to date: nobody goes through all to find them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from headrace.bus.eventing.subscriptions import CompiledSubscription

Picks = Callable[[CompiledSubscription], bool]


class Selection:
    """Those that a test picks. Its owner tells it of every change; whoever looks pays for those that are picked."""

    def __init__(self, picks: Picks) -> None:
        self._picks = picks
        self._picked: dict[UUID, CompiledSubscription] = {}

    def changed(self, subscription_id: UUID, subscription: CompiledSubscription | None) -> None:
        """A subscription is there, is another one now, or is gone (None)."""
        if subscription is not None and self._picks(subscription):
            self._picked[subscription_id] = subscription
        else:
            self._picked.pop(subscription_id, None)

    def all(self) -> list[CompiledSubscription]:
        """The picked ones, as they are now."""
        return list(self._picked.values())
