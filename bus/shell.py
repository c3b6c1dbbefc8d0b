"""Functions that are shell commands: `ShellFunction` and its result.

A command runs in bash, in a process group of its own. A guard waits beside it: it ends the group when the worker is
gone, however that came. What a command leaves in the background ends with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from headrace.bus.shell_template import field_names, fill

TIMED_OUT: Final = 124
"""The return code of a command that its `walltime` ended, as of the command `timeout`."""

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
_GUARD = 'trap "" TERM INT HUP; read _; kill -9 0'
_TERM_GRACE_S = 2.0
_LOOK_S = 0.02
_MOST_SNIPPET_BYTES = 1_000_000
_BLOCK_BYTES = 65_536
_MOST_NAME = 80
_MOST_ERROR_LINES = 20


@dataclass(frozen=True, slots=True)
class ShellResult:
    """How a command ended. A return code that is not 0 is no error of the task, unless `check` was asked for."""

    cmd: str
    """The command with its values."""
    stdout: str
    """The last lines of it."""
    stderr: str
    returncode: int
    """That of the command; 124 when `walltime` ended it, -N when signal N did."""
    exception_name: str | None = None
    """`subprocess.CalledProcessError` or `subprocess.TimeoutExpired`, for programs that ask for it; None after 0."""
    stdout_file: str = ""
    """Where all of it lies on the endpoint; with sandboxes, for as long as the task's sandbox is there."""
    stderr_file: str = ""

    def __str__(self) -> str:
        return f"Command {self.cmd} returned with exit status: {self.returncode}"


@dataclass(frozen=True)
class ShellFunction:
    """A function whose code is a shell command.

        count = ShellFunction("grep -c {pattern} {files}", walltime=60)
        executor.submit(count, pattern="it's", files=["a.log", "b.log"]).result().stdout

    cmd: the command. `{name}` takes the argument of that name, quoted for where it stands; `{name!raw}` takes it as it
        is. Other braces are the shell's; see `headrace.bus.shell_template`.
    stdout, stderr: files on the endpoint to which the output is appended; by default files in the working directory.
    walltime: seconds after which the command is stopped, with all processes of its group. None: no limit.
    snippet_lines: how many of the last lines of stdout and stderr the result has (and at most 1 MB of each).
    name: the name that the function is registered under; an identifier.
    return_dict: give a dict in place of a `ShellResult`, so that the result is JSON.
    check: raise `subprocess.CalledProcessError` or `subprocess.TimeoutExpired` when the command fails, so that the task
        fails (and `max_retries` counts).

    Arguments are given by name; those given by position fill the fields in the order in which they come first. Raises
    `ValueError` for a command in which a field stands where nothing makes a value safe.
    """

    cmd: str
    stdout: str | None = None
    stderr: str | None = None
    walltime: float | None = None
    snippet_lines: int = 1000
    name: str | None = None
    return_dict: bool = False
    check: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.cmd, str):
            raise TypeError(f"cmd must be a text, not {type(self.cmd).__name__}")
        if self.walltime is not None and not self.walltime > 0:
            raise ValueError(f"walltime must be more than 0 seconds, or None for no limit, not {self.walltime!r}")
        if self.snippet_lines < 0:
            raise ValueError(f"snippet_lines must be 0 or more, not {self.snippet_lines!r}")
        if self.name is not None and not self.name.isidentifier():
            raise ValueError(f"name must be an identifier, not {self.name!r}")
        field_names(self.cmd)

    @property
    def __name__(self) -> str:
        """What it is called where functions are listed."""
        return self.name or f"{type(self).__name__}: {' '.join(self.cmd.split())}"[:_MOST_NAME]

    def __call__(self, /, *args: Any, **kwargs: Any) -> ShellResult | dict[str, Any]:
        """Run the command here. Raises `TypeError` for arguments that do not fit its fields."""
        command = self._prefix() + fill(self.cmd, self._values(args, kwargs))
        result = _run(command, self)
        if self.check and result.returncode:
            raise _failure(result, self.walltime)
        return dataclasses.asdict(result) if self.return_dict else result

    def source(self) -> tuple[str, str]:
        """(the text of a module that defines this function, its name there)."""
        given = [f"    {self.cmd!r},\n"]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                given.append(f"    {field.name}={value!r},\n")
        kind = type(self)
        return (
            f"from {kind.__module__} import {kind.__name__}\n\ncommand = {kind.__name__}(\n{''.join(given)})\n",
            "command",
        )

    def _prefix(self) -> str:
        return ""

    def _values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = field_names(self.cmd)
        if len(args) > len(names):
            raise TypeError(f"the command has {len(names)} fields, and {len(args)} arguments were given")
        values = dict(zip(names, args, strict=False))
        twice = values.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"the argument {min(twice)!r} is given twice, by position and by name")
        return values | dict(kwargs)


BashFunction = ShellFunction
"""The name that `ShellFunction` had first."""


def _run(command: str, function: ShellFunction) -> ShellResult:
    stem = f"shell-{uuid.uuid4().hex[:10]}"
    with (
        _open(function.stdout or f"{stem}.stdout") as out,
        _open(function.stderr or f"{stem}.stderr") as err,
    ):
        starts = out.tell(), err.tell()
        returncode = _execute(command, out, err, function.walltime)
    timed_out = returncode is None
    code = TIMED_OUT if returncode is None else returncode
    return ShellResult(
        command,
        _snippet(out.name, starts[0], function.snippet_lines),
        _snippet(err.name, starts[1], function.snippet_lines),
        code,
        "subprocess.TimeoutExpired" if timed_out else "subprocess.CalledProcessError" if code else None,
        out.name,
        err.name,
    )


def _open(name: str) -> IO[bytes]:
    path = Path(name).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _execute(command: str, out: IO[bytes], err: IO[bytes], walltime_s: float | None) -> int | None:
    """The return code of the command; None when its time was over, and it was stopped."""
    shell = next(path for path in _SHELLS if os.path.exists(path))
    with _guarded_group() as group:
        process = subprocess.Popen(
            [shell, "-c", command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=group
        )
        try:
            ended = _wait(process, walltime_s)
            if not ended:
                _signal_group(group, signal.SIGTERM)
                _until_empty(group, _TERM_GRACE_S)
        finally:
            _signal_group(group, signal.SIGKILL)
            process.wait()
    return process.returncode if ended else None


@contextlib.contextmanager
def _guarded_group() -> Iterator[int]:
    """A new process group, with somebody in it who ends it when this process is gone; it ends with the context."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield guard.pid
    finally:
        # Not waited for before, so that nobody else can have got its number.
        _signal_group(guard.pid, signal.SIGKILL)
        guard.communicate()


def _wait(process: subprocess.Popen[bytes], timeout_s: float | None) -> bool:
    """Whether it ended within the time. It is not reaped."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:  # Linux before 5.3
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
            return True
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(1, round(timeout_s * 1000))))
    finally:
        os.close(fd)


def _until_empty(group: int, timeout_s: float) -> None:
    """Give a group that was told to end some time for that: a launcher must end what it has started elsewhere."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and _has_others(group):
        time.sleep(_LOOK_S)


def _has_others(group: int) -> bool:
    """Whether anybody of the group runs besides its guard. Who has ended and is not waited for does not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if number == str(group) != stat.parent.name and state not in "ZX":
                return True
    return False


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _snippet(path: str, start: int, lines: int) -> str:
    """The last lines of what stands behind `start` in a file."""
    with open(path, "rb") as file:
        at = size = file.seek(0, os.SEEK_END)
        least = max(start, size - _MOST_SNIPPET_BYTES)
        data = b""
        while at > least and data.count(b"\n") <= lines:
            width = min(_BLOCK_BYTES, at - least)
            at -= width
            file.seek(at)
            data = file.read(width) + data
    kept = data.splitlines(keepends=True)[-lines:] if lines else []
    return b"".join(kept).decode("utf-8", "replace")


def _failure(result: ShellResult, walltime_s: float | None) -> subprocess.SubprocessError:
    error: subprocess.SubprocessError
    if result.exception_name == "subprocess.TimeoutExpired":
        error = subprocess.TimeoutExpired(result.cmd, walltime_s or 0.0, result.stdout, result.stderr)
    else:
        error = subprocess.CalledProcessError(result.returncode, result.cmd, result.stdout, result.stderr)
    last = "\n".join(result.stderr.splitlines()[-_MOST_ERROR_LINES:])
    if last:
        error.add_note(f"The end of its stderr:\n{last}")
    return error
