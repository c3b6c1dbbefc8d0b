"""The home of `headrace up`: where everything of one installation lies, and who holds it.

<home>/                   0700
├── keys/                 see headrace.bus.installation.operator
├── nats/                 configuration, log and store of the NATS server
├── endpoints/NAME/       see headrace.endpoint.directory
├── logs/                 what the parts say
├── admin.token           the first administrator's token (0600)
├── profile.json          {"url", "token"} for the SDK and the commands on this machine (0600)
├── ports.json            the ports of the last start
└── up.lock               held by the `headrace up` that runs, with {"pid", "url"} inside
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.bus.installation.private_files import read_private, write_private
from headrace.cli.errors import AlreadyRunning, HomeUnusable


class Home:
    """A home directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys"
        self.nats = path / "nats"
        self.logs = path / "logs"
        self.token_file = path / "admin.token"
        self.profile_file = path / "profile.json"
        self._ports_file = path / "ports.json"
        self._lock_file = path / "up.lock"
        self._handle = -1

    def prepare(self) -> None:
        """Make the directory, for its owner only. Raises `HomeUnusable`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            # Under a name of its own: dispatchers of one home may start in the same moment.
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".writable-"):
                pass
        except OSError as error:
            raise HomeUnusable(
                f"the home {self.path} cannot be written: {error.strerror or error};"
                " give --home a directory that you may write to"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home: one `headrace up` at a time. Raises `AlreadyRunning`.

        The kernel lets go of the lock when the process dies, however it dies.
        """
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._already_running() from None
            self._tell(handle, {"pid": os.getpid()})
            self._handle = handle
            yield
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def announce(self, url: str) -> None:
        """Say, inside the lock, where the service answers; for whoever finds the home taken."""
        self._tell(self._handle, {"pid": os.getpid(), "url": url})

    def running_nats_url(self) -> str:
        """Where the NATS server of the `headrace up` that holds this home answers. Raises `HomeUnusable`."""
        url, port = _read_json(self._lock_file).get("url"), self.remembered_ports().get("nats")
        host = urlsplit(url).hostname if isinstance(url, str) else None
        if host is None or port is None:
            raise HomeUnusable(f"the `headrace up` of {self.path} has only just begun; try again when it is ready")
        return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"

    def remembered_ports(self) -> dict[str, int]:
        """The ports of the last start, by part."""
        document = _read_json(self._ports_file)
        return {name: port for name, port in document.items() if isinstance(port, int) and 0 < port < 65536}

    def remember_ports(self, ports: dict[str, int]) -> None:
        """Keep them for the next start, so that whoever knew this installation finds it again."""
        write_private(self._ports_file, json.dumps(ports) + "\n")

    def ensure_admin_token(self) -> str:
        """The first administrator's token, made at the first start; the service makes it valid when it starts.

        Raises `KeysUnusable` when others can read it.
        """
        if not self.token_file.exists():
            # The form that headrace.action_provider.auth.tokens gives them; to load that would delay the first start by
            # a quarter of a second. A test holds the two together.
            write_private(self.token_file, f"hr_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}\n")
        return read_private(self.token_file).decode().strip()

    def write_profile(self, url: str, token: str, nats_url: str | None = None) -> None:
        """Tell the SDK and the commands on this machine where the service is, and the bus, where the service names
        another address to others."""
        document = {"url": url, "token": token, **({"nats_urls": [nats_url]} if nats_url else {})}
        write_private(self.profile_file, json.dumps(document, indent=1) + "\n")

    def endpoint_id(self, name: str) -> str | None:
        """The id of an endpoint of this home, once it is registered."""
        found = _read_json(self.path / "endpoints" / name / "endpoint.json").get("endpoint_id")
        return str(found) if found else None

    def _already_running(self) -> AlreadyRunning:
        holder = _read_json(self._lock_file)
        pid = holder.get("pid") if isinstance(holder.get("pid"), int) else None
        process = f" as process {pid}" if pid else ""
        where = f" at {holder['url']}" if holder.get("url") else ""
        advice = f"stop it with `kill {pid}`" if pid else "stop it"
        return AlreadyRunning(
            f"Headrace is running already{process} in the home {self.path}{where}; use that one, {advice}, or give"
            " another --home",
            pid=pid,
        )

    @staticmethod
    def _tell(handle: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
