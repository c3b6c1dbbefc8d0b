"""Events of many threads go together, and each thread gets its own answer, or its own error."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from waiting import eventually

from headrace.sdk.errors import RequestRefused, ServiceUnreachable
from headrace.sdk.publications import MOST_REQUESTS, Publications

THREADS = 30


class Desk:
    """Whoever sends: remembers what went together, and holds the first requests until told."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.open = threading.Event()
        self.line = Publications(self.send)
        self.broken = False

    def send(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        numbers = [event["number"] for event in events]
        self.sent.append(numbers)
        self.open.wait(20)
        if self.broken and len(events) > 1:
            raise ServiceUnreachable("the connection broke")
        if any(number == THREADS - 1 for number in numbers):
            raise RequestRefused(422, "SchemaViolation", "not an event")
        return [{"sequence": 1000 + number} for number in numbers]

    def publish(self, number: int) -> int:
        return int(self.line.publish({"number": number})["sequence"])

    def publish_all(self, pool: ThreadPoolExecutor, *, good: int = THREADS - 1) -> list[Future[int]]:
        """One event from each of many threads, all of which wait."""
        futures = [pool.submit(self.publish, number) for number in range(good)]
        eventually(lambda: len(self.sent) == MOST_REQUESTS)
        eventually(lambda: len(self.line._line) == good - MOST_REQUESTS)
        return futures


def test_what_comes_while_requests_are_under_way_goes_together() -> None:
    desk = Desk()
    with ThreadPoolExecutor(THREADS) as pool:
        futures = desk.publish_all(pool)
        desk.open.set()

        assert [future.result(20) for future in futures] == [1000 + number for number in range(THREADS - 1)]
        assert sorted(map(len, desk.sent)) == [1] * MOST_REQUESTS + [THREADS - 1 - MOST_REQUESTS]
        # The line is empty, and whoever comes alone goes alone.
        assert desk.publish(3) == 1003
        assert desk.sent[-1] == [3]


@pytest.mark.parametrize("broken", [True, False])
def test_a_batch_that_fails_is_sent_one_by_one(broken: bool) -> None:
    desk = Desk()
    desk.broken = broken
    with ThreadPoolExecutor(THREADS) as pool:
        futures = desk.publish_all(pool)
        futures.append(pool.submit(desk.publish, THREADS - 1))
        eventually(lambda: len(desk.line._line) == THREADS - MOST_REQUESTS)
        desk.open.set()

        with pytest.raises(RequestRefused, match="not an event"):
            futures.pop().result(20)
        assert [future.result(20) for future in futures] == [1000 + number for number in range(THREADS - 1)]
        assert sorted(map(len, desk.sent)) == [1] * THREADS + [THREADS - MOST_REQUESTS]
        assert (desk.line._under_way, desk.line._batches) == (0, 0)
