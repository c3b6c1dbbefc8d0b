"""Arguments and results as bytes, and the tag that says how to read them (`headrace.bus.data.encodings`).

A value goes as msgpack only when it comes back unchanged in value *and* type: the check compares exact types, so a
tuple, a `bool`-like, an `IntEnum` or a `numpy.float64` goes on to pickle. Tuples and sets are not worth an extension
code: walking them in Python costs more than pickle's C code does (0.5 µs for a small tuple).
"""

from __future__ import annotations

import pickle
from collections.abc import Collection
from typing import Any

import msgspec

from headrace.bus.data.encodings import CLOUDPICKLE, ENCODING_NAMES, INLINE_BYTES, JSON, MSGPACK, OBJECT, PICKLE
from headrace.bus.data.pickles import pickled, too_large
from headrace.bus.errors import DecodeError

_MOST_CONTAINERS = 10_000

_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode
_from_json = msgspec.json.Decoder().decode

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_LEAVES_OR_CONTAINERS = _SCALARS | {list, dict}
_KEYS = frozenset({str, int})


def encode(value: Any, *, most: int | None = None) -> tuple[int, bytes]:
    """The value as (tag, bytes), in the first of msgpack, pickle and cloudpickle that gives it back unchanged.

    Raises what cloudpickle raised (any exception) when nothing can carry it, and `PayloadTooLarge` when bytes, a text
    or a pickle would be more than `most` bytes, as soon as that shows: a large array has not been copied then. Lists
    and dicts that go as msgpack may come out longer.
    """
    kind = type(value)
    if kind in _SCALARS or ((kind is list or kind is dict) and _holds_plain(value)):
        if most is not None and (kind is bytes or kind is str) and len(value) > most:
            raise too_large(most)
        try:
            return MSGPACK, _to_msgpack(value)
        except (OverflowError, UnicodeEncodeError, RecursionError):
            pass  # an integer beyond 64 bits, a lone surrogate, deep nesting: pickle knows how
    return pickled(value, most)


def decode(tag: int, data: bytes) -> Any:
    """The value again. Raises `DecodeError`, which names the cause: a package that is not installed here, say."""
    try:
        if tag == MSGPACK:
            return _from_msgpack(data)
        if tag in (PICKLE, CLOUDPICKLE):
            return pickle.loads(data)  # noqa: S301 - by design; the service itself never calls this
        if tag == JSON:
            return _from_json(data)
    except Exception as error:
        raise unreadable(tag, error, data) from error
    if tag == OBJECT:
        raise DecodeError("the value lies in the object store, which cannot be read from here", raw=data)
    raise DecodeError(f"a value with the unknown encoding tag {tag}: a newer release of Headrace wrote it", raw=data)


def unreadable(tag: int, error: Exception, data: bytes = b"") -> DecodeError:
    """What to raise when decoding a value raised `error`."""
    return DecodeError(_unreadable(tag, error), raw=data)


def _unreadable(tag: int, error: Exception) -> str:
    problem = f"a {ENCODING_NAMES[tag]} value cannot be read here: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        return f"{problem}; install the package that provides {error.name!r} here, at the version of the other side"
    if isinstance(error, AttributeError | ImportError):
        return f"{problem}; the package that provides it has another version here than on the other side"
    return problem


def are_plain(values: Collection[Any]) -> bool:
    """Whether msgpack gives these back unchanged: exact scalars, and lists and dicts that, all the way down, hold only
    these (and dicts only exact str or int keys). It may still refuse one: an integer beyond 64 bits, say."""
    return _SCALARS.issuperset(map(type, values)) or all(map(_is_plain, values))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in _SCALARS or ((kind is list or kind is dict) and _holds_plain(value))


def _holds_plain(root: Any) -> bool:
    containers, room = [root], INLINE_BYTES
    for container in containers:  # grows while we walk; a value that contains itself runs into the limit
        if type(container) is dict:
            if not _KEYS.issuperset(map(type, container)):
                return False
            items: Any = container.values()
        else:
            items = container
        kinds = set(map(type, items))
        if bytes in kinds:
            # Together too large for a message: pickled into a file then, where msgpack would make one more copy of all.
            room -= sum(len(item) for item in items if type(item) is bytes)
            if room < 0:
                return False
        if not kinds <= _SCALARS:
            if not kinds <= _LEAVES_OR_CONTAINERS or len(containers) > _MOST_CONTAINERS:
                return False
            containers += [item for item in items if type(item) is list or type(item) is dict]
    return True
