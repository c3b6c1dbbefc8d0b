"""Writes the parts of the reference that the code knows better than anybody:

python docs/generate.py            write them
python docs/generate.py --check    only say which of them are out of date; status 1 when any is
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from headrace.action_provider.app import OPERATIONS
from headrace.action_provider.errors import ServiceError, answer_to
from headrace.action_provider.openapi import describe
from headrace.bus import errors as bus_errors
from headrace.cli import errors as cli_errors
from headrace.cli.main import app
from headrace.endpoint import errors as endpoint_errors
from headrace.schemas import HeadraceError, SchemaViolation, schema
from headrace.sdk import errors as sdk_errors

REFERENCE = Path(__file__).parent / "reference"

_NOTE = "<!-- Written by docs/generate.py from the code; change it there. -->\n"

_CLI = """\
# The command line

Statuses: 0 done, 1 an error that the message names, 2 wrong usage, 130 stopped with Ctrl-C. Messages go to standard
error, results to standard output; `--json`, where there is one, prints one JSON document.

Commands that speak to a service find it as the SDK does: `HEADRACE_URL` and `HEADRACE_TOKEN`, else the `profile.json`
in `HEADRACE_HOME` (by default `~/.headrace`), which `headrace up` and `headrace login` write.
"""

_HTTP = """\
# HTTP routes

A running service describes itself: the OpenAPI 3.1 document is at `/openapi.json`, a page to read at `/docs`, and every
schema named here at `/schemas/NAME`. The routes of action providers, which follow another interface, are in
[action-providers.md](action-providers.md).

Where a token is needed it is sent as `Authorization: Bearer TOKEN`. Bodies and answers are JSON; an error is
`{"code", "detail", "errors": [{"pointer", "problem"}]}`, its codes are in [errors.md](errors.md). Unknown fields and
unknown query parameters are refused.
"""

_ERRORS = """\
# Errors

Every error of Headrace descends from `headrace.schemas.HeadraceError` and has a stable `code`: what a program may
depend on. The text beside it is for people, and may change.

## Answers over HTTP

`{"code", "detail", "errors": [{"pointer", "problem"}]}`: `detail` is one sentence, `errors` names places in the request
(JSON pointers into the body, `?name` for a query parameter).
"""

_OTHER_ANSWERS = """\
Paths and methods that do not exist are answered with `NotFound` and `MethodNotAllowed`, and what nobody foresaw with
`500 InternalError`: its detail names an incident, under which the service's log has the whole story. Action providers
have codes of their own: see [action-providers.md](action-providers.md).
"""

_TREES: tuple[tuple[str, type[HeadraceError], str], ...] = (
    ("Outcomes of tasks", bus_errors.TaskError, "Raised by `future.result()`, beside what the function itself raised."),
    ("The client", sdk_errors.ClientError, "Raised by `Client` and `Executor`."),
    ("The bus", bus_errors.BusError, "Inside the service, the endpoint and the SDK; few of them reach a user."),
    ("Endpoints", endpoint_errors.EndpointError, "Said by `headrace endpoint`."),
    ("The command line", cli_errors.CommandError, "Said by `headrace up`."),
)

_FOR_USERS = frozenset({bus_errors.TaskError, sdk_errors.ClientError})
"""The bases of what users meet; what administrators meet says in its message what to do."""

_ADVICE: Mapping[str, str] = {
    # Answers over HTTP, and what the SDK makes of them
    "MalformedRequest": "Send JSON, as UTF-8; the detail says where reading ended",
    "Unauthenticated": "Send `Authorization: Bearer TOKEN`; get a new token, `headrace login`",
    "Forbidden": "Ask the owner, or an administrator",
    "NotFound": "Check the id, and whose it is; an endpoint must be shared with you",
    "MethodNotAllowed": "See [http.md](http.md)",
    "RequestTimeout": "Send it again",
    "Conflict": "Read what is there, then decide",
    "ProtocolMismatch": "Install the release of the service",
    "PayloadTooLarge": "Send less at a time; large arguments go through the SDK ([limits](settings.md#limits))",
    "AddressTooLong": "Shorten the query",
    "UnsupportedMediaType": "Set `Content-Type`, mostly to `application/json`",
    "FilterInvalid": "Mend the place that `pointer` names ([filters and templates](filters-and-templates.md))",
    "InvalidRequest": "Mend the places that `errors` names",
    "QueueFull": (
        "Wait for results and try again, or ask the owner of the endpoint; in the SDK `when_full='block'` waits"
    ),
    "BusUnavailable": "Try again; if it lasts, look whether NATS runs",
    "Unavailable": "Try again later",
    "StreamFull": "Try again later; the administrator makes room on the disk",
    # Outcomes of tasks
    "TaskError": "Catch it for all of those below",
    "TaskFailed": "Read `remote_traceback`, mend the function",
    "TaskLost": (
        "See the message and the endpoint's log; often memory, or a signal to the pool. Submit it again if it may run "
        "twice ([guarantees](../explanation/guarantees.md))"
    ),
    "TaskCancelled": "Nothing: somebody wanted it so",
    "TaskExpired": "Raise the limit that the message names, or find out why it took so long",
    "FunctionUnusable": (
        "Install what the function imports where it runs; register it anew; ask the owner about `allowed_functions`"
    ),
    "SerializerNotAllowed": "Choose a strategy that the other side reads ([strategies](sdk.md#what-comes-back))",
    "EnvironmentUnusable": "Mend `requirements`, or ask the endpoint's administrator, as the message says",
    "MpiUnusable": "Mend `resource_specification`, or ask the endpoint's administrator for an MPI launcher",
    "PoolFailed": (
        "Mend the `user_endpoint_config` as the message says; else show it to the owner of the endpoint: its template, "
        "or what it starts, does not work"
    ),
    "PoolLimit": "Use one of your configurations again",
    "ArgumentNotSerialisable": "Send plain data or a path; open files, locks and connections in the function",
    "ResultNotSerialisable": "Return plain data, or a path",
    "ObjectMissing": "Submit the task again; if it happens again, look at the disk of the NATS server",
    "ObjectDamaged": "Submit the task again; if it happens again, look at the disk of the NATS server",
    "SubmissionRefused": "Submit it again; the message says why it was refused",
    # The client
    "ClientError": "Catch it for all of those below",
    "NotConfigured": "`headrace login`, or set `HEADRACE_URL` and `HEADRACE_TOKEN`",
    "ServiceUnreachable": "Check the address, and whether the service runs",
    "ServiceUnavailable": "Try again later; the service's log says more",
    "TaskPending": "Ask again later, or wait with an `Executor`",
    "RequestRefused": "The message says what to mend",
    "Unauthorized": "Get a new token, `headrace login`",
}
"""What to do about each error that people meet as users."""

_CONFIG = """\
# config.yaml of an endpoint

In `HOME/endpoints/NAME/config.yaml`; `headrace endpoint configure NAME` makes one with comments. Unknown keys, keys
that are there twice and wrong values are refused with line and key. A change counts from the next start of the
endpoint, or once its manager gets a SIGHUP: it says what changed, and a pool takes new settings when it is idle. Where other settings lie is in [settings.md](settings.md).
"""

T = TypeVar("T")
Rows = Sequence[Sequence[str]]


def commands() -> str:
    """The command line, from its own help."""
    parts = [_NOTE, _CLI]
    for name, command in _commands("headrace", typer.main.get_command(app)):
        parts.append(f"## `{' '.join([name, *_arguments(command)])}`\n")
        parts.append(" ".join(str(command.help).split()) + "\n")
        rows = [(_option_names(each), _option_text(each)) for each in command.params if _is_shown(each)]
        if rows:
            parts.append(_table(("", ""), rows))
    return "\n".join(parts)


def routes() -> str:
    """The HTTP interface, from the OpenAPI document."""
    parts = [_NOTE, _HTTP]
    tag = ""
    for path, methods in describe(OPERATIONS)["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"## {tag.replace('_', ' ').capitalize()}\n")
            parts += _route(path, method, operation)
    return "\n".join(parts)


def errors() -> str:
    """All errors, from their classes."""
    answers = [(status, f"`{code}`", when, _ADVICE[code]) for status, code, when in sorted(_answers())]
    parts = [_NOTE, _ERRORS, _table(("status", "code", "when", "what to do"), answers), _OTHER_ANSWERS]
    for title, base, text in _TREES:
        kinds = (base, *_below(base))
        if base in _FOR_USERS:
            advised = [(f"`{each.code}`", _when(each), _ADVICE[each.code]) for each in kinds]
            table = _table(("code", "when", "what to do"), advised)
        else:
            table = _table(("code", "when"), [(f"`{each.code}`", _when(each)) for each in kinds])
        parts += [f"## {title}\n", text + "\n", table]
    return "\n".join(parts)


def configuration() -> str:
    """The keys of an endpoint's config.yaml, from their schema."""
    keys = schema("endpoint-config")["properties"]
    rows = [(f"`{key}`", str(each["description"]), _default(each)) for key, each in keys.items()]
    return "\n".join([_NOTE, _CONFIG, _table(("key", "meaning", "default"), rows)])


DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "cli.md": commands,
    "http.md": routes,
    "errors.md": errors,
    "endpoint-config.md": configuration,
}


def outdated() -> list[Path]:
    """The files that are not what they should be."""
    return [
        REFERENCE / name
        for name, write in DOCUMENTS.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text(encoding="utf-8") != write()
    ]


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    logging.disable()  # the samples of errors are no news
    files = outdated()
    if "--check" in arguments:
        for file in files:
            print(f"{file} is out of date; run `python docs/generate.py`")
        return 1 if files else 0
    for file in files:
        file.write_text(DOCUMENTS[file.name](), encoding="utf-8")
        print(f"wrote {file}")
    return 0


# The command line


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if not below:
        yield name, command
        return
    for word, each in below.items():
        yield from _commands(f"{name} {word}", each)


def _arguments(command: Any) -> list[str]:
    names = [(each.name.upper(), each.required) for each in command.params if each.param_type_name == "argument"]
    return [name if required else f"[{name}]" for name, required in names]


def _is_shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def _option_names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _option_text(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    notes = []
    if parameter.required and parameter.param_type_name == "option":
        notes.append("needed")
    if isinstance(parameter.default, str | int | Path) and not isinstance(parameter.default, bool):
        notes.append(f"default: `{parameter.default}`")
    if parameter.envvar:
        notes.append(f"environment: `{parameter.envvar}`")
    return f"{text} ({'; '.join(notes)})" if notes else text


# HTTP


def _route(path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    rows = []
    for parameter in operation["parameters"]:
        if parameter["in"] == "query":
            needed = " Needed." if parameter["required"] else ""
            rows.append((f"`?{parameter['name']}=`", parameter["description"] + needed))
    body = operation.get("requestBody")
    if body:
        optional = "" if body["required"] else "; may be left out"
        rows += [("body", f"{_schema_of(each)}{optional}") for each in body["content"].items()]
    for status, answer in operation["responses"].items():
        if status != "default":
            content = answer.get("content", {}).items()
            rows.append((f"`{status}`", ", ".join(map(_schema_of, content)) or "nothing"))
    text = f"{operation['summary']}. {' '.join(operation['description'].split())}\n"
    return [f"### `{method.upper()} {path}`\n", text, _table(("", ""), rows)]


def _schema_of(content: tuple[str, Mapping[str, Any]]) -> str:
    media_type, document = content
    name = document.get("schema", {}).get("$ref", "").removeprefix("#/components/schemas/")
    shown = f"`{name}`" if name else media_type
    return shown if not name or media_type == "application/json" else f"{shown} as {media_type}"


# Errors


def _answers() -> set[tuple[str, str, str]]:
    """(status, code, when) of every error that the service may answer with."""
    found = {(str(each.status), each.code, _when(each)) for each in _below(ServiceError)}
    for sample in _samples():
        answer = answer_to(sample, route="")
        if not any(row[:2] == (str(answer.status), answer.code) for row in found):
            found.add((str(answer.status), answer.code, _when(type(sample))))
    return found


def _samples() -> Iterator[Exception]:
    yield SchemaViolation("name", ())
    yield bus_errors.PayloadTooLarge("", size=2, limit=1)
    yield bus_errors.FilterInvalid("")
    yield bus_errors.BusUnavailable("")
    yield bus_errors.StreamFull("")
    yield bus_errors.QueueFull("", limit=1, used=1)
    yield bus_errors.ArgumentNotSerialisable("")
    yield bus_errors.SubmissionRefused("")
    yield bus_errors.ObjectMissing("")
    yield bus_errors.ObjectDamaged("")


def _below(base: type[T]) -> Iterator[type[T]]:
    for each in base.__subclasses__():
        if not each.__name__.startswith("_"):
            yield each
            yield from _below(each)


def _when(kind: type[object]) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).removesuffix(".").removeprefix("Raised when ")
    return text[:1].upper() + text[1:]


# Markdown


def _default(key: Mapping[str, Any]) -> str:
    value = key.get("default")
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---" for _ in head], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
