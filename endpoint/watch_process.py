"""The watcher of files as a child process of the manager: what befalls it does not touch the endpoint's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from typing import Any, Final
from uuid import UUID

from headrace.bus.installation.private_files import write_private
from headrace.bus.network import Network
from headrace.bus.parent import die_with_parent
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.watch.report import STATUS_FILE
from headrace.schemas import HeadraceError

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
_STABLE_AFTER_S: Final = 10.0
_GRACE_S: Final = 4.0


def watch_settings(
    directory: EndpointDirectory, config: EndpointConfig, *, url: str, endpoint_id: UUID, network: Network
) -> dict[str, Any] | None:
    """What `headrace.endpoint.watch` reads; None when no folder is watched."""
    if not config.watch:
        return None
    return {
        "service_url": url,
        "endpoint_id": str(endpoint_id),
        "token_path": str(directory.token_file),
        "folders": [rule.document() for rule in config.watch],
        "network": network.document(),
        "log_level": config.log_level,
    }


class WatchProcess:
    """Runs the watcher while there is something to watch, with the settings of the moment."""

    def __init__(self, directory: EndpointDirectory, settings: dict[str, Any] | None) -> None:
        self._directory = directory
        self._settings = settings
        self._changed = asyncio.Event()

    def change(self, settings: dict[str, Any] | None) -> None:
        """Go by these from now on. Nothing is missed meanwhile: the new watcher looks at what is there."""
        if settings != self._settings:
            self._settings = settings
            self._changed.set()

    async def run(self) -> None:
        """Keep it running, until cancelled; then it is ended."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._changed.clear()
            if self._settings is None:
                # What the last one said is true no more.
                with contextlib.suppress(OSError):
                    (self._directory.watch_path / STATUS_FILE).unlink(missing_ok=True)
                await self._changed.wait()
                continue
            began = time.monotonic()
            status = await self._run_once(self._settings)
            if self._changed.is_set():
                pause_s = _FIRST_PAUSE_S
                continue
            if time.monotonic() - began > _STABLE_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            logger.error(
                "The watcher of files ended (status %s); starting it again in %g s. Nothing is missed.",
                status,
                pause_s,
                extra={"action": "watcher_ended"},
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _run_once(self, settings: dict[str, Any]) -> str:
        """Start it, and wait until it ends or the settings change; how it ended."""
        try:
            process = await self._start(settings)
        except (OSError, HeadraceError) as error:
            # A full disk, say. The endpoint goes on.
            return str(error)
        ended = asyncio.create_task(process.wait(), name="watcher")
        changed = asyncio.create_task(self._changed.wait(), name="changes of the watched folders")
        try:
            await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            await _end(process)
            await asyncio.gather(ended, changed, return_exceptions=True)
        return str(process.returncode)

    async def _start(self, settings: dict[str, Any]) -> asyncio.subprocess.Process:
        place = self._directory.watch_path
        place.mkdir(mode=0o700, exist_ok=True)
        path = place / "settings.json"
        write_private(path, json.dumps(settings, indent=2) + "\n")
        with self._directory.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the current directory must not shadow a module
                "-m",
                "headrace.endpoint.watch",
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
                start_new_session=True,
            )
        logger.info(
            "Started the watcher of %d folders as process %d.",
            len(settings["folders"]),
            process.pid,
            extra={"action": "watcher_started"},
        )
        return process


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it in order, or else at once: its journal is whole at any moment."""
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
    await process.wait()
