"""What follows from how a plan's attempt ended. Pure: the same plan and result give the same verdict, whoever asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import (
    DeliveryForbidden,
    EndpointNotAllowed,
    EndpointOffline,
    EventTooOld,
    FunctionUnusable,
    SerializerNotAllowed,
)
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt
from headrace.bus.eventing.flow.plans import Member, Plan
from headrace.bus.eventing.retries import Failed, RetryPolicy, verdict

BATCH_ITEM_FAILURES: Final = "batchItemFailures"
ITEM_IDENTIFIER: Final = "itemIdentifier"
REPORTED: Final = "BatchItemFailure"

# Other events of the same batch would end in the same way.
_OF_ALL: Final = frozenset(
    kind.code
    for kind in (
        DeliveryForbidden,
        EndpointNotAllowed,
        EndpointOffline,
        EventTooOld,
        FunctionUnusable,
        SerializerNotAllowed,
    )
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Members that are `done`, `dead` ones with the reason, and what is tried `again`."""

    done: list[Member] = field(default_factory=list)
    dead: Plan | None = None
    reason: str = ""
    code: str = ""
    again: list[Plan] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the owner wants: when to try again, where to go on, and whether to cut batches that fail."""

    retry: RetryPolicy
    after: Callable[[UUID], UUID | None] = lambda _endpoint: None
    """The endpoint behind one that was away too long."""
    bisect: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to store or remove; exactly one of these is set."""

    bury: tuple[Member, Delivery] | None = None
    """A dead letter."""
    remove: tuple[Member, ...] = ()
    """Queued deliveries that are done, or dead."""
    keep: Plan | None = None
    drop: Plan | None = None


def steps(plan: Plan, found: Verdict, *, stored: bool) -> Iterator[Step]:
    """What is done about a verdict, in this order; only then what follows may begin. `stored`: the plan is.

    A crash between two of them leaves plan and result, and so the same verdict: all steps can be done again. What has
    ended is removed before the plan is, or it would be taken for new; and what follows is stored before that, or it
    would be forgotten how often it was tried.
    """
    if found.dead is not None:
        for member, delivery in zip(found.dead.members, found.dead.deliveries(), strict=True):
            yield Step(bury=(member, delivery))
    ended = (*found.done, *(found.dead.members if found.dead is not None else ()))
    if ended:
        yield Step(remove=ended)
    for following in found.again:
        yield Step(keep=following)
    if stored:
        yield Step(drop=plan)


def succeeded(plan: Plan) -> Verdict:
    """The attempt has succeeded for all."""
    return Verdict(done=plan.members)


def refused(plan: Plan, failure: FailedAttempt, code: str, rules: Rules) -> Verdict:
    """The attempt cannot be made, now or ever; `code` says why."""
    if _is_cut(plan, code, rules):
        return _halves(plan, failure)
    return Verdict(dead=plan.then(failure), reason=failure.message, code=code)


def failed(plan: Plan, failure: FailedAttempt, code: str, rules: Rules, *, at: float) -> Verdict:
    """The attempt has failed for all, at this time; `code` is the kind of failure."""
    first, counted = plan.deliveries()[0], plan.counted
    judged = verdict(
        rules.retry,
        Failed(
            attempt=plan.attempt,
            counted=counted,
            state=failure.state,
            code=code,
            error=failure.error,
            message=failure.message,
            published_at=max(member.delivery.published_at for member in plan.members),
            ended_at=at,
            lot=first.lot,
        ),
    )
    elsewhere = rules.after(plan.endpoint) if judged.elsewhere else None
    if elsewhere is not None:
        return Verdict(again=[plan.elsewhere(failure, elsewhere)])
    if failure.state != "cancelled" and _is_cut(plan, code, rules):
        return _halves(plan, failure)
    if judged.code:
        return Verdict(dead=plan.then(failure), reason=judged.reason, code=judged.code)
    return Verdict(again=[plan.then(failure, due=at + judged.delay_s)])


def partly_failed(plan: Plan, names: Collection[str], failure: FailedAttempt, rules: Rules, *, at: float) -> Verdict:
    """The attempt has failed for the events with these ids (at least one), as its function says."""
    good = [member for member in plan.members if member.delivery.event_id not in names]
    bad = [member for member in plan.members if member.delivery.event_id in names]
    # They are known already: there is nothing to be found by cutting.
    whole = dataclasses.replace(rules, bisect=False)
    found = failed(plan.of(bad), failure, REPORTED, whole, at=at)
    return dataclasses.replace(found, done=good)


def too_old(plan: Plan, failure: FailedAttempt, old: Collection[Member], reason: str) -> Verdict:
    """Some members came too late for this attempt; the others go on without them."""
    young = [member for member in plan.members if member not in old]
    dead = plan.of([member for member in plan.members if member in old]).then(failure)
    return Verdict(dead=dead, reason=reason, code=EventTooOld.code, again=[plan.of(young)] if young else [])


def _is_cut(plan: Plan, code: str, rules: Rules) -> bool:
    return rules.bisect and len(plan.members) > 1 and code not in _OF_ALL


def _halves(plan: Plan, failure: FailedAttempt) -> Verdict:
    half = (len(plan.members) + 1) // 2
    halves = (plan.members[:half], plan.members[half:])
    # It does not count: the fault may be that of one event alone.
    return Verdict(again=[plan.then(failure, members=each, counts=False) for each in halves])


def reported_failures(plan: Plan, value: Any) -> set[str] | None:
    """The ids of the events that failed, as the function says; None when what it says makes no sense.

    As AWS Lambda has it: nothing, or an empty list, is success; what is not of the form, or names what is not in the
    batch, is the failure of the whole batch.
    """
    if value is None:
        return set()
    reported = (value.get(BATCH_ITEM_FAILURES) or []) if isinstance(value, dict) else None
    if not isinstance(reported, list):
        return None
    known = {member.delivery.event_id for member in plan.members}
    found = {item[ITEM_IDENTIFIER] for item in reported if _names_one_of(item, known)}
    return found if all(_names_one_of(item, known) for item in reported) else None


def _names_one_of(item: Any, known: Collection[str]) -> bool:
    name = item.get(ITEM_IDENTIFIER) if isinstance(item, dict) else None
    return isinstance(name, str) and name in known
