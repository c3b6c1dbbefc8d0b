"""The NATS server that comes along: it starts, it says clearly why it cannot, it ends with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from headrace_up import is_alive
from waiting import eventually, eventually_async

from headrace.bus.errors import BusError, PermissionDenied, ServerUnusable
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.names import Address, stored_results
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.streams import StreamSettings, ensure, ensure_consumer

pytestmark = pytest.mark.anyio

ADA = "urn:headrace:user:ada"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.open(tmp_path / "keys")


@pytest.fixture
def settings(operator: Operator, tmp_path: Path) -> ServerSettings:
    return ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats")


async def test_core_has_jetstream_and_what_was_acknowledged_survives_a_kill(
    operator: Operator, settings: ServerSettings
) -> None:
    server = NatsServer(settings)
    await server.start()
    port = server.port
    async with Connection([server.url], operator.minter.core_user("test", 60), name="test") as core:
        await ensure(core, StreamSettings())
        await core.store("event.default.a", b"kept")

        server.kill()
        assert await server.wait() == -signal.SIGKILL
        await server.start()

        assert server.port == port
        found = await core.read_last("EVENTS", "event.default.a")
    await server.stop()
    assert found is not None
    assert found.data == b"kept"


async def test_every_acknowledgement_is_synced_unless_that_is_relaxed(settings: ServerSettings) -> None:
    async with NatsServer(settings):
        assert json.loads((settings.directory / "nats.conf").read_text())["jetstream"]["sync_interval"] == "always"
    async with NatsServer(replace(settings, relaxed=True)):
        assert "sync_interval" not in json.loads((settings.directory / "nats.conf").read_text())["jetstream"]


async def test_the_hot_path_works_across_the_accounts(operator: Operator, settings: ServerSettings) -> None:
    endpoint = uuid.uuid4()
    address = Address(endpoint=endpoint, pool="default", principal=ADA, group=uuid.uuid4(), bundle=uuid.uuid4())
    minter, consumer = operator.minter, "lane-1"
    async with (
        NatsServer(settings) as server,
        Connection([server.url], minter.core_user("service", 60), name="service") as core,
        Connection([server.url], minter.sdk_user(ADA, endpoint, "default", "s1", 60), name="sdk") as sdk,
        Connection([server.url], minter.pool_user(endpoint, "default", "s2", 60), name="pool") as pool,
    ):
        await ensure(core, StreamSettings())
        await ensure_consumer(
            core, "TASKS", consumer, filter_subjects=(address.task_subject,), ack_wait_s=3, max_ack_pending=10
        )
        results: asyncio.Queue[Message] = asyncio.Queue()
        tasks: asyncio.Queue[Message] = asyncio.Queue()
        await sdk.subscribe(stored_results(endpoint, ADA, address.group), results.put_nowait)
        inbox = await pool.subscribe_inbox("pull", tasks.put_nowait)

        await sdk.store(address.task_subject, b"a bundle")
        pull = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
        await pool.publish(f"$JS.API.CONSUMER.MSG.NEXT.TASKS.{consumer}", pull, reply=inbox.subject)
        task = await asyncio.wait_for(tasks.get(), 5)
        # The MAC covers the subject, so it must come through as it was sent; this is the form a pool may acknowledge.
        assert task.subject == address.task_subject
        assert task.reply.startswith(f"$JS.ACK.TASKS.{consumer}.")
        await pool.store(address.result_subject(0), b"a part")
        await pool.request(task.reply, b"+ACK")

        assert (await asyncio.wait_for(results.get(), 5)).data == b"a part"
        stored = await sdk.read_last("RESULTS", address.result_subject(0))
        assert stored is not None
        assert stored.data == b"a part"
        info = await core.api(f"CONSUMER.INFO.TASKS.{consumer}")
        assert (info["num_ack_pending"], info["num_pending"]) == (0, 0)
        with pytest.raises(PermissionDenied):
            await sdk.store(address.result_subject(1), b"forged")
        with pytest.raises(PermissionDenied):
            await pool.store(address.task_subject, b"forged")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for 96 MB. Needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_after_a_full_disk_it_wants_to_be_started_again_once_there_is_room(
    small_disk: Path, operator: Operator, settings: ServerSettings
) -> None:
    server = NatsServer(replace(settings, directory=small_disk))
    await server.start()
    async with Connection([server.url], operator.minter.core_user("test", 60), name="test") as core:
        await ensure(core, StreamSettings())
        await core.store("event.default.a", b"kept")
        room = shutil.disk_usage(small_disk).free - 300_000
        (small_disk / "others").write_bytes(bytes(room))
        assert not server.needs_restart()

        with pytest.raises(BusError):
            await _store_much(core)
        assert not server.needs_restart()
        (small_disk / "others").unlink()
        assert server.needs_restart()

        server.kill()
        await server.wait()
        await server.start()
        assert not server.needs_restart()
        await core.store("event.default.a", b"goes on", timeout_s=5)
    await server.stop()


async def test_a_port_in_use_is_named_with_the_remedy(settings: ServerSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(ServerUnusable, match=rf"port {port} on 127\.0\.0\.1 is in use.*--nats-port"):
            await NatsServer(replace(settings, port=port)).start()


async def test_somebody_elses_nats_on_the_port_is_not_taken_for_ours(settings: ServerSettings, tmp_path: Path) -> None:
    other = Operator.open(tmp_path / "other-keys").accounts()
    async with NatsServer(ServerSettings(accounts=other, directory=tmp_path / "other")) as server:
        with pytest.raises(ServerUnusable, match="is in use"):
            await NatsServer(replace(settings, port=server.port)).start()


async def test_a_store_that_cannot_be_written_is_named(settings: ServerSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ServerUnusable, match=r"directory .*/file/nats cannot be written: Not a directory; give --home"):
        await NatsServer(replace(settings, directory=tmp_path / "file" / "nats")).start()


async def test_a_server_that_ends_at_its_start_shows_the_end_of_its_log(settings: ServerSettings) -> None:
    settings.directory.mkdir()
    (settings.directory / "jetstream").touch()

    with pytest.raises(ServerUnusable, match=r"(?s)ended at its start \(status 1\); its log .*nats\.log:\n.*storage"):
        await NatsServer(settings).start()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ("nats-server: v2.9.15", r"is NATS server 2\.9\.15; Headrace needs 2\.12 or newer: .*--nats-server"),
        ("hello", r"does not look like a NATS server: --version says \['hello'\]"),
    ],
)
async def test_a_server_that_is_too_old_is_refused(
    settings: ServerSettings, tmp_path: Path, says: str, problem: str
) -> None:
    binary = _script(tmp_path / "nats-server", f"echo '{says}'")

    with pytest.raises(ServerUnusable, match=problem):
        await NatsServer(replace(settings, binary=binary)).start()


async def test_a_server_that_is_not_there_is_named(settings: ServerSettings, tmp_path: Path) -> None:
    with pytest.raises(ServerUnusable, match="no such executable file"):
        await NatsServer(replace(settings, binary=tmp_path / "missing")).start()


async def test_a_server_that_never_answers_is_given_up_and_ended(settings: ServerSettings, tmp_path: Path) -> None:
    script = f"[ $1 = --version ] && echo v2.15.0 && exit; echo $$ > {tmp_path}/pid; exec sleep 60"
    server = NatsServer(replace(settings, binary=_script(tmp_path / "nats-server", script), start_within_s=0.3))

    with pytest.raises(ServerUnusable, match=r"did not answer within 0\.3 s"):
        await server.start()

    pid = int((tmp_path / "pid").read_text())
    await server.wait()
    assert not is_alive(pid)


async def test_a_start_that_is_given_up_leaves_nothing_running(settings: ServerSettings, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/$(echo $1 | tr -d -); exec sleep 60"
    server = NatsServer(replace(settings, binary=_script(tmp_path / "nats-server", script)))
    starting = asyncio.create_task(server.start())
    asked, started = tmp_path / "version", tmp_path / "config"
    await eventually_async(lambda: asked.exists() and started.exists() and asked.read_text() and started.read_text())

    starting.cancel()
    await asyncio.wait({starting})
    await server.wait()

    assert not is_alive(int(asked.read_text()))
    assert not is_alive(int(started.read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_the_server_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
async def main():
    home = pathlib.Path({str(tmp_path)!r})
    server = NatsServer(ServerSettings(accounts=Operator.open(home / "keys").accounts(), directory=home / "nats"))
    await server.start()
    print(server.pid, flush=True)
    await server.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)

        parent.kill()

        eventually(lambda: not is_alive(pid), message="the server ended with its parent")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has such timers")
async def test_the_timers_of_the_server_may_ring_a_millisecond_late(settings: ServerSettings) -> None:
    async with NatsServer(settings) as server:
        assert _timer_slack_ns(server.pid) == 1_000_000


async def test_a_server_that_outlived_its_parent_is_ended_before_the_next(
    settings: ServerSettings, operator: Operator
) -> None:
    async with NatsServer(settings) as orphan, NatsServer(settings):
        assert await asyncio.wait_for(orphan.wait(), 5) is not None
        assert not is_alive(orphan.pid)


def _timer_slack_ns(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/timerslack_ns").read_text())
    except PermissionError:
        pytest.skip("this machine tells nobody but an administrator")


async def _store_much(core: Connection) -> None:
    for _ in range(10):
        await core.store("event.default.a", bytes(100_000), timeout_s=1)


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_wheel_brings_the_server() -> None:
    assert os.access(Path(sys.executable).with_name("nats-server"), os.X_OK)
