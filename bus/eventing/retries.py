"""Retry policies: how often a delivery is tried, when again, and which failures end it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.bus.errors import (
    ArgumentNotSerialisable,
    EndpointOffline,
    EventTooOld,
    FunctionUnusable,
    PermanentFailure,
    ResultNotSerialisable,
    SerializerNotAllowed,
    TaskExpired,
)
from headrace.bus.eventing.sinks.verdicts import PERMANENT

_PERMANENT: Final = frozenset(
    (
        *(
            kind.code
            for kind in (ArgumentNotSerialisable, FunctionUnusable, ResultNotSerialisable, SerializerNotAllowed)
        ),
        *PERMANENT,
    )
)
"""Headrace's own verdicts on a task, or on what a sink has answered, that would be the same the next time."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a delivery is tried, and how long it waits in between: each time `factor` times as long.

    Each wait is longer by up to `jitter` of itself, so that what failed together does not come again together.
    """

    max_attempts: int = 3
    first_delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 300.0
    jitter: float = 0.1
    max_age_s: float | None = None
    """No attempt begins when the event has been on the bus for so long."""
    permanent_errors: tuple[str, ...] = ()
    """Types of exceptions that end the delivery at once: `ValueError`, `package.module.Name` or only `Name`."""

    def delay_s(self, failed_attempts: int, lot: float = 0.0) -> float:
        """How long to wait after so many failures (at least 1). `lot`, from 0 to 1, says how much of the jitter."""
        try:
            delay_s = self.first_delay_s * self.factor ** (failed_attempts - 1)
        except OverflowError:
            delay_s = self.max_delay_s
        return min(delay_s, self.max_delay_s) * (1.0 + self.jitter * lot)

    def is_permanent(self, error: str) -> bool:
        """Whether trying again is no help where the function raised this type."""
        name = error.rpartition(".")[2]
        # By its name alone: a function may define a class of that name, and needs nothing of ours where it runs.
        return name == PermanentFailure.__name__ or error in self.permanent_errors or name in self.permanent_errors

    def is_too_old(self, published_at: float, at: float) -> bool:
        """Whether an attempt at this time comes too late. Unix seconds, the server's clock; 0 is not known."""
        return self.max_age_s is not None and published_at > 0 and at >= published_at + self.max_age_s

    def left_s(self, published_at: float, at: float) -> float | None:
        """How long an attempt may wait for its start from now on; None is without limit, 0 or less is too late."""
        return None if self.max_age_s is None or published_at <= 0 else published_at + self.max_age_s - at


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery whose attempt has failed: another attempt after `delay_s`, at the next endpoint where
    it says so, or, where there is a `code`, none."""

    delay_s: float = 0.0
    code: str = ""
    reason: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """How an attempt ended, number `attempt`, the `counted`th of those that count. Times are unix seconds, the server's
    clock; `lot` is the attempt's part of the jitter."""

    attempt: int
    counted: int
    state: str
    code: str
    error: str
    message: str
    published_at: float
    ended_at: float
    lot: float = 0.0
    retry_after_s: float = 0.0
    """How long a sink asked to wait."""


def verdict(policy: RetryPolicy, failed: Failed) -> Verdict:
    """What follows; the same whoever judges, and however often: it depends on nothing but the result and the policy."""
    said = f"{failed.error}: {failed.message}"
    ended = _ended(policy, failed, said)
    if ended is not None:
        return ended
    delay_s = max(policy.delay_s(failed.counted, failed.lot), failed.retry_after_s)
    if policy.is_too_old(failed.published_at, failed.ended_at + delay_s):
        reason = f"{_age(policy)} by the time of the next attempt; the last one: {said}"
        return Verdict(code=EventTooOld.code, reason=reason)
    return Verdict(delay_s=delay_s)


def _ended(policy: RetryPolicy, failed: Failed, said: str) -> Verdict | None:
    """The verdict where no further attempt can follow here."""
    code = failed.code
    if failed.state == "cancelled":
        return Verdict(code="Cancelled", reason="the delivery was cancelled")
    if code == EndpointOffline.code:
        return Verdict(code=code, reason=failed.message, elsewhere=True)
    late = code == TaskExpired.code and policy.is_too_old(failed.published_at, failed.ended_at)
    if late or code == EventTooOld.code:
        return Verdict(code=EventTooOld.code, reason=f"{_age(policy)}, and had waited for its endpoint")
    if code in _PERMANENT or policy.is_permanent(failed.error):
        # Headrace's own verdict says more than the word "permanent".
        own = code in _PERMANENT
        return Verdict(code=code if own else PermanentFailure.code, reason=failed.message if own else said)
    if failed.counted >= policy.max_attempts:
        reason = f"every attempt failed ({failed.attempt}); the last one: {said}"
        return Verdict(code="AttemptsExhausted", reason=reason)
    return None


def too_old(policy: RetryPolicy) -> str:
    """The reason of a delivery that came too late for its first attempt."""
    return f"{_age(policy)} before it could be delivered"


def _age(policy: RetryPolicy) -> str:
    return "the event was too old" if policy.max_age_s is None else f"the event was older than {policy.max_age_s:g} s"
