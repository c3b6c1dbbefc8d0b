"""What lies in stores and files, as releases wrote it: `tests/fixtures/wire/`, and the script that adds to it.

    python tests/wire_fixtures.py        add a revision of whatever today's code writes in another way

A sample is one fixed thing of each kind. `NAME.N` is how releases wrote it, one after another; the latest one is how
today's code does. All of them must be read: they lie in queues and homes. So a file is never changed or removed.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.eventing.buses import BusRecord, EventSchema, Retention
from headrace.bus.eventing.dead_letters import Attempt, DeadLetter, Redrive
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt
from headrace.bus.eventing.deliveries import Waiting as WaitingDelivery
from headrace.bus.eventing.feeds.models import FeedRecord, FeedShape, FeedStatus
from headrace.bus.eventing.flow.plans import Member, Plan
from headrace.bus.eventing.flow.policy import Batch, Flow, Pause, Pauses, Rate
from headrace.bus.eventing.hooks import HookRecord
from headrace.bus.eventing.joins import ClosedSet, Join, JoinRecord, Part
from headrace.bus.eventing.leases import LeaseRecord
from headrace.bus.eventing.lifetimes import StartPosition
from headrace.bus.eventing.places import EndpointChoice, OfflinePolicy
from headrace.bus.eventing.replays.models import EVERYTHING, Gap, ReplayRecord
from headrace.bus.eventing.retries import RetryPolicy
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord, TickRun
from headrace.bus.eventing.signatures import SignatureForm
from headrace.bus.eventing.sinks.models import Sink
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import Announce, Announcement, SubscriptionRecord
from headrace.bus.keys import SEAL_BYTES, KeyRing, bundle_key
from headrace.bus.names import Address
from headrace.bus.queues.lane_news import LaneName, decode_news, encode_news
from headrace.bus.store import models
from headrace.bus.store.actions import (
    ActionBundle,
    ActionIdRecord,
    ActionRecord,
    ActionWork,
    EventWait,
    FoundEvent,
    Happening,
    Waiting,
    WaitRecord,
)
from headrace.bus.store.models import FunctionRecord
from headrace.bus.tasks.bundles import (
    Bundle,
    FunctionUse,
    LogEnd,
    ResultPart,
    Runtime,
    Task,
    TaskOptions,
    TaskResult,
    decode_bundle,
    decode_part,
    encode_bundle,
    encode_part,
)
from headrace.bus.tasks.control import cancel_tasks, decode_control, encode_control
from headrace.bus.tasks.logs import LogChunk, decode_log, encode_log
from headrace.cli.home import Home
from headrace.endpoint.directory import EndpointDirectory
from headrace.sdk.profile import Profile

FIXTURES: Final = Path(__file__).parent / "fixtures" / "wire"

ADA: Final = "urn:headrace:user:ada"
RING: Final = KeyRing(bytes(range(32)))
EXPIRES: Final = 4_000_000_000
_NAMES: Final = ("endpoint", "group", "bundle", "function", "second", "subscription", "schedule", "hook", "replay")
ID: Final = {name: UUID(int=(number << 96) + 0x8000_8000_0000_0000_0000) for number, name in enumerate(_NAMES, 1)}
ADDRESS: Final = Address(endpoint=ID["endpoint"], pool="default", principal=ADA, group=ID["group"], bundle=ID["bundle"])
SECRET: Final = RING.pool_secret(ADDRESS.endpoint, ADDRESS.pool)
RESULT_KEY: Final = RING.result_key(ADDRESS.endpoint, ADA)
RUNTIME: Final = Runtime(python="3.11.7", headrace="0.1.0", host="vm", system="Linux")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One thing, and how it is written and read. `stable` leaves out what differs each time: a nonce, a signature."""

    value: Any
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    stable: Callable[[bytes], bytes] = bytes
    suffix: str = "bin"


BUNDLE: Final = Bundle(
    result_key=RESULT_KEY,
    functions=[FunctionUse(ID["function"], b"g" * 32, EXPIRES), FunctionUse(ID["second"], b"h" * 32, EXPIRES)],
    options=[TaskOptions(), TaskOptions(60.0, 3600.0, 2, 1.5, False, b'{"cores": 1}', True)],
    tasks=[Task(0, 0, 0, 1, b"\x92\x01\x80"), Task(1, 1, 1, 4, b"[[1], {}]")],
    runtime=RUNTIME,
    origin=b"origin",
    trace={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    older_result_keys=[b"o" * 32],
)
PART: Final = ResultPart(
    results=[
        TaskResult(0, "succeeded", 1, b"\x01", 1.5e9, 1.5e9 + 1, 1.5e9 + 2, 1, "vm/12", LogEnd(1, 2, 3)),
        TaskResult(1, "cancelled", 1, b"\xc0", attempts=0),
    ],
    total=2,
    runtime=RUNTIME,
    origin=b"origin",
    stored_at=1.5e9,
    functions=[ID["function"], ID["second"]],
    places=[0, 1],
    pool=b"p" * 8,
    started=[1],
    excused=[1],
)
LOG: Final = [LogChunk(0, 1, 2, 1, 10, 1.5e9, b"printed", "vm/12")]

MESSAGES: Final = {
    "bundle": Sample(
        value=BUNDLE,
        write=lambda value: encode_bundle(
            value, subject=ADDRESS.task_subject, key=bundle_key(SECRET, ADA, EXPIRES), key_expires=EXPIRES
        ),
        read=lambda data: decode_bundle(data, subject=ADDRESS.task_subject, key=bundle_key(SECRET, ADA, EXPIRES)),
        stable=lambda data: data[:11] + data[11 + SEAL_BYTES :],
    ),
    "result-part": Sample(
        value=PART,
        write=lambda value: encode_part(value, subject=ADDRESS.result_subject(0), key=RESULT_KEY),
        read=lambda data: decode_part(data, subject=ADDRESS.result_subject(0), key=RESULT_KEY),
        stable=lambda data: data[:3] + data[3 + SEAL_BYTES :],
    ),
    "control": Sample(
        value=cancel_tasks([1, 3], force=True),
        write=lambda value: encode_control(value, subject=ADDRESS.control_subject, pool_secret=SECRET),
        read=lambda data: decode_control(data, subject=ADDRESS.control_subject, pool_secret=SECRET),
    ),
    "log": Sample(
        value=LOG,
        write=lambda value: encode_log(value, subject=ADDRESS.log_subject(0), key=RESULT_KEY),
        read=lambda data: decode_log(data, subject=ADDRESS.log_subject(0), key=RESULT_KEY),
    ),
    "waiting-delivery": Sample(
        value=WaitingDelivery(
            Delivery(
                ID["subscription"],
                "other",
                7,
                "/s",
                "1",
                2,
                [FailedAttempt(1, ID["bundle"], "failed", "ValueError", "message", "traceback", 1.5e9, 1.5e9 + 1)],
                1,
                3,
                ID["endpoint"],
                1.4e9,
                ID["replay"],
            ),
            b'{"id": "1"}',
        ),
        write=WaitingDelivery.encode,
        read=WaitingDelivery.decode,
    ),
    "dead-letter": Sample(
        value=DeadLetter(
            dead_letter_id=ID["bundle"],
            subscription_id=ID["subscription"],
            subscription_name="all",
            owner=ADA,
            function_id=ID["function"],
            endpoint_id=ID["endpoint"],
            bus="other",
            sequence=7,
            source="/s",
            event_id="1",
            event={"id": "1", "source": "/s", "type": "t", "specversion": "1.0"},
            reason="every attempt failed (1)",
            code="AttemptsExhausted",
            attempts=[
                Attempt(
                    attempt=1,
                    task_id=ID["bundle"],
                    state="failed",
                    error="ValueError",
                    message="message",
                    traceback="traceback",
                    started_at=1.5e9,
                    ended_at=None,
                )
            ],
            created_at=1.5e9,
            redriven=2,
            replay_id=ID["replay"],
        ),
        write=msgspec.json.encode,
        read=msgspec.json.Decoder(DeadLetter).decode,
        suffix="json",
    ),
    "redrive": Sample(
        value=Redrive(endpoint_id=ID["endpoint"], redriven=2, at=1.5e9, reason="every attempt failed (3)", code="c"),
        write=msgspec.json.encode,
        read=msgspec.json.Decoder(Redrive).decode,
        suffix="json",
    ),
    "plan": Sample(
        value=Plan(
            ID["endpoint"],
            [
                Member(
                    7,
                    Delivery(ID["subscription"], "default", 3, "/s", "1", endpoint=ID["endpoint"], published_at=1.5e9),
                )
            ],
            attempt=2,
            used_up=1,
            failed=[FailedAttempt(1, ID["bundle"], "failed", "builtins.ValueError", "no", "Traceback", 1.5e9, 1.6e9)],
            due=1.6e9,
            key="k",
        ),
        write=Plan.encode,
        read=Plan.decode,
    ),
    "lane-news": Sample(
        value=LaneName("pool-x", ADA, 7),
        write=lambda value: encode_news(value, subject="news", pool_secret=SECRET),
        read=lambda data: decode_news(data, subject="news", pool_secret=SECRET),
    ),
}

_RECORDS: Final[dict[str, msgspec.Struct]] = {
    "functions": FunctionRecord(
        function_id=ID["function"],
        name="f",
        owner=ADA,
        python_version="3.11.7",
        created_at=1.5e9,
        description="about",
        public=True,
        metadata={"key": [1]},
        requirements=("numpy>=2",),
        requires_python="3.12",
        input_schema={"properties": {"x": {"type": "integer"}}},
        default_endpoint=ID["endpoint"],
    ),
    "function_code": models.FunctionCodeRecord(
        function_id=ID["function"], source="def f():\n    pass\n", pickled=b"\x80\x05", entry_point="f"
    ),
    "endpoints": models.EndpointRecord(
        endpoint_id=ID["endpoint"],
        name="here",
        owner=ADA,
        created_at=1.5e9,
        token_id="0123456789abcdef",
        public=True,
        shared_with=("urn:headrace:group:lab",),
        allowed_functions=(ID["function"],),
        queue_limits=models.QueueLimits(bundles=5, bundles_per_principal=3),
        opened_to=("urn:headrace:user:grace", "public"),
        allowed_function_owners=(ADA,),
        per_user=True,
    ),
    "endpoint_names": models.EndpointNameRecord(endpoint_id=ID["endpoint"], claimed_at=1.5e9),
    "presence": models.PresenceRecord(
        endpoint_id=ID["endpoint"],
        host="vm",
        python_version="3.11.7",
        headrace_version="0.1.0",
        seen_at=1.5e9,
        pools=(models.PoolPresence(pool="default", workers=2, busy=1, queued=3, memory_bytes=1 << 26),),
        manager="vm-1",
        load=models.MachineLoad(
            cpus=4, load_1m=0.5, memory_bytes=1 << 33, memory_available_bytes=1 << 32, disk_free_bytes=1 << 36
        ),
    ),
    "pools": models.PoolRecord(
        endpoint_id=ID["endpoint"],
        pool="p-0123456789abcdef0123",
        principal=ADA,
        options={"account": "physics", "nodes": 2},
        environment="numpy",
        runtime={"python": "3.11.7", "headrace": "0.1.0"},
        used_at=1.5e9,
        wanted=3,
        reports=(models.PoolReport(manager="vm-1", state="failed", answers=3, at=1.6e9, problem="no such queue"),),
    ),
    "users": models.UserRecord(
        name="ada", principal=ADA, created_at=1.5e9, groups=("urn:headrace:group:lab",), admin=True, removed_at=1.6e9
    ),
    "tokens": models.TokenRecord(
        token_id="0123456789abcdef",
        sha256="0" * 64,
        kind="endpoint",
        principal=ADA,
        created_at=1.5e9,
        endpoint_id=ID["endpoint"],
        label="label",
        expires_at=1.6e9,
        revoked=True,
        publishes="/hosts/pc7/",
    ),
    "sessions": models.SessionRecord(
        session_id="s",
        kind="sdk",
        principal=ADA,
        endpoint_id=ID["endpoint"],
        pool="default",
        token_id="0123456789abcdef",
        user_key="UKEY",
        expires_at=1.5e9,
        may_submit=False,
        bus="lab",
        source="/plc/",
        label="plc",
        created_at=1.4e9,
    ),
    "revocations": models.RevocationRecord(user_key="UKEY", expires_at=1.5e9),
    "removals": models.RemovalRecord(kind="endpoint", subject=ID["endpoint"].hex, removed_at=1.5e9),
    "subscriptions": SubscriptionRecord(
        subscription_id=ID["subscription"],
        name="all",
        owner=ADA,
        filter={"exact": {"type": "t"}},
        function_id=ID["function"],
        endpoint_id=ID["endpoint"],
        created_at=1.5e9,
        bus="other",
        input={"args": [1]},
        retry=RetryPolicy(
            max_attempts=5,
            first_delay_s=2.0,
            factor=3.0,
            max_delay_s=60.0,
            jitter=0.5,
            max_age_s=3600.0,
            permanent_errors=("ValueError",),
        ),
        after_sequence=7,
        linked=("urn:globus:auth:identity:ada",),
        endpoint=EndpointChoice(template="{{ event.data.site }}", allowed={"here": ID["endpoint"]}),
        offline=OfflinePolicy(hold_s=60.0, next_endpoints=(ID["second"],)),
        former_endpoints=(ID["bundle"],),
        start=StartPosition(after=3, asked={"sequence": 4}),
        announce=Announce(success=Announcement(type="t", source="/s", bus="other"), failure=Announcement(type="u")),
        expires_at=1.6e9,
        join=Join(
            of={"a": {"exact": {"type": "a"}}, "b": {"exact": {"type": "b"}}}, key="{{ event.id }}", within_s=5.0
        ),
        flow=Flow(
            concurrency=2,
            rate=Rate(per_second=0.5, burst=3),
            order_by="data.key",
            when_failing="skip",
            batch=Batch(size=10, window_s=1.5, partial_failures=True, bisect=True),
            share="s",
            priority=4,
        ),
        pauses=Pauses(now=Pause(events="drop", since=1.6e9, after=8), resumed=6, dropped=((4, 6),)),
        target=Sink(
            url="https://sink.example.org/events",
            mode="batch",
            timeout_s=5.0,
            concurrency=2,
            batch_size=10,
            rate_per_minute=60,
            signature=SignatureForm(header="X-Signature", prefix="sha256="),
            secret=bytes(8),
            token=bytes(9),
            headers=bytes(10),
            header_names=("X-Team",),
            ca="PEM",
            handshake=True,
            gone_at=1.55e9,
        ),
    ),
    "joins": JoinRecord(
        key="k",
        waiting={"a": (Part(id="1", sequence=1, at=1.5e9),)},
        closed=(ClosedSet(kind="expired", parts={"b": (Part(id="2", sequence=2, at=1.6e9),)}),),
        used=("2",),
    ),
    "catch_ups": CatchUpRecord(position=7),
    "schedules": ScheduleRecord(
        schedule_id=ID["schedule"],
        name="mornings",
        owner=ADA,
        created_at=1.5e9,
        event={"source": "/s", "type": "t", "data": {"n": 1}},
        from_ms=1_500_000_000_000,
        until_ms=1_600_000_000_000,
        cron="30 6 * * 1-5",
        timezone="Europe/Berlin",
        every_ms=60_000,
        jitter_ms=500,
        misfire="all",
        grace_ms=90_000,
        most_missed=7,
        overlap="allow",
        bus="other",
        paused=True,
        after_ms=1_500_000_000_001,
        most_queued=9,
    ),
    "schedule_progress": ScheduleProgress(
        last_ms=1_500_000_000_002,
        fired_ms=1_500_000_000_001,
        sequence=7,
        missed=3,
        run=TickRun(
            tick_ms=1_500_000_000_001,
            bus="other",
            source="/s",
            sequence=7,
            matched=True,
            started=(ID["subscription"], ID["second"]),
            ended=(ID["subscription"],),
        ),
        replaced_run=TickRun(tick_ms=1_500_000_000_000, source="/s"),
        replaced_ms=1_500_000_000_000,
        replaced=2,
        queued=(1_500_000_000_003,),
        skipped=4,
        last_skipped_ms=1_500_000_000_004,
    ),
    "buses": BusRecord(
        name="lab",
        owner="urn:headrace:user:ada",
        created_at=1.5e9,
        description="of the lab",
        publishers=("urn:headrace:group:lab",),
        subscribers=("public",),
        retention=Retention(max_age_s=3600.0, max_bytes=1 << 20),
        schemas={"t": EventSchema(schema={"type": "object"}, policy="mark")},
        first_sequence=8,
        removed_at=1.6e9,
    ),
    "feeds": FeedRecord(
        feed_id=ID["subscription"],
        name="plc",
        owner="urn:headrace:user:ada",
        created_at=1.5e9,
        urls=("nats://plc.example.org:4222",),
        subjects=("plc.>",),
        bus="lab",
        stream="PLC",
        start="all",
        shape=FeedShape(form="plain", type="t", source="/s", subject="x", id="i", data="json"),
        credential=b"concealed",
        paused=True,
    ),
    "feed_status": FeedStatus(
        state="failing",
        holder="host/1",
        since=1.5e9,
        at=1.6e9,
        problem="away",
        received=6,
        stored=5,
        duplicates=4,
        refused=3,
        lost=2,
    ),
    "replays": ReplayRecord(
        replay_id=ID["replay"],
        name="once more",
        owner=ADA,
        created_at=1.5e9,
        after=3,
        last=9,
        bus="other",
        subscription_id=ID["subscription"],
        own=SubscriptionRecord(
            subscription_id=ID["replay"],
            name="own",
            owner=ADA,
            filter=EVERYTHING,
            function_id=ID["function"],
            endpoint_id=ID["endpoint"],
            created_at=1.5e9,
        ),
        filter={"exact": {"type": "t"}},
        per_second=2.5,
        forgotten_until=1.4e9,
        state="failed",
        problem="no such endpoint",
        position=8,
        looked_at=3,
        sent=2,
        unreadable=1,
        missing=2,
        gaps=(Gap(first=4, last=5, reason="expired"),),
        ended_at=1.6e9,
    ),
    "hooks": HookRecord(
        hook_id=ID["hook"],
        name="orders",
        owner=ADA,
        kind="generic",
        secret=bytes(8),
        created_at=1.5e9,
        bus="default",
        type="t",
        source="/s",
        subject="{{ event.data.id }}",
        signature=SignatureForm(
            header="webhook-signature",
            encoding="base64",
            prefix="v1,",
            signed="{id}.{timestamp}.{body}",
            timestamp_header="webhook-timestamp",
            tolerance_s=60.0,
            id_header="webhook-id",
        ),
        origins=("events.example.org",),
    ),
    "lanes": models.LaneRecord(
        endpoint_id=ID["endpoint"], pool="default", principal=ADA, consumer="pool-x", used_until=1.5e9
    ),
    "actions": ActionRecord(
        action_id="a",
        provider="compute",
        creator=ADA,
        request_id="r",
        request_digest="d",
        started_at=1.5e9,
        label="label",
        monitor_by=("all_authenticated_users",),
        manage_by=(ADA,),
        release_after="P1D",
        release_after_s=86_400.0,
        deadline=1.6e9,
        work=ActionWork(
            endpoint=ID["endpoint"],
            pool="default",
            group=ID["group"],
            bundles=(ActionBundle(bundle=ID["bundle"], total=2),),
            places=(0, 2),
        ),
        more_work=(
            ActionWork(
                endpoint=ID["endpoint"],
                pool="other",
                group=ID["group"],
                bundles=(ActionBundle(bundle=ID["bundle"], total=1),),
                places=(1,),
            ),
        ),
        group_named=True,
        waiting=Waiting(request={"request_id": "r"}, query={"endpoint": "e"}),
        history=(Happening(at=1.5e9, code="ActionResumed", description="it went on"),),
        status="FAILED",
        display_status="it failed",
        details={"result": 1},
        ended_at=1.55e9,
        wait=EventWait(
            bus="default",
            filter={"exact": {"type": "t"}},
            since=1,
            position=4,
            count=2,
            found=(FoundEvent(sequence=3, at=1.5e9, event={"id": "e"}, size=100, cut=True),),
        ),
    ),
    "waits": WaitRecord(action_id="a", bus="default", ended=True),
    "action_ids": ActionIdRecord(key="k"),
    "objects": models.ObjectRecord(
        size=10, upload="u", chunks=2, chunk_bytes=5, created_at=1.5e9, used_at=1.6e9, damaged=True
    ),
    "leases": LeaseRecord(session="0" * 32, holder="vm/12", since=1.5e9),
    "object_uses": models.ObjectUseRecord(endpoint_id=ID["endpoint"], pool="default", group=ID["group"], since=1.5e9),
}


def _record(value: msgspec.Struct) -> Sample:
    return Sample(value=value, write=msgspec.json.encode, read=msgspec.json.Decoder(type(value)).decode, suffix="json")


def _written(write: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return write(Path(directory)).read_bytes()


def _read_from(name: str, data: bytes, read: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)


def _write_endpoint(directory: Path) -> Path:
    endpoint = EndpointDirectory(directory)
    endpoint.keep_registration(ID["endpoint"], None, "http://127.0.0.1:8742")
    return endpoint.registration_file


def _write_profile(directory: Path) -> Path:
    home = Home(directory)
    home.write_profile("http://127.0.0.1:8742", "hr_0_0")
    return home.profile_file


FILES: Final = {
    "endpoint": Sample(
        value=(ID["endpoint"], "http://127.0.0.1:8742"),
        write=lambda _: _written(_write_endpoint),
        read=lambda data: _read_from("endpoint.json", data, _registered),
        suffix="json",
    ),
    "profile": Sample(
        value=("http://127.0.0.1:8742", "hr_0_0"),
        write=lambda _: _written(_write_profile),
        read=lambda data: _read_from("profile.json", data, _known),
        suffix="json",
    ),
}


def _registered(path: Path) -> Any:
    found = EndpointDirectory(path.parent).registration()
    return None if found is None else (found.endpoint_id, found.url)


def _known(path: Path) -> Any:
    profile = Profile.read(path)
    return profile.url, profile.token


SAMPLES: Final[dict[str, Sample]] = {
    **{f"message-{name}": sample for name, sample in MESSAGES.items()},
    **{f"record-{name}": _record(value) for name, value in _RECORDS.items()},
    **{f"file-{name}": sample for name, sample in FILES.items()},
}


def revisions(name: str) -> list[Path]:
    """The fixtures of a sample, the first one first."""
    form = re.compile(re.escape(name) + r"\.(\d+)\.\w+")
    found = {int(match[1]): path for path in FIXTURES.glob("*") if (match := form.fullmatch(path.name))}
    return [found[number] for number in sorted(found)]


def main() -> int:
    """Add what today's code writes in another way than the latest fixture has it."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, sample in SAMPLES.items():
        known, today = revisions(name), sample.write(sample.value)
        if not known or sample.stable(known[-1].read_bytes()) != sample.stable(today):
            path = FIXTURES / f"{name}.{len(known) + 1}.{sample.suffix}"
            path.write_bytes(today)
            print(f"added {path}")  # noqa: T201 - a script
    return 0


def shape(document: Any) -> Any:
    """The names in a JSON document, without its values."""
    return {key: shape(value) for key, value in document.items()} if isinstance(document, dict) else None


def shape_of_file(path: Path) -> Any:
    """The names in a JSON file."""
    return shape(json.loads(path.read_bytes()))


if __name__ == "__main__":
    sys.exit(main())
