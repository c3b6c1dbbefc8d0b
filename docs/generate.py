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
from configuration_keys import engine_sections, file_keys, foreign_keys, provider_sections

from headrace.action_provider.app import OPERATIONS
from headrace.action_provider.errors import ServiceError, answer_to
from headrace.action_provider.openapi import describe
from headrace.bus import errors as bus_errors
from headrace.cli import errors as cli_errors
from headrace.cli.main import app
from headrace.endpoint import errors as endpoint_errors
from headrace.schemas import HeadraceError, SchemaViolation
from headrace.sdk import errors as sdk_errors
from headrace.sdk.flows import errors as flow_errors

REFERENCE = Path(__file__).parent / "reference"

_NOTE = "<!-- Written by docs/generate.py from the code; change it there. -->\n"

_CLI = """\
# The command line

Statuses: 0 done, 1 an error that the message names, 2 wrong usage, 130 stopped with Ctrl-C; the
text of a command names others. Messages go to standard error, results to standard output; `--json`, where there is
one, prints one JSON document.

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
    ("Flows", flow_errors.FlowError, "Raised by `headrace.sdk.flows`, and said by `headrace flow`."),
    ("The bus", bus_errors.BusError, "Inside the service, the endpoint and the SDK; few of them reach a user."),
    ("Endpoints", endpoint_errors.EndpointError, "Said by `headrace endpoint`."),
    ("The command line", cli_errors.CommandError, "Said by `headrace up`."),
)

_FOR_USERS = frozenset({bus_errors.TaskError, sdk_errors.ClientError, flow_errors.FlowError})
"""The bases of what users meet; what administrators meet says in its message what to do."""

_ADVICE: Mapping[str, str] = {
    # Answers over HTTP, and what the SDK makes of them
    "MalformedRequest": "Send JSON, as UTF-8; the detail says where reading ended",
    "Unauthenticated": "Send `Authorization: Bearer TOKEN`; get a new token, `headrace login`",
    "Forbidden": "Ask the owner, or an administrator",
    "ConsentRequired": "Agree to the scope that `required_scope` names, and come back with a new token",
    "PolicyUnmet": "Sign in again as the message says, and come back with a new token",
    "NotFound": "Check the id, and whose it is; an endpoint must be shared with you",
    "MethodNotAllowed": "See [http.md](http.md)",
    "RequestTimeout": "Send it again",
    "Conflict": "Read what is there, then decide",
    "ProtocolMismatch": "Install the release of the service",
    "PayloadTooLarge": "Send less at a time; large arguments go through the SDK ([limits](settings.md#limits))",
    "AddressTooLong": "Shorten the query",
    "UnsupportedMediaType": "Set `Content-Type`, mostly to `application/json`",
    "FilterInvalid": "Mend the place that `pointer` names ([filters and templates](filters-and-templates.md))",
    "EventUnfit": ("Mend the event, where `errors` says, or ask the [bus's](../how-to/use-a-bus-of-your-own.md) owner"),
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
    "SerializerNotAllowed": "Choose a strategy that the other side reads ([strategies](sdk.md#serialisation))",
    "EnvironmentUnusable": "Mend `requirements`, or ask the endpoint's administrator, as the message says",
    "MpiUnusable": "Mend `resource_specification`, or ask the endpoint's administrator for an MPI launcher",
    "PoolFailed": (
        "Mend the `user_endpoint_config` as the message says; else show it to the owner of the endpoint: its template, "
        "or what it starts, does not work"
    ),
    "PoolLimit": "Use one of your configurations again",
    "ArgumentNotSerialisable": "Send plain data or a path; open files, locks and connections in the function",
    "ResultNotSerialisable": "Return plain data, or a path",
    "PermanentFailure": "Nothing: the function says that trying again is no help",
    "EndpointOffline": "Start the endpoint, then redrive the dead letter; or raise `offline.hold_s`",
    "EventTooOld": "Redrive the dead letter where the event still matters; or raise `retry.max_age_s`",
    "ObjectMissing": "Submit the task again; if it happens again, look at the disk of the NATS server",
    "ObjectDamaged": "Submit the task again; if it happens again, look at the disk of the NATS server",
    "SubmissionRefused": "Submit it again; the message says why it was refused",
    # The client
    "ClientError": "Catch it for all of those below",
    "TokenUnavailable": "Mend the function that was given as `Client(token=…)`, or sign in again",
    "NotConfigured": "`headrace login`, or set `HEADRACE_URL` and `HEADRACE_TOKEN`",
    "ServiceUnreachable": "Check the address, and whether the service runs",
    "ServiceUnavailable": "Try again later; the service's log says more",
    "TaskPending": "Ask again later, or wait with an `Executor`",
    "RequestRefused": "The message says what to mend",
    "Unauthorized": "Get a new token, `headrace login`",
    # Flows
    "FlowError": "Catch it for all of those below",
    "DefinitionInvalid": "Mend the places that `problems` names ([flows](flows.md))",
    "PathInvalid": "Write it as `$.a.b[0]` or `$['a b']`",
    "PathMissing": "Put something there first, or ask with `IsPresent`",
    "ExpressionInvalid": "Use what [expressions](flows.md#parameters-paths-expressions) have",
    "ExpressionFailed": "Look whether the names are there: `is_present('a.b')`",
    "StateFailed": "Name it in a `Catch`, or mend what its cause says",
    "ProviderRefused": "Mend the body, or the token; the message has the provider's words",
    "ProviderUnreachable": "Check the address, and whether the provider runs",
    "TokenMissing": "`--token URL=VARIABLE`, or `--tokens FILE`",
    "RunLogUnusable": "Give another file; only the log of a run that has not ended can be gone on with",
}
"""What to do about each error that people meet as users."""

_CONFIG = """\
# Configuration of an endpoint

The files lie in `HOME/endpoints/NAME`; `headrace endpoint configure NAME` writes them with comments.

| file | what it says |
| --- | --- |
| `config.yaml` | the endpoint, and what all its pools have in common |
| `user_config_template.yaml.j2` | the configuration of one pool, made from a user's options |
| `user_config_schema.json` | the options that the template takes, as a JSON schema (2020-12) |
| `user_environment.yaml` | variables that all pools find in their environment |

**How they go together.** Without a template, `config.yaml` configures the one pool, and users can give no options. With
a template, each pool is what the template gives for a user's options, on top of what `config.yaml` says of pools; who
gives no options gets what it gives for none. So what a template demands, a container for instance, nobody gets around.
Where the template needs an option that is not given, that submission is refused, with the option's name.

Unknown keys, keys that are there twice and wrong values are refused with line and key: `headrace endpoint validate
NAME` says so before anybody meets it, `headrace endpoint render-user-config NAME --options '{"workers": 2}'` shows what
comes of options. A change counts from the next start of the endpoint, or with `headrace endpoint reload NAME` (a
SIGHUP to its manager): it says what changed, and no task is cut short. How to bring an endpoint of Globus Compute
along is in [its own how-to](../how-to/move-from-globus-compute.md); where other settings lie is in
[settings.md](settings.md).

## `config.yaml`
"""

_WATCH = """\
### `watch`

Each folder of the list has these keys; `folder` is the only one that must be there. What the events hold and what is
promised is in [announce files](../how-to/announce-files.md). A change counts after `headrace endpoint reload`.
"""

_TEMPLATE = """\
## `user_config_template.yaml.j2`

A Jinja2 template, in its sandbox, in which nothing may be undefined: `{{ blocks|default(1) }}` makes an option one
that may be left out. It may `extends`, `include` and `import` files of its directory that end with `.j2`, `.jinja`,
`.jinja2`, `.yaml` or `.yml`. What it gives is YAML with these keys; without a value (`key:`) a key is as if it were
not there:
"""

_VALUES = """\
### What stands for an option

Whatever is in a text, it stays a part of one value: the YAML is read before the texts are put into it.

| in the template | with the option `it's` | |
| --- | --- | --- |
| `key: {{ name }}` | `key: "it's"` | a text stays a text, also `true` and `3` |
| `key: load {{ name }}` | `key: "load \\"it's\\""` | in a longer text it brings quotes, as in Globus Compute |
| `key: "load {{ name }}"` | `key: "load it's"` | within quotes of the template it has none |
| `key: "load {{ name \\| shell_quote }}"` | `key: "load 'it'\\"'\\"'s'"` | one word for a shell, whatever is in it |
| `key: {{ values }}` | `key: [1, "it's"]` | lists and objects, in one line |

**Quotes are no protection from a shell**, not even those that a text brings along: `$(...)` works within them. What
ends up in `worker_init`, `endpoint_setup` or another command goes through `shell_quote` (Globus Compute's name,
`shell_escape`, is the same), unless users shall give commands.

Texts compare as they are, `{% if queue == 'long' %}`, and in the form that Globus Compute compares, `'"long"'`.

### What templates know besides

No option may have one of these names.

| variable | what it is |
| --- | --- |
| `_GC.user_runtime` | their `python_version`, `python.version_tuple` and `headrace_version`, as far as known |
| `_GC.mapped_identity` | who the user is on this machine; empty where no identities are mapped |
| `_GC.parent_config` | what `config.yaml` says |
| `_GC.env` | what `user_environment.yaml` says |
| `user_runtime`, `mapped_identity`, `parent_config` | the same, by their older names |

Users with the same options share no pool, but one user's clients do: what `_GC.user_runtime` says is that of the client
which asked for the pool first.
"""

_SCHEMA_FILE = """\
## `user_config_schema.json`

Options are held against it before the template sees them. With `"additionalProperties": false` an option that it does
not name is refused. All options together have at most 65 536 bytes as JSON.

## `user_environment.yaml`

Names and values, nothing nested. They go before the `environment` of `config.yaml`, and that of the template goes
before them. Variables that begin with `HEADRACE_` are refused, and those of the manager are taken out: no token reaches
a pool's workers.

## `engine`

`type` names one of these; without it, it is `ProcessEngine`. Each takes its own keys.
"""

_PROVIDERS = """\
## `provider`

Under the `engine` of a `ParslEngine`. `type` names one of these; keys that are left out are as Parsl has them.
"""

_FOREIGN = """\
## Keys of Globus Compute that do nothing here
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
    """The keys of an endpoint's configuration, from their schemas and from the engines."""
    head = ("key", "meaning", "default")
    parts = [_NOTE, _CONFIG, _table(head, file_keys("endpoint-config"))]
    parts += [_WATCH, _table(head, file_keys("watch-folder"))]
    parts += [_TEMPLATE, _table(head, file_keys("pool-config")), _VALUES, _SCHEMA_FILE]
    parts += [each for section in engine_sections() for each in _section(section)]
    parts.append(_PROVIDERS)
    parts += [each for section in provider_sections() for each in _section(section)]
    parts += [_FOREIGN, _table(("key", "in", "what becomes of it"), foreign_keys())]
    return "\n".join(parts)


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
    yield bus_errors.EventUnfit("", violations=())
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


def _section(section: tuple[str, str, Rows]) -> list[str]:
    title, text, rows = section
    return [f"### {title}\n", text + "\n", _table(("key", "meaning", "default"), rows)]


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---" for _ in head], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
