"""Whoever is killed between an event and the last attempt of its deliveries: none is missing, none is doubled.

The short form kills publishers, dispatchers, the service and NATS once each; the long one (`make chaos`, with
CHAOS_EVENTS and CHAOS_SEED) again and again, and lets dispatchers stand still while others take over.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.events_under_fire import EventsUnderFire
from chaos.system_under_fire import SystemUnderFire
from waiting import eventually, let_pass

KINDS = ("batch", "single", "http")


@contextlib.contextmanager
def under_load(directory: Path, seed: int, *dispatchers: str) -> Iterator[EventsUnderFire]:
    """A system with its subscriptions and dispatchers beside the service's own: two, or these."""
    with SystemUnderFire(directory, seed=seed, workers=2) as system:
        fire = EventsUnderFire(system, directory / "load")
        fire.subscribe_all()
        try:
            for name in dispatchers or ("first", "second"):
                fire.dispatch(name)
            yield fire
        finally:
            fire.close()


@pytest.mark.timeout(240)
def test_acknowledged_events_run_once_for_each_attempt_whoever_is_killed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)  # noqa: S311 - a repeatable misfortune
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    with under_load(tmp_path, seed, "first") as fire:
        for name in ("steady", "victim"):
            fire.publish(name, "mixed", 100_000, pause_s=0.02)
        for kill in (
            lambda: fire.kill_dispatcher("first"),
            lambda: fire.kill_publisher("victim"),
            fire.system.kill_nats,
            fire.system.kill_service,
        ):
            _after_some_runs(fire, 20, kill)
        _after_some_runs(fire, 20, fire.stop)
        fire.await_publishers(60)

        print(fire.reckon(60))  # noqa: T201 - shown in a long run, and when it fails

        killed = [failure.what for failure in fire.system.failures]
        assert killed == ["dispatcher", "publisher", "nats", "service"]


def _after_some_runs(fire: EventsUnderFire, count: int, kill: Callable[[], object]) -> None:
    before = fire.ran()
    eventually(lambda: fire.ran() >= before + count, 40, "something runs")
    kill()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_acknowledged_events_run_once_for_each_attempt_in_a_long_siege(tmp_path: Path) -> None:
    count = int(os.environ.get("CHAOS_EVENTS", "10000"))
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 30))  # noqa: S311 - a repeatable misfortune
    print(f"\nCHAOS_SEED={seed} CHAOS_EVENTS={count}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
    with under_load(tmp_path, seed) as fire:
        rounds = 0
        chance = fire.system.random
        while (offered := fire.offered()) < count:
            running = [name for name, each in fire.publishers.items() if each.poll() is None]
            if len(running) < len(KINDS):
                kind, size = KINDS[rounds % len(KINDS)], min(500, count - offered)
                fire.publish(f"{kind}-{rounds}", kind, size, pause_s=0.01)
                rounds += 1
                continue
            let_pass(chance.uniform(0.0, 1.5), "a random moment, also while the last failure is recovered from")
            what = chance.choice(["publisher", "dispatcher", "dispatcher", "stand still", "service", "nats", "outage"])
            print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)  # noqa: T201 - shown in a long run, and when it fails
            _fail(fire, what, chance)
        fire.await_publishers(300)
        print(fire.reckon(120), flush=True)  # noqa: T201 - shown in a long run, and when it fails
        counts = {f.what: sum(g.what == f.what for g in fire.system.failures) for f in fire.system.failures}
        print(f"failures: {counts}", flush=True)  # noqa: T201 - shown in a long run, and when it fails


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_what_a_dispatcher_held_goes_to_another_one_within_seconds(tmp_path: Path) -> None:
    with under_load(tmp_path, seed=1) as fire:
        fire.publish("steady", "single", 3_000, pause_s=0.01)
        fire.publish("bursts", "batch", 1_500, pause_s=0.01)
        for _ in range(6):
            _after_some_runs(fire, 100, lambda: fire.kill_dispatcher(fire.system.random.choice(["first", "second"])))
        # One that stands still is worse than one that dies: the server goes on giving it events.
        for name in ("first", "second"):
            with fire.suspended(name):
                let_pass(7.0, "what it holds has gone to others")
        fire.await_publishers(300)
        reckoning = fire.reckon(120)
        late = [wait_s for wait_s in reckoning.waits_s if wait_s > 1.0]
        print(f"\n{reckoning}\n{len(late)} events waited for more than a second")  # noqa: T201 - shown in a long run


def _fail(fire: EventsUnderFire, what: str, chance: random.Random) -> None:
    dispatcher = chance.choice(list(fire.dispatchers))
    match what:
        case "publisher":
            running = [name for name, each in fire.publishers.items() if each.poll() is None]
            if running:
                with contextlib.suppress(AssertionError):  # it has just ended by itself
                    fire.kill_publisher(chance.choice(running))
        case "dispatcher":
            fire.kill_dispatcher(dispatcher)
        case "stand still":
            with fire.suspended(dispatcher):
                let_pass(chance.uniform(5.5, 8.0), "what it holds goes to others, who then have done it")
        case "service":
            fire.system.kill_service()
        case "nats":
            fire.system.kill_nats()
        case _:
            fire.system.kill_nats_for_a_while()
