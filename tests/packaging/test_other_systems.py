"""The client is for laptops as well: it is imported where POSIX is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Before anything of ours: what a Windows Python does not have.
ELSEWHERE = """
import importlib, os, signal, socket, sys, time

class Elsewhere:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "uvloop"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Elsewhere())
for module, names in (
    (os, ("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getpgid", "setsid", "killpg", "fchown",
          "O_NOFOLLOW", "O_DIRECTORY", "pidfd_open", "memfd_create", "sched_getaffinity", "waitid", "setxattr")),
    (signal, ("SIGKILL", "SIGHUP", "SIGSTOP", "SIGUSR1", "pthread_sigmask")),
    (time, ("clock_gettime", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC")),
    (socket, ("AF_UNIX", "socketpair", "send_fds", "recv_fds")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

# What happens before anything is sent.
IN_USE = """
from headrace.bus.clock import elapsed_s
from headrace.sdk import Client, Executor

client = Client("http://127.0.0.1:9", "token", timeout_s=0.1)
executor = Executor(client=client)
assert elapsed_s() <= elapsed_s()
executor.shutdown()
client.close()
"""


def modules(folder: str) -> list[str]:
    return [
        f"headrace.{folder}.{path.stem}" for path in sorted((ROOT / folder).glob("*.py")) if path.stem != "__init__"
    ]


def imported_elsewhere(*names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *names], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_client_imports_no_module_that_only_posix_has() -> None:
    done = imported_elsewhere("headrace.sdk", *modules("sdk"), "headrace.schemas", *modules("schemas"))

    assert done.returncode == 0, done.stderr


def test_an_executor_is_made_and_time_passes_where_posix_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{ELSEWHERE}\n{IN_USE}"], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["fcntl", "uvloop"])
def test_the_test_hides_what_it_says(name: str) -> None:
    done = imported_elsewhere(name)

    assert done.returncode == 1
    assert f"No module named {name!r}" in done.stderr
