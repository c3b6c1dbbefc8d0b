"""errors.md: all errors, from their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from tables import NOTE, table

from headrace.action_provider.errors import ServiceError, answer_to
from headrace.bus import errors as bus_errors
from headrace.cli import errors as cli_errors
from headrace.endpoint import errors as endpoint_errors
from headrace.schemas import HeadraceError, SchemaViolation
from headrace.sdk import errors as sdk_errors
from headrace.sdk.flows import errors as flow_errors

T = TypeVar("T")

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


def errors() -> str:
    """All errors, from their classes."""
    answers = [(status, f"`{code}`", when, _ADVICE[code]) for status, code, when in sorted(_answers())]
    parts = [NOTE, _ERRORS, table(("status", "code", "when", "what to do"), answers), _OTHER_ANSWERS]
    for title, base, text in _TREES:
        kinds = (base, *_below(base))
        if base in _FOR_USERS:
            advised = [(f"`{each.code}`", _when(each), _ADVICE[each.code]) for each in kinds]
            shown = table(("code", "when", "what to do"), advised)
        else:
            shown = table(("code", "when"), [(f"`{each.code}`", _when(each)) for each in kinds])
        parts += [f"## {title}\n", text + "\n", shown]
    return "\n".join(parts)


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
