"""Starts a worker in a container: run as a file there, with the Python of an image that may have nothing else.

    python3 in_container.py headrace.endpoint.worker DIRECTORY KEEPS_OUTPUT ...
    python3 in_container.py headrace.endpoint.worker --check

DIRECTORY is where the engine waits (`headrace.endpoint.engines.containers.meeting`); what follows is for the worker.
Before it is known what Python this is, nothing here may need a new one.
"""

from __future__ import annotations

import os
import socket
import sys

_LEAST = (3, 11)
_BUFFER_BYTES = 2 * 1024 * 1024


def main(arguments: list[str]) -> None:
    """Join the engine, and be a worker."""
    if sys.version_info < _LEAST:
        major, minor = sys.version_info[:2]
        sys.exit(f"The image has Python {major}.{minor}; Headrace's workers need 3.11 or newer.")
    _find_modules()
    if arguments == ["--check"]:
        return
    if os.getpid() == 1:
        _be_init()
    from headrace.endpoint.worker import spool
    from headrace.endpoint.worker.__main__ import main as work

    directory, keeps_output = arguments[0], arguments[2]
    connection = _arrive(directory)
    spool.be_known_as(int.from_bytes(connection.recv(8), "little"))
    counters = os.open(os.path.join(directory, "counters"), os.O_RDWR)
    if keeps_output == "1":
        for number, name in ((1, "stdout"), (2, "stderr")):
            fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_APPEND)
            os.dup2(fd, number)
            os.close(fd)
    work([str(connection.detach()), str(counters), *arguments[1:]])


def _be_init() -> None:
    """Go on in a child, and be to it what the first process of a system is.

    The kernel spares a first process signals, also those of a crash, and gives it the orphans of all others to bury.
    """
    worker = os.fork()
    if worker == 0:
        return
    ended, status = 0, 0
    while ended != worker:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _find_modules() -> None:
    """Headrace's code as it was brought along; the image's own dependencies before those that were."""
    code = os.path.abspath(__file__)
    for _ in range(4):
        code = os.path.dirname(code)
    sys.path[0] = code
    sys.path.append(os.path.join(code, "dependencies"))
    try:
        import cloudpickle  # noqa: F401 - that it can be imported is what is asked
        import msgspec  # noqa: F401 - likewise
    except ImportError as error:
        sys.exit(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} of the image cannot use the msgspec and cloudpickle of"
            f" the endpoint, which has another Python or C library ({error}): install both in the image"
            " (pip install msgspec cloudpickle), or take one with the endpoint's Python."
        )


def _arrive(directory: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    home = os.getcwd()
    os.chdir(directory)  # the path of a socket may have 107 bytes only
    connection.connect("socket")
    os.chdir(home)
    return connection


if __name__ == "__main__":
    main(sys.argv[2:])
