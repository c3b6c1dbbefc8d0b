"""Which functions an executor has registered, so that each is registered once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from headrace.bus.chunks import run_chunk

Function = Callable[..., Any]


class Registered:
    """The ids of functions, by the function. Any thread."""

    def __init__(self) -> None:
        self._ids: dict[Any, UUID] = {}
        self._chunks: dict[Any, Function] = {}
        self._details: dict[Any, dict[str, Any]] = {}
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock. Functions stay registered."""
        self._lock = threading.RLock()

    def find(self, fn: Function) -> UUID | None:
        """The id of a function, if it has one."""
        return self._ids.get(_key(fn))

    def register(self, fn: Function, register: Callable[[], str], *, again: bool = False) -> str:
        """The id of a function, by `register` if it has none (or `again`): one thread at a time, so only once."""
        with self._lock:
            known = None if again else self.find(fn)
            if known is None:
                known = self._ids[_key(fn)] = UUID(register())
            return str(known)

    def details(self, fn: Function, given: dict[str, Any] | None = None) -> dict[str, Any]:
        """What was said of a function when it was registered; with `given` that is what is said now."""
        if given is not None:
            self._details[_key(fn)] = given
        return self._details.get(_key(fn), {})

    def chunk(self, fn: Function) -> Function:
        """What runs a function over a tuple of calls; always the same one for a function."""
        chunk = self._chunks.get(_key(fn))
        if chunk is None:
            chunk = self._chunks.setdefault(_key(fn), functools.partial(run_chunk, fn))
        return chunk


class _Itself:
    """A key for what has no hash. It holds the function: another one could come to stand at the same place."""

    __slots__ = ("_fn",)

    def __init__(self, fn: Function) -> None:
        self._fn = fn

    def __hash__(self) -> int:
        return id(self._fn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._fn is other._fn


def _key(fn: Function) -> Any:
    try:
        hash(fn)
    except TypeError:
        return _Itself(fn)
    return fn
