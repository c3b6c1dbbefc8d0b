"""The environments of an endpoint: built once, shared by its pools, the longest unused ones removed.

    KEY/         a virtual environment; KEY is a hash of packages, Python, platform and index
    KEY.json     it is whole; its time of modification is that of the last use
    KEY.lock     locked exclusively while it is built or removed, shared while a pool has it
    KEY.log      what was said when it was built
    library*/    links to what a worker needs of Headrace

Managers on several machines may share the directory; the platform is part of the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.functions.requirements import Needs
from headrace.bus.sizes import shown_size
from headrace.endpoint.environments.builder import Builder, Say, find_uv
from headrace.endpoint.environments.library import make_library, make_light_library
from headrace.endpoint.environments.policy import EnvironmentPolicy

logger = logging.getLogger(__name__)

_LOOK_S = 0.1


@dataclass(slots=True)
class Lease:
    """The use of an environment: it stays as long as this is not closed."""

    key: str
    python: Path
    """Its interpreter, which can run workers."""
    _lock: IO[str] = field(repr=False)

    def close(self) -> None:
        """It may be removed from here on."""
        self._lock.close()


class Environments:
    """The environments in a directory."""

    def __init__(self, directory: Path, policy: EnvironmentPolicy, *, python: str | None = None) -> None:
        self._directory = directory
        self._policy = policy
        self._python = python or sys.executable
        self._uv = find_uv()

    def key(self, needs: Needs) -> str:
        """The name of the environment."""
        policy = self._policy
        where = (platform.platform(), self._python, policy.index_url or "", policy.find_links or "")
        return needs.key(*where)

    async def use(self, needs: Needs, say: Say) -> Lease:
        """The environment that is needed, built if it is not there; `say` hears what is going on meanwhile.

        Raises `EnvironmentUnusable`, whose message is for whoever submitted the function.
        """
        self._policy.check(needs)
        key = self.key(needs)
        with contextlib.ExitStack() as stack:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = stack.enter_context(self._lock_file(key))
                await self._have(needs, key, lock, say)
                os.utime(self._marker(key))
                # Links to a release of Headrace that is gone by now lead nowhere.
                await asyncio.to_thread(self._mend_libraries)
            except OSError as error:
                raise EnvironmentUnusable(f"the environment cannot be made on this endpoint: {error}") from error
            await asyncio.to_thread(self.evict)
            stack.pop_all()
        return Lease(key, self._directory / key / "bin" / "python", lock)

    async def _have(self, needs: Needs, key: str, lock: IO[str], say: Say) -> None:
        """Return once it is there and locked against its removal."""
        await _locked(lock, fcntl.LOCK_SH)
        while not self._marker(key).exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
            await _locked(lock, fcntl.LOCK_EX, say)
            if not self._marker(key).exists():
                await self._build(needs, key, say)
            # Another one may lock it in between, and even remove it: hence no blocking, and the look again.
            await _locked(lock, fcntl.LOCK_SH)

    async def _build(self, needs: Needs, key: str, say: Say) -> None:
        path = self._directory / key
        began = time.monotonic()
        builder = Builder(self._policy, python=self._python, libraries=self._directory, uv=self._uv)
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        whole = False
        try:
            with (self._directory / f"{key}.log").open("wb") as log:
                version = await builder.build(needs, path, log, say)
            size = await asyncio.to_thread(_size_of, path)
            if size > self._policy.most_bytes:
                raise EnvironmentUnusable(
                    f"the environment ({needs.describe()}) has {shown_size(size)}, and the administrator allows "
                    f"{shown_size(self._policy.most_bytes)} (most_bytes of environments)"
                )
            about = {"needs": needs.text, "python": version, "bytes": size, "built_at": time.time()}
            fresh = self._directory / f"{key}.json.new"
            fresh.write_text(json.dumps(about) + "\n", encoding="utf-8")
            fresh.replace(self._marker(key))
            whole = True
        finally:
            if not whole:
                shutil.rmtree(path, ignore_errors=True)
        took_s = time.monotonic() - began
        say(f"the environment is there after {took_s:.1f} s")
        logger.info(
            "Built the environment %s (%s) in %.1f s.",
            key,
            needs.describe(),
            took_s,
            extra={"action": "environment_built", "environment": key},
        )

    def evict(self) -> None:
        """Remove the environments that were not used for the longest time, until the rest is not too much.

        What a pool uses, or somebody builds, stays.
        """
        kept = sorted(self._kept(), reverse=True)
        total = 0
        for place, (_, key, size) in enumerate(kept, 1):
            total += size
            if (place > self._policy.most or total > self._policy.most_bytes) and self._removed(key):
                total -= size

    def _kept(self) -> Iterator[tuple[float, str, int]]:
        for marker in self._directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                yield marker.stat().st_mtime, marker.stem, int(json.loads(marker.read_text())["bytes"])

    def _removed(self, key: str) -> bool:
        with self._lock_file(key) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # First the marker: what is half removed is built anew.
            self._marker(key).unlink(missing_ok=True)
            shutil.rmtree(self._directory / key, ignore_errors=True)
            (self._directory / f"{key}.log").unlink(missing_ok=True)
        logger.info("Removed the environment %s, long unused.", key, extra={"action": "environment_removed"})
        return True

    def _lock_file(self, key: str) -> IO[str]:
        return (self._directory / f"{key}.lock").open("a")

    def _marker(self, key: str) -> Path:
        return self._directory / f"{key}.json"

    def _mend_libraries(self) -> None:
        make_library(self._directory)
        make_light_library(self._directory)


async def _locked(lock: IO[str], kind: int, say: Say | None = None) -> None:
    told = False
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if say is not None and not told:
                say("somebody else is making this environment")
                told = True
        await asyncio.sleep(_LOOK_S)


def _size_of(directory: Path) -> int:
    """What it takes on the disk; files that are linked from elsewhere count as well."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
