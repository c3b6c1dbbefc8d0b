"""A client and an endpoint where only a proxy for HTTPS leads out, and the authority is one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from certificates import make_certificate
from gateways import Gateway
from headrace_up import headrace_up
from waiting import eventually

from headrace.bus.network import Network
from headrace.endpoint.directory import Endpoints
from headrace.sdk import Client, Executor
from headrace.sdk.profile import Profile

WITHIN_S = 30.0
OUTSIDE = "bus.example"
LARGE = 6_000_000


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "headrace.cli.main", *arguments]


def where_it_runs(size: int) -> tuple[str, bytes]:
    import socket

    return socket.gethostname(), bytes(size)


def shut_in(home: Path, proxy: Gateway, certificate: Path) -> dict[str, str]:
    """The environment of a machine that has no other way out."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept = {name: value for name, value in kept.items() if not name.startswith("HEADRACE_")}
    return {**kept, "HTTPS_PROXY": proxy.url, "HEADRACE_HOME": str(home), "HEADRACE_CA_FILE": str(certificate)}


def test_tasks_run_over_https_and_secure_websockets_through_a_proxy(tmp_path: Path) -> None:
    home, certificate = tmp_path / "elsewhere", make_certificate(tmp_path)
    with (
        Gateway(tls=certificate, target=("127.0.0.1", 0)) as bus_door,
        Gateway(tls=certificate, target=("127.0.0.1", 0)) as api_door,
        Gateway(names={OUTSIDE: "127.0.0.1"}, user="site:s3cret") as proxy,
        headrace_up(
            tmp_path / "home",
            *("--nats-websocket", "127.0.0.1:0", "--public-nats-url", f"wss://{OUTSIDE}:{bus_door.port}/nats"),
        ) as up,
    ):
        bus_door.target = ("127.0.0.1", urlsplit(up.ready["nats_websocket_url"]).port or 0)
        api_door.target = ("127.0.0.1", urlsplit(up.url).port or 0)
        url = f"https://{OUTSIDE}:{api_door.port}"
        environment = shut_in(home, proxy, certificate.cert)

        login: Any = subprocess.run(
            command("login", "--url", url), input=up.token, text=True, capture_output=True, env=environment, check=False
        )
        assert login.returncode == 0, login.stderr
        # What login was told stays: from here on no variable names the certificates.
        del environment["HEADRACE_CA_FILE"]
        Endpoints(home).create("cluster")
        with (tmp_path / "output").open("wb") as output:
            endpoint = subprocess.Popen(
                command("endpoint", "start", "cluster", "--workers", "1"),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            profile = Profile.read(home / "profile.json", environ=environment)
            with Client(profile=profile) as client:
                ids = eventually(lambda: there(client, up.endpoint_id), WITHIN_S, "the endpoint is there")
                assert ids is not None
                with Executor(ids[0], client=client) as executor:
                    futures = [executor.submit(pow, 2, power) for power in range(300)]
                    assert [future.result(WITHIN_S) for future in futures] == [2**power for power in range(300)]
                    assert len(executor.submit(where_it_runs, LARGE).result(WITHIN_S)[1]) == LARGE
        finally:
            endpoint.terminate()
            endpoint.wait(20)

        assert {f"{OUTSIDE}:{door.port}" for door in (bus_door, api_door)} == set(proxy.asked)
        said = (tmp_path / "output").read_text() + "".join(
            path.read_text(errors="replace") for path in home.rglob("*.log")
        )
        assert "s3cret" not in said

        # Whoever is on the machine of the service needs no way around, and its own endpoint works as ever.
        local = Profile.read(up.home / "profile.json", environ={})
        assert local.network == Network(nats_urls=(up.nats_url,))
        with Client(profile=local) as client, Executor(up.endpoint_id, client=client) as executor:
            assert executor.submit(pow, 2, 10).result(WITHIN_S) == 1024


def there(client: Client, local: str) -> list[str]:
    """The endpoints but the local one that are online."""
    ids = [each["endpoint_id"] for each in client.get_endpoints() if each["endpoint_id"] != local]
    return [each for each in ids if client.get_endpoint_status(each)["status"] == "online"]
