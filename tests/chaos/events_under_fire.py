"""Events under fire: publishers, subscriptions and dispatchers, which are killed, and what became of every event.

What must hold, whoever is killed: an acknowledged event has run each function whose subscription matched when it was
published, as often as its attempts say and not once more; of an offer that was not acknowledged all events are there,
or none; and what failed too often is one dead letter with every attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from chaos.system_under_fire import Failure, SystemUnderFire
from headrace_up import is_alive
from plain_http import NO_TLS
from waiting import eventually, eventually_answered

from headrace.bus.eventing.dispatcher import RESULTS_CONSUMER
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.installation.operator import Operator
from headrace.bus.names import event_stream, matcher_consumer
from headrace.bus.nats.connection import Connection

ATTEMPTS = 3
MODULUS, FLAKY_REST, POISON_REST = 20, 4, 7
"""Numbers with these rests fail once with the flaky function, or each time with the one that never takes them."""

NOTE = """
def note(path, number, rest):
    import os, time
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{number} {time.time():.6f}\\n".encode())
    finally:
        os.close(descriptor)
    if rest == 7 and path.endswith("poisoned"):
        raise ValueError(f"{number} is poison")
    if rest == 4 and path.endswith("flaky"):
        with open(path) as file:
            if sum(line.split()[0] == str(number) for line in file) == 1:
                raise ValueError(f"{number} fails once")
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """Events that a publisher offered together; `acknowledged_at` is None when it heard nothing good."""

    numbers: tuple[int, ...]
    acknowledged_at: float | None


@dataclass(slots=True)
class Reckoning:
    """What came of all events."""

    events: int = 0
    unacknowledged: int = 0
    stored_without_word: int = 0
    runs: int = 0
    dead_letters: int = 0
    waits_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ordered = sorted(self.waits_s)
        return (
            f"{self.events} events acknowledged, {self.unacknowledged} not, of which {self.stored_without_word} are"
            f" there; {self.runs} runs, {self.dead_letters} dead letters; zero missing, zero doubled; acknowledged →"
            f" first run: p50 {1e3 * ordered[len(ordered) // 2]:.0f} ms, the slowest {ordered[-1]:.1f} s"
        )


class EventsUnderFire:
    """The load on a system: `subscribe` first, then `publish` and `dispatch`, then `reckon`."""

    def __init__(self, system: SystemUnderFire, directory: Path) -> None:
        self.system = system
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.publishers: dict[str, subprocess.Popen[bytes]] = {}
        self.dispatchers: dict[str, subprocess.Popen[bytes]] = {}
        self.subscriptions: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self.killed: set[str] = set()
        self._offered = 0
        with self.http() as http:
            body = {"name": "note", "source": NOTE, "python_version": "3.11"}
            self._function = http.post("/api/v1/functions", json=body).raise_for_status().json()["function_id"]

    def http(self) -> httpx.Client:
        up = self.system.up
        headers = {"Authorization": f"Bearer {up.token}"}
        return httpx.Client(base_url=up.url, headers=headers, timeout=20, trust_env=False, verify=NO_TLS)

    # Parts

    def subscribe(self, name: str, wanted: Any) -> None:
        """Let events run the function, which notes them in a file of this name."""
        body = {
            "name": name,
            "filter": wanted,
            "function_id": self._function,
            "endpoint_id": self.system.up.endpoint_id,
            "input": {"args": [str(self.directory / name), "{{ event.data.number }}", "{{ event.data.rest }}"]},
            "retry": {"max_attempts": ATTEMPTS, "first_delay_s": 0.3, "factor": 1},
        }
        with self.http() as http:
            answer = http.post("/api/v1/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        self.subscriptions[name] = answer.json()["subscription_id"]

    def subscribe_all(self) -> None:
        """To everything, to a half by another language, to what fails once, to what fails for good, to nothing."""
        self.subscribe("all", {"prefix": {"type": "chaos."}})
        self.subscribe("even", {"sql": "type = 'chaos.even'"})
        self.subscribe("flaky", {"pattern": {"data": {"rest": [FLAKY_REST, FLAKY_REST - 1]}}})
        self.subscribe("poisoned", {"pattern": {"data": {"rest": [POISON_REST]}}})
        self.subscribe("none", {"exact": {"type": "chaos.never"}})

    def publish(self, name: str, kind: str, count: int, *, pause_s: float = 0.0) -> None:
        """Start a publisher of so many events."""
        settings = {
            "name": name,
            "kind": kind,
            "count": count,
            "first_number": self._offered,
            "pause_s": pause_s,
            "seed": self.system.random.random(),
            "url": self.system.up.url,
            "token": self.system.up.token,
            "directory": str(self.directory),
        }
        self._offered += count
        self.counts[name] = count
        self.publishers[name] = self._start(f"{name}.log", "event_publisher.py", json.dumps(settings))

    def dispatch(self, name: str) -> None:
        """Start a dispatcher of its own beside the service's."""
        up = self.system.up
        places = ("--home", str(self.directory / "home"), "--keys", str(up.home / "keys"), "--nats-url", up.nats_url)
        command = ("-m", "headrace.cli.main", "dispatch", *places, "--nats-wait", "60")
        self._starts[name] += 1
        self.dispatchers[name] = self._start(f"{name}-{self._starts[name]}.log", *command)

    # Failures

    def kill_publisher(self, name: str) -> None:
        """Kill a publisher in the middle of what it does."""
        self._kill(self.publishers[name])
        self.killed.add(name)
        self._note("publisher")

    def kill_dispatcher(self, name: str) -> None:
        """Kill a dispatcher, and start another one in its place."""
        self._await_work_of(name)
        self._kill(self.dispatchers[name])
        self._note("dispatcher")
        self.dispatch(name)

    @contextlib.contextmanager
    def suspended(self, name: str) -> Iterator[None]:
        """A dispatcher that stands still for a while, with what it holds, and then goes on as if nothing were."""
        self._await_work_of(name)
        process = self.dispatchers[name]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
        self._note("dispatcher that stood still")

    # The end

    def stop(self) -> None:
        """Let the publishers end after what they are at."""
        (self.directory / "stop").touch()

    def await_publishers(self, within_s: float) -> None:
        """Wait until all that were not killed have offered everything."""
        for name, process in self.publishers.items():
            if name not in self.killed:
                assert process.wait(within_s) == 0, f"{name}:\n{(self.directory / f'{name}.log').read_text()[-3000:]}"

    def close(self) -> None:
        """End what still runs."""
        for process in (*self.publishers.values(), *self.dispatchers.values()):
            if process.poll() is None:
                process.kill()
                process.wait()

    def offered(self) -> int:
        """How many events have been, or will be, offered: what a killed publisher still had is not."""
        by_the_dead = sum(len(offer.numbers) for name in self.killed for offer in self._offers(name))
        return by_the_dead + sum(count for name, count in self.counts.items() if name not in self.killed)

    def offers(self) -> list[Offer]:
        """What all publishers offered, as far as they have come."""
        return [offer for name in self.publishers for offer in self._offers(name)]

    def _offers(self, name: str) -> list[Offer]:
        lines = _lines(self.directory / f"{name}.offers")
        good = {line["acknowledged"]: line["at"] for line in lines if "acknowledged" in line}
        offers = [tuple(line["offered"]) for line in lines if "offered" in line]
        return [Offer(numbers, good.get(numbers[0])) for numbers in offers]

    def runs(self, name: str) -> Counter[int]:
        """How often each number ran a function."""
        return Counter(number for number, _ in self._noted(name))

    def ran(self) -> int:
        """How often anything ran."""
        return sum(len(self._noted(name)) for name in self.subscriptions)

    def reckon(self, within_s: float) -> Reckoning:
        """Wait until everything is there, and hold it to the promises. Raises `AssertionError` for a broken one."""
        asyncio.run(self._settle(within_s))
        offers = self.offers()
        good = [number for offer in offers if offer.acknowledged_at is not None for number in offer.numbers]
        seen = set(self.runs("all"))
        known = {number for offer in offers for number in offer.numbers}
        assert seen <= known, f"events that nobody offered: {sorted(seen - known)[:5]}"
        reckoning = Reckoning(events=len(good))
        for offer in offers:
            ran = sum(number in seen for number in offer.numbers)
            assert ran in (0, len(offer.numbers)), f"{ran} of an offer of {len(offer.numbers)} are there: {offer}"
        unheard = {number for offer in offers if offer.acknowledged_at is None for number in offer.numbers}
        reckoning.unacknowledged, reckoning.stored_without_word = len(unheard), len(unheard & seen)
        there = set(good) | (unheard & seen)
        missing = {name: expected(name, there) - self.runs(name) for name in self.subscriptions}
        assert not any(missing.values()), f"missing: {missing}"
        reckoning.dead_letters = self._check_dead_letters(there, within_s)
        for name in self.subscriptions:
            doubled = self.runs(name) - expected(name, there)
            assert not doubled, f"{name} ran too often: {list(doubled.items())[:5]}"
        reckoning.runs = self.ran()
        reckoning.waits_s = self._waits(offers)
        return reckoning

    async def _settle(self, within_s: float) -> None:
        """Wait until every event has been matched, every attempt has run, and every outcome was taken."""
        up = self.system.up
        credentials = Operator.open(up.home / "keys").minter.core_user("reckoning", 3600)
        async with Connection([up.nats_url], credentials, name="reckoning") as bus:

            async def is_settled() -> bool:
                return not await _waiting(bus)

            await eventually_answered(is_settled, within_s, "nothing waits any more")

    def _check_dead_letters(self, there: set[int], within_s: float) -> int:
        wanted = sorted(number for number in there if number % MODULUS == POISON_REST)
        eventually(lambda: len(self._dead_letters()) >= len(wanted), within_s, "all dead letters are there")
        letters = self._dead_letters()
        assert sorted(letter["event"]["data"]["number"] for letter in letters) == wanted
        for letter in letters:
            assert letter["code"] == "AttemptsExhausted"
            assert [each["attempt"] for each in letter["attempts"]] == list(range(1, ATTEMPTS + 1))
        return len(letters)

    def _dead_letters(self) -> list[dict[str, Any]]:
        try:
            with self.http() as http:
                query = {"limit": "1000", "subscription_id": self.subscriptions["poisoned"]}
                letters: list[dict[str, Any]] = http.get("/api/v1/dead-letters", params=query).json()["dead_letters"]
                return letters
        except (httpx.HTTPError, KeyError):
            return []

    def _waits(self, offers: list[Offer]) -> list[float]:
        """From the acknowledgement of each event to its first run."""
        first: dict[int, float] = {}
        for number, at in self._noted("all"):
            first.setdefault(number, at)
        return [
            max(0.0, first[number] - offer.acknowledged_at)
            for offer in offers
            if offer.acknowledged_at is not None
            for number in offer.numbers
        ]

    def _noted(self, name: str) -> list[tuple[int, float]]:
        path = self.directory / name
        text = path.read_text() if path.exists() else ""
        return [(int(number), float(at)) for number, at in map(str.split, text.splitlines())]

    def _start(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        place = Path(__file__).parent
        script = [str(place / arguments[0]), *arguments[1:]] if arguments[0].endswith(".py") else list(arguments)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        with (self.directory / log).open("ab") as output:
            return subprocess.Popen([sys.executable, *script], stdout=output, stderr=subprocess.STDOUT, env=environment)

    def _await_work_of(self, name: str) -> None:
        def works() -> bool:
            log = (self.directory / f"{name}-{self._starts[name]}.log").read_text()
            if self.dispatchers[name].poll() is not None:
                self.dispatch(name)  # as its keeper does when the bus was away at its start
            assert "The dispatcher delivers events" in log, log[-2000:]
            return True

        eventually(works, 30, f"the dispatcher {name} works")

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, "it ended by itself"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not is_alive(process.pid)

    def _note(self, what: str) -> None:
        now = time.time()
        self.system.failures.append(Failure(what=what, at=now, back_at=now))


def expected(name: str, numbers: Any) -> Counter[int]:
    """How often each of these events runs the function of a subscription."""
    match name:
        case "all":
            return Counter(numbers)
        case "even":
            return Counter(number for number in numbers if number % 2 == 0)
        case "flaky":
            flaky = (number for number in numbers if number % MODULUS in (FLAKY_REST, FLAKY_REST - 1))
            return Counter({number: 2 if number % MODULUS == FLAKY_REST else 1 for number in flaky})
        case "poisoned":
            return Counter({number: ATTEMPTS for number in numbers if number % MODULUS == POISON_REST})
        case _:
            return Counter()


async def _waiting(bus: Connection) -> int:
    """What the dispatchers and pools have not taken, or not acknowledged."""
    waiting = 0
    matcher = (event_stream(DEFAULT_BUS), matcher_consumer(DEFAULT_BUS))
    for stream, consumer in (matcher, ("RESULTS", RESULTS_CONSUMER)):
        info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
        waiting += int(info["num_pending"]) + int(info["num_ack_pending"])
    for stream in ("TASKS", "DELIVERIES"):
        waiting += int((await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"])
    return waiting


def _lines(path: Path) -> list[dict[str, Any]]:
    """What was written; a last line that a death cut off is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
