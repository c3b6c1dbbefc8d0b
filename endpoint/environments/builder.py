"""Builds one environment: with uv where it can be found, else with Python's own venv and pip."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.functions.requirements import Needs
from headrace.bus.parent import die_with_parent
from headrace.endpoint.environments.library import make_library, make_light_library, packages_for_another_python
from headrace.endpoint.environments.policy import EnvironmentPolicy
from headrace.endpoint.worker.limits import OWN_PREFIX

Say = Callable[[str], None]

_LAST_LINES = 12
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_VERSION = "import sys, sysconfig; print(*sys.version_info[:3], sysconfig.get_path('purelib'))"
_OLDEST = (3, 11)


def find_uv() -> str | None:
    """Where uv is: on the PATH, or the one that is installed beside us."""
    found = shutil.which("uv")
    if found is None and importlib.util.find_spec("uv") is not None:
        beside = Path(sys.executable).with_name("uv")
        found = str(beside) if beside.exists() else None
    return found


class Builder:
    """Builds environments into directories. `python` is what they have where a function does not say."""

    def __init__(self, policy: EnvironmentPolicy, *, python: str, libraries: Path, uv: str | None) -> None:
        self._policy = policy
        self._python = python
        self._libraries = libraries
        self._uv = uv

    async def build(self, needs: Needs, directory: Path, log: IO[bytes], say: Say) -> str:
        """Build what is needed; gives its version of Python.

        `say` hears what is going on, `log` takes all that the tools say. Raises `EnvironmentUnusable`, with the end of
        that, and `OSError`. What was begun is not removed.
        """
        run = _Runner(log, needs, self._policy.build_timeout_s)
        try:
            async with asyncio.timeout(self._policy.build_timeout_s):
                say(f"making an environment for {needs.describe()}")
                await run(self._make(needs, directory), self._variables())
                python = directory / "bin" / "python"
                *version, packages = (await run([str(python), "-c", _VERSION], {}))[-1].split(" ", 3)
                minor = (int(version[0]), int(version[1]))
                if minor < _OLDEST or not needs.runs_on(".".join(version)):
                    raise EnvironmentUnusable(
                        f"this endpoint has Python {'.'.join(version)}, and the function needs Python "
                        f"{needs.python or '3.11'}"
                    )
                alike = minor == sys.version_info[:2]
                wanted = [*needs.requirements, *(() if alike else packages_for_another_python())]
                if wanted:
                    say(f"installing {', '.join(wanted)}")
                    await run(self._install(python, wanted), self._variables())
                library = (make_library if alike else make_light_library)(self._libraries)
                (Path(packages) / "headrace.pth").write_text(f"{library}\n", encoding="utf-8")
                say("looking whether a worker starts in it")
                await run([str(python), "-P", "-c", "import headrace.endpoint.worker.__main__"], {})
                return ".".join(version)
        except TimeoutError:
            raise EnvironmentUnusable(
                f"the environment ({needs.describe()}) was not there after {self._policy.build_timeout_s:g} s\n"
                + run.end()
            ) from None

    def _make(self, needs: Needs, directory: Path) -> list[str]:
        if self._uv is not None:
            # Its cache holds wheels for all environments, which are linked from there.
            return [
                self._uv,
                "venv",
                "--quiet",
                "--no-project",
                "--python",
                needs.python or self._python,
                str(directory),
            ]
        return [self._own_python(needs), "-m", "venv", "--without-pip", str(directory)]

    def _own_python(self, needs: Needs) -> str:
        """A Python of this machine that serves. Raises `EnvironmentUnusable`."""
        if self._python != sys.executable or needs.runs_on(".".join(map(str, sys.version_info[:3]))):
            return self._python
        for minor in range(_OLDEST[1], 20):
            found = shutil.which(f"python3.{minor}")
            if found is not None and needs.runs_on(_version_of(found)):
                return found
        raise EnvironmentUnusable(
            f"the function needs Python {needs.python}, which is not on the endpoint's machine; with uv there it could "
            "be fetched (pip install 'headrace[environments]')"
        )

    def _install(self, python: Path, wanted: Sequence[str]) -> list[str]:
        links = self._policy.find_links
        sources = ["--no-index"] if links else []
        if links and not _is_url(links):
            sources += ["--find-links", links]  # which may hold blanks
        if self._uv is not None:
            return [self._uv, "pip", "install", "--python", str(python), *sources, "--", *wanted]
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
        return [*pip, "install", *sources, "--", *wanted]

    def _variables(self) -> dict[str, str]:
        policy = self._policy
        downloads = "automatic" if policy.python_downloads else "never"
        variables = {"UV_PYTHON_DOWNLOADS": downloads, "UV_NO_PROGRESS": "1", "PIP_NO_PYTHON_VERSION_WARNING": "1"}
        # URLs may hold a password, which everybody on the machine could read in a command line.
        if policy.index_url:
            variables |= {"UV_DEFAULT_INDEX": policy.index_url, "PIP_INDEX_URL": policy.index_url}
        if policy.find_links and _is_url(policy.find_links):
            variables |= {"UV_FIND_LINKS": policy.find_links, "PIP_FIND_LINKS": policy.find_links}
        return variables


def _is_url(source: str) -> bool:
    return "://" in source


def _version_of(python: str) -> str:
    said = subprocess.run([python, "-V"], capture_output=True, text=True, check=False)
    return said.stdout.strip().removeprefix("Python ") or "0"


class _Runner:
    """Runs tools one after the other, and keeps the end of what they said."""

    def __init__(self, log: IO[bytes], needs: Needs, timeout_s: float) -> None:
        self._log = log
        self._needs = needs
        self._timeout_s = timeout_s
        self._lines: list[str] = []

    async def __call__(self, command: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        """The lines that it said. Raises `EnvironmentUnusable` when it fails, and `OSError` when it cannot start."""
        self._lines = []
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIX)}
            | dict(variables),
            start_new_session=True,
            # The lock on what is built ends with us: the next builder must not meet a tool of ours there.
            preexec_fn=die_with_parent(),
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            async for line in process.stdout:
                text = _CREDENTIALS.sub("***@", line.decode(errors="replace").rstrip())
                self._log.write(f"{text}\n".encode())
                self._log.flush()
                if text:
                    self._lines.append(text)
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if status != 0:
            raise EnvironmentUnusable(
                f"the environment ({self._needs.describe()}) cannot be made on this endpoint:\n{self.end()}"
            )
        return self._lines

    def end(self) -> str:
        """The last lines."""
        return "\n".join(self._lines[-_LAST_LINES:])
