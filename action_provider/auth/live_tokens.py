"""Tokens of other systems that hold live sessions here: nobody tells us when one of them is withdrawn, so we look."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from headrace.action_provider.auth.callers import Caller

_MOST: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveToken:
    """One such token."""

    token_id: str
    bearer: str = field(repr=False)
    until: float
    """When the last session that was opened with it ends by itself, in unix seconds."""


class LiveTokens:
    """Those of this service process, in its memory and nowhere else: a token never reaches the store.

    A service that starts again knows none; sessions then end when they have to be renewed, at the latest. Of more than
    10 000 those go first that opened nothing for the longest time.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, LiveToken] = OrderedDict()

    def hold(self, bearer: str, caller: Caller, *, until: float) -> None:
        """Look at this token from now on, until the session that it opens is over."""
        self._held[caller.token_id] = LiveToken(token_id=caller.token_id, bearer=bearer, until=until)
        self._held.move_to_end(caller.token_id)
        while len(self._held) > _MOST:
            self._held.popitem(last=False)

    def drop(self, token_id: str) -> None:
        """Look at it no more."""
        self._held.pop(token_id, None)

    def held(self) -> list[LiveToken]:
        """Those whose sessions may still live."""
        now = time.time()
        for token in [each for each in self._held.values() if each.until < now]:
            self.drop(token.token_id)
        return list(self._held.values())
