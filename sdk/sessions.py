"""Which sessions a client has open: all executors of a client share one per endpoint and configuration."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import threading
import time
import weakref
from typing import Any
from uuid import UUID

from headrace.schemas import HeadraceError
from headrace.sdk.client import Client
from headrace.sdk.grant import Grant
from headrace.sdk.loop import loop_thread
from headrace.sdk.profile import Profile
from headrace.sdk.session import Session

_AT_EXIT_S = 10.0


class Sessions:
    """The open sessions of one client. Safe from any thread but the loop's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._sessions: dict[tuple[UUID, str, str], Session] = {}

    def get(
        self, endpoint_id: UUID | None, user_endpoint_config: dict[str, Any] | None, environment: str = ""
    ) -> Session:
        """The session with this endpoint (None: the only one), configuration and environment of functions.

        Raises `ClientError` and `BusError`.
        """
        config = json.dumps(user_endpoint_config, sort_keys=True) if user_endpoint_config else ""
        with self._lock:
            session = None if endpoint_id is None else self._sessions.get((endpoint_id, config, environment))
            if session is None:
                # Asked again each time when no endpoint is named: which one is the only one may have changed.
                grant = Grant.of_document(
                    self._client.open_session(endpoint_id, user_endpoint_config, environment=environment)
                )
                session = self._sessions.get((grant.endpoint, config, environment))
                if session is None:
                    session = Session.open(self._client, loop_thread(), grant, user_endpoint_config, environment)
                    self._sessions[grant.endpoint, config, environment] = session
            return session

    def finish(self, end: float) -> None:
        """Wait until what was submitted is stored; see `Channel.finish`."""
        for session in list(self._sessions.values()):
            session.finish(end)

    def close(self) -> None:
        """Disconnect all of them; futures that still wait fail."""
        with self._lock:
            sessions, self._sessions = set(self._sessions.values()), {}
        for session in sessions:
            with contextlib.suppress(TimeoutError, RuntimeError, HeadraceError):
                session.thread.run(session.close(), timeout_s=5.0)


_lock = threading.Lock()
_by_client: weakref.WeakKeyDictionary[Client, Sessions] = weakref.WeakKeyDictionary()
_shared_clients: dict[Profile, Client] = {}


def sessions_of(client: Client) -> Sessions:
    """The sessions of a client; closing the client closes them."""
    with _lock:
        sessions = _by_client.get(client)
        if sessions is None:
            _finish_at_exit()
            sessions = _by_client[client] = Sessions(client)
            client.on_close.append(sessions.close)
        return sessions


def shared_client() -> Client:
    """This process's client for the service that the environment or the profile names at this moment.

    Raises `NotConfigured`.
    """
    profile = Profile.find()
    with _lock:
        client = _shared_clients.get(profile)
        if client is None or client.closed:
            client = _shared_clients[profile] = Client(profile=profile)
        return client


@functools.cache
def _finish_at_exit() -> None:
    """Have the interpreter's end wait until what was submitted is stored: a program may submit and end.

    Twice: while the thread pools that uploads and renewals need are there, and after the program's own threads ended.
    """
    # Those who register later are called earlier: after the import, thread pools are still there when we are called.
    importlib.import_module("concurrent.futures.thread")
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(_finish)
    atexit.register(_finish)


def _finish() -> None:
    end = time.monotonic() + _AT_EXIT_S
    for sessions in list(_by_client.values()):
        sessions.finish(end)


def _forget_after_fork() -> None:
    # Connections belong to the parent: the child makes its own when it needs them.
    global _lock  # noqa: PLW0603 - a lock held by another thread of the parent would stay held for ever
    _lock = threading.Lock()
    for client, sessions in list(_by_client.items()):
        if sessions.close in client.on_close:
            client.on_close.remove(sessions.close)  # it would wait for the parent's thread
    _by_client.clear()
    _shared_clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
