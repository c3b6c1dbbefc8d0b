"""Leads one run from where it is to its end, writing down each step before it has an effect."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.sdk.flows.actions import Action, Attendant, Call, How, Pace, Record, result_of
from headrace.sdk.flows.cancellation import Cancellation, Wish
from headrace.sdk.flows.errors import StateFailed
from headrace.sdk.flows.flow import provider_of
from headrace.sdk.flows.parameters import shown_parameters, shown_state
from headrace.sdk.flows.providers import Providers
from headrace.sdk.flows.run_log import Entry, Position, RunLog
from headrace.sdk.flows.states import catcher_of, chosen, failure, input_of, names_of, stored, waiting_until
from headrace.sdk.flows.tokens import Tokens

DEFAULT_WAIT_S: Final = 300
MOST_STATE_BYTES: Final = 200_000
"""What the Flows service lets the state of a run grow to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of a run: `SUCCEEDED`, `FAILED`, `CANCELED`; `INACTIVE` and `INTERRUPTED` can be resumed."""

    run_id: str
    status: str
    details: dict[str, Any]
    """`code`, `description`, and `output` (the state at the end) or the exception."""
    output: Any = field(repr=False)
    """The state at the end, with what is private."""
    log: Path


class Runner:
    """One run. `position` is where it is, and grows with it."""

    def __init__(
        self,
        position: Position,
        *,
        log: RunLog,
        providers: Providers,
        tokens: Tokens,
        pace: Pace,
        cancellation: Cancellation,
        attendant: Attendant,
        tell: Callable[[Entry], None],
        keep_actions: bool = False,
        resumed: bool = False,
    ) -> None:
        self._position = position
        self._states: Mapping[str, Mapping[str, Any]] = position.run["definition"]["States"]
        self._log = log
        self._providers = providers
        self._tokens = tokens
        self._pace = pace
        self._cancellation = cancellation
        self._attendant = attendant
        self._tell = tell
        self._keep_actions = keep_actions
        self._resumed = resumed
        self._warned = False
        self._ended: dict[str, Any] | None = None
        """The action that has ended and is to be released, until that is written down."""

    def go(self) -> Run:
        """Run to the end, or to where it cannot go on."""
        self._release()
        while self._position.state is not None and self._position.failure is None:
            halted = self._state(self._position.state)
            if halted is not None:
                return halted
            self._release()
        if self._position.failure is not None:
            return self._failed(self._position.failure)
        output = shown_state(self._position.data)
        details = {"code": "FlowSucceeded", "description": "The flow reached its end", "output": output}
        self._write("FlowSucceeded", details["description"], {"output": output})
        return self._run("SUCCEEDED", details)

    def _state(self, name: str) -> Run | None:
        """Do what a state does; a run is given where it halts."""
        if self._cancellation.wish is not Wish.NONE:
            return self._halted_by_wish()
        state = self._states[name]
        try:
            if state["Type"] == "Action":
                return self._action(name, state)
            if state["Type"] == "Wait":
                return self._wait(name, state)
            self._reckon(name, state)
        except StateFailed as error:
            self._exception(name, state, error)
        return None

    def _reckon(self, name: str, state: Mapping[str, Any]) -> None:
        """A state that neither calls nor waits."""
        kind, names = str(state["Type"]), self._names()
        if kind == "Fail":
            self._start(name, kind)
            raise failure(state, names)
        if kind == "Choice":
            self._start(name, kind)
            self._completed(name, state, self._position.data, follows=chosen(state, names))
            return
        value = input_of(state, names)
        shown = self._shown(state, value)
        self._start(name, kind, shown)
        self._completed(name, state, stored(state, self._position.data, value), shown=shown)

    def _action(self, name: str, state: Mapping[str, Any]) -> Run | None:
        call = self._call(name, state)

        def record(code: str, details: dict[str, Any], resume: dict[str, Any]) -> None:
            told = {"state_name": name, **details}
            self._write(code, f"State {name} of type Action: {_WORDS[code]}", told, resume)

        action = self._action_of(call, record)
        if self._resumed and call.status.get("status") == "INACTIVE":
            action.resume()
        self._resumed = False
        turn = action.run()
        if turn.how in (How.CANCELED, How.LEFT):
            return self._halted_by_wish()
        if turn.how is How.INACTIVE:
            said = turn.status.get("details")
            return self._run("INACTIVE", {"code": "FlowInactive", "description": "The run waits", "action": said})
        self._ended = {"url": call.url, "scope": call.scope, "run_as": call.run_as, "action_id": call.action_id}
        result = result_of(call, turn, state, name)
        self._completed(name, state, stored(state, self._position.data, result), shown=result)
        return None

    def _action_of(self, call: Call, record: Record) -> Action:
        return Action(
            call,
            address=self._address(call.url),
            providers=self._providers,
            tokens=self._tokens,
            pace=self._pace,
            cancellation=self._cancellation,
            attendant=self._attendant,
            record=record,
        )

    def _call(self, name: str, state: Mapping[str, Any]) -> Call:
        """The call of this state: the one that is under way, or a new one, which is written down before it is made."""
        flight = self._position.flight
        if flight is not None:
            return Call(**flight)
        url, scope = provider_of(state)
        run = self._position.run
        body = input_of(state, self._names())
        request = {"request_id": str(uuid.uuid4()), "body": body}
        for key in ("label", "monitor_by", "manage_by", "tags"):
            if run.get(key):
                request[key] = run[key]
        since = time.time()
        call = Call(
            url=url,
            request=request,
            wait_s=float(state.get("WaitTime", DEFAULT_WAIT_S)),
            since=since,
            scope=scope,
            run_as=str(state.get("RunAs", "User")),
        )
        resume = {key: value for key, value in asdict(call).items() if key != "since"}
        self._start(name, "Action", self._shown(state, body), resume)
        return call

    def _wait(self, name: str, state: Mapping[str, Any]) -> Run | None:
        flight = self._position.flight
        until = flight["until"] if flight else waiting_until(state, self._names())
        if flight is None:
            self._start(name, "Wait", None, {"until": until})
        while (left := until - time.time()) > 0:
            # The clock may be set, and a laptop may sleep: what counts is the moment.
            self._cancellation.wait(min(left, _LONGEST_NAP_S))
            if self._cancellation.wish is not Wish.NONE:
                return self._halted_by_wish()
        self._completed(name, state, self._position.data)
        return None

    def _start(self, name: str, kind: str, shown: Any = None, resume: dict[str, Any] | None = None) -> None:
        details = {"state_name": name, "state_type": kind}
        if shown is not None:
            details["input"] = shown
        self._position.flight = resume
        self._write(f"{kind}Started", f"State {name} of type {kind} started", details, resume or {})

    def _completed(
        self, name: str, state: Mapping[str, Any], data: Any, *, follows: str | None = None, shown: Any = None
    ) -> None:
        following = follows if follows is not None else state.get("Next")
        details = {"state_name": name, "state_type": state["Type"], "next": following}
        if shown is not None:
            details["output"] = shown_state(shown)
        self._moved(
            f"{state['Type']}Completed", f"State {name} of type {state['Type']} completed", details, following, data
        )

    def _exception(self, name: str, state: Mapping[str, Any], error: StateFailed) -> None:
        """A state's exception: to the state that catches it, or the end of the run."""
        document = error.document(name)
        catcher = catcher_of(state, error)
        data, following = self._position.data, None
        if catcher is not None:
            try:
                data, following = stored(catcher, data, document), catcher["Next"]
            except StateFailed as second:
                document = second.document(name)
        details = {"state_name": name, "state_type": state["Type"], "next": following, **document}
        description = f"State {name} of type {state['Type']} raised {document['exception']}"
        failed = None if following else document
        self._moved(f"{state['Type']}Failed", description, shown_state(details), following, data, failed)

    def _moved(
        self,
        code: str,
        description: str,
        details: dict[str, Any],
        following: str | None,
        data: Any,
        failed: dict[str, Any] | None = None,
    ) -> None:
        """One step further: written down first, so that whoever resumes begins behind it."""
        resume: dict[str, Any] = {"next": following, "data": data}
        if failed is not None:
            resume["failure"] = failed
        if self._ended is not None:
            resume["release"] = self._ended
        entry = self._write(code, description, details, resume)
        self._ended = None
        self._position.take(entry)
        self._warn_of_size(entry)

    def _release(self) -> None:
        """Have the providers forget what has ended; its results are in the log by now."""
        if self._keep_actions:
            return
        for each in tuple(self._position.unreleased):
            call = Call(**each, request={}, wait_s=_RELEASE_S, since=time.time())
            if self._action_of(call, lambda *_: None).release():
                told = {"action_id": call.action_id}
                self._write("ActionReleased", f"Action {call.action_id} was released", told, told)
        self._position.unreleased.clear()

    def _halted_by_wish(self) -> Run:
        if self._cancellation.wish is Wish.LEAVE:
            return self._run("INTERRUPTED", {"code": "Interrupted", "description": "The run can be resumed"})
        details = {"code": "FlowCanceled", "description": "The run was cancelled"}
        self._write("FlowCanceled", details["description"], {"state_name": self._position.state})
        return self._run("CANCELED", details)

    def _failed(self, document: dict[str, Any]) -> Run:
        details = {"code": "FlowFailed", "description": _sentence(document), **shown_state(document)}
        self._write("FlowFailed", details["description"], shown_state(document))
        return self._run("FAILED", details)

    def _run(self, status: str, details: dict[str, Any]) -> Run:
        return Run(
            run_id=self._position.run["run_id"],
            status=status,
            details=details,
            output=self._position.data,
            log=self._log.path,
        )

    def _write(
        self, code: str, description: str, details: dict[str, Any], resume: dict[str, Any] | None = None
    ) -> Entry:
        entry = Entry(code=code, description=description, details=details, resume=resume)
        self._log.append(entry)
        self._tell(entry)
        return entry

    def _warn_of_size(self, entry: Entry) -> None:
        if not self._warned and len(entry.encode()) > MOST_STATE_BYTES:
            self._warned = True
            self._attendant.note(
                f"the state is larger than {MOST_STATE_BYTES} bytes: the Flows service would not take it"
            )

    def _shown(self, state: Mapping[str, Any], value: Any) -> Any:
        return shown_state(shown_parameters(state.get("Parameters"), value))

    def _names(self) -> Any:
        return names_of(self._position.data, self._position.run["context"])

    def _address(self, url: str) -> str:
        return address_of(url, self._position.run.get("instead_of", {}))


def address_of(url: str, instead_of: Mapping[str, str]) -> str:
    """Where a provider is called, which may be another place than the definition says."""
    for prefix, instead in instead_of.items():
        stem = prefix.rstrip("/")
        if url == stem or url.startswith(stem + "/"):
            return instead.rstrip("/") + url[len(stem) :]
    return url


_RELEASE_S: Final = 1.0
_LONGEST_NAP_S: Final = 15.0
_WORDS: Final = {
    "ActionPolled": "the action was looked at",
    "FlowInactive": "the action waits for somebody",
    "FlowResumed": "the action goes on",
}


def _sentence(document: Mapping[str, Any]) -> str:
    cause = document.get("cause")
    words = cause.get("description") or cause.get("cause") if isinstance(cause, dict) else cause
    return f"State {document['state_name']} raised {document['exception']}" + (f": {words}" if words else "")
