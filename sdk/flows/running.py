"""Starting a run, and going on with one: what puts flow, log, providers and tokens together."""

from __future__ import annotations

import getpass
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.bus.network import DIRECT, Network
from headrace.schemas import HeadraceError, SchemaViolation, validate
from headrace.sdk.flows.actions import Attendant, Pace
from headrace.sdk.flows.cancellation import Cancellation, Woken
from headrace.sdk.flows.documents import Written
from headrace.sdk.flows.errors import FlowError, RunLogUnusable, TokenMissing
from headrace.sdk.flows.flow import Flow, provider_of
from headrace.sdk.flows.parameters import CONTEXT, shown_state
from headrace.sdk.flows.providers import Providers
from headrace.sdk.flows.run_log import VERSION, Entry, Position, RunLog
from headrace.sdk.flows.runner import Run, Runner, address_of
from headrace.sdk.flows.tokens import Tokens
from headrace.sdk.profile import Profile

_TOKENS: Final = "_tokens"
_TOKEN_LASTS_S: Final = 48 * 3600


class Nobody:
    """An attendant that hears nothing and answers nothing."""

    key = None

    def take_key(self) -> bool:
        """There is never an answer."""
        return False

    def note(self, text: str) -> None:
        """Nobody hears it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How a run meets the world; nothing of it is in the log."""

    tokens: Tokens = field(default_factory=Tokens)
    network: Network = DIRECT
    pace: Pace = field(default_factory=Pace)
    cancellation: Cancellation | None = None
    attendant: Attendant = field(default_factory=Nobody)
    tell: Callable[[Entry], None] = lambda entry: None
    """Called with each entry of the log, once it is written."""
    keep_actions: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is started with besides its input. `instead_of`: provider URLs, and where they are called instead."""

    label: str | None = None
    tags: Sequence[str] = ()
    monitor_by: Sequence[str] = ()
    manage_by: Sequence[str] = ()
    instead_of: Mapping[str, str] = field(default_factory=dict)


def run(
    flow: Flow,
    input: Mapping[str, Any],  # noqa: A002 - what everybody calls it
    *,
    log: str | Path,
    input_schema: Written | None = None,
    options: RunOptions | None = None,
    circumstances: Circumstances | None = None,
) -> Run:
    """Run a flow to its end. With a log of this flow and this input that has begun, go on there.

    Raises `DefinitionInvalid` for an input that does not satisfy `input_schema`, `FlowError` for options that no
    provider takes, and `RunLogUnusable`.
    """
    flow.check_input(input, input_schema)
    _check_options(options)
    options, circumstances = options or RunOptions(), circumstances or _usual_circumstances()
    with RunLog.open(Path(log)) as opened:
        if opened.entries:
            position = Position.of(opened.entries, opened.path)
            _check_same(position, flow, input, opened.path)
        else:
            start = _start_of(flow, input, options, circumstances)
            opened.append(start)
            circumstances.tell(start)
            position = Position.of([start], opened.path)
        roles = circumstances.tokens.with_roles(input.get(_TOKENS))
        return _go(position, opened, circumstances, roles, resumed=bool(opened.entries))


def resume(
    log: str | Path,
    *,
    circumstances: Circumstances | None = None,
    instead_of: Mapping[str, str] | None = None,
) -> Run:
    """Go on with the run of a log. Raises `RunLogUnusable`, also when it has ended."""
    circumstances = circumstances or _usual_circumstances()
    with RunLog.open(Path(log), existing=True) as opened:
        position = Position.of(opened.entries, opened.path)
        if instead_of:
            position.run["instead_of"] = {**position.run.get("instead_of", {}), **instead_of}
        return _go(position, opened, circumstances, circumstances.tokens, resumed=True)


def _check_options(options: RunOptions | None) -> None:
    """Raises `FlowError` for a label or a URN that every provider would refuse, when the first action is started."""
    if options is None:
        return
    request: dict[str, Any] = {"request_id": "-", "body": {}}
    request |= {"monitor_by": list(options.monitor_by), "manage_by": list(options.manage_by), "label": options.label}
    try:
        validate("action-request", request)
    except SchemaViolation as violation:
        problems = "; ".join(f"{each.pointer.strip('/')}: {each.problem}" for each in violation.violations)
        raise FlowError(f"the options of a run: {problems}") from None


def missing_tokens(flow: Flow, circumstances: Circumstances, options: RunOptions) -> list[str]:
    """What providers of a flow cannot be called for want of a token: a sentence for each."""
    found = []
    for name, state in flow.states.items():
        if state["Type"] == "Action":
            url, scope = provider_of(state)
            try:
                address = address_of(url, options.instead_of)
                circumstances.tokens.find(address, scope=scope, run_as=str(state.get("RunAs", "User")))
            except TokenMissing as error:
                found.append(f"state {name}: {error}")
    return found


def _go(position: Position, log: RunLog, circumstances: Circumstances, tokens: Tokens, *, resumed: bool) -> Run:
    if position.end is not None:
        raise RunLogUnusable(f"the run of {log.path} has ended ({position.end}); for a new one give another file")
    with ExitStack() as stack:
        cancellation = circumstances.cancellation or stack.enter_context(Cancellation())
        providers = stack.enter_context(
            Providers(
                circumstances.network,
                pause=lambda seconds: cancellation.wait(seconds) is Woken.BY_WISH,
                note=circumstances.attendant.note,
            )
        )
        if resumed:
            was_inactive = log.entries[-1].code == "FlowInactive"
            entry = Entry(
                code="FlowResumed",
                description="The run goes on",
                details={"state_name": position.state, "state_type": _type_of(position)},
                resume={"was_inactive": was_inactive},
            )
            log.append(entry)
            position.take(entry)
            circumstances.tell(entry)
        runner = Runner(
            position,
            log=log,
            providers=providers,
            tokens=tokens,
            pace=circumstances.pace,
            cancellation=cancellation,
            attendant=circumstances.attendant,
            tell=circumstances.tell,
            keep_actions=circumstances.keep_actions,
            resumed=resumed,
        )
        return runner.go()


def _type_of(position: Position) -> str | None:
    return position.run["definition"]["States"][position.state]["Type"] if position.state is not None else None


def _start_of(flow: Flow, value: Mapping[str, Any], options: RunOptions, circumstances: Circumstances) -> Entry:
    # Tokens are for the requests, and nothing for a file.
    data = {key: each for key, each in value.items() if key != _TOKENS}
    run_id = str(uuid.uuid4())
    details = {"run_id": run_id, "flow_id": flow.flow_id, "label": options.label, "input": shown_state(data)}
    resume = {
        "version": VERSION,
        "run_id": run_id,
        "definition": flow.definition,
        "next": flow.definition["StartAt"],
        "data": data,
        "context": _context(flow, run_id, circumstances),
        "label": options.label,
        "tags": list(options.tags),
        "monitor_by": list(options.monitor_by),
        "manage_by": list(options.manage_by),
        "instead_of": dict(options.instead_of),
    }
    return Entry(code="FlowStarted", description="The run has started", details=details, resume=resume)


def _check_same(position: Position, flow: Flow, value: Mapping[str, Any], path: Path) -> None:
    if position.run["definition"] != flow.definition:
        raise RunLogUnusable(
            f"{path} is the log of another definition; `headrace flow resume {path}` goes on with that"
        )
    started = {key: each for key, each in value.items() if key != _TOKENS}
    if position.run["data"] != started:
        raise RunLogUnusable(f"{path} is the log of a run with another input; for a new one give another file")


def _context(flow: Flow, run_id: str, circumstances: Circumstances) -> dict[str, Any]:
    """`$._context`, as the Flows service gives it; who runs the flow is asked only where the flow wants to know."""
    now = int(time.time())
    name, urn = _who(circumstances) if CONTEXT in str(flow.definition) else ("", "")
    return {
        "flow_id": flow.flow_id,
        "run_id": run_id,
        "username": name,
        "email": name if "@" in name else f"{name}@localhost",
        "user_id": urn,
        "identities": [urn],
        "token_info": {"iat": now, "nbf": now, "exp": now + _TOKEN_LASTS_S},
    }


def _who(circumstances: Circumstances) -> tuple[str, str]:
    profile = circumstances.tokens.profile
    if profile is not None:
        from headrace.sdk.client import Client

        try:
            with Client(profile=profile) as client:
                me = client.whoami()
            return str(me["principal"]).rpartition(":")[2], str(me["principal"])
        except (HeadraceError, KeyError) as error:
            circumstances.attendant.note(f"who you are at {profile.url} is not known: {error}")
    user = getpass.getuser()
    return user, f"urn:headrace:user:{user}"


def _usual_circumstances() -> Circumstances:
    """As the environment and the profile say; without a profile there are no tokens."""
    from headrace.sdk.errors import NotConfigured

    try:
        profile = Profile.find()
    except NotConfigured:
        return Circumstances()
    return Circumstances(tokens=Tokens(profile=profile), network=profile.network)
