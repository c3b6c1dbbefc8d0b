"""Fair share inside a pool."""

from __future__ import annotations

import uuid
from collections import Counter
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.bus.functions.code import FunctionCode
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.agent.turns import Turns
from headrace.endpoint.engines.engine import Call
from headrace.endpoint.fair_share import FairShare

CODE = FunctionCode(name="f", source="def f(): pass", entry_point="f")


def call() -> Call:
    key = uuid.uuid4()
    return Call(key=key, function=key, encoding=1, arguments=b"", options=TaskOptions(), code=CODE)


def test_one_users_many_tasks_do_not_delay_anothers_single_one() -> None:
    turns, group = Turns(), uuid.uuid4()
    for _ in range(1000):
        turns.put("ada", group, call())
    single = call()
    turns.put("grace", group, single)

    taken = [turns.take() for _ in range(2)]

    assert single in [turn[2] for turn in taken if turn is not None]


def test_groups_of_one_user_take_turns_as_well() -> None:
    turns, one, two = Turns(), uuid.uuid4(), uuid.uuid4()
    for _ in range(10):
        turns.put("ada", one, call())
    for _ in range(10):
        turns.put("ada", two, call())

    taken = Counter(turn[1] for turn in (turns.take() for _ in range(10)) if turn is not None)

    assert taken == {one: 5, two: 5}


def test_removed_calls_are_not_taken() -> None:
    turns, group = Turns(), uuid.uuid4()
    calls = [call() for _ in range(3)]
    for one in calls:
        turns.put("ada", group, one)

    removed = turns.remove("ada", group, {calls[0].key, calls[2].key, uuid.uuid4()})

    assert removed == [calls[0], calls[2]]
    assert len(turns) == 1
    assert turns.take() == ("ada", group, calls[1])
    assert turns.take() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([UUID(int=1), UUID(int=2)]), st.booleans())))
def test_every_call_is_taken_once_and_in_order_within_its_group(script: list[tuple[str, UUID, bool]]) -> None:
    turns = Turns()
    waiting: dict[tuple[str, UUID], list[Call]] = {}
    for principal, group, take in script:
        if take:
            turn = turns.take()
            if turn is not None:
                assert waiting[turn[0], turn[1]].pop(0) is turn[2]
        else:
            one = call()
            waiting.setdefault((principal, group), []).append(one)
            turns.put(principal, group, one)
        assert len(turns) == sum(map(len, waiting.values()))
    while (turn := turns.take()) is not None:
        assert waiting[turn[0], turn[1]].pop(0) is turn[2]
    assert not any(waiting.values())


def test_a_weight_is_a_number_of_turns_in_a_row() -> None:
    turns, group = Turns(FairShare(weights={"ada": 3})), uuid.uuid4()
    for principal in ("ada", "grace"):
        for _ in range(20):
            turns.put(principal, group, call())

    taken = [turn[0] for turn in (turns.take() for _ in range(12)) if turn is not None]

    assert taken == ["ada", "ada", "ada", "grace"] * 3


def test_whoever_has_as_many_running_as_allowed_is_passed_over_until_one_has_ended() -> None:
    turns, group = Turns(FairShare(most_running_per_principal=2, most_running={"grace": 1})), uuid.uuid4()
    for principal in ("ada", "grace"):
        for _ in range(5):
            turns.put(principal, group, call())

    taken = [turn for turn in (turns.take() for _ in range(6)) if turn is not None]
    assert Counter(turn[0] for turn in taken) == {"ada": 2, "grace": 1}
    assert len(turns) == 7

    mine = next(turn for turn in taken if turn[0] == "grace")
    assert turns.ended(mine[2].key)
    assert not turns.ended(mine[2].key)
    again = turns.take()
    assert again is not None
    assert again[0] == "grace"
    assert turns.take() is None


WEIGHTS = {"a": 1, "b": 2, "c": 5}
LIMITS = {"a": 1, "b": 3}


class SharedTurns(RuleBasedStateMachine):
    """Whatever is put, taken, ended and removed: nothing is lost, limits hold, and nobody waits beyond a round."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(FairShare(weights=WEIGHTS, most_running=LIMITS))
        self.waiting: dict[str, list[tuple[UUID, Call]]] = {name: [] for name in WEIGHTS}
        self.running: list[tuple[str, Call]] = []
        self.passed_over: Counter[str] = Counter()

    @rule(principal=st.sampled_from(sorted(WEIGHTS)), group=st.sampled_from([UUID(int=1), UUID(int=2)]))
    def put(self, principal: str, group: UUID) -> None:
        one = call()
        self.turns.put(principal, group, one)
        self.waiting[principal].append((group, one))

    @rule()
    def take(self) -> None:
        ready = {name for name in WEIGHTS if self.waiting[name] and self._may_run(name)}
        turn = self.turns.take()
        if turn is None:
            assert not ready
            return
        principal, group, one = turn
        assert principal in ready
        self.waiting[principal].remove((group, one))
        self.running.append((principal, one))
        self.passed_over.pop(principal, None)
        for name in ready - {principal}:
            self.passed_over[name] += 1
            # At most the turns of all others, and once more of who came before it.
            assert self.passed_over[name] <= 2 * sum(WEIGHTS.values())
        for name in WEIGHTS.keys() - ready:
            self.passed_over.pop(name, None)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            place = data.draw(st.integers(0, len(self.running) - 1))
            _, one = self.running.pop(place)
            self.turns.ended(one.key)

    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        if self.running:
            principal, one = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            self.turns.put(principal, UUID(int=1), one)
            self.waiting[principal].append((UUID(int=1), one))

    @rule(data=st.data(), principal=st.sampled_from(sorted(WEIGHTS)))
    def remove(self, data: st.DataObject, principal: str) -> None:
        if self.waiting[principal]:
            group, one = data.draw(st.sampled_from(self.waiting[principal]))
            assert self.turns.remove(principal, group, {one.key}) == [one]
            self.waiting[principal].remove((group, one))

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.turns) == sum(map(len, self.waiting.values()))

    def _may_run(self, name: str) -> bool:
        return sum(principal == name for principal, _ in self.running) < LIMITS.get(name, 1_000_000)


TestSharedTurns = SharedTurns.TestCase
TestSharedTurns.settings = settings(max_examples=40, deadline=None)
