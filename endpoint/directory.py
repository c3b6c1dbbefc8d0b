"""The directory of an endpoint on this machine.

<home>/endpoints/NAME/
    config.yaml               what the administrator set, with the three user_... files: see configuration.files
    endpoint.json             {"endpoint_id"}, and "url" once the endpoint is registered
    endpoint.token            what the manager shows to the service (0600)
    endpoint.lock             held by the manager that runs, with its process id inside
    endpoint.log              what the manager and its pools tell
    pool-NAME.json            what the manager tells a pool (0600)
    sandboxes/POOL/           working directories of tasks, where config.yaml asks for them
    watch/                    the watcher of files: settings.json (0600), journal.sqlite, status.json
    pool-NAME.token           what a pool for users' options shows to the service (0600); pool-NAME.log is what it tells
    pool-NAME.pids            the pool's workers; pool-NAME.status.json is what it tells of itself
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.installation.private_files import write_private
from headrace.bus.log_files import rotate
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration import written
from headrace.endpoint.configuration.files import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    SCHEMA_FILE,
    TEMPLATE_FILE,
    ConfigurationFiles,
)
from headrace.endpoint.errors import (
    EndpointError,
    EndpointExists,
    EndpointMissing,
    EndpointNameInvalid,
    EndpointRunning,
)
from headrace.endpoint.local_users import LocalUser

_LONGEST_FOREIGN_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the service knows the endpoint by."""

    endpoint_id: UUID
    url: str | None = None


class EndpointDirectory:
    """One endpoint's directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.config_file = path / "config.yaml"
        self.registration_file = path / "endpoint.json"
        self.token_file = path / "endpoint.token"
        self.log_file = path / "endpoint.log"
        self.watch_path = path / "watch"
        self._lock_file = path / "endpoint.lock"

    @property
    def manager(self) -> str:
        """What tells its manager from those of the same endpoint on other machines; the same after a restart."""
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
        place = hashlib.blake2b(str(self.path.resolve()).encode(), digest_size=6).hexdigest()
        return f"{host}-{place}"

    def config(self) -> EndpointConfig:
        """What the administrator set in `config.yaml`. Raises `ConfigInvalid`."""
        return EndpointConfig.read(self.config_file)

    def configuration(self) -> ConfigurationFiles:
        """All that the administrator set. Raises `ConfigInvalid`."""
        return ConfigurationFiles.read(self.path)

    def registration(self) -> Registration | None:
        """What the service knows the endpoint by, or None before it is registered. Raises `EndpointError`."""
        try:
            document = json.loads(self.registration_file.read_text(encoding="utf-8"))
            return Registration(endpoint_id=UUID(document["endpoint_id"]), url=document.get("url"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EndpointError(
                f'{self.registration_file} is damaged: expected {{"endpoint_id": UUID}}; '
                f"mend it, or remove it to register the endpoint anew"
            ) from error

    def token(self) -> str | None:
        """The endpoint's token, or None before it is registered."""
        try:
            return self.token_file.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def keep_registration(self, endpoint_id: UUID, token: str | None, url: str | None) -> None:
        """Store the endpoint's id and, when there is one, its token."""
        # The token first: an id without its token would look registered, and could not speak.
        if token is not None:
            write_private(self.token_file, token + "\n")
        document = {"endpoint_id": str(endpoint_id)} | ({"url": url} if url else {})
        write_private(self.registration_file, json.dumps(document, indent=2) + "\n")

    def pool_file(self, pool: str, kind: str = "json") -> Path:
        """A pool's file of this kind: `json`, `pids` or `status.json`."""
        return self.path / f"pool-{pool}.{kind}"

    @property
    def pool_user(self) -> LocalUser | None:
        """Whom pools run as; None is who we are."""
        return None

    @property
    def pool_cwd(self) -> Path | None:
        """Where pools start; None is where we have been started."""
        return None

    def write_pool_file(self, pool: str, kind: str, text: str) -> None:
        """Write a file that a pool reads, and nobody else (0600)."""
        write_private(self.pool_file(pool, kind), text)

    def pool_status(self, pool: str) -> dict[str, int] | None:
        """What a pool says of itself; None before it did. Whatever is no count is left out."""
        data = read_foreign(self.pool_file(pool, "status.json"))
        try:
            found = None if data is None else json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        return {key: value for key, value in found.items() if type(value) is int and 0 <= value < 2**53}

    def user_pool_files(self) -> list[Path]:
        """All files of pools for users' options, whatever kind."""
        return [path for path in self.path.glob("pool-p-*") if path.is_file()]

    def sandboxes(self, pool: str) -> Path:
        """Where a pool makes the working directories of its tasks."""
        return self.path / "sandboxes" / pool

    def audit_file(self, given: str) -> Path:
        """The audit log that `audit_log_path` names: a file of this directory, unless it says where."""
        return (self.path / Path(given).expanduser()).absolute()

    def rotate_log(self) -> None:
        """Begin the endpoint's log anew when it is long."""
        rotate(self.log_file)

    def logs(self) -> list[Path]:
        """The logs of the endpoint and its pools."""
        return [self.log_file, *self.path.glob("pool-*.log")]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the endpoint: one manager at a time. Raises `EndpointRunning`.

        The kernel lets go of the lock when the process dies, however it dies.
        """
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _held(handle):
                pid = _pid_in(self._lock_file)
                raise EndpointRunning(
                    f"the endpoint {self.name!r} is running already{f' as process {pid}' if pid else ''}; "
                    f"stop it with `headrace endpoint stop {self.name}`",
                    pid=pid,
                )
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def running_pid(self) -> int | None:
        """The process id of the manager that runs, or None."""
        try:
            handle = os.open(self._lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid_in(self._lock_file)
        else:
            return None
        finally:
            os.close(handle)


class Endpoints:
    """All endpoints under a home."""

    def __init__(self, home: Path) -> None:
        self._root = home / "endpoints"

    def create(self, name: str, *, config: str | None = None) -> EndpointDirectory:
        """Make an endpoint's directory with commented files of configuration. Raises `EndpointExists`."""
        directory = self._directory(name)
        if directory.config_file.exists():
            raise EndpointExists(
                f"the endpoint {name!r} is configured already: edit {directory.config_file}, "
                f"or remove it with `headrace endpoint delete {name}`"
            )
        try:
            directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file, text in _written(name, config):
                # What was prepared before is kept.
                if not (directory.path / file).exists():
                    write_private(directory.path / file, text)
        except OSError as error:
            raise EndpointError(f"{directory.path} cannot be made: {error.strerror}") from error
        return directory

    def get(self, name: str) -> EndpointDirectory:
        """An endpoint's directory. Raises `EndpointMissing`, which names those that are there."""
        directory = self._directory(name)
        if not directory.config_file.exists():
            names = ", ".join(other.name for other in self.list()) or "none"
            raise EndpointMissing(
                f"there is no endpoint {name!r} in {self._root} (there: {names}); "
                f"make it with `headrace endpoint configure {name}`"
            )
        return directory

    def list(self) -> list[EndpointDirectory]:
        """All endpoints, by name."""
        if not self._root.is_dir():
            return []
        return [EndpointDirectory(path) for path in sorted(self._root.iterdir()) if (path / "config.yaml").exists()]

    def delete(self, name: str) -> None:
        """Remove an endpoint's directory. Raises `EndpointMissing`, and `EndpointRunning` while its manager runs."""
        directory = self.get(name)
        # Held while removing, so that no manager starts in between.
        with directory.locked():
            shutil.rmtree(directory.path)

    def _directory(self, name: str) -> EndpointDirectory:
        if not _NAME.fullmatch(name):
            raise EndpointNameInvalid(
                f"{name!r} cannot be the name of an endpoint: use 1 to 128 letters, digits, '.', '_' and '-', "
                f"starting with a letter or digit"
            )
        return EndpointDirectory(self._root / name)


def _written(name: str, config: str | None) -> tuple[tuple[str, str], ...]:
    if config is not None:
        return ((CONFIG_FILE, config),)
    # config.yaml last: with it, the endpoint is there.
    return (
        (TEMPLATE_FILE, written.TEMPLATE),
        (SCHEMA_FILE, written.SCHEMA),
        (ENVIRONMENT_FILE, written.ENVIRONMENT),
        (CONFIG_FILE, written.CONFIG.format(name=json.dumps(name))),
    )


def read_foreign(path: Path) -> bytes | None:
    """A small file that somebody else may have put there; None when it is none: links lead where we must not go, and
    pipes would keep us waiting."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(handle, _LONGEST_FOREIGN_BYTES) if stat.S_ISREG(os.fstat(handle).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(handle)


def remove_foreign(path: Path) -> None:
    """Remove what somebody else may have put there, whatever it is; what cannot be removed stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def read_json(path: Path) -> Any:
    """A file's JSON, or None when there is no such file, or nothing readable in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _held(handle: int) -> bool:
    """Whether this process could take the lock."""
    for attempt in range(5):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # Whoever asks whether a manager runs holds the lock for a moment.
            time.sleep(0.01 * (attempt + 1))
    return False


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
