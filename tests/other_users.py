"""Users of this machine, made for a test, and an interpreter with Headrace that they may run. Needs root.

with local_user("hr-test-ada"), interpreter_for("hr-test-ada") as python:
    subprocess.run(["runuser", "-u", "hr-test-ada", "--", python, "-m", "headrace.cli.main", ...])
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def local_user(name: str) -> Iterator[Path]:
    """A user with a home, which this gives; both go at the end."""
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        yield Path(f"~{name}").expanduser()
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def interpreter_for(user: str) -> Iterator[str]:
    """An interpreter with Headrace that this user may run: ours, or Debian's with our packages."""
    if _may_run(user, sys.executable):
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="hr-test-") as place:
        Path(place).chmod(0o755)
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", place], check=True)
        packages, made = sysconfig.get_path("purelib"), f"{place}/bin/python"
        asked = [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        theirs = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        Path(theirs, "ours.pth").write_text(f"import site; site.addsitedir({packages!r})\n")
        assert _may_run(user, made), "other users may not read this checkout: put it where they may"
        yield made


def _may_run(user: str, python: str) -> bool:
    command = ["runuser", "-u", user, "--", python, "-c", "import headrace.endpoint.pool"]
    return subprocess.run(command, check=False, cwd="/", stderr=subprocess.DEVNULL).returncode == 0
