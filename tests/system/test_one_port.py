"""The service and the bus behind nginx on one port, with the configuration that comes along (deploy/nginx)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from certificates import Certificate, make_certificate
from gateways import closed_port
from headrace_up import Up, headrace_up
from waiting import eventually

from headrace.bus.network import Network
from headrace.sdk import Client, Executor
from headrace.sdk.profile import Profile

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "headrace.conf"
WITHIN_S = 30.0
LARGE = 20_000_000

_AROUND = """\
daemon off;
user root;
pid {0}/nginx.pid;
error_log {0}/error.log info;
events {{ }}
http {{
    access_log {0}/access.log;
    client_body_temp_path {0}/body;
    proxy_temp_path {0}/proxy;
    fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi;
    scgi_temp_path {0}/scgi;
    include {0}/headrace.conf;
}}
"""


def as_deployed(directory: Path, port: int, up: Up, certificate: Certificate) -> Path:
    """Our configuration with the places of this test in it."""
    text = CONFIGURATION.read_text()
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "    listen [::]:443 ssl;\n": "",
        "server_name headrace.example.org;": "server_name localhost;",
        "server 127.0.0.1:8742": "server " + urlsplit(up.url).netloc,
        "server 127.0.0.1:4743": "server " + urlsplit(up.ready["nats_websocket_url"]).netloc,
        "/etc/ssl/certs/headrace.example.org.pem": str(certificate.cert),
        "/etc/ssl/private/headrace.example.org.key": str(certificate.key),
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (directory / "headrace.conf").write_text(text)
    (directory / "nginx.conf").write_text(_AROUND.format(directory))
    return directory / "nginx.conf"


@contextlib.contextmanager
def nginx(configuration: Path, port: int) -> Iterator[None]:
    with (configuration.parent / "nginx.output").open("ab") as output:
        process = subprocess.Popen(["nginx", "-c", str(configuration)], stdout=output, stderr=output)
    try:
        eventually(lambda: listens(port), WITHIN_S, "nginx listens")
        yield
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def said(size: int) -> bytes:
    sys.stdout.write("here\n")
    return bytes(size)


def test_tasks_run_and_go_on_when_the_proxy_comes_again(tmp_path: Path) -> None:
    certificate, port = make_certificate(tmp_path), closed_port()
    options = ("--nats-websocket", "127.0.0.1:0", "--public-nats-url", f"wss://localhost:{port}/nats")
    with headrace_up(tmp_path / "home", *options, "--workers", "1") as up, contextlib.ExitStack() as stack:
        configuration = as_deployed(tmp_path, port, up, certificate)
        profile = Profile(url=f"https://localhost:{port}", token=up.token, network=Network(ca_file=certificate.cert))
        client = stack.enter_context(Client(profile=profile))
        executor = stack.enter_context(Executor(up.endpoint_id, client=client))
        with nginx(configuration, port):
            # There is no other way to the bus that we are told of.
            assert client.open_session(up.endpoint_id)["nats_urls"] == [f"wss://localhost:{port}/nats"]
            futures = [executor.submit(pow, 2, power) for power in range(500)]
            assert [future.result(WITHIN_S) for future in futures] == [2**power for power in range(500)]
            # By HTTPS, in and out.
            assert executor.submit(len, bytes(LARGE)).result(WITHIN_S) == LARGE
            large = executor.submit(said, LARGE)
            assert len(large.result(WITHIN_S)) == LARGE
            assert large.task_id is not None
            assert client.task_logs(large.task_id) == "here\n"

        # While it is away tasks run, and results wait.
        waiting = executor.submit(pow, 3, 3)
        with nginx(configuration, port):
            assert waiting.result(WITHIN_S) == 27
            assert executor.submit(pow, 2, 10).result(WITHIN_S) == 1024


def test_nobody_is_served_without_tls(tmp_path: Path) -> None:
    certificate, port = make_certificate(tmp_path), closed_port()
    with (
        headrace_up(tmp_path / "home", "--nats-websocket", "127.0.0.1:0", "--no-endpoint") as up,
        nginx(as_deployed(tmp_path, port, up, certificate), port),
        socket.create_connection(("localhost", port)) as plain,
    ):
        plain.sendall(b"GET /nats HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n")
        assert b"400" in plain.recv(4096).partition(b"\r\n")[0]
