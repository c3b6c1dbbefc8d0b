"""What became of deliveries: looked up under the ids that follow from subscription, event and attempt.

Nothing is searched for. Each round asks four streams for the subjects of a few attempts of some deliveries, all in one
read; where the last of them is found, or a dead letter was taken up again, another round follows. What a delivery is
travels with it, so the last attempt that is found names all that failed before it, also where their results have gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal
from uuid import UUID

import msgspec

from headrace.bus import ids, names
from headrace.bus.data.failures import decode_failure
from headrace.bus.errors import DecodeError
from headrace.bus.eventing.dead_letters import DeadLetter, Redrive, read_letter, read_redrive
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt, Waiting
from headrace.bus.eventing.flow.plans import Plan
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.names import token
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.submission import DELIVERIES_GROUP
from headrace.bus.tasks.task_views import TaskView, ended_tasks, queued_tasks, with_mark

DeliveryState = Literal["unknown", "waiting", "pending", "running", "succeeded", "failed", "dead"]
"""`unknown`: nothing is stored (yet, or any more); `waiting`: its next attempt has a time; `failed`: its last known
attempt failed, and what follows is not stored yet (or not any more); `dead`: it was given up."""

_STEP = 4
"""Attempts that are asked for together."""
_SOME = 25
"""Deliveries of one read: a hundred subjects, or two."""
_MOST_ATTEMPTS = 1000
_MOST_MESSAGES = 400


@dataclass(frozen=True, slots=True)
class AttemptStory:
    """One attempt. Times are unix seconds, 0 where they are not known; `due_at` is when one that waits is sent."""

    attempt: int
    task_id: UUID
    endpoint_id: UUID
    state: str
    """Of its task; `waiting` while it has none."""
    error: str = ""
    message: str = ""
    traceback: str = ""
    due_at: float = 0.0
    stored_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    result_stored_at: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether another one follows, or a dead letter."""
        return self.state in ("failed", "cancelled", "expired")


@dataclass(slots=True)
class Story:
    """What is known of one delivery: of one event to one subscription. `places` are where it may be, the likeliest
    first."""

    record: SubscriptionRecord
    delivery: Delivery
    """Its first attempt, as it was sent from the bus."""
    places: Sequence[UUID]
    found: dict[tuple[int, UUID], AttemptStory] = field(default_factory=dict)
    """By number and task: where its endpoint was away, an attempt is made at another one, under the same number."""
    letter: DeadLetter | None = None
    letter_stored_at: float = 0.0
    redrives: list[Redrive] = field(default_factory=list)
    redriven: int = 0
    """How often it was taken from the dead letters, as far as is known."""
    endpoint: UUID = field(init=False)
    """Where its last life is spent."""

    def __post_init__(self) -> None:
        self.endpoint = self.places[0]

    @property
    def state(self) -> DeliveryState:
        """How far it has come."""
        last = self.last
        if self.letter is not None and (last is None or last.failed):
            return "dead"
        if last is None:
            return "unknown"
        if last.failed:
            return "failed"
        return last.state  # type: ignore[return-value]  # the other states of tasks, and `waiting`

    @property
    def attempts(self) -> list[AttemptStory]:
        """All that are known, in their order."""
        return sorted(self.found.values(), key=lambda each: (each.attempt, not each.failed, each.ended_at))

    @property
    def last(self) -> AttemptStory | None:
        """The last attempt that is known."""
        return self.attempts[-1] if self.found else None

    @property
    def known(self) -> int:
        """The highest number of an attempt that is known; 0 where there is none."""
        return max((number for number, _ in self.found), default=0)

    def tell(self, found: Iterable[tuple[Delivery, AttemptStory]]) -> None:
        """Add attempts, and what they know of those before them: less than these tell of themselves."""
        pairs = list(found)
        for _, attempt in pairs:
            self.found.setdefault((attempt.attempt, attempt.task_id), attempt)
        for delivery, attempt in pairs:
            self.remember(delivery.failed)
            if delivery.redriven >= self.redriven:
                self.redriven, self.endpoint = delivery.redriven, attempt.endpoint_id

    def tell_of_batch(self, attempt: AttemptStory) -> None:
        """Add an attempt that it made together with others: so it does not wait for one of its own of that number."""
        for key, each in [*self.found.items()]:
            if each.state == "waiting" and each.attempt <= attempt.attempt:
                del self.found[key]
        known = self.found.get((attempt.attempt, attempt.task_id))
        if known is None or known.state in ("waiting", "pending", "running"):
            self.found[attempt.attempt, attempt.task_id] = attempt

    def remember(self, failed: Iterable[FailedAttempt]) -> None:
        """Add attempts of which is known how they failed: also where the task succeeded, and said that of a batch this
        event failed."""
        for each in failed:
            known = self.found.get((each.attempt, each.task_id))
            if known is None or known.state == "succeeded":
                self.found[each.attempt, each.task_id] = _failed(each, self._place_of(each.task_id))

    def _place_of(self, task: UUID) -> UUID:
        """Where a task ran: its id holds a tag of its endpoint."""
        return next((place for place in (self.endpoint, *self.places) if ids.fits_endpoint(task, place)), self.endpoint)


async def tell_stories(connection: Connection, keys: KeyRing, stories: Sequence[Story]) -> None:
    """Look up what became of these deliveries.

    Costs four reads for each 25 of them, and four more for each four further attempts, each redrive and each further
    place of those that may have gone on there. Raises `BusUnavailable`.
    """
    for start in range(0, len(stories), _SOME):
        some = stories[start : start + _SOME]
        await _walk(connection, keys, [_Step(story, 1, story.endpoint, story.redriven) for story in some])
        for number in range(1, max((len(story.places) for story in some), default=0)):
            others = [
                _Step(story, max(1, story.known), story.places[number], story.redriven)
                for story in some
                if number < len(story.places) and story.state in ("unknown", "failed")
            ]
            await _walk(connection, keys, others)


async def _walk(connection: Connection, keys: KeyRing, steps: Sequence[_Step]) -> None:
    while steps:
        await _ask(connection, keys, steps)
        steps = [following for step in steps if (following := step.following()) is not None]


@dataclass(slots=True)
class _Step:
    """A few attempts of one delivery, at the endpoint where it is."""

    story: Story
    first: int
    endpoint: UUID
    redriven: int
    """Which of its lives it is: each ends with a dead letter."""
    asks_for_letter: bool = True

    @property
    def bundles(self) -> list[UUID]:
        numbers = range(self.first, self.first + _STEP)
        return [msgspec.structs.replace(self.story.delivery, attempt=n).bundle_id(self.endpoint) for n in numbers]

    @property
    def letter_subject(self) -> str:
        record = self.story.record
        given_up = msgspec.structs.replace(self.story.delivery, redriven=self.redriven).delivery_id(self.endpoint)
        return names.dead_letter_subject(record.owner, record.subscription_id, given_up)

    def following(self) -> _Step | None:
        """The next ones, if there may be some."""
        story, behind = self.story, self.first + _STEP
        if behind > _MOST_ATTEMPTS:
            return None
        if story.known >= behind - 1:
            return _Step(story, behind, self.endpoint, self.redriven, asks_for_letter=False)
        if story.redriven != self.redriven:
            return _Step(story, story.known + 1, story.endpoint, story.redriven)
        return None


async def _ask(connection: Connection, keys: KeyRing, steps: Sequence[_Step]) -> None:
    wheres = {bundle: step for step in steps for bundle in step.bundles}
    # In the order in which a delivery goes through them, so that one that moves on is met further on.
    waiting = await _last(connection, "DELIVERIES", [each for b, step in wheres.items() for each in _waits(step, b)])
    queued = await _last(connection, "TASKS", [_queued(step, bundle) for bundle, step in wheres.items()])
    ended = await _last(connection, "RESULTS", [_ended(step, bundle) for bundle, step in wheres.items()])
    subjects = {step.letter_subject: step for step in steps if step.asks_for_letter}
    letters = await _last(connection, "DEADLETTERS", [*subjects, *map(names.redrive_subject, subjects)])
    views = {**queued_tasks(keys, queued), **ended_tasks(keys, ended)}
    marked = await asyncio.gather(*(with_mark(connection, view) for view in views.values()))
    found: dict[UUID, list[tuple[Delivery, AttemptStory]]] = {}
    for bundle, told in chain(_of_tasks(marked), _of_waiting(waiting, wheres)):
        found.setdefault(bundle, []).append(told)
    for step in steps:
        step.story.tell([told for bundle in step.bundles for told in found.get(bundle, ())])
    for message in letters:
        _tell_letter(message, subjects)


def _waits(step: _Step, bundle: UUID) -> tuple[str, ...]:
    subscription = step.story.record.subscription_id
    later = names.delivery_later_subject(subscription, bundle, 0)
    waiting: tuple[str, ...] = (names.delivery_due_subject(subscription, bundle), f"{later.rpartition('.')[0]}.*")
    if step.story.record.target is not None:
        waiting = (*waiting, names.delivery_sink_subject(subscription, bundle))
    if not step.story.record.kept:
        return waiting
    # The plan of one that goes alone: that of a batch has an id of all that are in it.
    plan = names.delivery_plan_subject(subscription, f"{bundle.hex}-{step.endpoint.hex}")
    return (*waiting, names.delivery_queued_subject(subscription, bundle), plan)


def _queued(step: _Step, bundle: UUID) -> str:
    return f"task.{step.endpoint.hex}.*.{token(step.story.record.owner)}.{_group(step)}.{bundle.hex}"


def _ended(step: _Step, bundle: UUID) -> str:
    return f"result.{step.endpoint.hex}.{token(step.story.record.owner)}.{_group(step)}.{bundle.hex}.*"


def _group(step: _Step) -> str:
    # With flow control it is one of the subscription's own, but may have been the other one before.
    return "*" if step.story.record.kept else DELIVERIES_GROUP.hex


async def _last(connection: Connection, stream: str, subjects: Sequence[str]) -> list[StoredMessage]:
    if not subjects:
        return []
    messages, _ = await connection.read_many(stream, {"multi_last": subjects, "batch": _MOST_MESSAGES})
    return messages


def _of_tasks(views: Iterable[TaskView]) -> Iterator[tuple[UUID, tuple[Delivery, AttemptStory]]]:
    for view in views:
        delivery = _delivery(view.origin)
        if delivery is not None:
            yield view.address.bundle, (delivery, attempt_of(delivery.attempt, view))


def _of_waiting(
    messages: Iterable[StoredMessage], steps: Mapping[UUID, _Step]
) -> Iterator[tuple[UUID, tuple[Delivery, AttemptStory]]]:
    for message in messages:
        kind, _, bundle, *rest = message.subject.split(".")[1:]
        bundle = bundle.partition("-")[0]
        place, due_at = steps[UUID(bundle)].endpoint, int(rest[0]) / 1000 if kind == "later" else message.stored_at
        try:
            if kind == "plan":
                plan = Plan.decode(message.data)
                (delivery, *_), due_at = plan.deliveries(), plan.due or due_at
            else:
                delivery = Waiting.decode(message.data).delivery
        except DecodeError:
            continue
        waits = AttemptStory(
            delivery.attempt,
            delivery.task_id(place),
            place,
            "waiting",
            due_at=due_at,
            stored_at=message.stored_at,
        )
        yield UUID(bundle), (delivery, waits)


def _tell_letter(message: StoredMessage, steps: Mapping[str, _Step]) -> None:
    step = steps.get(message.subject)
    if step is not None:
        story = step.story
        story.letter, story.letter_stored_at = read_letter(message), message.stored_at
        story.remember(each.failed() for each in story.letter.attempts)
        return
    story, redrive = steps[names.redriven_subject(message.subject)].story, read_redrive(message)
    story.redrives.append(redrive)
    if redrive.redriven > story.redriven:
        story.redriven, story.endpoint = redrive.redriven, redrive.endpoint_id


def _delivery(origin: bytes) -> Delivery | None:
    try:
        return Delivery.decode(origin)
    except DecodeError:
        return None


def attempt_of(number: int, view: TaskView) -> AttemptStory:
    """An attempt as its task tells it."""
    result = view.result
    error = message = traceback = ""
    if result is not None and result.state != "succeeded":
        try:
            failure = decode_failure(result.value)
            error, message, traceback = failure.type_path, failure.message, failure.traceback
        except DecodeError as unreadable:
            error, message = "DecodeError", str(unreadable)
    return AttemptStory(
        number,
        view.task_id,
        view.address.endpoint,
        view.state,
        error,
        message,
        traceback,
        stored_at=view.stored_at,
        started_at=result.started_at if result else view.marked_at,
        ended_at=result.ended_at if result else 0.0,
        result_stored_at=view.result_stored_at,
    )


def _failed(failed: FailedAttempt, endpoint: UUID) -> AttemptStory:
    return AttemptStory(
        failed.attempt,
        failed.task_id,
        endpoint,
        failed.state,
        failed.error,
        failed.message,
        failed.traceback,
        started_at=failed.started_at,
        ended_at=failed.ended_at,
    )
