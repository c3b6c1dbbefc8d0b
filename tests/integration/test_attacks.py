"""What each kind of credential tries and must not achieve (DESIGN: trust).

An attacker here has everything that its kind has: a granted session and its keys, or a pool's, or nothing at all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from plain_http import NO_TLS
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually, eventually_async

from headrace.bus.errors import BusError, BusUnavailable, PermissionDenied
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.keys import KeyRing
from headrace.bus.names import Address, object_chunk, stored_results, token
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import Bundle, FunctionUse, Runtime, Task, TaskOptions, encode_bundle
from headrace.bus.tasks.logs import LogChunk, encode_log
from headrace.endpoint.grant import PoolGrant
from headrace.sdk import Client, Executor, Forbidden, NotFound
from headrace.sdk.grant import Grant

pytestmark = pytest.mark.anyio

RUNTIME = Runtime(python="3.11", headrace="0")
EVERYTHING = (
    "TASKS",
    "RESULTS",
    "PROGRESS",
    "CONTROL",
    "EVENTS",
    "DELIVERIES",
    "DEADLETTERS",
    "LOGS",
    "OBJECTS",
    "KV_functions",
)
_QUICK_S = 1.0


@dataclass
class Stage:
    """Ada's endpoint with a pool, Ada's task with its result, and Mallory, who may use another endpoint of Ada's."""

    service: RunningService
    pool: RunningPool
    ada: Client
    mallory: Client
    shared_endpoint: str
    function_id: str
    address: Address

    @property
    def keys(self) -> KeyRing:
        """The service's."""
        return ServiceKeys.load(self.service.keys_dir).key_ring()

    def mallorys_grant(self) -> Grant:
        return Grant.of_document(self.mallory.open_session(self.shared_endpoint))


def answer() -> int:
    print("thinking")  # noqa: T201 - what a task prints is the case
    return 42


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        running_service(tmp_path_factory.mktemp("service")) as service,
        running_pool(service, tmp_path_factory.mktemp("pool")) as pool,
        Client(service.url, service.token) as ada,
        Client(service.url, service.add_user("mallory")) as mallory,
        Executor(pool.endpoint_id, client=ada) as executor,
    ):
        shared, _ = service.add_endpoint("shared", public=True)
        future = executor.submit(answer)
        assert future.result(20) == 42
        assert future.task_id is not None
        yield Stage(
            service,
            pool,
            ada,
            mallory,
            shared,
            executor.register_function(answer),
            Address(
                endpoint=UUID(pool.endpoint_id),
                pool="default",
                principal="urn:headrace:user:admin",
                group=executor.task_group_id,
                bundle=future.task_id,
            ),
        )


@pytest.fixture
async def mallory(stage: Stage) -> AsyncIterator[Connection]:
    """Mallory's own session, as the SDK would have it."""
    grant = await asyncio.to_thread(stage.mallorys_grant)
    async with Connection(grant.urls, grant.credentials, name="mallory") as connection:
        yield connection


@pytest.fixture(params=["a user's session", "a pool's credential"])
async def attacker(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """Both kinds of edge credential in turn; the pool is that of an endpoint of Mallory's own."""
    grant: Grant | PoolGrant
    if request.param == "a user's session":
        grant = await asyncio.to_thread(stage.mallorys_grant)
    else:
        grant = await asyncio.to_thread(_rogue_grant, stage)
    async with Connection(grant.urls, grant.credentials, name="attacker") as connection:
        yield connection


def _rogue_grant(stage: Stage) -> PoolGrant:
    endpoint = stage.mallory.register_endpoint(f"rogue-{uuid.uuid4().hex[:8]}")
    # So that it has a lane.
    stage.mallory.open_session(endpoint["endpoint_id"])
    about = {"python_version": "3.11.0", "headrace_version": "0", "host": "h", "protocol": 1, "lanes": True}
    response = httpx.post(
        f"{stage.service.url}/api/v1/endpoints/{endpoint['endpoint_id']}/pools",
        headers={"Authorization": f"Bearer {endpoint['endpoint_token']}"},
        json={"pool": "default", **about},
        trust_env=False,
        verify=NO_TLS,
        timeout=20,
    )
    assert response.status_code == 201, response.text
    return PoolGrant.of_document(response.json())


def _state_of(stage: Stage) -> dict[str, Any]:
    async def look(core: Connection) -> dict[str, Any]:
        return {
            name: {
                k: (await core.api(f"STREAM.INFO.{name}"))["state"][k]
                for k in ("messages", "last_seq", "consumer_count")
            }
            for name in EVERYTHING
        }

    found: dict[str, Any] = stage.service.bus(look)
    return found


async def _quiet_state_of(stage: Stage) -> dict[str, Any]:
    """The same, once the pool has acked what it has done."""

    def look() -> dict[str, Any] | None:
        state = _state_of(stage)
        return state if state["TASKS"]["messages"] == 0 else None

    quiet = await asyncio.to_thread(eventually, look)
    assert quiet is not None
    return quiet


def _own_read(stage: Stage) -> str:
    """A read that Mallory's session permits."""
    mine = f"{UUID(stage.shared_endpoint).hex}.{token('urn:headrace:user:mallory')}"
    return f"$JS.API.DIRECT.GET.RESULTS.result.{mine}.a.b.0"


async def _refused(connection: Connection, subject: str, payload: bytes = b"") -> bool:
    """Whether the bus denies the request, or nobody answers it."""
    try:
        reply = await connection.request(subject, payload, timeout_s=_QUICK_S)
    except (PermissionDenied, BusUnavailable):
        return True
    return b'"error"' in reply.data or reply.status >= 400


async def test_nobody_connects_without_a_credential(stage: Stage) -> None:
    def knock() -> bytes:
        with socket.create_connection(("127.0.0.1", stage.service.nats.port), timeout=5) as plain:
            plain.settimeout(5)
            plain.recv(4096)
            plain.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB > 1\r\nPING\r\n')
            heard = b""
            while chunk := plain.recv(4096):
                heard += chunk
            return heard

    assert b"Authorization Violation" in await asyncio.to_thread(knock)


async def test_no_edge_credential_reaches_the_streams_or_makes_consumers(stage: Stage, attacker: Connection) -> None:
    before = await _quiet_state_of(stage)
    consumer = json.dumps(
        {
            "stream_name": "TASKS",
            "config": {"name": "spy", "deliver_subject": attacker.inbox_prefix, "ack_policy": "none"},
        }
    ).encode()
    attempts = [
        *((f"$JS.API.STREAM.PURGE.{name}", b"") for name in EVERYTHING),
        *((f"$JS.API.STREAM.DELETE.{name}", b"") for name in EVERYTHING),
        ("$JS.API.STREAM.UPDATE.TASKS", b"{}"),
        ("$JS.API.STREAM.MSG.DELETE.RESULTS", b'{"seq":1}'),
        ("$JS.API.STREAM.MSG.GET.RESULTS", b'{"seq":1}'),
        ("$JS.API.STREAM.MSG.GET.KV_functions", b'{"seq":1}'),
        ("$JS.API.DIRECT.GET.RESULTS", b'{"seq":1}'),
        ("$JS.API.DIRECT.GET.RESULTS", json.dumps({"last_by_subj": stage.address.result_subject(0)}).encode()),
        ("$JS.API.DIRECT.GET.RESULTS", b'{"multi_last":["result.>"],"batch":100}'),
        ("$JS.API.DIRECT.GET.OBJECTS", b'{"seq":1}'),
        (f"$JS.API.DIRECT.GET.OBJECTS.{object_chunk(uuid.uuid4().hex, 0)}", b""),
        ("$JS.API.CONSUMER.CREATE.TASKS.spy", consumer),
        ("$JS.API.CONSUMER.DURABLE.CREATE.TASKS.spy", consumer),
        ("$JS.API.CONSUMER.LIST.TASKS", b""),
        ("$JS.API.STREAM.NAMES", b""),
        ("$SYS.REQ.SERVER.PING", b""),
    ]
    for subject, payload in attempts:
        assert await _refused(attacker, subject, payload), f"{subject} could be used"
    assert await asyncio.to_thread(_state_of, stage) == before


async def test_no_edge_credential_writes_where_it_has_no_business(stage: Stage, attacker: Connection) -> None:
    address = stage.address
    foreign = [
        address.task_subject,
        address.result_subject(1),
        address.control_subject,
        address.started_subject(0),
        f"log.{address.endpoint.hex}.x.y.z",
        address.log_subject(0),
        address.log_subject(None),
        f"stored.{address.result_subject(1)}",
        object_chunk(uuid.uuid4().hex, 0),
        "event.default.x",
        f"delivery.{uuid.uuid4().hex}.x",
        "$KV.tokens.x",
        "$KV.objects.x",
        "$KV.object_uses.x",
    ]
    before = await _quiet_state_of(stage)
    for subject in foreign:
        assert await _refused(attacker, subject, b"x"), f"{subject} could be written"
    assert await asyncio.to_thread(_state_of, stage) == before


async def test_only_a_pool_acknowledges_and_only_what_it_was_given(stage: Stage, mallory: Connection) -> None:
    submitted = await asyncio.to_thread(_submit_to_the_shared_endpoint, stage)
    assert await _refused(mallory, "$JS.ACK.TASKS.lane-1.1.1.1.1.1", b"+ACK")
    grant = await asyncio.to_thread(_rogue_grant, stage)
    async with Connection(grant.urls, grant.credentials, name="rogue") as connection:
        last = (await asyncio.to_thread(_state_of, stage))["TASKS"]["last_seq"]
        for place in (0, 1, last):
            # With the name of its own lane it reaches no message of another one.
            ack = f"$JS.ACK.TASKS.{grant.lanes[0].consumer}.1.{last}.{place}.1.0"
            await connection.publish(ack, b"+ACK")
            await connection.publish(ack, b"+TERM")
        await connection.flush()
    assert (await asyncio.to_thread(stage.ada.get_task, submitted))["state"] == "pending"
    await asyncio.to_thread(stage.ada.cancel, submitted)


async def test_no_edge_credential_hears_what_is_others(stage: Stage, attacker: Connection) -> None:
    address = stage.address
    heard: list[Message] = []
    for subject in (
        stored_results(address.endpoint, address.principal, address.group),
        f"stored.result.{address.endpoint.hex}.>",
        f"stored.{address.log_subject(0)}",
        f"stored.{address.log_subject(None)}",
        "stored.log.>",
        "stored.>",
        "control.>",
        "task.>",
        "changed.>",
        "_INBOX.>",
        ">",
    ):
        await attacker.subscribe(subject, heard.append)
    await attacker.flush()

    def submit() -> Any:
        with Executor(stage.pool.endpoint_id, client=stage.ada, task_group_id=address.group) as executor:
            return executor.submit(answer).result(20)

    assert await asyncio.to_thread(submit) == 42
    await attacker.flush()
    assert heard == []
    with pytest.raises(PermissionDenied):
        await attacker.read_last("RESULTS", address.result_subject(0), timeout_s=_QUICK_S)


async def test_a_body_in_a_permitted_read_does_not_widen_it(stage: Stage, mallory: Connection) -> None:
    own = _own_read(stage)
    secret = await asyncio.to_thread(
        stage.service.bus, lambda core: core.read_last("RESULTS", stage.address.result_subject(0))
    )
    for body in (
        {"last_by_subj": stage.address.result_subject(0)},
        {"seq": 1},
        {"multi_last": ["result.>"], "batch": 100},
        {"next_by_subj": "result.>", "seq": 1, "batch": 100},
    ):
        reply = await mallory.request(own, json.dumps(body).encode(), timeout_s=_QUICK_S)
        assert reply.data != secret.data
        assert reply.status >= 400 or reply.data == b""


async def test_a_reply_subject_turns_no_permitted_request_into_a_write(stage: Stage, mallory: Connection) -> None:
    """JetStream answers to whatever subject the requester names: here it must lead nowhere."""
    before = await _quiet_state_of(stage)
    own = _own_read(stage)
    for target in (
        stage.address.task_subject,
        stage.address.result_subject(7),
        stage.address.control_subject,
        "$JS.API.STREAM.PURGE.RESULTS",
        "$JS.API.STREAM.DELETE.TASKS",
        "event.default.x",
        "$KV.tokens.x",
    ):
        await mallory.publish(own, b"", reply=target)
    await mallory.flush()
    # A round trip through the service's own account: whatever the replies did is done by now.
    assert await asyncio.to_thread(_state_of, stage) == before


async def test_a_pools_pull_request_cannot_answer_into_a_stream(stage: Stage) -> None:
    grant = await asyncio.to_thread(_rogue_grant, stage)
    before = await _quiet_state_of(stage)
    async with Connection(grant.urls, grant.credentials, name="rogue") as connection:
        for target in (stage.address.task_subject, stage.address.result_subject(8), "$JS.API.STREAM.PURGE.RESULTS"):
            await connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.TASKS.{grant.lanes[0].consumer}",
                b'{"batch":1,"no_wait":true}',
                reply=target,
            )
        await connection.flush()
    assert await asyncio.to_thread(_state_of, stage) == before


async def test_a_pool_takes_nothing_from_lanes_whose_names_it_was_not_told(stage: Stage) -> None:
    """The names of lanes are what keeps pools apart, so they must not be known, guessed or learnt."""
    grant = await asyncio.to_thread(_rogue_grant, stage)
    submitted = await asyncio.to_thread(_submit_to_the_shared_endpoint, stage)
    heard: list[Message] = []
    async with Connection(grant.urls, grant.credentials, name="rogue") as connection:
        inbox = await connection.subscribe_inbox("guess", heard.append)
        endpoint = UUID(stage.shared_endpoint)
        guesses = [f"pool-{endpoint.hex}-default", f"lane-{endpoint.hex}", "lane-1", "lane-*", "*", ">", "lane-%00"]
        for guess in guesses:
            await connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.TASKS.{guess}", b'{"batch":9,"no_wait":true}', reply=inbox.subject
            )
            await connection.publish(f"$JS.ACK.TASKS.{guess}.1.1.1.1.1", b"+NXT", reply=inbox.subject)
        for call in ("LIST.TASKS", "NAMES.TASKS", f"INFO.TASKS.{grant.lanes[0].consumer}"):
            assert await _refused(connection, f"$JS.API.CONSUMER.{call}")
        await connection.flush()
        await asyncio.to_thread(_state_of, stage)
        await connection.flush()
    assert [message for message in heard if not message.status] == []
    assert (await asyncio.to_thread(stage.ada.get_task, submitted))["state"] == "pending"
    await asyncio.to_thread(stage.ada.cancel, submitted)


async def test_nothing_that_reaches_the_edge_names_a_lane_of_somebody_else(stage: Stage, attacker: Connection) -> None:
    own = f"task.{UUID(stage.shared_endpoint).hex}.default.{token('urn:headrace:user:mallory')}"
    heard: list[Message] = []
    traces = await attacker.subscribe_inbox("trace", heard.append)
    for subject in ("$JS.EVENT.>", "$JS.EVENT.ADVISORY.CONSUMER.>", "$SYS.>", "$JS.ACK.>", "$JS.API.>", "_INBOX.>"):
        await attacker.subscribe(subject, heard.append)
    # A message that asks the servers to tell which way it takes.
    for subject in (f"{own}.{uuid.uuid4().hex}.{uuid.uuid4().hex}", _own_read(stage), "$JS.ACK.TASKS.lane-1.1.1.1.1.1"):
        await attacker.publish(subject, b"x", headers={"Nats-Trace-Dest": traces.subject})
    task_id = await asyncio.to_thread(_submit_to_the_shared_endpoint, stage)
    with Executor(stage.pool.endpoint_id, client=stage.ada) as executor:
        assert await asyncio.to_thread(executor.submit(answer).result, 20) == 42
    await asyncio.to_thread(stage.ada.cancel, task_id)
    await attacker.flush()
    told = b" ".join([part for message in heard for part in (message.data, message.subject.encode())])
    names = await asyncio.to_thread(stage.service.bus, _lane_names)
    assert not [name for name in names if name.encode() in told]


async def test_the_lanes_of_an_endpoint_have_other_names_once_it_is_registered_anew(stage: Stage) -> None:
    """Who stole the token of an endpoint, and was shut out, knows nothing any more."""
    endpoint = await asyncio.to_thread(stage.ada.register_endpoint, "stolen")
    await asyncio.to_thread(stage.ada.open_session, endpoint["endpoint_id"])
    before = set(await asyncio.to_thread(stage.service.bus, _lane_names))
    again = {"name": "stolen", "endpoint_id": str(endpoint["endpoint_id"])}
    assert (await asyncio.to_thread(stage.service.http().post, "/api/v1/endpoints", json=again)).status_code == 201
    after = set(await asyncio.to_thread(stage.service.bus, _lane_names))
    assert len(before - after) == len(after - before) == 1


async def _lane_names(core: Connection) -> list[str]:
    return [str(name) for name in (await core.api("CONSUMER.NAMES.TASKS"))["consumers"]]


def _submit_to_the_shared_endpoint(stage: Stage) -> str:
    """Ada's task at the endpoint without a pool: it stays queued."""
    url = f"/api/v1/endpoints/{stage.shared_endpoint}/tasks"
    answer = stage.service.http().post(url, json={"function_id": stage.function_id})
    return str(answer.json()["tasks"][0]["task_id"])


async def test_a_bundle_that_was_not_signed_by_a_granted_key_runs_nothing(stage: Stage, tmp_path: Path) -> None:
    """Even whoever could write into TASKS cannot make a pool run anything."""
    trace = tmp_path / "trace"
    code = await asyncio.to_thread(
        stage.ada.register_source_code, f"def f():\n    open({str(trace)!r}, 'w').close()\n", "f"
    )
    grant = await asyncio.to_thread(stage.mallorys_grant)
    address = Address(
        endpoint=stage.address.endpoint,
        pool="default",
        principal=stage.address.principal,
        group=uuid.uuid4(),
        bundle=uuid.uuid4(),
    )
    bundle = Bundle(
        result_key=grant.result_key,
        functions=[FunctionUse(UUID(code), b"x" * 32, grant.bundle_key_expires)],
        options=[TaskOptions()],
        tasks=[Task(0, 0, 0, 1, b"\x92\x90\x80")],
        runtime=RUNTIME,
    )
    # Signed with a real key, but one that was granted to Mallory for another endpoint.
    forged = encode_bundle(
        bundle, subject=address.task_subject, key=grant.bundle_key, key_expires=grant.bundle_key_expires
    )

    async def inject(core: Connection) -> None:
        await core.store(address.task_subject, forged)
        await eventually_async(
            lambda: "bundle_refused" in stage.pool.log_path.read_text() or _dropped(stage), within_s=10
        )

    await asyncio.to_thread(stage.service.bus, inject)
    assert not trace.exists()


def _dropped(stage: Stage) -> bool:
    return "Dropped a message that is no bundle for this pool" in stage.pool.log_path.read_text()


async def test_a_user_cannot_use_a_private_endpoint_or_function_or_read_their_code(stage: Stage) -> None:
    with pytest.raises((NotFound, Forbidden)):
        await asyncio.to_thread(stage.mallory.open_session, stage.pool.endpoint_id)
    with pytest.raises((NotFound, Forbidden)):
        await asyncio.to_thread(stage.mallory.grant_function, stage.shared_endpoint, stage.function_id)
    with pytest.raises((NotFound, Forbidden)):
        await asyncio.to_thread(stage.mallory.get_function, stage.function_id)


async def test_a_pool_fetches_no_code_that_it_was_not_sent(stage: Stage) -> None:
    grant = await asyncio.to_thread(_rogue_grant, stage)
    base = f"{stage.service.url}/api/v1/endpoints/{grant.endpoint}/pools/default/code/{stage.function_id}"
    params = {
        "principal": stage.address.principal,
        "grant": base64.b64encode(b"g" * 32).decode(),
        "grant_expires": "9999999999",
    }

    def fetch(url: str, code_token: str) -> int:
        headers = {"Authorization": f"Bearer {code_token}"}
        return httpx.get(url, params=params, headers=headers, trust_env=False, verify=NO_TLS, timeout=20).status_code

    assert await asyncio.to_thread(fetch, base, grant.code_token) == 403
    foreign = base.replace(str(grant.endpoint), str(stage.address.endpoint))
    assert await asyncio.to_thread(fetch, foreign, grant.code_token) in (401, 403)
    changed = grant.code_token[:-1] + ("0" if grant.code_token[-1] != "0" else "1")
    assert await asyncio.to_thread(fetch, base, changed) == 401


async def test_the_bus_refuses_a_credential_signed_by_somebody_else(stage: Stage, tmp_path: Path) -> None:
    from headrace.bus.installation.operator import Operator

    forged = Operator.open(tmp_path / "keys").minter.pool_user(stage.address.endpoint, "default", "x", 60)
    with pytest.raises(BusError):
        await Connection([stage.service.nats.url], forged, name="forged", connect_timeout_s=2).open()


async def test_a_session_writes_no_logs_and_reads_none_past_the_service(stage: Stage, mallory: Connection) -> None:
    mine = f"log.{UUID(stage.shared_endpoint).hex}.{token('urn:headrace:user:mallory')}.a.b.0"
    assert await _refused(mallory, mine, b"x")
    for subject in (mine, stage.address.log_subject(0), stage.address.log_subject(None)):
        assert await _refused(mallory, f"$JS.API.DIRECT.GET.LOGS.{subject}")


async def test_a_forged_log_is_not_believed(stage: Stage) -> None:
    """Whoever finds a way to put a message there has no key to sign it with."""
    address, end = stage.address, stage.ada.task_logs(stage.address.bundle)
    subject = address.log_subject(0)
    chunk = LogChunk(0, 0, 1, 1, 0, 1.0, b"lies", "nowhere/1")
    forged = encode_log([chunk], subject=subject, key=b"m" * 32)
    elsewhere = encode_log(
        [chunk], subject=address.log_subject(1), key=stage.keys.result_key(address.endpoint, address.principal)
    )
    for message in (forged, elsewhere, b"HL\x01", b"noise"):
        await asyncio.to_thread(stage.service.bus, lambda core, message=message: core.store(subject, message))

    assert end == "thinking\n"
    assert await asyncio.to_thread(stage.ada.task_logs, address.bundle) == end
