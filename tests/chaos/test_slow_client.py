"""A client that stops reading until the NATS server gives it up, which takes ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_process import client_process
from running_pool import running_pool
from service import running_service
from waiting import eventually

from headrace.sdk import Client, Executor


def double(x: int) -> int:
    return 2 * x


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_client_that_did_not_read_for_a_while_misses_no_result(tmp_path: Path) -> None:
    with (
        running_service(tmp_path) as service,
        running_pool(service, tmp_path / "pool", name="large", workers=1) as pool,
        client_process(service, pool.endpoint_id) as client,
        Client(service.url, service.token) as watching,
        Executor(pool.endpoint_id, client=watching) as other,
    ):
        log = service.home / "nats" / "nats.log"
        client.submit("hold", str(tmp_path / "go"))
        eventually((tmp_path / "go.held").exists, 10)
        for _ in range(24):
            client.submit("filled", 3_900_000)

        client.suspend()
        (tmp_path / "go").touch()
        eventually(lambda: "Slow Consumer" in log.read_text(), 20, "the server has given the client up")
        client.resume()

        assert client.results() == ["held"] + [3_900_000] * 24
        assert other.submit(double, 1).result(20) == 2
