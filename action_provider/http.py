"""The route table as data: one `Operation` is a route, its validation, its authorisation and its documentation.

Each module of `api/` exports `ROUTES`, a tuple of operations. A handler takes a `Call` and gives a response; errors are
raised (see `errors.py`) and never built by hand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import NotFound, refused
from headrace.action_provider.state import Service

T = TypeVar("T")

Auth = Literal["none", "user", "admin", "endpoint", "either", "publisher", "own"]
"""Who may call: anybody; a user; an administrator; the endpoint in the path, by its own token; a user or that endpoint;
a user or any endpoint, whose events the handler checks; `own` leaves the check of the Authorization header to the
handler."""

Handler = Callable[["Call"], Awaitable[Response]]

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query parameter, for the documentation and the refusal of unknown ones."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


WAIT = Query(name="wait", description="Wait up to so long for the end (`5s`, `500ms`, `5`); at most 60 s.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. Schemas are names in `headrace.schemas`; paths have Starlette's form."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    path: str
    handler: Handler
    summary: str
    auth: Auth = "user"
    request_schema: str | None = None
    response_schema: str | None = None
    status: int = 200
    """The status of success, for the documentation."""
    query: tuple[Query, ...] = ()
    body_required: bool = True
    reads_body: bool = True
    """False leaves the body to the handler (`call.request`)."""
    body_setting: Literal["body_bytes", "function_bytes"] = "body_bytes"
    """Which of the settings limits the body."""
    request_type: str = "application/json"
    other_requests: tuple[tuple[str, str], ...] = ()
    """Which other content types the handler reads, each with its schema, for the documentation."""
    response_type: str = "application/json"
    other_types: tuple[str, ...] = ()
    """In which other forms it answers when the header `Accept` asks for them."""
    speaks_protocol: bool = False
    """The body names the version of the protocol, which is compared before anything else is looked at."""
    may_wait: bool = False
    """Whether `?wait=` may prolong the call."""
    streams: bool = False
    """Whether it may take as long as its body needs; the handler sees to silence."""
    for_publishers: bool = False
    """Whether a token will do that may do nothing but publish events."""
    any_query: bool = False
    """Whether unknown query parameters are passed over instead of refused."""

    @property
    def name(self) -> str:
        """The operation's id: module and function of its handler."""
        module = self.handler.__module__.rsplit(".", 1)[-1]
        function: str = getattr(self.handler, "__name__", "handler")
        return f"{module}.{function}"


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, authenticated and validated."""

    request: Request
    service: Service
    operation: Operation
    known_caller: Caller | None = None
    body: Any = None
    """The JSON body, which satisfies the operation's schema; None when there was none."""

    @property
    def caller(self) -> Caller:
        """Who asks. A programming error where the operation needs no token."""
        if self.known_caller is None:
            raise RuntimeError(f"{self.operation.name} uses the caller, but asks for none")
        return self.known_caller

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])

    def path_id(self, name: str) -> UUID:
        """A parameter of the path that is a UUID. Raises `NotFound`: nothing lies under anything else."""
        text = self.path(name)
        try:
            return UUID(text)
        except ValueError:
            noun = name.removesuffix("_id").replace("_", " ")
            raise NotFound(f"there is no {noun} {text[:80]!r}; its id is a UUID") from None

    def query(self, name: str) -> str | None:
        """A query parameter, or None."""
        return self.request.query_params.get(name)

    def wait_s(self, given: object = None, default: float = 0.0) -> float:
        """How long the caller wants to wait: `given` (from the body), else `?wait=`, else `default`; capped."""
        wanted = given if given is not None else self.query("wait")
        if wanted is None:
            return default
        pointer = "/wait" if given is not None else "?wait"
        return min(parse_wait(wanted, pointer=pointer), self.service.settings.longest_wait_s)

    async def unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None when the service begins to stop, or the caller goes away, before."""
        task = asyncio.create_task(work, name=f"{self.operation.name} waits")
        stopping = asyncio.create_task(self.service.stopping.wait(), name="the service stops")
        leaving = asyncio.create_task(self._caller_leaves(), name="the caller leaves")
        everything = (task, stopping, leaving)
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in everything:
                each.cancel()
            await asyncio.wait(everything)

    async def _caller_leaves(self) -> None:
        # The body has been read by now, so all that can come is the end of the connection.
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


def parse_wait(wanted: object, *, pointer: str = "?wait") -> float:
    """A duration in seconds from `5`, `5s`, `500ms`, `1m` or a number. Raises `InvalidRequest`."""
    if isinstance(wanted, int | float) and not isinstance(wanted, bool) and wanted >= 0:
        return float(wanted)
    form = _DURATION.fullmatch(wanted.strip()) if isinstance(wanted, str) else None
    if form is None:
        raise refused(pointer, f"{str(wanted)[:40]!r} is not a duration; write 5, 5s, 500ms or 1m")
    return float(form[1]) * _UNIT_S[form[2]]


_encode = msgspec.json.Encoder().encode


def reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer: dicts, lists, texts, numbers, UUIDs and msgspec Structs."""
    return Response(_encode(body), status, headers, media_type="application/json")


def no_content() -> Response:
    """The answer to what leaves nothing to say."""
    return Response(status_code=204)
