"""Arguments and results as bytes, and the tag that says how to read them.

    tag  form         carries
    1    msgpack      None, bool, int (64 bits), float, str, bytes, and lists and dicts of these
    2    pickle       whatever plain pickle restores on any machine: builtin types, types of installed packages
    3    cloudpickle  the rest: what `__main__`, notebooks and the user's own modules define goes along by value
    4    json         values from and for callers without Python; see `encode_json`
    5    object       what stands for a value too large for a message; see `headrace.bus.payloads`

A value goes as msgpack only when it comes back unchanged in value *and* type: the check compares exact types, so a
tuple, a `bool`-like, an `IntEnum` or a `numpy.float64` goes on to pickle. Tuples and sets are not worth an extension
code: walking them in Python costs more than pickle's C code does (0.5 µs for a small tuple).

Plain pickle is tried before cloudpickle because it is seven times faster (0.4 against 2.8 µs, and in proportion for
large data). It would also "succeed" for a class of the user's own module, which the worker cannot import; so the
pickler asks, for each class and function it meets, whether that is installed code, and leaves to cloudpickle otherwise.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from enum import Enum
from math import isfinite
from pathlib import PurePath
from sys import getsizeof
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final, Protocol
from uuid import UUID

import cloudpickle
import msgspec

from headrace.bus.errors import ArgumentNotSerialisable, DecodeError, PayloadTooLarge, ResultNotSerialisable
from headrace.schemas.errors import HeadraceError

MSGPACK: Final = 1
PICKLE: Final = 2
CLOUDPICKLE: Final = 3
JSON: Final = 4
OBJECT: Final = 5

ENCODING_NAMES: Final = {
    MSGPACK: "msgpack",
    PICKLE: "pickle",
    CLOUDPICKLE: "cloudpickle",
    JSON: "json",
    OBJECT: "object",
}

INLINE_BYTES: Final = 4 * 1024 * 1024
"""What is encoded in more bytes than this goes through the object store; see `inline_bytes`."""

_PROTOCOL = 5
_MOST_CONTAINERS = 10_000
_MOST_JSON_DEPTH = 200

_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_LEAVES_OR_CONTAINERS = _SCALARS | {list, dict}
_KEYS = frozenset({str, int})

_NO_ARGUMENTS = _to_msgpack(((), {}))


def inline_bytes(max_payload: int) -> int:
    """How many bytes of a value go in a message, where the bus takes messages of `max_payload` bytes."""
    return min(INLINE_BYTES, max_payload // 2)


# One value


def encode(value: Any, *, most: int | None = None) -> tuple[int, bytes]:
    """The value as (tag, bytes), in the first of msgpack, pickle and cloudpickle that gives it back unchanged.

    Raises what cloudpickle raised (any exception) when nothing can carry it, and `PayloadTooLarge` when these would be
    more than `most` bytes, as soon as that shows: a large array has not been copied then.
    """
    kind = type(value)
    if kind in _SCALARS or ((kind is list or kind is dict) and _is_plain(value)):
        if most is not None and (kind is bytes or kind is str) and len(value) > most:
            raise _too_large(most)
        try:
            return MSGPACK, _to_msgpack(value)
        except (OverflowError, UnicodeEncodeError, RecursionError):
            pass  # an integer beyond 64 bits, a lone surrogate, deep nesting: pickle knows how
    return _encode_python(value, most)


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


def _is_plain(root: Any) -> bool:
    """Whether lists and dicts, all the way down, hold only exact scalars (and dicts only exact str or int keys)."""
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


def _encode_python(value: Any, most: int | None = None) -> tuple[int, bytes]:
    buffer = _Buffer() if most is None else _BoundedBuffer(most)
    return pickle_into(value, buffer), buffer.getvalue()


class _Buffer(io.BytesIO):
    def clear(self) -> None:
        self.seek(0)
        self.truncate()


class _BoundedBuffer:
    __slots__ = ("_most", "_pieces", "_room")

    def __init__(self, most: int) -> None:
        self._most = self._room = most
        self._pieces: list[bytes] = []

    def write(self, data: Any, /) -> int:
        # A pickler hands over what is large piece by piece, and everything small at once, at its end.
        view = data.raw() if type(data) is pickle.PickleBuffer else data
        size = len(view) if type(view) is bytes else memoryview(view).nbytes
        self._room -= size
        if self._room < 0:
            raise _too_large(self._most)
        self._pieces.append(bytes(view))
        return size

    def clear(self) -> None:
        self._pieces.clear()
        self._room = self._most

    def getvalue(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a value of more than {most} bytes", size=most + 1, limit=most)


class Sink(Protocol):
    """Takes a pickle piece by piece; `clear` forgets what was written."""

    def write(self, data: Any, /) -> int: ...

    def clear(self) -> None: ...


def pickle_into(value: Any, sink: Sink) -> int:
    """Write the value's pickle to `sink`, so that it is never in memory as a whole; gives its tag.

    Raises what cloudpickle raised (any exception) when nothing can carry it, and `PayloadTooLarge` when the sink does.
    """
    try:
        _InstalledCodePickler(sink, _PROTOCOL).dump(value)
    except (PayloadTooLarge, MemoryError):
        raise
    except Exception:  # the pickler refuses in many ways, and user code may raise anything
        sink.clear()
        _dump_by_value(value, sink)
        return CLOUDPICKLE
    return PICKLE


# Code that goes by value


class _NotInstalledError(HeadraceError):
    """A class or function of the user's own: a worker cannot import it."""


class _InstalledCodePickler(pickle.Pickler):
    """Plain pickle that refuses references to code a worker cannot be expected to have."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType | BuiltinFunctionType) and not is_installed(_module_name(obj)):
            raise _NotInstalledError
        return NotImplemented


def _module_name(obj: Any) -> str:
    return getattr(obj, "__module__", None) or "builtins"


_INSTALLED_FOLDERS = ("site-packages", "dist-packages")
_installed: dict[str, bool] = {"builtins": True, "__main__": False, "__mp_main__": False}
_need_no_look = {"builtins", "__main__", "__mp_main__"}
"""Modules that are installed, or go by value without having been registered."""


def is_installed(module_name: str) -> bool:
    """Whether a module is the standard library's, Headrace's or an installed package's: it goes by reference.

    Everything else (`__main__`, notebooks, files beside the user's program, editable installations) goes by value.
    """
    known = _installed.get(module_name)
    if known is not None:
        return known
    module = sys.modules.get(module_name)
    if module is None:
        return False  # it was made, not imported; perhaps it is imported later, so nothing is remembered
    known = _installed[module_name] = _is_installed(module)
    if known:
        _need_no_look.add(module_name)
    return known


def _is_installed(module: ModuleType) -> bool:
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    if top.__name__ == "headrace" or module.__name__.startswith("headrace."):
        return True
    spec = getattr(module, "__spec__", None)
    origin = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if origin in (None, "built-in", "frozen"):
        return spec is not None
    if any(folder in PurePath(origin).parts for folder in _INSTALLED_FOLDERS):
        return True
    return str(origin).startswith(_standard_library())


@functools.cache
def _standard_library() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


_by_value_lock = threading.RLock()


def pickle_by_value(value: Any) -> bytes:
    """Cloudpickle, with the code of the user's own modules inside; `decode` reads it under the tag `CLOUDPICKLE`.

    When something in those modules cannot be pickled (an open connection in a global, say), they go by reference, which
    serves where the worker has them too. Raises what cloudpickle raised.
    """
    buffer = _Buffer()
    _dump_by_value(value, buffer)
    return buffer.getvalue()


def _dump_by_value(value: Any, sink: Sink) -> None:
    with _by_value_lock:
        modules = _register_own_modules()
        try:
            cloudpickle.dump(value, sink, _PROTOCOL)
            return
        except PayloadTooLarge:
            raise
        except Exception:
            if not modules:
                raise
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)
    sink.clear()
    cloudpickle.dump(value, sink, _PROTOCOL)


def _register_own_modules() -> list[ModuleType]:
    # Modules that the user registered stay registered; only ours are taken back.
    already = cloudpickle.cloudpickle.list_registry_pickle_by_value()
    registered = []
    for name in set(sys.modules) - _need_no_look:
        module = sys.modules.get(name)
        if name in already or type(module) is not ModuleType or module.__name__ != name or is_installed(name):
            continue
        cloudpickle.register_pickle_by_value(module)
        registered.append(module)
    return registered


# Arguments


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], *, most: int | None = None) -> tuple[int, bytes]:
    """The arguments of a call as one value. Raises `ArgumentNotSerialisable`, which names the argument, and
    `PayloadTooLarge` when it would be more than `most` bytes, as soon as that shows."""
    if not args and not kwargs:
        return MSGPACK, _NO_ARGUMENTS
    if _are_plain(args) and (not kwargs or _are_plain(kwargs.values())):
        if most is not None and (
            sum(map(getsizeof, args)) > most or (kwargs and sum(map(getsizeof, kwargs.values())) > most)
        ):
            raise _too_large(most)
        try:
            data = _to_msgpack((args, kwargs))
        except (OverflowError, UnicodeEncodeError, RecursionError):
            pass
        else:
            if most is not None and len(data) > most:
                raise _too_large(most)
            return MSGPACK, data
    try:
        return _encode_python((args, kwargs), most)
    except PayloadTooLarge:
        raise
    except Exception as error:
        raise _argument_refused(args, kwargs, error, _encode_python) from error


def _are_plain(values: Any) -> bool:
    for value in values:
        kind = type(value)
        if kind not in _SCALARS and not ((kind is list or kind is dict) and _is_plain(value)):
            return False
    return True


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
                f"{name}, of type {_type_name(value)}, cannot be sent to a worker: {type(error).__name__}: {error}. "
                "Send plain data or a path, and open connections, files and locks inside the function"
            )
    return ArgumentNotSerialisable(f"the arguments cannot be sent to a worker: {type(cause).__name__}: {cause}")


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# JSON


def encode_json(value: Any) -> bytes:
    """The value as JSON (RFC 8259). Raises `ResultNotSerialisable`, which names the place inside the value.

    None, bool, int, float and str go as they are, with these additions:

    - list, tuple, range and numpy arrays are arrays; a set is an array in sorted order;
    - a dict, a dataclass or a msgspec Struct is an object; keys are strings, or ints, dates, UUIDs ... as their text;
    - numpy scalars are what `item()` gives, an Enum is its value;
    - datetime, date and time are ISO 8601 text; UUID, Path and Decimal are their text.

    NaN and infinities are refused, for JSON has none, and so are bytes, whose text form only the author knows.
    """
    try:
        document = _jsonable(value, 0)
        try:
            return _to_json(document)
        except OverflowError:
            import json

            return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except _NotJsonError as error:
        where = "$" + "".join(reversed(error.path))
        raise ResultNotSerialisable(f"the value cannot be given as JSON: at {where}: {error.problem}") from None
    except UnicodeEncodeError as error:
        raise ResultNotSerialisable(
            f"the value cannot be given as JSON: a text is not valid Unicode: {error}"
        ) from error


class _NotJsonError(HeadraceError):
    """Unwinds from the place that JSON cannot carry; every level above adds its step to `path`, innermost first."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []
        super().__init__(problem)


_AS_IT_IS = frozenset({type(None), bool, int, str})


def _jsonable(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is float:
        return _finite(value)
    if depth > _MOST_JSON_DEPTH:
        raise _NotJsonError(f"more than {_MOST_JSON_DEPTH} levels deep, or it contains itself")
    if kind is list or kind is tuple:
        return _array(value, depth)
    if kind is dict:
        return _object(value, depth)
    return _jsonable_by_kind(value, depth)


def _jsonable_by_kind(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per rule
    if isinstance(value, Enum):
        return _jsonable(value.value, depth + 1)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID | PurePath) or _type_name(value) == "decimal.Decimal":
        return str(value)
    if isinstance(value, str):  # of a subclass: what it is beneath
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _numpy(value, depth)
    if isinstance(value, float):
        return _finite(float(value))
    if isinstance(value, Mapping):
        return _object(value, depth)
    if isinstance(value, list | tuple | range):
        return _array(value, depth)
    if isinstance(value, set | frozenset):
        return _sorted_array(value, depth)
    fields = _fields(value)
    if fields is not None:
        return _object(fields, depth)
    raise _NotJsonError(_refusal(value))


def _finite(value: float) -> float:
    if not isfinite(value):
        raise _NotJsonError(f"{value} is a number that JSON does not have; return None, or a text, in its place")
    return value


def _numpy(value: Any, depth: int) -> Any:
    kind = value.dtype.kind
    if kind == "M":  # nanoseconds come out of `tolist` as bare integers
        return _jsonable(value.astype("datetime64[us]").tolist(), depth + 1)
    if kind in "mVSc":
        raise _NotJsonError(f"numpy values of dtype {value.dtype} have no JSON form; convert them first")
    return _jsonable(value.tolist(), depth + 1)


def _array(items: Any, depth: int) -> list[Any]:
    result = []
    for place, item in enumerate(items):
        try:
            result.append(_jsonable(item, depth + 1))
        except _NotJsonError as error:
            error.path.append(f"[{place}]")
            raise
    return result


def _sorted_array(items: Any, depth: int) -> list[Any]:
    result = _array(items, depth)
    try:
        return sorted(result)
    except TypeError:  # of several types: any order serves, if it is always the same
        return sorted(result, key=_to_json)


def _object(items: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in items.items():
        try:
            name = key if type(key) is str else _key(key, depth)
            if name in result:
                raise _NotJsonError(f"two keys have the text {name!r}")
            result[name] = _jsonable(item, depth + 1)
        except _NotJsonError as error:
            error.path.append(f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]")
            raise
    return result


def _key(key: Any, depth: int) -> str:
    text = None if isinstance(key, tuple | frozenset | bool) else _jsonable(key, depth + 1)
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise _NotJsonError(f"a key of type {_type_name(key)}; keys of JSON objects are text, so convert it")
    return str(text)


def _fields(value: Any) -> dict[str, Any] | None:
    kind = type(value)
    names = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__struct_fields__", None)
    return None if names is None else {name: getattr(value, name) for name in names if hasattr(value, name)}


def _refusal(value: Any) -> str:
    name = f"type {_type_name(value)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{name}; return text instead, for instance base64.b64encode(...).decode()"
    if hasattr(value, "to_dict"):
        return f"{name}; return plain data instead, for instance value.to_dict()"
    if hasattr(value, "__next__"):
        return f"{name}; return list(...) of it instead"
    return f"{name} has no JSON form; return plain data (numbers, text, lists, dicts) instead"
