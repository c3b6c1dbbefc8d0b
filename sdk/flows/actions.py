"""One action of a run: started once, polled, cancelled when its time is over or the run ends, and then released."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from headrace.sdk.flows.cancellation import Cancellation, Wish, Woken
from headrace.sdk.flows.errors import ProviderRefused, ProviderUnreachable, StateFailed, TokenMissing
from headrace.sdk.flows.parameters import RUNTIME
from headrace.sdk.flows.providers import Providers, is_passing
from headrace.sdk.flows.tokens import Tokens

UNABLE_TO_RUN: Final = "ActionUnableToRun"
TIMEOUT: Final = "ActionTimeout"
FAILED: Final = "ActionFailedException"
_SHORT_S: Final = 5.0
"""How long something is tried that the run does not depend on."""

Record = Callable[[str, dict[str, Any], dict[str, Any]], object]
"""Writes an entry of this action to the log: its code, its details, what a resumption needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often an action is looked at, and how long a provider that does not answer is asked again."""

    first_poll_s: float = 0.2
    longest_poll_s: float = 10.0
    patience_s: float = 60.0


class Attendant(Protocol):
    """Who is told of a run while it goes on, and may resume an action that waits for somebody."""

    @property
    def key(self) -> int | None:
        """A file that can be read when somebody has answered; None when nobody can."""

    def take_key(self) -> bool:
        """Read that answer away; whether it was one, and not the end of all answers."""

    def note(self, text: str) -> None:
        """Something that is no entry of the log."""


class How(enum.Enum):
    """How an action's turn ended."""

    DONE = enum.auto()
    TIMED_OUT = enum.auto()
    INACTIVE = enum.auto()
    CANCELED = enum.auto()
    LEFT = enum.auto()


@dataclass(frozen=True, slots=True)
class Turn:
    """The end of an action's turn, and the last that is known of the action."""

    how: How
    status: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Call:
    """What is called; the part that goes into the log."""

    url: str
    request: dict[str, Any]
    wait_s: float
    since: float
    scope: str | None = None
    run_as: str = "User"
    action_id: str | None = None
    status: dict[str, Any] = field(default_factory=lambda: {"status": "ACTIVE"})


class Action:
    """Leads one call to its end."""

    def __init__(
        self,
        call: Call,
        *,
        address: str,
        providers: Providers,
        tokens: Tokens,
        pace: Pace,
        cancellation: Cancellation,
        attendant: Attendant,
        record: Record,
    ) -> None:
        self._call = call
        self._address = address
        self._providers = providers
        self._tokens = tokens
        self._pace = pace
        self._cancellation = cancellation
        self._attendant = attendant
        self._record = record
        self._until = time.monotonic() + max(0.0, call.wait_s - (time.time() - call.since))

    def run(self) -> Turn:
        """Start the action, or find it again, and follow it. Raises `StateFailed`."""
        turn = self._turn()
        if turn.how is How.INACTIVE:
            self._tell_inactive(turn.status)
        return turn

    def _turn(self) -> Turn:
        try:
            if self._call.action_id is None:
                self._start()
            else:
                self._poll()
            return self._follow()
        except TokenMissing as error:
            return Turn(How.INACTIVE, {"status": "INACTIVE", "details": _said("TokenMissing", str(error))})
        except _Ended as ended:
            return ended.turn

    def _start(self) -> None:
        # Asked for a while even when its time has passed: the answer may be that it has ended.
        patience_s = min(self._pace.patience_s, max(_SHORT_S, self._left_s()))
        try:
            answer = self._providers.run(self._address, self._token(), self._call.request, patience_s=patience_s)
        except (ProviderRefused, ProviderUnreachable) as error:
            self._end_if_wished()
            cause = error.body if isinstance(error, ProviderRefused) and error.body else str(error)
            raise StateFailed(UNABLE_TO_RUN, cause) from error
        self._call.action_id = str(answer["action_id"])
        self._learn(answer)

    def _follow(self) -> Turn:
        pause_s = self._pace.first_poll_s
        while True:
            state = self._call.status.get("status")
            if state in ("SUCCEEDED", "FAILED"):
                return Turn(How.DONE, self._call.status)
            if state == "INACTIVE":
                self._while_inactive()
                pause_s = self._pace.first_poll_s
                continue
            if self._left_s() <= 0:
                # The exception tells how the action was when its time was over.
                status = self._call.status
                self._cancel()
                return Turn(How.TIMED_OUT, status)
            self._cancellation.wait(min(pause_s, self._left_s()))
            self._end_if_wished()
            pause_s = min(pause_s * 2, self._pace.longest_poll_s)
            self._poll()

    def _poll(self) -> None:
        """Look at the action; a provider that does not answer now may do so the next time."""
        try:
            self._learn(self._providers.status(self._address, self._token(), self._id()))
        except ProviderUnreachable as error:
            self._attendant.note(f"no answer, asking again: {error}")
        except ProviderRefused as error:
            if is_passing(error.status):
                self._attendant.note(f"the provider is busy, asking again: {error}")
            elif error.status in (401, 403):
                # The action goes on; with another token it can be found again.
                details = _said("TokenRefused", f"{error}; resume the run with another token")
                raise _Ended(
                    Turn(How.INACTIVE, {**self._call.status, "status": "INACTIVE", "details": details})
                ) from error
            else:
                raise StateFailed(RUNTIME, error.body or str(error)) from error

    def _learn(self, status: dict[str, Any]) -> None:
        """Write down what has changed."""
        if status != self._call.status:
            self._call.status = status
            details = {"action_id": self._call.action_id, "status": status}
            self._record("ActionPolled", details, {"action_id": self._call.action_id, "status": status})

    def _while_inactive(self) -> None:
        """Wait until the action goes on; where nobody can answer, the turn ends."""
        if self._attendant.key is None:
            raise _Ended(Turn(How.INACTIVE, self._call.status))
        self._tell_inactive(self._call.status)
        began, pause_s = time.monotonic(), self._pace.first_poll_s
        while self._call.status.get("status") == "INACTIVE":
            key = self._attendant.key
            if key is None:  # whoever could have answered has gone
                raise _Ended(Turn(How.INACTIVE, self._call.status))
            woken = self._cancellation.wait(pause_s, key=key)
            self._end_if_wished()
            if woken is Woken.BY_KEY and self._attendant.take_key():
                self._resume()
            pause_s = min(pause_s * 2, self._pace.longest_poll_s)
            self._poll()
        self._until += time.monotonic() - began
        self._record("FlowResumed", {"action_id": self._call.action_id}, {"was_inactive": True})

    def _tell_inactive(self, status: dict[str, Any]) -> None:
        self._record("FlowInactive", {"action_id": self._call.action_id, "status": status}, {})

    def resume(self) -> None:
        """Have the provider look again at what an INACTIVE action waits for."""
        if self._call.action_id is not None:
            self._resume()

    def _resume(self) -> None:
        try:
            self._providers.tell(self._address, self._token(), self._id(), "resume", patience_s=self._pace.patience_s)
        except (ProviderRefused, ProviderUnreachable) as error:
            # Not every provider has it; the next look says whether the action goes on.
            self._attendant.note(f"the action was not resumed: {error}")

    def _end_if_wished(self) -> None:
        if self._cancellation.wish is Wish.NONE:
            return
        if self._cancellation.wish is Wish.CANCEL:
            self._cancel()
        left = self._cancellation.wish is Wish.LEAVE
        raise _Ended(Turn(How.LEFT if left else How.CANCELED, self._call.status))

    def _cancel(self) -> None:
        if self._call.action_id is None:
            self._attendant.note("whether the action was started is not known: the provider did not answer")
            return
        try:
            # Whoever wished for this end may wish for a quicker one.
            answer = self._providers.tell(
                self._address,
                self._token(),
                self._id(),
                "cancel",
                patience_s=_SHORT_S,
                pause=lambda seconds: self._cancellation.wait(seconds, beyond=Wish.CANCEL) is Woken.BY_WISH,
            )
            self._learn(answer)
        except (ProviderRefused, ProviderUnreachable, TokenMissing) as error:
            self._attendant.note(f"the action was not cancelled: {error}")

    def release(self) -> bool:
        """Have the provider forget the action; whether it did. What cannot be is no error of the run."""
        try:
            self._providers.tell(self._address, self._token(), self._id(), "release", patience_s=_SHORT_S)
        except (ProviderRefused, ProviderUnreachable, TokenMissing) as error:
            gone = isinstance(error, ProviderRefused) and error.status == 404
            if not gone:
                self._attendant.note(f"the action was not released: {error}")
            return gone
        return True

    def _token(self) -> str:
        return self._tokens.find(self._address, scope=self._call.scope, run_as=self._call.run_as)

    def _id(self) -> str:
        return self._call.action_id or ""

    def _left_s(self) -> float:
        return self._until - time.monotonic()


class _Ended(Exception):
    """The turn is over, wherever it was."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        super().__init__(turn)


def _said(code: str, description: str) -> dict[str, Any]:
    return {"code": code, "description": description}


def result_of(call: Call, turn: Turn, state: Mapping[str, Any], state_name: str) -> dict[str, Any]:
    """What an action that has ended puts into the state. Raises `StateFailed` when its end is an exception."""
    document = {key: value for key, value in turn.status.items() if value is not None}
    if turn.how is How.TIMED_OUT:
        raise StateFailed(TIMEOUT, f"The action did not end within {call.wait_s:g} seconds.", document)
    if document["status"] == "FAILED" and state.get("ExceptionOnActionFailure", True):
        details = document.get("details")
        cause = details.get("description") if isinstance(details, dict) else details
        raise StateFailed(FAILED, cause or "The action failed.", document)
    return {**document, "state_name": state_name}
