"""What an `Executor` is given, checked where it is given, so that the error names the argument."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID


def uuid_or_none(value: UUID | str | None, name: str) -> UUID | None:
    """A UUID from its text; None stays None. Raises `ValueError`."""
    return None if value is None else as_uuid(value, name)


def as_uuid(value: UUID | str, name: str) -> UUID:
    """A UUID from its text. Raises `ValueError`."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        raise ValueError(f"{name} must be a UUID, not {value!r}") from None


def json_dict(value: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """A dict that JSON can carry, as it is. Raises `TypeError`."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict or None, not {type(value).__name__}")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be made of what JSON can carry: {error}") from error
    return value


def of_call(given: tuple[Any, ...], args: Any, kwargs: dict[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call in the forms of `Executor.submit_to_registered_function`. Raises `TypeError`."""
    if kwargs is not None and not isinstance(kwargs, dict):
        raise TypeError(f"kwargs must be a dict, not {type(kwargs).__name__}")
    if given and args is not None:
        raise TypeError("give the arguments either positionally or as args=, not both")
    if args is not None:
        if not isinstance(args, tuple | list):
            raise TypeError(f"args must be a tuple or list of arguments, not {type(args).__name__}; pass ({args!r},)")
        return tuple(args), kwargs or {}
    if given and isinstance(given[0], tuple):
        if len(given) == 1:
            return given[0], kwargs or {}
        if len(given) == 2 and isinstance(given[1], dict) and kwargs is None:
            return given[0], given[1]
    return given, kwargs or {}
