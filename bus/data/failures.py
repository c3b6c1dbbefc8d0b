"""Exceptions on their way from a worker to whoever waits: captured there, rebuilt here.

A `Failure` is readable without Python's help (type name, message and traceback are text), and holds, where possible,
the exception itself as an encoded value, so that `except ZeroDivisionError` works on the other side.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from types import TracebackType
from typing import Any, Final

import msgspec

from headrace.bus import errors
from headrace.bus.data.encodings import MSGPACK
from headrace.bus.data.values import decode, encode
from headrace.bus.errors import TaskError, TaskFailed
from headrace.bus.functions.serializers import PICKLES
from headrace.bus.structs import reader
from headrace.schemas.errors import HeadraceError

RAISED: Final = TaskFailed.code
"""The code of a failure that is an exception of the function itself. Every other code is Headrace's own verdict."""

_MOST_TEXT = 64_000
_MOST_EXCEPTION_BYTES = 256_000
_OUR_ERRORS: Final = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TaskError) and kind is not TaskFailed
}


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """Why a task has no value. `code` is `TaskFailed` when the function raised, else that of a Headrace error."""

    code: str
    type_module: str
    type_name: str
    message: str
    traceback: str = ""
    encoding: int = 0
    """How `exception` is encoded; 0 when the exception could not be."""
    exception: bytes = b""
    """The exception, or a list `[class, arguments, attributes]` of one that pickle would not restore."""
    status: int = 0
    """HTTP's, of an attempt to deliver to a sink."""
    retry_after_s: float = 0.0
    """How long the sink asked to wait."""

    @property
    def type_path(self) -> str:
        """The type as a person writes it: `ValueError`, `json.decoder.JSONDecodeError`."""
        builtin = self.type_module in ("builtins", "")
        return self.type_name if builtin else f"{self.type_module}.{self.type_name}"


class RemoteTraceback(HeadraceError):
    """The cause of a rebuilt exception; its text is the traceback on the worker."""

    code = "RemoteTraceback"

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n{self.text}"


_encode_failure = msgspec.msgpack.Encoder().encode
_read_failure = reader(Failure, "a failure")


def encode_failure(failure: Failure) -> tuple[int, bytes]:
    """(tag, bytes), for the value of a `TaskResult` that did not succeed."""
    return MSGPACK, _encode_failure(failure)


def decode_failure(data: bytes) -> Failure:
    """Read a failure; nothing is unpickled yet. Raises `DecodeError`."""
    return _read_failure(data)


def of_error(error: TaskError) -> Failure:
    """Headrace's own verdict on a task: it could not be run, was lost, expired, cancelled ..."""
    return Failure(error.code, type(error).__module__, type(error).__qualname__, _shortened(_text_of(error)))


def capture(error: BaseException, *, runner_file: str = "") -> Failure:
    """An exception that the function raised. Never raises, whatever the exception's own methods do.

    The frames of `runner_file`, and of asyncio beneath it, are left out of the traceback.
    """
    kind = type(error)
    encoding, exception = _portable(error)
    return Failure(
        RAISED,
        str(kind.__module__),
        kind.__qualname__,
        _shortened(_text_of(error)),
        _shortened(_traceback_of(error, runner_file)),
        encoding,
        exception,
    )


def rebuild(failure: Failure, *, plain_only: bool = False) -> BaseException:
    """The exception to raise for a failure: the remote one where its type is known here, with the remote traceback.

    What is no `Exception` (`SystemExit`, `KeyboardInterrupt`, `CancelledError`) comes as `TaskFailed`: a task must not
    end, or cancel, the program that waits for it. With `plain_only` nothing is unpickled: built-in exceptions come back
    with their message alone, others as `TaskFailed`.
    """
    if failure.code != RAISED:
        own = _OUR_ERRORS.get(failure.code)
        return own(failure.message) if own else TaskFailed(failure.code, failure.message, failure.traceback)
    if plain_only and failure.encoding in PICKLES:
        failure = msgspec.structs.replace(failure, encoding=0, exception=b"")
    error = _restored(failure)
    if error is None:
        error = TaskFailed(failure.type_path, failure.message, failure.traceback)
    if failure.traceback:
        error.add_note(f"\nOn the worker:\n{failure.traceback}")
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


# Text


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"<its message cannot be shown: {type(broken).__name__}>"


def _shortened(text: str) -> str:
    if len(text) > _MOST_TEXT:
        half = _MOST_TEXT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    # A lone surrogate has no place in UTF-8, which the message is going to be.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _traceback_of(error: BaseException, runner_file: str) -> str:
    try:
        frames = _without_runner(error.__traceback__, runner_file)
        lines = traceback.TracebackException(type(error), error, frames, compact=True).format()
        return "".join(lines).rstrip()
    except BaseException as broken:
        return f"{type(error).__qualname__} (its traceback cannot be shown: {type(broken).__name__})"


def _without_runner(frames: TracebackType | None, runner_file: str) -> TracebackType | None:
    first = frames
    while first is not None and runner_file:
        file = first.tb_frame.f_code.co_filename
        module = first.tb_frame.f_globals.get("__name__", "")
        if file != runner_file and not str(module).startswith("asyncio."):
            break
        first = first.tb_next
    return first if first is not None or runner_file else frames


# The exception itself


def _portable(error: BaseException) -> tuple[int, bytes]:
    """The exception as an encoded value that is known to come back, in the best form that does; (0, b"") if none."""
    if not isinstance(error, Exception):
        return 0, b""
    for form in (_whole, _flattened, _taken_apart, _only_its_text):
        try:
            tag, data = encode(form(error))
            if len(data) <= _MOST_EXCEPTION_BYTES and _is_likeness(error, _revived(decode(tag, data)), form is _whole):
                return tag, data
        except BaseException:  # noqa: S112 - constructors and reducers of users raise anything
            continue
    return 0, b""


def _is_likeness(error: BaseException, copy: Exception | None, same_text: bool) -> bool:
    # A constructor that makes its message from other arguments "restores" another message: `E("x broke broke")`.
    alike = type(copy).__qualname__ == type(error).__qualname__
    return alike and not (same_text and _text_of(error) != str(copy))


def _whole(error: BaseException) -> Any:
    return error


def _flattened(error: BaseException) -> Any:
    if not isinstance(error, BaseExceptionGroup):
        raise TypeError("not a group")
    return error.derive([_movable(inner) for inner in error.exceptions])


def _movable(error: BaseException) -> BaseException:
    try:
        decode(*encode(error))
    except Exception:  # one odd member must not cost the others their types
        kind = type(error)
        return TaskFailed(f"{kind.__module__}.{kind.__qualname__}", _text_of(error))
    return error


def _taken_apart(error: BaseException) -> Any:
    return [type(error), list(error.args), dict(vars(error))]


def _only_its_text(error: BaseException) -> Any:
    return [type(error), [_text_of(error)], {}]


def _revived(value: Any) -> Exception | None:
    if isinstance(value, Exception):
        return value
    if not isinstance(value, list):
        return None
    kind, args, attributes = value
    # Without __init__: the arguments that the author's constructor wants are not the ones that `args` holds. Those of
    # built-in types are, and a UnicodeError has no text without.
    error = kind(*args) if kind.__module__ == "builtins" else kind.__new__(kind, *args)
    error.args = tuple(args)
    error.__dict__.update(attributes)
    return error if isinstance(error, Exception) else None


def _restored(failure: Failure) -> Exception | None:
    if failure.encoding:
        try:
            error = _revived(decode(failure.encoding, failure.exception))
        except Exception:  # its type is not known here, or is another one
            return None
        return error if error is not None and _is_known_here(type(error)) else None
    # A failure that was written without Python (or too large): the built-in types are known everywhere.
    kind = getattr(builtins, failure.type_name, None) if failure.type_module == "builtins" else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(failure.message)
        except Exception:
            return None
    return None


def _is_known_here(kind: type) -> bool:
    """Whether somebody here can name the type in an `except`; a class that came along by value is a stranger."""
    place: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        place = getattr(place, name, None)
    return place is kind
