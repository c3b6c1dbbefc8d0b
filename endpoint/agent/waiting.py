"""Calls that wait until the engine has room: in turns, and before that for what they cannot start without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

from headrace.bus.data.encodings import OBJECT
from headrace.bus.ids import split_task_id
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.agent.large_payloads import LargePayloads
from headrace.endpoint.agent.patience import ServerClock
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.agent.started import StartedMarks
from headrace.endpoint.agent.suspects import Suspects
from headrace.endpoint.agent.turns import Turns
from headrace.endpoint.engines.engine import Call, Engine


class WaitingCalls:
    """The engine's source; see `headrace.endpoint.engines.engine.Source`."""

    def __init__(
        self,
        in_hand: InHand,
        turns: Turns,
        clock: ServerClock,
        results: ResultLog,
        marks: StartedMarks,
        suspects: Suspects,
        payloads: LargePayloads,
        engine: Callable[[], Engine],
    ) -> None:
        self._in_hand = in_hand
        self._turns = turns
        self._clock = clock
        self._results = results
        self._marks = marks
        self._suspects = suspects
        self._payloads = payloads
        self._engine = engine
        self.is_closed = False
        """Whether nothing more is handed out."""
        self._met_suspects = False

    def __len__(self) -> int:
        return len(self._turns) + len(self._payloads) + len(self._suspects)

    def put(self, held: Held, call: Call) -> None:
        """Let a call wait for its turn."""
        self._met_suspects = self._met_suspects or held.is_suspect
        self._turns.put(held.address.principal, held.address.group, call)

    def next_call(self) -> Call | None:
        """What the engine is to run next."""
        if self.is_closed:
            return None
        if self._payloads.waiting:
            self._payloads.fetch_next()
        for ready in (self._marks.ready, self._suspects.ready):
            if ready:
                return ready.pop()
        while (turn := self._turns.take()) is not None:
            principal, group, call = turn
            if call.options.queue_timeout_s is not None and self._is_late(call):
                continue
            if call.options.rerun_on_loss and call.encoding != OBJECT and not self._met_suspects:
                return call  # nearly always so, and quick
            held = self._in_hand.bundles.get(split_task_id(call.key)[0])
            if call.encoding == OBJECT and call.key not in self._payloads.fetched:
                # It waits aside, so that what is here goes on, and has another turn when it is here as well.
                self.ended(call.key)
                if held is not None:
                    self._payloads.fetch(held, call)
                continue
            if call.options.rerun_on_loss and (held is None or not held.is_suspect):
                return call
            load = self._engine().load()
            if self._marks.under_way + self._suspects.under_way >= max(1, load.workers - load.busy):
                self._turns.put(principal, group, call)
                return None
            if held is not None:
                (self._suspects.take if call.options.rerun_on_loss else self._marks.mark)(held, call)
        return None

    def ended(self, key: UUID) -> None:
        """A call is not with the workers (any more): its principal may have been waiting for that."""
        self._suspects.ended(key)
        if self._turns.ended(key):
            asyncio.get_running_loop().call_soon(self._engine().wake)

    def remove_unmarked(self, held: Held, keys: Collection[UUID]) -> list[Call]:
        """Take out those of a bundle's calls that wait for their arguments, their turn or others, not those that are
        marked as started; the ones that were there."""
        turns = self._turns.remove(held.address.principal, held.address.group, keys)
        return self._payloads.remove(keys) + self._suspects.remove_aside(keys) + turns

    def remove(self, held: Held, keys: Collection[UUID]) -> list[Call]:
        """Take out those of a bundle's calls that wait; the ones that did."""
        return self._marks.remove(keys) + self._suspects.remove(keys) + self.remove_unmarked(held, keys)

    def _is_late(self, call: Call) -> bool:
        bundle, index = split_task_id(call.key)
        held, limit_s = self._in_hand.bundles.get(bundle), call.options.queue_timeout_s
        if held is None or limit_s is None or held.stored_at + limit_s > self._clock.now():
            return False
        self._results.end_late(held, {index: limit_s})
        self._results.settle(held)
        return True
