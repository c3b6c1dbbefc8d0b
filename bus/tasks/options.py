"""How tasks are run, as people say it: checked where it is said, so that the error names the option."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.bus import mpi
from headrace.bus.errors import TaskExpired
from headrace.bus.tasks.bundles import TaskOptions

OPTION_NAMES: Final = ("task_timeout_s", "queue_timeout_s", "max_retries", "retry_delay_s", "rerun_on_loss")

JSON_RESULT: Final = TaskOptions(json_result=True)
"""How those are run whose results must be read without Python."""

MOST_RETRIES: Final = 100
MOST_SECONDS: Final = 1_000_000_000


def changed(options: TaskOptions, changes: Mapping[str, Any]) -> TaskOptions:
    """The options with these changes, named as in `OPTION_NAMES`.

    Raises `TypeError` for another name and for a value of a wrong type, `ValueError` for a value out of range; both
    name the option.
    """
    for name, value in changes.items():
        check = _CHECKS.get(name)
        if check is None:
            raise TypeError(f"{name!r} is not an option of tasks; there are {', '.join(OPTION_NAMES)}")
        check(name, value)
    return msgspec.structs.replace(options, **changes)


def with_resources(options: TaskOptions, specification: Mapping[str, Any] | None) -> TaskOptions:
    """The options with this resource specification, or with none.

    Raises `TypeError` for what JSON cannot carry, and `ValueError`, which names the key, for ranks that cannot be.
    """
    name = "resource_specification"
    if specification is None:
        return msgspec.structs.replace(options, resource_specification=b"")
    if not isinstance(specification, dict):
        raise TypeError(f"{name} must be a dict or None, not {type(specification).__name__}")
    try:
        encoded = json.dumps(specification).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be made of what JSON can carry: {error}") from error
    if mpi.is_mpi(specification):
        mpi.ranks(specification)
    return msgspec.structs.replace(options, resource_specification=encoded if specification else b"")


def waited_too_long(limit_s: float) -> TaskExpired:
    """The end of a task whose `queue_timeout_s` is over."""
    return TaskExpired(f"the task waited longer than its limit of {limit_s:g} s (queue_timeout_s); it was not started")


def of_document(document: Mapping[str, Any]) -> TaskOptions:
    """The options in a JSON document that fits the schema `task-options`, for a result in JSON."""
    given = dict(document)
    if "max_retries" in given:
        given["max_retries"] = int(given["max_retries"])  # to JSON 1.0 is an integer as well
    return TaskOptions(**given, json_result=True)


def _check_limit(name: str, value: Any) -> None:
    if value is None:
        return
    if _seconds(name, value, "a number of seconds, or None for no limit") <= 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}; None is no limit")


def _check_delay(name: str, value: Any) -> None:
    if _seconds(name, value, "a number of seconds") < 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {value!r}")


def _seconds(name: str, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if not value <= MOST_SECONDS:
        raise ValueError(f"{name} must be at most {MOST_SECONDS:,} seconds, not {value!r}")
    return value


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not 0 <= value <= MOST_RETRIES:
        raise ValueError(f"{name} must be from 0 to {MOST_RETRIES}, not {value!r}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


_CHECKS: Final = {
    "task_timeout_s": _check_limit,
    "queue_timeout_s": _check_limit,
    "max_retries": _check_count,
    "retry_delay_s": _check_delay,
    "rerun_on_loss": _check_flag,
}
