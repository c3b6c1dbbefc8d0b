"""What tasks print, as a client reads and follows it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from headrace.sdk.errors import ServiceUnavailable, ServiceUnreachable
from headrace.sdk.http import Http

StreamName = Literal["stdout", "stderr"]

_SILENCE_S: Final = 60.0
"""The service says something four times as often."""
_PATIENCE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """Some of what a task printed; `str` of it is the text, with a marker where something is missing before it."""

    stream: StreamName
    text: str
    """Bytes that are no UTF-8 are replaced."""
    attempt: int = 0
    """In which attempt, from 1; 0 when that is not known."""
    worker: str = ""
    """The host and process that printed it."""
    time: float = 0.0
    """When it was read from the worker: unix seconds, the endpoint's clock; 0 when that is not known."""
    cut_bytes: int = 0
    """How many bytes before it are missing."""

    def __str__(self) -> str:
        return f"{self.marker}{self.text}"

    @property
    def marker(self) -> str:
        """A line that says what is missing, or nothing."""
        return f"\n[headrace: {self.cut_bytes} bytes cut]\n" if self.cut_bytes else ""

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> LogChunk:
        """Read what the service sends."""
        read_at = document.get("time")
        return cls(
            stream=document["stream"],
            text=document["text"],
            attempt=document.get("attempt", 0),
            worker=document.get("worker", ""),
            time=datetime.fromisoformat(read_at).timestamp() if read_at else 0.0,
            cut_bytes=document.get("cut_bytes", 0),
        )


class TaskLogs:
    """Reads logs from the service."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def read(self, task_id: UUID, *, stream: StreamName | None = None, tail: int | None = None) -> list[LogChunk]:
        """What the task has printed so far. Raises `ClientError`."""
        answer = self._http.request("GET", _path(task_id), query={"stream": stream, "tail": tail})
        return [LogChunk.of_document(chunk) for chunk in answer["chunks"]]

    def follow(self, task_id: UUID, *, stream: StreamName | None = None, tail: int | None = None) -> Iterator[LogChunk]:
        """What the task has printed and prints, until it has ended. Blocks while there is nothing new.

        A service that is away is waited for, for half a minute. Raises `ClientError`.
        """
        last_id, pause_s = "", _FIRST_PAUSE_S
        patient_until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                query = {"follow": True, "stream": stream, "tail": tail}
                with self._http.lines(_path(task_id), query=query, last_id=last_id, silence_s=_SILENCE_S) as lines:
                    # The service goes on after the last event, and what there was before has been cut already.
                    tail, pause_s = None, _FIRST_PAUSE_S
                    for name, event_id, data in _events(lines):
                        if name == "end":
                            return
                        last_id = event_id or last_id
                        yield LogChunk.of_document(json.loads(data))
                        patient_until = time.monotonic() + _PATIENCE_S
            except (ServiceUnreachable, ServiceUnavailable):
                if time.monotonic() >= patient_until:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def as_text(chunks: Iterable[LogChunk]) -> str:
    """The chunks as one text."""
    return "".join(map(str, chunks))


def _path(task_id: UUID) -> str:
    return f"tasks/{task_id}/logs"


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Server-sent events: name, id and data. Comments, and fields that are not known, are passed over."""
    name, event_id, data = "", "", ""
    for line in lines:
        if not line:
            if name:
                yield name, event_id, data
            name, event_id, data = "", "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            event_id = value
        elif field == "data":
            data += value
