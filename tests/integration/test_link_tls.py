"""A server with a certificate: signed in over TLS, or not at all."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from certificates import make_certificate
from waiting import eventually_async

from headrace.bus.errors import BusUnavailable
from headrace.bus.installation.nats_binary import find_binary
from headrace.bus.installation.operator import Operator
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.network import Network

pytestmark = pytest.mark.anyio
LARGE = bytes(range(256)) * 2_000


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    # The client runs on one of them where the other cannot be installed.
    return "asyncio", {"loop_factory": uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path).cert


@pytest.fixture
def port(tmp_path: Path, certificate: Path) -> Iterator[int]:
    accounts = Operator.open(tmp_path / "keys").accounts()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        chosen: int = free.getsockname()[1]
    config = {
        "host": "127.0.0.1",
        "port": chosen,
        "operator": accounts.operator_jwt,
        "system_account": accounts.system_account,
        "resolver": "MEMORY",
        "resolver_preload": accounts.jwts,
        "tls": {"cert_file": str(certificate), "key_file": str(certificate.with_name("key.pem"))},
    }
    (tmp_path / "nats.conf").write_text(json.dumps(config))
    with (tmp_path / "nats.log").open("wb") as log:
        server = subprocess.Popen([find_binary(), "-c", tmp_path / "nats.conf"], stdout=log, stderr=log)
    try:
        yield chosen
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_messages_travel_encrypted(
    tmp_path: Path, port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    user = Operator.open(tmp_path / "keys").minter.core_user("test", 60)
    heard: list[Message] = []

    async with Connection([f"{scheme}://localhost:{port}"], user, name="test") as connection:
        await connection.subscribe("a.b", heard.append)
        await connection.publish("a.b", LARGE, headers={"X": "y"})
        await connection.publish("a.b", b"small")
        await eventually_async(lambda: len(heard) == 2)

    assert [message.data for message in heard] == [LARGE, b"small"]
    assert heard[0].headers == {"X": "y"}


async def test_an_authority_of_ones_own_is_trusted_besides_those_of_the_system(
    tmp_path: Path, port: int, certificate: Path
) -> None:
    user = Operator.open(tmp_path / "keys").minter.core_user("test", 60)

    async with Connection(
        [f"tls://localhost:{port}"], user, name="test", network=Network(ca_file=certificate)
    ) as connection:
        await connection.flush()


async def test_a_certificate_that_nobody_vouches_for_is_refused_in_words(tmp_path: Path, port: int) -> None:
    user = Operator.open(tmp_path / "keys").minter.core_user("test", 60)
    connection = Connection([f"tls://localhost:{port}"], user, name="test", connect_timeout_s=1.5)

    with pytest.raises(BusUnavailable, match="certificate"):
        await connection.open()
