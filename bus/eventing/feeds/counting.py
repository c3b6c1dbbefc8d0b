"""What a feed has done, told to whoever asks: counted here, written down now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from headrace.bus.eventing.feeds.models import FeedStatus

COUNTED: Final = ("received", "stored", "duplicates", "refused", "lost")

_TELL_EVERY_S = 5.0


@dataclass(slots=True)
class Counts:
    """The numbers of one feed in this process."""

    holder: str
    state: Literal["connecting", "reading", "failing"] = "connecting"
    problem: str = ""
    received: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    lost: int = 0
    since: float = field(default_factory=time.time)
    _told_at: float = -_TELL_EVERY_S
    _counted: dict[str, int] = field(default_factory=dict)

    def status(self) -> FeedStatus:
        """As it is written down."""
        numbers = {name: getattr(self, name) for name in COUNTED}
        return FeedStatus(
            state=self.state,
            holder=self.holder,
            since=self.since,
            at=time.time(),
            problem=self.problem,
            **numbers,
        )

    def may_tell(self) -> bool:
        """Whether the log may have another line: one in a few seconds, however many messages are wrong."""
        now = time.monotonic()
        if now - self._told_at < _TELL_EVERY_S:
            return False
        self._told_at = now
        return True

    def tell(self, count: Callable[[str, int], None]) -> None:
        """Tell `count` how much of each there is since it was told last."""
        for name in COUNTED:
            now = getattr(self, name)
            if now > self._counted.get(name, 0):
                count(name, now - self._counted.get(name, 0))
                self._counted[name] = now
