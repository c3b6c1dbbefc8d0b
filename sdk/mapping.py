"""`Executor.map`: results in the order of the input, with all calls submitted at once or a window of them."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from headrace.sdk.future import TaskFuture

Calls = Iterator[tuple[Any, ...]]


def window(buffersize: Any) -> int | None:
    """The argument `buffersize` of `map`. Raises `TypeError` and `ValueError`."""
    if buffersize is None:
        return None
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError(f"buffersize is a whole number or None, not {buffersize!r}")
    if buffersize < 1:
        raise ValueError(f"buffersize is at least 1, not {buffersize}")
    return buffersize


def chunks(calls: Calls, size: int) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """The calls in tuples of `size`."""
    while chunk := tuple(itertools.islice(calls, size)):
        yield chunk


def results(futures: Iterable[TaskFuture], *, buffersize: int | None, timeout: float | None) -> Iterator[Any]:
    """The results of futures that are made by iterating, in their order.

    All are made now, or (`buffersize`) so many, and then one for each result that is taken. `timeout`: seconds from
    this call. What is not taken is cancelled.
    """
    end = None if timeout is None else time.monotonic() + timeout
    more = iter(futures)
    waiting: deque[TaskFuture] = deque()
    try:
        waiting.extend(itertools.islice(more, buffersize))
    except BaseException:
        # There is no room for the next one, or Ctrl-C while it waited: nobody will take these results.
        _cancel(waiting)
        raise
    return _in_order(waiting, more, end)


def _in_order(waiting: deque[TaskFuture], more: Iterator[TaskFuture], end: float | None) -> Iterator[Any]:
    # As in the standard library: what is not consumed is cancelled, and a yielded result is let go of.
    try:
        while waiting:
            waiting.extend(itertools.islice(more, 1))
            left = None if end is None else end - time.monotonic()
            yield waiting.popleft().result(left)
    finally:
        _cancel(waiting)


def _cancel(futures: Iterable[TaskFuture]) -> None:
    for future in futures:
        future.cancel()
