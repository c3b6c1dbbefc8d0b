"""A system that is killed, part by part or whole, and the loads that run against it meanwhile.

Every failure asserts that it happened: the process is gone, and another one has taken its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace_up import Up, command_line, headrace_up, is_alive
from powerloss.disk import PowerDisk
from powerloss.layers import Cut
from waiting import eventually, let_pass

NATS, SERVICE, MANAGER = "nats-server", "headrace.cli.main serve", "headrace.cli.main endpoint start"
POOL, WORKER = "headrace.endpoint.pool", "headrace.endpoint.worker"

_BACK_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure: what was killed, when (unix seconds), and when the next one of it was there."""

    what: str
    at: float
    back_at: float

    @property
    def loses_work(self) -> bool:
        """Whether tasks that were running, or finished and not yet stored, may have been lost with it."""
        return self.what not in ("service", "client")


class SystemUnderFire:
    """`headrace up` in a directory, or on a disk whose power can be cut; its ports stay when it is started again."""

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        workers: int = 4,
        disk: PowerDisk | None = None,
    ) -> None:
        self.directory = directory
        self.disk = disk
        self.random = random.Random(seed)  # noqa: S311 - a repeatable misfortune
        self.workers = workers
        self.failures: list[Failure] = []
        self._ports = [str(port) for port in _free_ports(2)]
        self._stack = contextlib.ExitStack()
        self._seen: dict[int, str] = {}
        self.up: Up

    def __enter__(self) -> SystemUnderFire:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        options = ("--port", self._ports[0], "--nats-port", self._ports[1], "--workers", str(self.workers))
        home = (self.disk.path if self.disk is not None else self.directory) / "home"
        self.up = self._stack.enter_context(headrace_up(home, *options, within_s=60))
        eventually(lambda: len(self.pids(WORKER)) == self.workers, _BACK_WITHIN_S, "all workers are there")
        self.look()

    def look(self) -> None:
        """Remember every process, so that at the end none may be left."""
        for pid in [self.up.process.pid, *self.up.pids()]:
            self._seen[pid] = command_line(pid)

    def pids(self, words: str) -> list[int]:
        """The processes whose command line holds these words."""
        return [pid for pid in self.up.pids() if words in command_line(pid)]

    def left_over(self) -> list[str]:
        """Processes that still run, when none should."""
        return [f"{pid} {line}" for pid, line in self._seen.items() if line and command_line(pid) == line]

    def stop(self) -> None:
        """End it in order; nothing of it may be left."""
        self.look()
        assert self.up.stop(within_s=20) == 0
        eventually(lambda: not self.left_over(), 5, "no process is left")

    # Failures

    def kill_worker(self) -> None:
        self._kill("worker", WORKER, count=self.workers)

    def kill_pool(self) -> None:
        workers = self.pids(WORKER)
        self._kill("pool", POOL)
        eventually(lambda: not any(map(is_alive, workers)), 5, "its workers went with it")

    def kill_manager(self) -> None:
        pools = self.pids(POOL)
        self._kill("manager", MANAGER)
        eventually(lambda: not any(map(is_alive, pools)), 5, "its pool went with it")

    def kill_service(self) -> None:
        self._kill("service", SERVICE)

    def kill_nats(self) -> None:
        self._kill("nats", NATS)

    def kill_nats_for_a_while(self) -> None:
        """NATS comes back after one to five seconds only: who would start it again is held up."""
        keeper = self.up.process.pid
        os.kill(keeper, signal.SIGSTOP)
        try:
            outage_s = self.random.uniform(1.0, 5.0)
            (server,) = self.pids(NATS)
            os.kill(server, signal.SIGKILL)
            began = time.time()
            eventually(lambda: not is_alive(server), 5, "the server is gone")
            let_pass(outage_s, "the outage is over")
            assert not self.pids(NATS)
        finally:
            os.kill(keeper, signal.SIGCONT)
        self._await_back("nats", NATS, {server}, began, 1)

    def kill_everything(self) -> None:
        self.look()
        began, old = time.time(), [self.up.process.pid, *self.up.pids()]
        self.up.process.kill()
        self.up.process.wait()
        eventually(lambda: not any(map(is_alive, old)), 5, "everything went with it")
        self._start()
        assert not set(old) & set(self.up.pids())
        self._note("up", began)

    def cut_power(self) -> None:
        """The disk fails before some change to it, everything dies, and is started on what is left."""
        assert self.disk is not None, "the power of this system cannot be cut"
        self.look()
        old = [self.up.process.pid, *self.up.pids()]
        self.disk.stop_after(self.random.randint(1, 100))
        # Something changes all the time under load, and without it a sign of presence does.
        eventually(lambda: self.disk is not None and self.disk.counts["stopped"], 20, "the disk fails")
        began = time.time()
        for pid in old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Whoever waits for the disk dies only now.
        self.disk.cut(self.random.choice(list(Cut)), self.random.getrandbits(32))
        self.up.process.wait()
        eventually(lambda: not any(map(is_alive, old)), 5, "everything went with it")
        self._start()
        self._note("power", began)

    def _kill(self, what: str, words: str, *, count: int = 1) -> None:
        self.look()
        # The failure before may have taken it along.
        found = eventually(lambda: self.pids(words), _BACK_WITHIN_S, f"there is a {what} to kill")
        victim = self.random.choice(found or [])
        began = time.time()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not is_alive(victim), 5, f"the {what} is gone")
        self._await_back(what, words, {victim}, began, count)

    def _await_back(self, what: str, words: str, victims: set[int], began: float, count: int) -> None:
        eventually(
            lambda: len(self.pids(words)) == count and not victims & set(self.pids(words)),
            _BACK_WITHIN_S,
            f"another {what} is there",
        )
        self.look()
        self._note(what, began)

    def _note(self, what: str, began: float) -> None:
        self.failures.append(Failure(what=what, at=began, back_at=time.time()))


@dataclass
class Load:
    """The client processes of one run and what they wrote."""

    system: SystemUnderFire
    directory: Path
    long_share: float
    pause_s: float = 0.03
    most_open: int = 1500
    deadline_s: float = 60.0
    clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)

    def start(self, name: str) -> None:
        """A client that submits."""
        self.groups[name] = {"normal": str(uuid.uuid4()), "once": str(uuid.uuid4())}
        self._start(name, mode="submit")
        eventually(lambda: self.lines(f"{name}.results"), 30, f"the client {name} has results")

    def attach(self, name: str, to: str) -> None:
        """A client that takes over what another one submitted."""
        self.groups[name] = self.groups[to]
        self._start(name, mode="attach")

    def kill(self, name: str) -> None:
        """End a client at once."""
        process = self.clients[name]
        assert process.poll() is None, f"the client {name} ended by itself:\n{self.log(name)}"
        began = time.time()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        self.killed.add(name)
        self.system.failures.append(Failure(what="client", at=began, back_at=time.time()))

    def finish(self) -> None:
        """Submit no more; every future must have its end."""
        (self.directory / "stop").touch()
        for name, process in self.clients.items():
            if name not in self.killed:
                status = process.wait(self.deadline_s + 10)
                hanging = self.directory / f"{name}.hanging"
                left = hanging.read_text().split() if hanging.exists() else []
                assert status == 0, (
                    f"{name} ended with {status}, {len(left)} futures hang: {left[:5]}\n{self.log(name)}"
                )

    def close(self) -> None:
        for process in self.clients.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What a client wrote; a last line that its death cut off is left out."""
        path = self.directory / name
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()[-4000:]

    def _start(self, name: str, **more: Any) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "name": name,
            "url": self.system.up.url,
            "token": self.system.up.token,
            "endpoint_id": self.system.up.endpoint_id,
            "directory": str(self.directory),
            "groups": self.groups[name],
            "seed": self.system.random.random(),
            "first_number": (len(self.clients) + 1) * 1_000_000,
            "pause_s": self.pause_s,
            "long_share": self.long_share,
            "most_open": self.most_open,
            "deadline_s": self.deadline_s,
            **more,
        }
        with (self.directory / f"{name}.log").open("wb") as log:
            self.clients[name] = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("load_client.py")), json.dumps(settings)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


Kill = Callable[[SystemUnderFire], None]

KILLS: dict[str, Kill] = {
    "worker": SystemUnderFire.kill_worker,
    "pool": SystemUnderFire.kill_pool,
    "manager": SystemUnderFire.kill_manager,
    "service": SystemUnderFire.kill_service,
    "nats": SystemUnderFire.kill_nats,
    "nats for a while": SystemUnderFire.kill_nats_for_a_while,
    "everything": SystemUnderFire.kill_everything,
}
