"""Starts a worker on the descriptors that its engine passed.

KEEPS_OUTPUT is 1 when stdout and stderr are files that the engine reads what calls print from; LIMITS are
`headrace.endpoint.worker.limits.WorkerLimits`.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import sys
from pathlib import Path

from headrace.bus.functions.serializers import Allowed
from headrace.bus.spare_memory import keep_for_messages
from headrace.endpoint.worker.calls import Calls
from headrace.endpoint.worker.frames import COUNTERS_BYTES
from headrace.endpoint.worker.limits import EXIT_OUT_OF_MEMORY, WorkerLimits, limit_memory
from headrace.endpoint.worker.loop import Worker
from headrace.endpoint.worker.printed import Printed


def main(arguments: list[str]) -> None:
    """Run a worker on the descriptors that the engine passed."""
    socket_fd, counters_fd, most_result_bytes, keeps_output = map(int, arguments[:4])
    limits = WorkerLimits.of_argument(arguments[4])
    spool, inline_bytes = (Path(arguments[5]), int(arguments[6])) if len(arguments) > 5 else (None, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which lets calls end
    for fd in (socket_fd, counters_fd):
        os.set_inheritable(fd, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are text files at start
    counters = memoryview(mmap.mmap(counters_fd, COUNTERS_BYTES)).cast("B").cast("Q")
    os.close(counters_fd)
    sys.argv = ["headrace-worker"]
    printed = Printed(counters) if keeps_output else None
    if limits.directory is not None:
        go_to(limits.directory)
    gc.freeze()
    keep_for_messages()
    allowed = Allowed.of(limits.serializers)
    calls = Calls(most_result_bytes, limits.memory_bytes, spool, inline_bytes, allowed)
    worker = Worker(socket.socket(fileno=socket_fd), counters, calls, limits, printed)
    if limits.memory_bytes is not None:
        limit_memory(limits.memory_bytes)
    try:
        worker.run()
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)


def go_to(directory: str) -> None:
    """Go where calls run. Ends the process, with the reason, where that cannot be."""
    try:
        os.makedirs(directory, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        sys.exit(f"Tasks cannot run in {directory} (working_dir of the engine): {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
