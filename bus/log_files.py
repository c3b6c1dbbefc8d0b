"""Log files that do not grow without end, also while programs write to them.

Those programs (pools, the NATS server, what tasks start) were given the open file and know of no rotation. So a long
log is copied and emptied in its place: whoever appends to it goes on at its new beginning. A line that is written
between the end of the copy and the emptying is lost; that takes some microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

LONGEST_LOG_BYTES: Final = 10 * 1024 * 1024
KEPT_LOGS: Final = 3
"""How many old ones are kept: `NAME.1` is the latest."""
_EVERY_S: Final = 5.0


def rotate(log: Path, *, longest_bytes: int = LONGEST_LOG_BYTES) -> bool:
    """Begin a log anew when it is longer; whether it was. Raises `OSError`, and the log is then as it was."""
    try:
        if log.stat().st_size <= longest_bytes:
            return False
    except FileNotFoundError:
        return False
    fresh = log.with_name(f"{log.name}.new")
    try:
        # Every writer appends, so the copy can be made while they go on.
        with log.open("r+b") as source, fresh.open("wb") as copy:
            shutil.copymode(log, fresh)
            shutil.copyfileobj(source, copy)
            for number in range(KEPT_LOGS, 1, -1):
                older = _old(log, number - 1)
                if older.exists():
                    os.replace(older, _old(log, number))
            os.replace(fresh, _old(log, 1))
            # What was written meanwhile.
            shutil.copyfileobj(source, copy)
            copy.flush()
            source.truncate(0)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return True


async def keep_short(
    logs: Callable[[], Iterable[Path]], *, every_s: float = _EVERY_S, longest_bytes: int = LONGEST_LOG_BYTES
) -> None:
    """Rotate these logs whenever they have grown long, until cancelled. `logs` is called for each look."""
    told: set[Path] = set()
    while True:
        for log in logs():
            try:
                await asyncio.to_thread(rotate, log, longest_bytes=longest_bytes)
                told.discard(log)
            except OSError as error:
                if log not in told:
                    told.add(log)
                    logger.warning(
                        "The log %s is long and cannot be begun anew: %s; trying again.",
                        log,
                        error,
                        extra={"action": "log_not_rotated"},
                    )
        await asyncio.sleep(every_s)


def _old(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
