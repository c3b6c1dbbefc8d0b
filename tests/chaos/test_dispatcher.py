"""The dispatcher as a process of its own, killed again and again: every event has its one effect per attempt."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from events_desk import NOTES, EventsDesk
from running_pool import running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.dispatcher import RESULTS_CONSUMER
from headrace.bus.names import matcher_consumer
from headrace.bus.nats.connection import Connection

KILLS = 2
EVENTS = 200


@contextlib.contextmanager
def dispatcher(service: RunningService, directory: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace dispatch` beside this service; killed at the end of the block if it still runs."""
    places = ("--home", str(directory / "home"), "--keys", str(service.keys_dir), "--nats-url", service.nats.url)
    with (directory / f"dispatcher-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", "dispatch", *places],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def waiting(service: RunningService) -> int:
    """What the dispatchers have not taken, or not acknowledged."""

    async def look(connection: Connection) -> int:
        total = 0
        for stream, consumer in (("EVENTS", matcher_consumer("default")), ("RESULTS", RESULTS_CONSUMER)):
            with contextlib.suppress(StreamMissing):
                info = await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
                total += int(info["num_pending"]) + int(info["num_ack_pending"])
        return total

    return int(service.bus(look))


def test_a_dispatcher_that_is_killed_in_the_middle_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, dispatcher=False) as service,
        running_pool(service, tmp_path / "pool") as pool,
    ):
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        good, bad = desk.notes(), desk.notes()
        desk.subscribe("good", good)
        failing = desk.subscribe("bad", bad, kwargs={"fail": 99}, retry={"max_attempts": 3, "first_delay_s": 0.3})
        for number in range(EVENTS):
            desk.publish("good", str(number))
        desk.publish("bad", "1")

        for number in range(KILLS):
            with dispatcher(service, tmp_path, number) as process:
                good.wait(min(EVENTS, len(good.runs) + 10), 20)
                process.kill()
                assert process.wait() == -signal.SIGKILL
        with dispatcher(service, tmp_path, KILLS) as last:
            good.wait(EVENTS, 30)
            assert len(desk.dead_letter(failing, 30)["attempts"]) == 3
            eventually(lambda: waiting(service) == 0, 20, "everything is acknowledged")
            last.terminate()
            assert last.wait(10) == 0

        assert Counter(args[0] for args in good.args) == Counter(str(number) for number in range(EVENTS))
        assert bad.args == [["1"]] * 3
