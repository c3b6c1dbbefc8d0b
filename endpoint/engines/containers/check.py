"""Whether workers can be started in a container: found out once, before the first of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from typing import IO, Final

from headrace.endpoint.engines.containers.luggage import pack
from headrace.endpoint.engines.containers.meeting import last_lines
from headrace.endpoint.engines.containers.runtimes import Container

_LONGEST_S: Final = 1800.0
"""An image may have to be fetched, and unpacked, first."""
_NOT_FOUND: Final = 127
_TAIL_BYTES: Final = 4_000


class ContainerCheck:
    """Packs what the workers need, and runs one container that only looks whether they could work."""

    def __init__(self, container: Container, line: list[str], environment: Mapping[str, str] | None) -> None:
        """`line` is the command line of such a container."""
        self._container = container
        self._line = line
        self._environment = environment
        self._looking: asyncio.Task[str] | None = None

    async def problem(self) -> str:
        """Why no worker can be started; empty when they can. Asked by several at once, it is found out once."""
        if self._looking is None or (self._looking.done() and self._failed()):
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="container-check")
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Look no more, and remove what was packed."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for directory in (self._container.code, self._container.meetings):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _failed(self) -> bool:
        assert self._looking is not None  # noqa: S101 - the caller looked
        return self._looking.cancelled() or self._looking.exception() is not None or self._looking.result() != ""

    async def _look(self) -> str:
        container = self._container
        try:
            await asyncio.to_thread(self._prepare)
            return await self._try()
        except FileNotFoundError:
            return self._missing()
        except (OSError, ValueError) as error:
            return f"{container.program} cannot be started with {container.directory}: {error}"

    def _prepare(self) -> None:
        # Readable by an image's user only where that is ours: docker runs as us, podman's and apptainer's roots are us.
        self._container.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self._container.meetings, ignore_errors=True)
        pack(self._container.code)

    async def _try(self) -> str:
        with tempfile.TemporaryFile() as said:
            process = await asyncio.create_subprocess_exec(
                *self._line,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._environment,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(_LONGEST_S):
                    code = await process.wait()
            except TimeoutError:
                return self._failure(f"gives no answer within {_LONGEST_S:g} s", said)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if code == 0:
                return ""
            text = self._failure(f"ended with code {code}", said)
            return f"{self._missing()} ({text})" if code == _NOT_FOUND and self._is_missing() else text

    def _is_missing(self) -> bool:
        path = (self._environment or os.environ).get("PATH")
        return shutil.which(self._container.program, path=path) is None

    def _missing(self) -> str:
        program, hint = self._container.program, self._container.hint()
        return f"{program}, which runs this pool's containers, is not on {socket.gethostname()}: {hint}"

    def _failure(self, how: str, said: IO[bytes]) -> str:
        said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL_BYTES))
        container = self._container
        what = f"the image {container.image}" if container.image else f"`{container.options}`"
        return f"{what} cannot be used: {container.program} {how}, and said: {last_lines(said.read()) or 'nothing'}"
