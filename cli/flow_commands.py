"""`headrace flow`: check flows of the Globus Flows service, and run them from one's own machine."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.options import expanded
from headrace.cli.service import JsonOption, OfHomeOption
from headrace.cli.values import read_text

if TYPE_CHECKING:
    from headrace.cli.flow_view import Lines
    from headrace.sdk.flows import Cancellation, Circumstances, Problem, Run
    from headrace.sdk.profile import Profile

STATUSES: Final[Mapping[str, int]] = {"SUCCEEDED": 0, "FAILED": 3, "INACTIVE": 4, "CANCELED": 130, "INTERRUPTED": 143}
"""The exit status of each end of a run."""

app = typer.Typer(help="Check flows, and run them from this machine.", no_args_is_help=True)

DefinitionArgument = Annotated[Path, typer.Argument(help="A definition: JSON or YAML, `-` for standard input.")]
InputOption = Annotated[
    str | None,
    typer.Option("--input", "-i", help="The input: a file of JSON or YAML, `-` for standard input, or JSON."),
]
SchemaOption = Annotated[Path | None, typer.Option("--input-schema", help="A JSON schema that the input must satisfy.")]
TokenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--token",
        metavar="FOR=VARIABLE",
        help="The environment variable with the token for a provider's URL (or the beginning of it), a scope, or a role"
        " of RunAs; may be given again.",
    ),
]
TokensOption = Annotated[
    Path | None,
    typer.Option("--tokens", help="A file of JSON with tokens by URL, scope or role, which nobody else may read."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map-url", metavar="FROM=TO", help="Call providers below one URL at another; may be given again."),
]
KeepOption = Annotated[bool, typer.Option("--keep-actions", help="Do not release actions that have ended.")]
OnceOption = Annotated[
    bool, typer.Option("--once", help="End with status 4 when an action waits for somebody, instead of waiting along.")
]
PlainOption = Annotated[bool, typer.Option("--plain", help="Lines instead of a table, also in a terminal.")]


@app.command()
def validate(
    definition: DefinitionArgument,
    input: InputOption = None,  # noqa: A002 - the name of the option
    input_schema: SchemaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say everything that is wrong with a definition, at once, without calling anybody.

    Status 1 when anything is. What cannot run on this machine, and what may do something else than it seems to, is
    said, too, and is no error.
    """
    from headrace.sdk.flows import Severity

    problems = list(_problems(definition, input, input_schema))
    wrong = [problem for _, problem in problems if problem.severity is Severity.ERROR]
    if as_json:
        output.say_json({"valid": not wrong, "problems": [{"in": name, **each.document()} for name, each in problems]})
    else:
        for name, problem in problems:
            output.say(f"{name}: {problem.sentence()}")
        if not wrong:
            output.say(f"{definition} is a flow that the Flows service takes.")
    if wrong:
        sys.exit(1)


@app.command("run")
def run_(
    definition: DefinitionArgument,
    input: InputOption = None,  # noqa: A002 - the name of the option
    input_schema: SchemaOption = None,
    log: Annotated[
        Path | None,
        typer.Option(help="The run's log; a new file in HOME/runs without it. One that is there is resumed."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The run's label, and that of its actions.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of its actions; may be given again.")] = None,
    monitor_by: Annotated[
        list[str] | None, typer.Option(help="A URN that may look at its actions; may be given again.")
    ] = None,
    manage_by: Annotated[
        list[str] | None, typer.Option(help="A URN that may cancel its actions; may be given again.")
    ] = None,
    token: TokenOption = None,
    tokens: TokensOption = None,
    map_url: MapOption = None,
    keep_actions: KeepOption = False,
    once: OnceOption = False,
    only_validate: Annotated[
        bool, typer.Option("--validate", help="Only check it, as `headrace flow validate`.")
    ] = False,
    plain: PlainOption = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Run a flow against real action providers. The state at its end goes to standard output.

    Status 0 when it succeeded, 3 when it failed, 4 when an action waits for somebody, 130 when it was cancelled (Ctrl-C
    cancels the running action; a second one leaves it), 143 when it was told to stop. After 4, 143, a crash or a second
    Ctrl-C `headrace flow resume LOG` goes on, and starts no action twice.
    """
    from headrace.sdk.flows import Flow, RunOptions, missing_tokens, problems_of, read_file, run
    from headrace.sdk.flows.documents import read_text as read_definition

    if only_validate:
        validate(definition, input, input_schema, as_json)
        return
    read = read_definition(read_text(definition), name=str(definition))
    flow = Flow.of(read)
    schema = read_file(input_schema) if input_schema else None
    value = _input(input)
    flow.check_input(value, schema)
    options = RunOptions(
        label=label,
        tags=tuple(tag or ()),
        monitor_by=tuple(monitor_by or ()),
        manage_by=tuple(manage_by or ()),
        instead_of=_pairs(map_url, "--map-url"),
    )
    with _circumstances(token, tokens, home, keep_actions=keep_actions, once=once, plain=plain or as_json) as (
        met,
        seen,
    ):
        path = expanded(log) if log else _new_log(definition, home)
        doubts = len(problems_of(read, given=value))
        if doubts:
            output.note(f"Doubts about {definition}: {doubts}; `headrace flow validate --input …` tells them.")
        for missing in missing_tokens(flow, met, options):
            output.note(missing)
        output.note(f"The run's log: {path}")
        with seen.shown():
            ended = run(flow, value, log=path, input_schema=schema, options=options, circumstances=met)
    _end(ended, as_json=as_json)


@app.command("resume")
def resume_(
    log: Annotated[Path, typer.Argument(help="The log of a run that has not ended.")],
    token: TokenOption = None,
    tokens: TokensOption = None,
    map_url: MapOption = None,
    keep_actions: KeepOption = False,
    once: OnceOption = False,
    plain: PlainOption = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Go on with a run that was interrupted, or that waited for somebody. Statuses are those of `headrace flow run`."""
    from headrace.sdk.flows import resume

    instead_of = _pairs(map_url, "--map-url")
    with (
        _circumstances(token, tokens, home, keep_actions=keep_actions, once=once, plain=plain or as_json) as (
            met,
            seen,
        ),
        seen.shown(),
    ):
        ended = resume(expanded(log), circumstances=met, instead_of=instead_of)
    _end(ended, as_json=as_json)


@app.command()
def show(
    log: Annotated[Path, typer.Argument(help="The log of a run.")],
    as_json: JsonOption = False,
) -> None:
    """Show what happened in a run. Looking changes nothing, also while it goes on."""
    from headrace.cli.flow_view import said
    from headrace.sdk.flows import read_log
    from headrace.sdk.flows.timestamps import timestamp

    entries = read_log(expanded(log))
    if as_json:
        output.say_json([entry.document() for entry in entries])
        return
    rows = [
        [timestamp(entry.at), entry.code, str(entry.details.get("state_name") or ""), said(entry)] for entry in entries
    ]
    output.say_table(["TIME", "CODE", "STATE", ""], rows)


def _end(ended: Run, *, as_json: bool) -> None:
    if as_json:
        document = {"run_id": ended.run_id, "status": ended.status, "details": ended.details, "log": str(ended.log)}
        output.say_json(document)
    elif ended.status == "SUCCEEDED":
        output.say_json(ended.details["output"])
    else:
        output.note(f"The run is {ended.status}: {ended.details['description'].rstrip('.')}.")
    if ended.status in ("INACTIVE", "INTERRUPTED"):
        output.note(f"To go on: headrace flow resume {shlex.quote(str(ended.log))}")
    sys.exit(STATUSES[ended.status])


def _problems(definition: Path, value: str | None, input_schema: Path | None) -> Iterator[tuple[str, Problem]]:
    """Whatever is wrong with the files, each with the name of its file."""
    from headrace.sdk.flows import DefinitionInvalid, names_given, problems_of, problems_of_input, read_file
    from headrace.sdk.flows.documents import read_text as read_definition

    schema, given = None, None
    try:
        given = _input(value) if value is not None else None
        schema = read_file(input_schema) if input_schema is not None else None
    except DefinitionInvalid as error:
        yield from ((error.name, each) for each in error.problems)
    try:
        read = read_definition(read_text(definition), name=str(definition))
        names = names_given(given, schema.value if schema else None)
        yield from ((str(definition), each) for each in problems_of(read, given=names))
    except DefinitionInvalid as error:
        yield from ((error.name, each) for each in error.problems)
    if schema is not None:
        name = str(input_schema) if value is None else "the input"
        yield from ((name, each) for each in problems_of_input(schema, given, given=value is not None))


def _input(text: str | None) -> Any:
    """The input of a run. Raises `CommandError` and `DefinitionInvalid`."""
    from headrace.sdk.flows.documents import read_text as read_document

    if text is None:
        return {}
    if text.lstrip().startswith("{"):
        return read_document(text, name="--input").value
    return read_document(read_text(Path(text)), name=text).value


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for each in given or ():
        name, equals, value = each.rpartition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{each!r} is not of the form X=Y", param_hint=option)
        pairs[name] = value
    return pairs


def _tokens_of(given: list[str] | None, file: Path | None) -> dict[str, str]:
    from headrace.sdk.flows import read_tokens

    tokens = read_tokens(expanded(file)) if file else {}
    for name, variable in _pairs(given, "--token").items():
        if not os.environ.get(variable):
            raise CommandError(f"--token {name}={variable}: the environment variable {variable} is not set")
        tokens[name] = os.environ[variable]
    return tokens


@contextmanager
def _circumstances(
    token: list[str] | None, file: Path | None, home: Path | None, *, keep_actions: bool, once: bool, plain: bool
) -> Iterator[tuple[Circumstances, Lines]]:
    """How the run meets the world: as the options, the environment and the profile say."""
    from headrace.bus.network import Network
    from headrace.cli.flow_view import view
    from headrace.sdk.flows import Cancellation, Circumstances, Tokens

    profile = _profile(home)
    seen = view(plain=plain, once=once)
    with Cancellation() as cancellation, _signals(cancellation):
        yield (
            Circumstances(
                tokens=Tokens(_tokens_of(token, file), profile),
                network=profile.network if profile else Network.of_environment(os.environ),
                cancellation=cancellation,
                attendant=seen,
                tell=seen.tell,
                keep_actions=keep_actions,
            ),
            seen,
        )


def _profile(home: Path | None) -> Profile | None:
    from headrace.sdk.errors import NotConfigured
    from headrace.sdk.profile import Profile

    if home is not None:
        return Profile.read(expanded(home) / "profile.json")
    try:
        return Profile.find()
    except NotConfigured:
        return None  # providers elsewhere need none


@contextmanager
def _signals(cancellation: Cancellation) -> Iterator[None]:
    """SIGINT cancels the run, a second one leaves it; SIGTERM and SIGHUP leave it, for somebody to resume."""
    from headrace.sdk.flows import Wish

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if cancellation.wish is not Wish.NONE:
            raise KeyboardInterrupt
        cancellation.request(Wish.CANCEL)

    handlers = {signal.SIGINT: on_interrupt}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` says that a terminal that is closed is no reason.
        if signal.getsignal(number) is not signal.SIG_IGN:
            handlers[number] = lambda number, frame: cancellation.request(Wish.LEAVE)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _new_log(definition: Path, home: Path | None) -> Path:
    """A new file beside the profile."""
    from headrace.sdk.profile import profile_path

    directory = (expanded(home) if home else profile_path().parent) / "runs"
    stem = "flow" if str(definition) == "-" else definition.stem
    return directory / f"{stem}-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}.jsonl"
