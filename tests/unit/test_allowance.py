"""What the service allows: counted here in between, asked again where somebody waits."""

from __future__ import annotations

import threading
import uuid

import pytest

from headrace.sdk import QueueFull
from headrace.sdk.allowance import Allowance, QueueLimit
from headrace.sdk.errors import ServiceUnavailable
from headrace.sdk.limits import BLOCK, WhenFull

RAISE = WhenFull(raises=True)


class Service:
    """Says what it is told to say, and counts how often it is asked."""

    def __init__(self, room: int | None) -> None:
        self.now = 100.0
        self.asked = 0
        self.says: QueueLimit | Exception = limit(room)
        self.allowance = Allowance(uuid.uuid4(), limit(room), self._ask, clock=lambda: self.now)

    def _ask(self) -> QueueLimit:
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def limit(room: int | None) -> QueueLimit:
    return QueueLimit(bundles=None if room is None else 10, used=10 - (room or 0), room=room)


def nothing() -> None:
    pass


def test_what_a_service_without_limits_says_is_no_limit() -> None:
    assert QueueLimit.of_document(None) == QueueLimit(bundles=None, used=0, room=None, may_submit=True)
    service = Service(None)
    for _ in range(100):
        service.allowance.begun()
    assert service.allowance.is_free


def test_bundles_count_from_their_beginning_to_their_end() -> None:
    service = Service(2)
    service.allowance.begun()
    service.allowance.begun()
    with pytest.raises(QueueFull, match="10 for you") as caught:
        service.allowance.wait(RAISE, nothing)
    assert (caught.value.limit, caught.value.used) == (10, 8)

    service.allowance.stored()
    service.allowance.ended()

    service.allowance.wait(RAISE, nothing)
    assert service.asked == 0  # the answer was not old


def test_what_is_on_its_way_is_not_in_the_services_figure() -> None:
    service = Service(3)
    service.allowance.begun()
    service.allowance.begun()
    service.allowance.stored()

    service.allowance.learn(limit(1))

    assert not service.allowance.is_free


def test_who_finds_no_room_asks_the_service_but_not_all_the_time() -> None:
    service = Service(0)
    with pytest.raises(QueueFull):
        service.allowance.wait(RAISE, nothing)
    service.now += 1
    for _ in range(5):
        with pytest.raises(QueueFull):
            service.allowance.wait(RAISE, nothing)
    assert service.asked == 1

    service.now += 1
    service.says = limit(1)
    service.allowance.wait(RAISE, nothing)


def test_a_service_that_does_not_answer_changes_nothing() -> None:
    service = Service(0)
    service.now += 1
    service.says = ServiceUnavailable("away", status=503)

    with pytest.raises(QueueFull):
        service.allowance.wait(RAISE, nothing)


def test_who_waits_goes_on_when_a_bundle_ends() -> None:
    service = Service(0)
    through = threading.Event()

    def wait() -> None:
        service.allowance.wait(BLOCK, nothing)
        through.set()

    thread = threading.Thread(target=wait)
    thread.start()

    service.allowance.ended()

    assert through.wait(20)
    thread.join(20)


def test_who_waits_hears_that_it_is_over() -> None:
    service, over = Service(0), threading.Event()
    raised: list[BaseException] = []

    def check() -> None:
        if over.is_set():
            raise RuntimeError("shut down")

    def wait() -> None:
        try:
            service.allowance.wait(BLOCK, check)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    over.set()
    service.allowance.wake()
    thread.join(20)

    assert str(raised[0]) == "shut down"


def test_a_wait_has_an_end_if_the_caller_wants_one() -> None:
    service = Service(0)

    def later() -> None:
        service.now += 10

    with pytest.raises(QueueFull):
        service.allowance.wait(WhenFull(timeout_s=5), later)
