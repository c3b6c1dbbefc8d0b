"""A program that goes on in the background when its command has ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace.cli.child import last_lines
from headrace.cli.errors import CommandError
from headrace.schemas import HeadraceError

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.05


def run_detached(program: Callable[[], None], *, is_ready: Callable[[], bool], log: Path, within_s: float) -> int:
    """Run `program` in a process and a session of its own; its id, once it is ready or `within_s` are over.

    What it says goes to the log that it has set up itself. Raises `CommandError`, with the end of the log, when it ends
    before it is ready.
    """
    # No thread runs yet, so the child may simply go on.
    pid = os.fork()
    if pid == 0:
        _be_detached(program)
    until = time.monotonic() + within_s
    while not is_ready() and time.monotonic() < until:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise CommandError(f"it ended at its start; the end of {log}:{last_lines(log)}")
        time.sleep(_LOOK_S)
    return pid


def _be_detached(program: Callable[[], None]) -> None:
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        program()
        status = 0
    except HeadraceError as error:
        logger.error("%s", error)
    except BaseException:
        logger.exception("The program ended.")
    finally:
        logging.shutdown()
        os._exit(status)
