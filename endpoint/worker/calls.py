"""Calls: functions loaded, arguments read, run, and what came of it as data."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CoroutineType
from typing import Any

from headrace.bus.data.arguments import decode_arguments
from headrace.bus.data.encodings import JSON, OBJECT
from headrace.bus.data.failures import capture, encode_failure, of_error
from headrace.bus.data.json_values import encode_json
from headrace.bus.data.values import encode
from headrace.bus.errors import (
    ArgumentNotSerialisable,
    DecodeError,
    PayloadTooLarge,
    ResultNotSerialisable,
    TaskError,
)
from headrace.bus.functions.code import FunctionCode, load, show_lines
from headrace.bus.functions.serializers import ALL, Allowed
from headrace.endpoint.worker.frames import RAISED, REFUSED, SUCCEEDED
from headrace.endpoint.worker.limits import with_hint

Outcome = tuple[int, int, bytes]
"""Whether it succeeded, raised or was refused; how the value is encoded; the value."""


class Calls:
    """Runs calls, one at a time, and keeps the functions that it has loaded."""

    def __init__(
        self,
        most_result_bytes: int,
        memory_bytes: int | None,
        spool: Path | None,
        inline_bytes: int,
        allowed: Allowed = ALL,
        *,
        in_threads: bool = False,
    ) -> None:
        """`in_threads`: calls run at the same time in one process."""
        self._most_result_bytes = most_result_bytes
        self._memory_bytes = memory_bytes
        self._spool = spool
        self._inline_bytes = inline_bytes
        self._allowed = allowed
        self._reads_all = allowed == ALL
        self._in_threads = in_threads
        self._recursion_limit = sys.getrecursionlimit()
        self._loading = threading.RLock()
        self._functions: dict[int, Callable[..., Any]] = {}
        self._codes: dict[int, FunctionCode] = {}
        self._has_modules = False

    def learn(self, functions: Iterable[tuple[int, FunctionCode]], *, forget: bool) -> None:
        """Take in code that calls will name by number; `forget` drops what was known before."""
        if forget:
            self._functions.clear()
            self._codes.clear()
        new = dict(functions)
        self._codes.update(new)
        self._has_modules = self._has_modules or any(code.modules for code in new.values())

    def forget(self, number: int) -> None:
        """Drop a function that no call will name any more."""
        self._functions.pop(number, None)
        self._codes.pop(number, None)

    def run(self, number: int, encoding: int, arguments: bytes, json_result: bool) -> Outcome:
        """Run a function on encoded arguments. Never raises: whatever happens is an outcome."""
        try:
            if self._has_modules:
                self._take_modules(self._codes[number])
            function = self._functions.get(number)
            if function is None:
                function = self._load(number)
            if not self._reads_all:
                self._allowed.check_data(encoding, arguments)
            args, kwargs = _read_arguments(encoding, arguments, self._spool)
        except BaseException as error:
            return self.refused(error)
        try:
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _run_coroutine(value)
        except BaseException as error:
            return self._raised(number, function, error)
        finally:
            if sys.getrecursionlimit() != self._recursion_limit:
                sys.setrecursionlimit(self._recursion_limit)
        try:
            return SUCCEEDED, *self._encoded(value, json_result)
        except BaseException as error:
            return self.refused(error)

    def _encoded(self, value: Any, json_result: bool) -> tuple[int, bytes]:
        try:
            tag, data = self._inline(value, json_result)
            if len(data) > self._inline_bytes and self._spool is not None:
                tag, data = _spilled(tag, data, self._spool, self._most_result_bytes)
        except (ResultNotSerialisable, MemoryError):
            raise
        except PayloadTooLarge as error:
            raise _too_large(error.size, self._most_result_bytes) from error
        except BaseException as error:
            raise _unserialisable(value, error) from error
        if len(data) > self._most_result_bytes:
            raise _too_large(len(data), self._most_result_bytes)
        return tag, data

    def _inline(self, value: Any, json_result: bool) -> tuple[int, bytes]:
        if json_result:
            return JSON, encode_json(value)
        if self._spool is None:
            return encode(value)
        try:
            return encode(value, most=self._inline_bytes)
        except PayloadTooLarge:
            return _spilled(None, value, self._spool, self._most_result_bytes)

    def refused(self, error: BaseException) -> Outcome:
        """The outcome of a call that could not be started, or whose result cannot be sent."""
        if isinstance(error, TaskError):
            return REFUSED, *encode_failure(of_error(error))
        return REFUSED, *encode_failure(capture(self._hinted(error), runner_file=__file__))

    def _load(self, number: int) -> Callable[..., Any]:
        # Threads that share the functions must share the state of their modules, too.
        with self._loading:
            function = self._functions.get(number)
            if function is None:
                function = self._functions[number] = load(self._allowed.of_code(self._codes[number]))
        return function

    def _take_modules(self, code: FunctionCode) -> None:
        # Loaded by those who need it: most workers never meet a function with modules.
        from headrace.bus.functions import modules

        self._allowed.of_code(code)
        if not self._in_threads:
            modules.activate(code.modules)
        elif code.modules:
            modules.add(code.modules)

    def _raised(self, number: int, function: Callable[..., Any], error: BaseException) -> Outcome:
        with contextlib.suppress(BaseException):  # lines are a courtesy, and a callable may be very odd
            show_lines(self._codes[number], function)
        return RAISED, *encode_failure(capture(self._hinted(error), runner_file=__file__))

    def _hinted(self, error: BaseException) -> BaseException:
        limit_bytes = self._memory_bytes
        return with_hint(error, limit_bytes) if limit_bytes and isinstance(error, MemoryError) else error


def _read_arguments(encoding: int, arguments: bytes, spool: Path | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        if encoding == OBJECT and spool is not None:
            return _joined(arguments, spool)
        return decode_arguments(encoding, arguments)
    except DecodeError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        raise ArgumentNotSerialisable(f"the arguments cannot be read on the worker: {error}") from error


def _joined(arguments: bytes, spool: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Loaded by those who need it: most workers never meet a large payload.
    from headrace.bus.data.payloads import join_arguments
    from headrace.endpoint.worker.spool import object_path

    return join_arguments(arguments, lambda part: object_path(spool, part))


def _spilled(tag: int | None, value: Any, spool: Path, most_bytes: int) -> tuple[int, bytes]:
    """A large value (or, with a tag, what it is encoded as) put into a file, from which the agent takes it."""
    from headrace.bus.data.payloads import spill_encoded, spill_result
    from headrace.endpoint.worker.spool import open_result

    def open_file() -> Any:
        return open_result(spool)

    if tag is None:
        return spill_result(value, open_file, most=most_bytes)
    return spill_encoded(tag, value, open_file, most=most_bytes)


def _run_coroutine(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _unserialisable(value: Any, error: BaseException) -> ResultNotSerialisable:
    kind = type(value)
    hint = "return list(...) of it" if hasattr(value, "__next__") else "return plain data, or a path to a file"
    return ResultNotSerialisable(
        f"the result, of type {kind.__module__}.{kind.__qualname__}, cannot be sent back: "
        f"{type(error).__name__}: {error}. Instead, {hint}"
    )


def _too_large(size: int, limit: int) -> ResultNotSerialisable:
    return ResultNotSerialisable(
        f"the result has at least {size} bytes and the limit of this endpoint is {limit}: return less, or write a file"
        " and return its path"
    )
