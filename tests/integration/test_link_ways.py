"""The ways to a bus behind walls: WebSockets, proxies, both, and which of several is taken. With a real NATS server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from certificates import Certificate, make_certificate
from gateways import Gateway, closed_port
from waiting import eventually_async

from headrace.bus.errors import BusUnavailable, NetworkUnusable, PayloadTooLarge, PermissionDenied
from headrace.bus.installation.credentials import Credentials
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.network import DIRECT, Network

pytestmark = pytest.mark.anyio

ELSEWHERE = "bus.example"
"""What only a proxy knows: a proxy is not asked about this machine's own loopback."""


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    # The client runs on one of them where the other cannot be installed.
    return "asyncio", {"loop_factory": uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop}


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.open(tmp_path / "keys")


@pytest.fixture
def user(operator: Operator) -> Credentials:
    return operator.minter.core_user("test", 60)


@pytest.fixture
async def server(tmp_path: Path, operator: Operator) -> AsyncIterator[NatsServer]:
    settings = ServerSettings(
        accounts=operator.accounts(), directory=tmp_path / "nats", relaxed=True, websocket=("127.0.0.1", 0)
    )
    async with NatsServer(settings) as running:
        yield running


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


async def talk(urls: list[str], user: Credentials, network: Network = DIRECT) -> None:
    """Small and large messages, there and back."""
    heard: list[Message] = []
    sizes = [0, 5, 125, 126, 60_000, 70_000, 1_000_000, 3_000_000]
    said = [bytes([number]) * size for number, size in enumerate(sizes)]
    async with Connection(urls, user, name="test", network=network) as connection:
        await connection.subscribe("a.b", heard.append)
        for payload in said:
            await connection.publish("a.b", payload, headers={"X": "y"})
        await eventually_async(lambda: len(heard) == len(said))

    assert [message.data for message in heard] == said


async def test_messages_travel_in_websocket_frames(server: NatsServer, user: Credentials) -> None:
    assert server.websocket_url is not None
    await talk([server.websocket_url], user)


async def test_messages_travel_in_websocket_frames_over_tls_with_an_authority_of_ones_own(
    server: NatsServer, user: Credentials, certificate: Certificate
) -> None:
    with Gateway(tls=certificate, target=("127.0.0.1", server.websocket_port)) as door:
        await talk([f"wss://localhost:{door.port}/nats"], user, Network(ca_file=certificate.cert))

        stranger = Connection([f"wss://localhost:{door.port}/nats"], user, name="test", connect_timeout_s=1.0)
        with pytest.raises(BusUnavailable, match="certificate"):
            await stranger.open()


@pytest.mark.parametrize("scheme", ["nats", "ws", "wss"])
async def test_a_proxy_leads_to_a_server_that_only_it_knows(
    server: NatsServer, user: Credentials, certificate: Certificate, scheme: str
) -> None:
    with (
        Gateway(tls=certificate, target=("127.0.0.1", server.websocket_port)) as door,
        Gateway(names={ELSEWHERE: "127.0.0.1"}, user="ada:s3cret") as proxy,
    ):
        port = {"nats": server.port, "ws": server.websocket_port, "wss": door.port}[scheme]
        network = Network(all_proxy=proxy.url, ca_file=certificate.cert)
        await talk([f"{scheme}://{ELSEWHERE}:{port}"], user, network)

        assert proxy.asked == [f"{ELSEWHERE}:{port}"]


async def test_a_proxy_may_speak_tls_itself(server: NatsServer, user: Credentials, certificate: Certificate) -> None:
    with Gateway(tls=certificate, names={ELSEWHERE: "127.0.0.1"}) as proxy:
        network = Network(all_proxy=proxy.url, ca_file=certificate.cert)
        await talk([f"ws://{ELSEWHERE}:{server.websocket_port}"], user, network)


async def test_a_proxy_that_refuses_is_told_in_words_without_the_password(
    server: NatsServer, user: Credentials
) -> None:
    with Gateway(user="ada:s3cret") as proxy:
        network = Network(all_proxy=proxy.url.replace("s3cret", "guess"))
        connection = Connection(
            [f"nats://{ELSEWHERE}:{server.port}"], user, name="test", connect_timeout_s=1.0, network=network
        )
        with pytest.raises(BusUnavailable, match="407 Proxy Authentication Required") as refused:
            await connection.open()

    assert "guess" not in str(refused.value)


async def test_a_proxy_of_a_kind_that_we_do_not_speak_is_no_reason_to_wait(user: Credentials) -> None:
    connection = Connection(
        [f"nats://{ELSEWHERE}"], user, name="test", network=Network(all_proxy="socks5://me:s3cret@proxy:1080")
    )
    with pytest.raises(NetworkUnusable, match="socks5://proxy:1080") as refused:
        await connection.open()

    assert "s3cret" not in str(refused.value)


async def test_the_first_way_that_leads_there_is_taken_and_taken_again(
    server: NatsServer, user: Credentials, certificate: Certificate
) -> None:
    with (
        Gateway(names={ELSEWHERE: "127.0.0.1"}) as proxy,
        Gateway(target=("127.0.0.1", server.websocket_port)) as door,
    ):
        urls = [f"nats://127.0.0.1:{closed_port()}", f"ws://127.0.0.1:{door.port}", server.url]
        async with Connection(urls, user, name="test", network=Network(https_proxy=proxy.url)) as connection:
            back = asyncio.Event()
            connection.on_connected.append(back.set)
            door.cut()
            await asyncio.wait_for(back.wait(), 10)
            await connection.flush()

        # A name that does not resolve: https_proxy is the second way of NATS's own protocol, and the last here.
        await talk([f"nats://{ELSEWHERE}:{server.port}"], user, Network(https_proxy=proxy.url))
        assert proxy.asked == [f"{ELSEWHERE}:{server.port}"]


async def test_what_is_no_websocket_is_told_in_words(server: NatsServer, user: Credentials) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        for url, words in (
            (f"ws://127.0.0.1:{port}/nats", "404 Not Found"),
            (f"ws://127.0.0.1:{server.port}", "no WebSocket"),
        ):
            connection = Connection([url], user, name="test", connect_timeout_s=0.8)
            with pytest.raises(BusUnavailable, match=words):
                await connection.open()


async def test_a_stranger_is_refused_over_websockets_too(server: NatsServer, tmp_path: Path) -> None:
    assert server.websocket_url is not None
    stranger = Operator.open(tmp_path / "other").minter.core_user("stranger", 60)

    with pytest.raises(PermissionDenied):
        await Connection([server.websocket_url], stranger, name="stranger").open()


async def test_a_message_that_is_too_large_is_refused_before_it_is_sent(server: NatsServer, user: Credentials) -> None:
    assert server.websocket_url is not None
    async with Connection([server.websocket_url], user, name="test") as connection:
        with pytest.raises(PayloadTooLarge):
            await connection.publish("a.b", bytes(connection.max_payload + 1))
        await connection.flush()
