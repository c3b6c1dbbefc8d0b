"""What a process of the service runs on: a quick event loop, and a calm garbage collector.

A service with 10 000 subscriptions has half a million objects that stay. With Python's usual thresholds the collector
went through them so often that it took a third of the processor time of making subscriptions, and now and then
everybody waited a quarter of a second for it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_YOUNG: Final = 10_000
_MIDDLE: Final = 20
_OLD: Final = 20


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program of this process's own to its end. Raises what it raises."""
    # What is there already, modules above all, stays as long as the process: it is never gone through again.
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # not on every system
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
