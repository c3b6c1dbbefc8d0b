"""The arguments of a call as one value, and which argument it is that cannot be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import getsizeof
from typing import Any

import msgspec

from headrace.bus.data.encodings import JSON, MSGPACK
from headrace.bus.data.json_values import encode_json, type_name
from headrace.bus.data.pickles import pickled, too_large
from headrace.bus.data.values import are_plain, decode
from headrace.bus.errors import ArgumentNotSerialisable, DecodeError, PayloadTooLarge, ResultNotSerialisable

_to_msgpack = msgspec.msgpack.Encoder().encode

_NO_ARGUMENTS = _to_msgpack(((), {}))


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], *, most: int | None = None) -> tuple[int, bytes]:
    """The arguments of a call as one value. Raises `ArgumentNotSerialisable`, which names the argument, and
    `PayloadTooLarge` when it would be more than `most` bytes, as soon as that shows."""
    if not args and not kwargs:
        return MSGPACK, _NO_ARGUMENTS
    if are_plain(args) and (not kwargs or are_plain(kwargs.values())):
        if most is not None and (
            sum(map(getsizeof, args)) > most or (kwargs and sum(map(getsizeof, kwargs.values())) > most)
        ):
            raise too_large(most)
        try:
            data = _to_msgpack((args, kwargs))
        except (OverflowError, UnicodeEncodeError, RecursionError):
            pass
        else:
            if most is not None and len(data) > most:
                raise too_large(most)
            return MSGPACK, data
    try:
        return pickled((args, kwargs), most)
    except PayloadTooLarge:
        raise
    except Exception as error:
        raise _argument_refused(args, kwargs, error, pickled) from error


def encode_json_arguments(args: Any, kwargs: Mapping[str, Any]) -> tuple[int, bytes]:
    """Arguments that came as JSON (HTTP, events), for which no pickle is made. Raises `ArgumentNotSerialisable`."""
    try:
        return JSON, encode_json({"args": list(args), "kwargs": dict(kwargs)})
    except ResultNotSerialisable as error:
        raise _argument_refused(args, kwargs, error, encode_json) from error


def decode_arguments(tag: int, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) again, whichever of the two functions encoded them. Raises `DecodeError`."""
    if data == _NO_ARGUMENTS and tag == MSGPACK:
        return (), {}
    value = decode(tag, data)
    try:
        args, kwargs = (value["args"], value["kwargs"]) if tag == JSON else value
        if not isinstance(kwargs, dict):
            raise TypeError(f"kwargs is a {type(kwargs).__name__}")
        return tuple(args), kwargs
    except (TypeError, ValueError, KeyError) as error:
        raise DecodeError(f"not the arguments of a call: {error}", raw=data) from error


def _argument_refused(
    args: Any, kwargs: Mapping[str, Any], cause: Exception, form: Callable[[Any], Any]
) -> ArgumentNotSerialisable:
    # Only now, when it has failed, is each argument tried alone: to name the one that cannot go.
    named = [(f"argument {place + 1}", value) for place, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            form(value)
        except Exception as error:
            return ArgumentNotSerialisable(
                f"{name}, of type {type_name(value)}, cannot be sent to a worker: {type(error).__name__}: {error}. "
                "Send plain data or a path, and open connections, files and locks inside the function"
            )
    return ArgumentNotSerialisable(f"the arguments cannot be sent to a worker: {type(cause).__name__}: {cause}")
