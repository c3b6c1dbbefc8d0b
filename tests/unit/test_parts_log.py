"""In any order of deliveries, ends, lost answers, lost acks and crashes each task comes to one stored result.

The agents are real. The bus is a small model of the streams' rules: the first message of a subject wins, a repeated
message id is known again, what is not acked comes again, and a killed server forgets how often it has delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.bus import keys
from headrace.bus.data import values
from headrace.bus.data.encodings import JSON
from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import AlreadyStored
from headrace.bus.functions.code import FunctionCode
from headrace.bus.ids import new_bundle_id
from headrace.bus.installation.credentials import Credentials
from headrace.bus.names import Address
from headrace.bus.nats.answers import Stored, StoredMessage
from headrace.bus.nats.connection import MESSAGE_ID_HEADER, Connection
from headrace.bus.nats.pull import Delivery
from headrace.bus.tasks.bundles import (
    Bundle,
    FunctionUse,
    ResultPart,
    Runtime,
    Task,
    TaskOptions,
    decode_part,
    encode_bundle,
)
from headrace.bus.tasks.results import ResultCollector, stored_part
from headrace.endpoint.agent import acks
from headrace.endpoint.agent.loop import Agent
from headrace.endpoint.agent.suspects import MOST_LOSSES
from headrace.endpoint.engines.engine import Call, Load, Outcome, OutcomesCallback, Source
from headrace.endpoint.grant import PoolGrant, PoolService

SECRET, RESULT_KEY = b"s" * 32, b"r" * 32
RUNTIME = Runtime(python="3.11.0", headrace="0.1.0")
FUNCTION = UUID(int=7)
EXPIRES = int(time.time()) + 3600
ADDRESS = Address(
    endpoint=UUID(int=1), pool="default", principal="ada", group=UUID(int=2), bundle=new_bundle_id(UUID(int=1))
)
CODE = FunctionCode(name="f", source="def f(): pass", entry_point="f")
TASKS, ONCE = 4, 0
"""The first of the tasks must not run twice."""


def bundle_message() -> bytes:
    grant = keys.function_grant(SECRET, FUNCTION, ADDRESS.principal, EXPIRES)
    bundle = Bundle(
        result_key=RESULT_KEY,
        functions=[FunctionUse(FUNCTION, grant, EXPIRES)],
        options=[TaskOptions(), TaskOptions(rerun_on_loss=False)],
        tasks=[Task(index, 0, int(index == ONCE), JSON, b"") for index in range(TASKS)],
        runtime=RUNTIME,
    )
    key = keys.bundle_key(SECRET, ADDRESS.principal, EXPIRES)
    return encode_bundle(bundle, subject=ADDRESS.task_subject, key=key, key_expires=EXPIRES)


@dataclass(eq=False)
class Publish:
    """A message on its way to a stream, and who waits for the answer; None when the sender has died."""

    subject: str
    payload: bytes
    message_id: str
    answer: asyncio.Future[Stored] | None


@dataclass
class Streams:
    """What the server keeps."""

    stored: dict[str, bytes] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    under_way: list[Publish] = field(default_factory=list)
    queued: bool = True
    deliveries: int = 0
    ever_delivered: bool = False
    lose_acks: bool = False

    def take(self, publish: Publish) -> Stored | None:
        """Store a message; None when its subject holds another one."""
        if publish.message_id and self.ids.get(publish.subject) == publish.message_id:
            return Stored(1, duplicate=True)
        if publish.subject in self.stored:
            return None
        self.stored[publish.subject] = publish.payload
        self.ids[publish.subject] = publish.message_id
        return Stored(1)

    def acknowledge(self, payload: bytes) -> None:
        if payload == b"+ACK" and not self.lose_acks:
            self.queued = False


class Wire:
    """One agent's connection to the streams."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.on_connected: list[Callable[[], None]] = []

    async def store(self, subject: str, payload: bytes, *, headers: dict[str, str] | None = None, **_: Any) -> Stored:
        answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        message_id = (headers or {}).get(MESSAGE_ID_HEADER, "")
        self._streams.under_way.append(Publish(subject, payload, message_id, answer))
        return await answer

    async def read_last(self, stream: str, subject: str, **_: Any) -> StoredMessage | None:
        data = self._streams.stored.get(subject) if stream == "RESULTS" else None
        return None if data is None else StoredMessage(subject, data, 1, "", {})

    async def publish(self, subject: str, payload: bytes = b"", **_: Any) -> None:
        assert subject == "ack"
        self._streams.acknowledge(payload)


class Engine:
    """Takes calls when it is woken; the machine's rules start and end them."""

    def __init__(self, source: Source, on_outcomes: OutcomesCallback, handed_out: Counter[int]) -> None:
        self._source = source
        self.handed_out = handed_out
        self.on_outcomes = on_outcomes
        self.taken: dict[UUID, Call] = {}
        self.running: dict[UUID, str] = {}

    def wake(self) -> None:
        while len(self.taken) < TASKS and (call := self._source.next_call()) is not None:
            self.taken[call.key] = call
            self.handed_out[call.key.int & 0xFFFF] += 1

    def load(self) -> Load:
        return Load(workers=TASKS, busy=len(self.taken), queued=0)


class Life:
    """One agent, from its start to its crash."""

    def __init__(self, streams: Streams, handed_out: Counter[int]) -> None:
        self._handed_out = handed_out
        grant = PoolGrant(
            endpoint=ADDRESS.endpoint,
            pool=ADDRESS.pool,
            urls=(),
            credentials=Credentials(jwt="", seed="", inbox_prefix="_INBOX"),
            lanes=(),
            pool_secret=SECRET,
            code_token="",
            tasks_sequence=0,
            bus_time=time.time(),
            expires_in_s=3600.0,
        )
        self.agent = Agent(
            cast("PoolService", None), cast("Connection", Wire(streams)), grant, self._engine, runtime=RUNTIME
        )
        self.agent._functions._cache._codes[FUNCTION] = CODE
        # The service has answered: no lane was made again, so nobody is asked who holds what.
        self.agent._position.is_lost = False

    def _engine(self, source: Source, on_outcomes: OutcomesCallback) -> Any:
        self.engine = Engine(source, on_outcomes, self._handed_out)
        return self.engine


class PartsLog(RuleBasedStateMachine):
    """Two pools, a bundle, and everything that can go wrong between them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.streams = Streams()
        self.message = bundle_message()
        self.runs: Counter[int] = Counter()
        self.handed_out: Counter[int] = Counter()
        self.made: dict[int, set[str]] = {index: set() for index in range(TASKS)}
        self.seen: dict[int, bytes] = {}
        self.lives: list[Life] = [self.do(lambda: Life(self.streams, self.handed_out)) for _ in range(2)]

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for life in self.lives:
                self.bury(life)
            self.loop.close()

    # Rules

    @precondition(lambda self: self.streams.queued)
    @rule(number=st.sampled_from([0, 1]))
    def deliver(self, number: int) -> None:
        """The bundle is taken, for the first time or again."""
        agent = self.lives[number].agent
        if not self.streams.ever_delivered:
            # It was stored after this pool had connected: nobody can have had it before.
            agent._position.unsure_up_to = 0
        self.streams.deliveries += 1
        self.streams.ever_delivered = True
        delivery = Delivery(
            subject=ADDRESS.task_subject,
            data=self.message,
            ack_subject="ack",
            sequence=1,
            deliveries=self.streams.deliveries,
            stored_ns=int(time.time() * 1e9),
            retry=False,
            headers={},
        )
        self.do(lambda: agent._on_delivery(delivery))

    @rule(number=st.sampled_from([0, 1]), which=st.integers(0, TASKS - 1))
    def start(self, number: int, which: int) -> None:
        """A worker starts a call."""
        engine = self.lives[number].engine
        waiting = [key for key in engine.taken if key not in engine.running]
        for key in waiting[which : which + 1]:
            engine.running[key] = uuid.uuid4().hex
            self.runs[key.int & 0xFFFF] += 1
            self.made[key.int & 0xFFFF].add(engine.running[key])

    @rule(number=st.sampled_from([0, 1]), which=st.integers(0, TASKS - 1))
    def end(self, number: int, which: int) -> None:
        """A call ends."""
        engine = self.lives[number].engine
        for key, run in list(engine.running.items())[which : which + 1]:
            del engine.running[key], engine.taken[key]
            self.do(functools.partial(engine.on_outcomes, [succeeded(key, run)]))
            self.do(engine.wake)

    @precondition(lambda self: self.streams.under_way)
    @rule(which=st.integers(0, 3), lost=st.booleans())
    def store(self, which: int, lost: bool) -> None:
        """The server stores a message. When its answer is lost, the sender sends it once more."""
        publish = self.streams.under_way[which % len(self.streams.under_way)]
        stored = self.streams.take(publish)
        if lost and publish.answer is not None:
            return
        self.streams.under_way.remove(publish)
        self.do(lambda: answer(publish, stored))

    @rule(lose=st.booleans())
    def lose_acks(self, lose: bool) -> None:
        """Acks reach the server, or do not."""
        self.streams.lose_acks = lose

    @rule()
    def kill_server(self) -> None:
        """The server forgets how often it has delivered; the pools notice that it was away."""
        self.streams.deliveries = 0
        for life in self.lives:
            life.agent._position.unsure_up_to = float("inf")

    @rule(number=st.sampled_from([0, 1]))
    def kill_pool(self, number: int) -> None:
        """A pool dies, and another one takes its place. What it had sent may still arrive."""
        self.bury(self.lives[number])
        self.lives[number] = self.do(lambda: Life(self.streams, self.handed_out))

    @rule(number=st.sampled_from([0, 1]))
    def hand_back(self, number: int) -> None:
        """A side task of the agent dies."""
        agent = self.lives[number].agent
        for held in list(agent._in_hand.bundles.values()):
            self.do(functools.partial(agent._hand_back, held))

    # Promises

    @invariant()
    def each_task_has_one_stored_result_and_keeps_it(self) -> None:
        results = [result for part in self.parts() for result in part.results]
        assert all(count == 1 for count in Counter(result.index for result in results).values())
        for result in results:
            assert self.seen.setdefault(result.index, result.value) == result.value
            assert result.state == "failed" or values.decode(JSON, result.value) in self.made[result.index]
            # What may run again is given up only when it had been with the workers of so many pools.
            assert result.state == "succeeded" or result.index == ONCE or self.handed_out[result.index] >= MOST_LOSSES

    @invariant()
    def the_parts_are_a_log_without_gaps(self) -> None:
        numbers = {int(subject.rpartition(".")[2]) for subject in self.streams.stored if subject.startswith("result.")}
        assert numbers == set(range(len(numbers)))

    @invariant()
    def what_is_acked_is_complete(self) -> None:
        assert self.streams.queued or len(self.seen) == TASKS

    @invariant()
    def what_must_not_run_twice_does_not(self) -> None:
        assert self.runs[ONCE] <= 1

    # Inside

    def parts(self) -> list[ResultPart]:
        parts: list[ResultPart] = []
        while (data := self.streams.stored.get(subject := ADDRESS.result_subject(len(parts)))) is not None:
            parts.append(decode_part(data, subject=subject, key=RESULT_KEY))
        return parts

    def settle(self) -> None:
        """From any state: when nothing more goes wrong, every task has its result, and nobody holds anything."""
        self.streams.lose_acks = False
        for _ in range(60):
            if self.streams.queued:
                self.deliver(0)
            for _ in range(TASKS):
                for number in (0, 1):
                    self.start(number, 0)
                    self.end(number, 0)
            while self.streams.under_way:
                self.store(0, lost=False)
            if not self.streams.queued and not any(life.agent._in_hand.bundles for life in self.lives):
                break
        assert not self.streams.queued
        self.each_task_has_one_stored_result_and_keeps_it()
        assert set(self.seen) == set(range(TASKS))
        for life in self.lives:
            assert not life.agent._in_hand.bundles
            assert life.agent._in_hand.bytes == 0
        collector = ResultCollector(ADDRESS, RESULT_KEY)
        for number in reversed(range(len(self.parts()))):
            subject = ADDRESS.result_subject(number)
            collector.add(stored_part(StoredMessage(subject, self.streams.stored[subject], 1, "", {}), RESULT_KEY))
        assert {index: result.value for index, result in collector.results.items()} == self.seen

    def bury(self, life: Life) -> None:
        self.loop.run_until_complete(life.agent._tasks.end())

    def do(self, work: Callable[[], Any]) -> Any:
        """Do it on the loop, and let everything happen that follows from it."""

        async def done() -> Any:
            result = work()
            for _ in range(25):
                await asyncio.sleep(0)  # no time passes on this loop: a turn for each step that may follow
            return result

        return self.loop.run_until_complete(done())


def succeeded(key: UUID, run: str) -> Outcome:
    return Outcome(key=key, state="succeeded", encoding=JSON, value=encode_json(run))


def answer(publish: Publish, stored: Stored | None) -> None:
    if publish.answer is None or publish.answer.done():
        return
    if stored is None:
        publish.answer.set_exception(AlreadyStored("taken"))
    else:
        publish.answer.set_result(stored)


@pytest.fixture(autouse=True, scope="module")
def acks_at_once() -> Iterable[None]:
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(AttributeError):
        patch.setattr(acks, "ACK_DELAY_S", 0.0)
        yield


TestPartsLog = PartsLog.TestCase
TestPartsLog.settings = settings(
    max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
