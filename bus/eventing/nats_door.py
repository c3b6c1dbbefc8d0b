"""The door for programs that publish events straight to NATS, with a credential of their own and nothing of Headrace.

Such a credential may publish to one subject, `publish.<bus>.<credential>`, which leads to the services: each message
is taken by one of them, checked as over HTTP, stored, and only then answered. There is no stream in front of it: that
would answer, in JetStream's words, that a message is stored before anybody has looked whether it is an event. So a
publisher who waits for the answer, and publishes again when none comes, loses nothing and doubles nothing; one who
does not wait publishes at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.bus.errors import (
    BusError,
    BusMissing,
    BusUnavailable,
    DecodeError,
    EventRefused,
    EventUnfit,
    PayloadTooLarge,
    PublishingForbidden,
    StreamFull,
)
from headrace.bus.eventing.events import MOST_EVENT_BYTES
from headrace.bus.eventing.nats_binding import of_binding
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.names import ALL_PUBLISHING, publishing_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.nats.steadfast import run_steadfastly
from headrace.bus.store.models import SessionRecord
from headrace.bus.store.records import Records
from headrace.schemas import SchemaViolation, Violation

logger = logging.getLogger(__name__)

MOST_IN_HAND: Final = 512
"""Messages that one service looks at side by side; more are turned away, and are to come again."""
ERROR_HEADER: Final = "Nats-Service-Error"
ERROR_CODE_HEADER: Final = "Nats-Service-Error-Code"
"""As NATS's own services answer with errors: the sentence, and a status as HTTP has it."""

_QUEUE = "services"
_BELIEVED_S = 1.0
_MOST_KNOWN = 10_000
_TELL_EVERY_S = 5.0

_encode = msgspec.json.Encoder().encode


class _RefusedError(Exception):
    """The message is answered with an error."""

    def __init__(self, status: int, code: str, detail: str, violations: tuple[Violation, ...] = ()) -> None:
        self.status, self.code, self.detail, self.violations = status, code, detail, violations
        super().__init__(detail)

    def document(self) -> dict[str, Any]:
        """In the one shape of errors."""
        errors = [{"pointer": each.pointer, "problem": each.problem} for each in self.violations]
        return {"error": {"code": self.code, "detail": self.detail, "errors": errors}}


class NatsDoor:
    """Takes what publishers send. `run` until cancelled."""

    def __init__(
        self,
        connection: Connection,
        sessions: Records[SessionRecord],
        publishing: Publishing,
        *,
        count: Callable[[str], None],
    ) -> None:
        """`count` is told of each event: "stored", "refused" or "turned_away"."""
        self._connection = connection
        self._sessions = sessions
        self._publishing = publishing
        self._count = count
        self._in_hand = 0
        self._known: dict[str, tuple[SessionRecord, float]] = {}
        self._told_at = 0.0

    async def run(self) -> None:
        """Take events until cancelled. A lost bus is waited for."""
        await run_steadfastly(self._connection, self._run, who="nats_door", logger=logger)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:

            def take(message: Message) -> None:
                if self._in_hand >= MOST_IN_HAND:
                    self._count("turned_away")
                    busy = _RefusedError(503, "Unavailable", "too many events at once; publish it again shortly")
                    group.create_task(self._answer(message, busy.document(), busy), name="an event is turned away")
                    return
                self._in_hand += 1
                group.create_task(self._handle(message), name="an event over NATS")

            subscription = await self._connection.subscribe(ALL_PUBLISHING, take, queue=_QUEUE)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await subscription.cancel()

    async def _handle(self, message: Message) -> None:
        try:
            answer, refused = await self._publish(message), None
            self._count("stored")
        except _RefusedError as error:
            answer, refused = error.document(), error
            self._count("refused")
            self._tell(message, error)
        finally:
            self._in_hand -= 1
        await self._answer(message, answer, refused)

    async def _publish(self, message: Message) -> dict[str, Any]:
        try:
            return await self._checked(message)
        except _RefusedError:
            raise
        except SchemaViolation as error:
            raise _RefusedError(422, "InvalidRequest", "this is no event; see `errors`", error.violations) from None
        except EventUnfit as error:
            raise _RefusedError(422, error.code, str(error), error.violations) from None
        except (EventRefused, DecodeError) as error:
            raise _RefusedError(400, "MalformedRequest", str(error)) from None
        except PayloadTooLarge as error:
            raise _RefusedError(413, error.code, f"an event has at most {MOST_EVENT_BYTES} bytes") from None
        except BusMissing as error:
            raise _RefusedError(404, "NotFound", str(error)) from None
        except PublishingForbidden as error:
            raise _RefusedError(403, "Forbidden", str(error)) from None
        except StreamFull as error:
            raise _RefusedError(507, error.code, "the store is full; nothing was stored") from None
        except BusUnavailable:
            raise _RefusedError(503, "BusUnavailable", "the bus does not answer; publish it again shortly") from None
        except BusError:
            logger.exception("An event over NATS could not be taken.", extra={"action": "nats_event_failed"})
            raise _RefusedError(500, "InternalError", "an unexpected error; the service's log has it") from None

    async def _checked(self, message: Message) -> dict[str, Any]:
        session = await self._session(message)
        if len(message.data) > MOST_EVENT_BYTES:
            raise _RefusedError(413, PayloadTooLarge.code, f"an event has at most {MOST_EVENT_BYTES} bytes")
        event = of_binding({name.lower(): value for name, value in message.headers.items()}, message.data)
        if not event.source.startswith(session.source):
            raise _RefusedError(
                403, "Forbidden", f"this credential publishes events whose source begins with {session.source!r}"
            )
        published = await self._publishing.publish(event, bus=session.bus, publisher=session.principal, check=True)
        return {
            "id": event.id,
            "source": event.source,
            "sequence": published.sequence,
            "duplicate": published.duplicate,
            **({"problem": published.problem} if published.problem else {}),
        }

    async def _session(self, message: Message) -> SessionRecord:
        """Whose credential this is. Raises `_RefusedError` for one that was withdrawn."""
        key = message.subject.rsplit(".", 1)[1]
        known = self._known.get(key)
        if known is None or known[1] < time.monotonic():
            found = await self._sessions.get(key)
            if found is None or found.value.kind != "publisher":
                self._known.pop(key, None)
                raise _RefusedError(401, "Unauthenticated", "this credential was withdrawn, or has expired")
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = (found.value, time.monotonic() + _BELIEVED_S)
        # The server lets it publish nowhere else; what it may do is said by the record all the same.
        if message.subject != publishing_subject(known[0].bus, key):
            raise _RefusedError(403, "Forbidden", f"this credential is for the bus {known[0].bus!r}")
        return known[0]

    async def _answer(self, message: Message, document: dict[str, Any], refused: _RefusedError | None) -> None:
        if not message.reply:
            return
        headers = {}
        if refused is not None:
            detail = "".join(sign if sign.isprintable() else " " for sign in refused.detail)
            headers = {ERROR_CODE_HEADER: str(refused.status), ERROR_HEADER: detail[:1000]}
        # Who gets none asks again, and is told that it is a duplicate.
        with contextlib.suppress(BusError):
            await self._connection.publish(message.reply, _encode(document), headers=headers or None)

    def _tell(self, message: Message, error: _RefusedError) -> None:
        """In the log: one line in a few seconds, since those who send it decide how many there are."""
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            logger.info(
                "An event over NATS was refused: %s",
                error.detail[:500],
                extra={"action": "nats_event_refused", "subject": message.subject, "code": error.code},
            )
