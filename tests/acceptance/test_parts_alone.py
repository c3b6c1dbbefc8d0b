"""A real deployment: NATS, the service and an endpoint, each started by itself, with no more than it needs."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from plain_http import NO_TLS
from waiting import eventually

from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.sdk import Client, Executor


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `headrace` command; it must end well when it is asked to."""
    with log.open("wb") as output:
        process = subprocess.Popen(headrace(*arguments), stdout=output, stderr=subprocess.STDOUT, env=clean())
    try:
        yield process
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def headrace(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "headrace.cli.main", *arguments]


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


@pytest.mark.anyio
async def test_each_part_runs_alone_and_together_they_run_a_function(tmp_path: Path) -> None:
    operator = Operator.open(tmp_path / "nats" / "keys")

    async with NatsServer(ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats")) as nats:
        await asyncio.to_thread(run_a_function, tmp_path, nats.url)


def run_a_function(place: Path, nats_url: str) -> None:
    """Start service and endpoint beside this NATS server, as their administrators would."""
    token = f"hr_{'0' * 16}_{'x' * 43}"
    keys, service_home, endpoint_home = place / "service-keys", place / "service", place / "endpoint"
    for name in ("service.json", "master.key"):
        write_private(keys / name, (place / "nats" / "keys" / name).read_text("latin-1"))
    write_private(service_home / "admin.token", token)
    serve = ("serve", "--home", str(service_home), "--keys", str(keys), "--nats-url", nats_url, "--port", "0")
    with running(place / "service.log", *serve):
        url = eventually(lambda: url_in(service_home), within_s=20)
        assert url is not None
        done("login", "--url", url, "--home", str(endpoint_home), said=token)
        start = ("endpoint", "start", "lab", "--home", str(endpoint_home), "--workers", "1")
        configured = done("endpoint", "configure", "lab", "--home", str(endpoint_home))
        assert f"headrace {shlex.join(start[:-2])}\n" in configured
        with running(place / "endpoint.log", *start), Client(url, token) as client:
            eventually(lambda: [e for e in client.get_endpoints() if e["status"] == "online"], within_s=20)

            with Executor(client=client) as executor:
                assert executor.submit(pow, 2, 10).result(20) == 1024


def done(*arguments: str, said: str = "") -> str:
    """A `headrace` command that does its work and ends; what it notes."""
    process = subprocess.run(
        headrace(*arguments), input=said, env=clean(), capture_output=True, text=True, check=False, timeout=30
    )
    assert process.returncode == 0, process.stderr
    return process.stderr


def write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, "latin-1")


def test_a_service_without_nats_says_so(tmp_path: Path) -> None:
    Operator.open(tmp_path / "keys")
    nowhere = ("--nats-url", "nats://127.0.0.1:1", "--nats-wait", "0.3")

    process = subprocess.run(
        headrace("serve", "--home", str(tmp_path), "--port", "0", *nowhere),
        env=clean(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert process.returncode == 1
    assert "no NATS server answers at nats://127.0.0.1:1 within 0.3 s" in process.stderr
    assert "Traceback" not in process.stderr


def url_in(home: Path) -> str | None:
    try:
        url = str(json.loads((home / "serving.json").read_text())["url"])
        return url if httpx.get(f"{url}/readyz", verify=NO_TLS, timeout=20).is_success else None
    except (OSError, httpx.HTTPError):
        return None
