"""The channels of an executor: one for each endpoint, configuration, environment and task group it was used with."""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from headrace.sdk.channel import Channel
from headrace.sdk.client import Client
from headrace.sdk.session import Session
from headrace.sdk.sessions import sessions_of

_OPENING_S = 30.0


class Channels:
    """Opened when they are first needed, and given back together. Any thread but the loop's."""

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client
        self._open: dict[tuple[UUID | None, str, str, UUID], tuple[Session, Channel]] = {}
        self._lock = threading.RLock()

    def get(
        self,
        endpoint: UUID | None,
        config: dict[str, Any] | None,
        group: UUID,
        *,
        most_per_bundle: int,
        environment: str = "",
    ) -> tuple[Session, Channel]:
        """The session and the channel there. Raises `ClientError`, `BusError` and `TimeoutError`."""
        key = (endpoint, json.dumps(config, sort_keys=True) if config else "", environment, group)
        found = self._open.get(key)
        if found is None:
            with self._lock:
                found = self._open.get(key)
                if found is None:
                    session = sessions_of(self._client()).get(endpoint, copy.deepcopy(config), environment)
                    opening = session.channel(group, most_per_bundle=most_per_bundle)
                    channel = session.thread.run(opening, timeout_s=_OPENING_S)
                    found = self._open[key] = (session, channel)
        return found

    def all(self) -> list[tuple[Session, Channel]]:
        """Those that are open at this moment."""
        with self._lock:
            return list(self._open.values())

    def leave(self) -> None:
        """Give all of them back to their sessions."""
        with self._lock:
            left, self._open = self._open, {}
        for session, channel in left.values():
            session.thread.call(functools.partial(_leave, session, channel))


def _leave(session: Session, channel: Channel) -> None:
    session.spawn(session.leave(channel), "leave channel")
