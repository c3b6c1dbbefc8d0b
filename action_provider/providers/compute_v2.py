"""Bodies of Globus Compute's V2 provider, and of funcX before it, in all spellings that flows have.

    {"endpoint", "function", "args", "kwargs"}     one call; `payload` is the older name of `kwargs`
    {"tasks": [{"endpoint", "function", …}, …]}    many; each at an endpoint of its own
    both                                           the single call comes first

Arguments may be text that holds JSON (that is how the hosted provider wants them), or what Python prints for such a
value, which is what its documentation shows and what a flow's `str(...)` gives.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from headrace.action_provider.errors import InvalidRequest
from headrace.action_provider.providers.requests import body_problems, check_body
from headrace.action_provider.providers.task_plans import AskedTask
from headrace.schemas import Violation

SCHEMA = "compute-v2-body"

_MOST_PYTHON_TEXT = 100_000
_ARGUMENTS = ("args", "kwargs", "payload")


def read_tasks(body: dict[str, Any]) -> list[AskedTask]:
    """The calls that a V2 body asks for, in order. Raises `InvalidRequest`, which names the field."""
    check_body(SCHEMA, body)
    calls = list(_calls(body))
    if not calls:
        raise _refused("/endpoint", "required", "give `endpoint` and `function`, or `tasks`")
    return [_task(pointer, field, call) for pointer, field, call in calls]


def _calls(body: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each call with where it stands: as a JSON pointer, and as errors write it."""
    if _given(body, "endpoint") or _given(body, "function"):
        for name in ("endpoint", "function"):
            if not _given(body, name):
                raise _refused("", "required", f"'{name}' is a required property of a single call")
        yield "", "$", body
    else:
        for name in _ARGUMENTS:
            if _given(body, name):
                raise _refused(f"/{name}", "dependentRequired", "belongs to `endpoint` and `function` beside it")
    for place, call in enumerate(_listed(body.get("tasks"))):
        yield f"/tasks/{place}", f"$.tasks[{place}]", call


def _given(body: dict[str, Any], name: str) -> bool:
    # Forms send what nobody has filled in as empty.
    return body.get(name) not in (None, "", [], {})


def _listed(tasks: Any) -> list[dict[str, Any]]:
    if tasks is None or isinstance(tasks, list):
        return tasks or []  # checked with the body
    if isinstance(tasks, str):
        text = tasks.strip()
        tasks = _from_text(text, "/tasks") if text else []
    if isinstance(tasks, dict):
        tasks = [tasks]
    check_body(SCHEMA, {"tasks": tasks})
    if not isinstance(tasks, list):
        raise _refused("/tasks", "type", "the text does not hold a list of calls")
    return tasks


def _task(pointer: str, field: str, call: dict[str, Any]) -> AskedTask:
    named = [name for name in ("kwargs", "payload") if _given(call, name)]
    if len(named) == 2 and call["kwargs"] != call["payload"]:
        raise _refused(
            f"{pointer}/payload", "not", "is the older name of `kwargs`, which is there, too: give one of them"
        )
    return AskedTask(
        endpoint=_uuid(call["endpoint"], f"{pointer}/endpoint"),
        function=_uuid(call["function"], f"{pointer}/function"),
        args=_args(call.get("args"), f"{pointer}/args"),
        kwargs=_kwargs(call[named[0]], f"{pointer}/{named[0]}") if named else {},
        endpoint_field=f"{field}.endpoint",
        function_field=f"{field}.function",
    )


def _uuid(text: str, pointer: str) -> UUID:
    try:
        return UUID(text.strip())
    except ValueError:
        raise _refused(pointer, "format", f"{text[:80]!r} is not a UUID") from None


def _args(given: Any, pointer: str) -> list[Any]:
    if isinstance(given, str):
        given = _argument_text(given, pointer)
    if given is None:
        return []
    if isinstance(given, dict):
        raise _refused(pointer, "type", "an object is no list of arguments: give it as `kwargs`, or within a list")
    return list(given) if isinstance(given, list | tuple) else [given]


def _argument_text(text: str, pointer: str) -> Any:
    """A list or a single value that a text holds; a text that is neither stands for itself."""
    stripped = text.strip()
    if stripped.startswith(("[", "{")):
        return _from_text(stripped, pointer)
    if not stripped:
        return None
    try:
        return [_json(stripped)]
    except ValueError:
        return [text]


def _kwargs(given: Any, pointer: str) -> dict[str, Any]:
    if isinstance(given, str):
        given = _from_text(given.strip(), pointer)
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise _refused(pointer, "type", "the text does not hold an object with names")
    return given


def _from_text(text: str, pointer: str) -> Any:
    try:
        return _json(text)
    except (ValueError, RecursionError) as error:
        problem = f"the text is not JSON: {error}"
    if len(text) <= _MOST_PYTHON_TEXT:
        try:
            return ast.literal_eval(text)  # literals only: nothing is evaluated
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    raise _refused(pointer, "contentMediaType", problem)


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number that JSON has")


def _refused(pointer: str, keyword: str, problem: str) -> InvalidRequest:
    violations = (Violation(pointer=pointer, problem=problem, keyword=keyword),)
    return InvalidRequest(body_problems(violations), violations=violations)
