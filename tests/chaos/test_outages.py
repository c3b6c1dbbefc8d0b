"""A part is away at the very moment when it is needed for the first time."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from running_pool import running_pool
from service import running_service
from waiting import eventually

from headrace.sdk import Client, Executor


def test_an_executor_that_begins_while_the_bus_is_away_waits_for_it(tmp_path: Path) -> None:
    with (
        running_service(tmp_path) as service,
        running_pool(service, tmp_path / "pool", workers=1) as pool,
        Client(service.url, service.token) as client,
    ):
        early, late = (Executor(pool.endpoint_id, client=client) for _ in range(2))
        function_id = early.register_function(pow)
        assert early.submit(pow, 2, 3).result(20) == 8
        service.nats.kill()
        service.loop.run(service.nats.wait())
        session, _ = early._channels.all()[0]
        eventually(lambda: not session.connection.connected)
        results: list[object] = []

        def submit() -> None:
            results.append(late.submit_to_registered_function(function_id, (2, 4)).result(20))

        waiting = threading.Thread(target=submit)

        waiting.start()
        eventually(session._opening.locked, message="the executor waits for the bus")
        service.loop.run(service.nats.start())

        waiting.join(20)
        assert results == [16]
        assert early.submit(pow, 2, 5).result(20) == 32
        early.shutdown()
        late.shutdown()


def test_a_pool_that_cannot_write_its_status_goes_on(tmp_path: Path) -> None:
    with (
        running_service(tmp_path) as service,
        running_pool(service, tmp_path / "pool", workers=1) as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        executor.submit(os.getpid).result(20)
        process = pool._process
        assert process is not None
        # Held meanwhile: it writes the file whenever it likes.
        process.send_signal(signal.SIGSTOP)
        pool.status_path.unlink()
        pool.status_path.mkdir()
        process.send_signal(signal.SIGCONT)

        worker = executor.submit(os.getpid).result(20)
        os.kill(worker, signal.SIGKILL)  # its successor is in the file of processes, which is written next to the other

        eventually(lambda: (tmp_path / "pool" / "pids").read_text().split() not in ([], [str(worker)]), 10)
        assert executor.submit(pow, 2, 3).result(20) == 8
        assert process.poll() is None
