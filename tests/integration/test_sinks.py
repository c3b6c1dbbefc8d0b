"""Events go to addresses by HTTP: real servers, a real bus, and what becomes of what they do not take."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from certificates import make_certificate
from receiver import Received, Receiver, Reply, receiver
from service import RunningService, running_service
from waiting import eventually, eventually_async

from headrace.bus.eventing.bindings import read_event
from headrace.bus.eventing.deliveries import Delivery, Waiting
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.leases import Leases
from headrace.bus.eventing.schedules.replacing import Replacing
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.signatures import GITHUB, SignatureForm, verify
from headrace.bus.eventing.sinks.addresses import AddressPolicy
from headrace.bus.eventing.sinks.runner import SinkRunner
from headrace.bus.eventing.sinks.settings import SinkSettings
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import SINKS, delivery_sink_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables
from headrace.sdk import Client, RequestRefused

SECRET = "it is a secret"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    policy = AddressPolicy.of(["127.0.0.1", "::1"])
    with running_service(tmp_path_factory.mktemp("service"), sinks=policy) as running:
        yield running


class Sinks:
    """One user's subscriptions with sinks."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.kind = f"org.example.{uuid.uuid4().hex}"
        self._numbers = itertools.count(1)

    def subscribe(self, to: Receiver | str, retry: Any = None, kind: str = "", **target: Any) -> str:
        url = to if isinstance(to, str) else to.url
        made = self.client.create_subscription(
            {
                "filter": {"exact": {"type": kind or self.kind}},
                "target": {"url": url, **target},
                "retry": {"first_delay_s": 0.02, "jitter": 0, **(retry or {})},
            }
        )
        return str(made["subscription_id"])

    def publish(self, count: int = 1, **more: Any) -> list[str]:
        ids = [f"e{next(self._numbers)}" for _ in range(count)]
        events = [
            {
                "specversion": "1.0",
                "id": each,
                "source": f"/t/{self.kind}",
                "type": self.kind,
                "data": {"n": each},
                **more,
            }
            for each in ids
        ]
        self.client.publish_batch(events) if count > 1 else self.client.publish(events[0])
        return ids

    def pass_through(self) -> None:
        """Once another sink has got an event, the dispatcher knows what was changed before, and has matched what was
        published before."""
        kind = f"{self.kind}.{uuid.uuid4().hex}"
        with receiver() as sink:
            subscription = self.subscribe(sink, kind=kind)
            self.publish(type=kind)
            eventually(lambda: sink.posts, 20)
            self.client.delete_subscription(subscription)

    def letters(self, subscription: str, count: int = 1) -> list[dict[str, Any]]:
        eventually(lambda: len(self.client.list_dead_letters(subscription)) >= count, 20)
        return self.client.list_dead_letters(subscription)


@pytest.fixture
def sinks(client: Client) -> Sinks:
    return Sinks(client)


def answers(*script: Reply) -> Any:
    """Answer the first request with the first reply, and so on; the last one again and again."""
    numbers = itertools.count()
    return lambda _request: script[min(next(numbers), len(script) - 1)]


def test_an_event_arrives_in_the_mode_that_was_asked_for_signed_and_with_what_is_secret(sinks: Sinks) -> None:
    with receiver() as one, receiver() as two, receiver() as three:
        sinks.subscribe(one, secret=SECRET, token="t0ken", headers={"X-Team": "blue"})
        form = SignatureForm(
            header="webhook-signature",
            encoding="base64",
            prefix="v1,",
            signed="{id}.{timestamp}.{body}",
            timestamp_header="webhook-timestamp",
            id_header="webhook-id",
        )
        named = {name: getattr(form, name) for name in SignatureForm.__struct_fields__ if name != "tolerance_s"}
        sinks.subscribe(two, mode="binary", secret=SECRET, signature=named)
        sinks.subscribe(three, mode="batch")
        (event_id,) = sinks.publish(subject="a ä")
        for each in (one, two, three):
            eventually(functools.partial(getattr, each, "posts"), 10)
        structured, binary, batch = (each.posts[0] for each in (one, two, three))
        assert structured.headers["content-type"].startswith("application/cloudevents+json")
        assert (structured.json["id"], structured.json["data"]) == (event_id, {"n": event_id})
        assert verify(GITHUB, SECRET, structured.body, structured.headers, now=0) == "genuine"
        assert (structured.headers["authorization"], structured.headers["x-team"]) == ("Bearer t0ken", "blue")
        assert (binary.headers["ce-id"], binary.headers["ce-subject"]) == (event_id, "a%20%C3%A4")
        assert verify(form, SECRET, binary.body, binary.headers, now=time.time()) == "genuine"
        read = read_event(binary.headers["content-type"], binary.headers, binary.body, json.loads)
        assert read.document == {**structured.json, "datacontenttype": "application/json"}
        assert batch.headers["content-type"].startswith("application/cloudevents-batch+json")
        assert batch.json == [structured.json]
        # The same wherever it goes, and for each of its attempts.
        assert uuid.UUID(structured.headers["headrace-delivery"])


def test_what_fails_for_the_moment_is_tried_again_and_what_is_refused_is_not(sinks: Sinks) -> None:
    busy = answers((503, {}, b""), (429, {"Retry-After": "1"}, b"slow\x00 down"), (204, {}, b""))
    with receiver(busy) as once, receiver(answers((422, {}, b"no such <thing>"))) as never:
        waited, refused = sinks.subscribe(once), sinks.subscribe(never, retry={"max_attempts": 5})
        sinks.publish()
        eventually(lambda: len(once.posts) == 3, 20)
        assert once.posts[2].at - once.posts[1].at >= 0.9
        assert len({each.headers["headrace-delivery"] for each in once.posts}) == 1
        (letter,) = sinks.letters(refused)
        assert letter["code"] == "SinkRefused"
        assert (letter["function_id"], letter["endpoint_id"]) == (None, None)
        (attempt,) = letter["attempts"]
        assert (attempt["status"], attempt["error"]) == (422, "HTTP 422")
        assert "no such <thing>" in attempt["message"]
        assert attempt["started_at"] <= attempt["ended_at"]
        assert len(never.posts) == 1
        assert sinks.client.list_dead_letters(waited) == []


def test_a_dead_letter_has_every_attempt_and_can_be_redriven(sinks: Sinks, service: RunningService) -> None:
    script = answers((500, {}, b"x" * 100_000), (503, {}, b""), (200, {}, b""))
    with receiver(script) as sink:
        subscription = sinks.subscribe(sink, retry={"max_attempts": 2})
        sinks.publish()
        (letter,) = sinks.letters(subscription)
        assert (letter["code"], [each["status"] for each in letter["attempts"]]) == ("AttemptsExhausted", [500, 503])
        assert len(letter["attempts"][0]["message"]) < 600
        endpoint, _ = service.add_endpoint()
        with pytest.raises(RequestRefused, match="sink"):
            sinks.client.redrive_dead_letters(subscription_id=subscription, endpoint_id=endpoint)
        assert sinks.client.redrive_dead_letters(subscription_id=subscription)["redriven"] == 1
        eventually(lambda: len(sink.posts) == 3, 20)


def test_a_sink_that_does_not_answer_or_is_not_there_costs_only_its_own_events(sinks: Sinks) -> None:
    go = threading.Event()

    def stuck(_request: Received) -> Reply:
        go.wait(30)
        return 200, {}, b""

    def slow_but_good(_request: Received) -> Reply:
        go.wait(0.02)
        return 200, {}, b""

    with receiver(stuck) as dead, receiver(slow_but_good) as good, contextlib.closing(ClosedPort()) as nobody:
        slow = sinks.subscribe(dead, timeout_s=0.3, concurrency=2, retry={"max_attempts": 1})
        away = sinks.subscribe(f"http://127.0.0.1:{nobody.port}/", retry={"max_attempts": 1})
        sinks.subscribe(good, concurrency=2)
        ids = sinks.publish(20)
        eventually(lambda: {each.json["id"] for each in good.posts} == set(ids), 20)
        assert len(good.posts) == 20
        assert sinks.letters(slow)[0]["attempts"][0]["error"] == "SinkTimeout"
        assert good.most_at_once == 2
        assert sinks.letters(away)[0]["attempts"][0]["error"] == "SinkUnreachable"
        go.set()


class ClosedPort:
    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # bound, and nobody listens
        self.port = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def test_a_batch_has_what_waits_and_one_wrong_event_does_not_take_the_others_along(sinks: Sinks) -> None:
    def picky(request: Received) -> Reply:
        bad = any(each["id"] == "e7" for each in request.json)
        return (400, {}, b"e7 is wrong") if bad else (200, {}, b"")

    with receiver(picky) as sink:
        subscription = sinks.subscribe(sink, mode="batch", concurrency=1, batch_size=10)
        ids = sinks.publish(20)
        (letter,) = sinks.letters(subscription)
        assert letter["event_id"] == "e7"

        def taken() -> bool:
            good = [each["id"] for post in sink.posts if picky(post)[0] == 200 for each in post.json]
            return sorted(good) == sorted(set(ids) - {"e7"})

        eventually(taken, 20)
        assert max(len(post.json) for post in sink.posts) > 1


def test_what_was_recorded_is_not_sent_again_and_what_was_only_sent_is_sent_once_more(
    sinks: Sinks, service: RunningService
) -> None:
    go = threading.Event()
    numbers = itertools.count()

    def first_one_hangs(_request: Received) -> Reply:
        if next(numbers) == 0:
            go.wait(30)
        return 200, {}, b""

    with receiver(first_one_hangs) as sink:
        subscription = UUID(sinks.subscribe(sink, concurrency=1))
        (event_id,) = sinks.publish()
        eventually(lambda: sink.posts, 10)
        # Sent, and nobody has written down what became of it.
        service.stop_serving()
        service.serve_again()
        eventually(lambda: len(sink.posts) == 2, 20)
        go.set()
        assert len({each.headers["headrace-delivery"] for each in sink.posts}) == 1
        traced = eventually(lambda: _traced(sinks, event_id), 20)
        assert (traced["endpoint_id"], traced["attempts"][0]["endpoint_id"]) == (None, None)
        # It is no task.
        assert list(sinks.client.list_tasks()) == []

        async def queue_again(connection: Connection) -> None:
            event = CloudEvent.of_document(sink.posts[0].json)
            delivery = Delivery(subscription, "default", 1, event.source, event.id)
            where = delivery_sink_subject(subscription, delivery.bundle_id(SINKS))
            await connection.store(where, Waiting(delivery, event.encode()).encode())

        service.bus(queue_again)
        sinks.publish()
        eventually(lambda: len(sink.posts) == 3, 20)
        assert sink.posts[2].json["id"] != event_id


def test_a_delivery_that_is_queued_twice_at_once_is_sent_once(service: RunningService, sinks: Sinks) -> None:
    go = threading.Event()
    asked: list[str] = []

    def waits(request: Received) -> Reply:
        asked.append(request.json["id"])
        go.wait(30)
        return 200, {}, b""

    with receiver(waits) as sink:
        subscription = UUID(sinks.subscribe(sink, concurrency=4))
        (event_id,) = sinks.publish()
        eventually(lambda: asked == [event_id], 10)

        async def queue_again(connection: Connection) -> None:
            event = CloudEvent.of_document(sink.posts[0].json)
            delivery = Delivery(subscription, "default", 1, event.source, event.id)
            where = delivery_sink_subject(subscription, delivery.bundle_id(SINKS))
            await connection.store(where, Waiting(delivery, event.encode()).encode())

        service.bus(queue_again)
        (other,) = sinks.publish()
        eventually(lambda: other in asked, 10)
        go.set()
        eventually(lambda: _traced(sinks, event_id), 20)
        (last,) = sinks.publish()
        eventually(lambda: last in asked, 10)
        assert asked == [event_id, other, last]


def _traced(sinks: Sinks, event_id: str) -> Any:
    found = sinks.client.trace_event((f"/t/{sinks.kind}", event_id))
    (tried,) = found["subscriptions"]
    assert tried["function_id"] is None
    (delivery,) = tried["deliveries"]
    return delivery if delivery["state"] == "succeeded" else None


def test_a_paused_subscription_sends_nothing_until_it_goes_on(sinks: Sinks) -> None:
    with receiver() as sink:
        subscription = sinks.subscribe(sink)
        sinks.client.change_subscription(subscription, {"paused": True})
        kept = sinks.publish(2)
        sinks.client.change_subscription(subscription, {"paused": False})
        eventually(lambda: sorted(each.json["id"] for each in sink.posts) == kept, 20)
        sinks.client.change_subscription(subscription, {"paused": True, "backlog": "drop"})
        sinks.pass_through()
        sinks.publish(2)
        sinks.pass_through()
        sinks.client.change_subscription(subscription, {"paused": False})
        last = sinks.publish()
        eventually(lambda: len(sink.posts) >= 3, 20)
        assert [each.json["id"] for each in sink.posts[2:]] == last


class SlowToStop(SinkRunner):
    """The sinks of a dispatcher: nothing is sent, and the pipelines of the one named "slow" stop when they may."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.wanted: list[tuple[str, int]] = []
        self.story: list[tuple[str, str, int]] = []
        self.may_stop = asyncio.Event()

    async def _keep(self, record: SubscriptionRecord, leaving: Any) -> None:
        self.wanted.append((record.name, record.retry.max_attempts))
        await super()._keep(record, leaving)

    async def _work(self, record: SubscriptionRecord) -> None:
        self.story.append(("begins", record.name, record.retry.max_attempts))
        try:
            await asyncio.Event().wait()
        finally:
            if record.name == "slow":
                await self.may_stop.wait()
            self.story.append(("ends", record.name, record.retry.max_attempts))


def test_a_sink_that_is_changed_again_while_it_stops_is_served_by_one_pipeline_at_a_time(tmp_path: Path) -> None:
    policy = AddressPolicy.of(["127.0.0.1"])
    with (
        running_service(tmp_path, dispatcher=False, sinks=policy) as service,
        Client(service.url, service.token) as client,
        receiver() as sink,
    ):

        def make(name: str) -> str:
            body = {"name": name, "filter": {"exact": {"type": "t"}}, "target": {"url": sink.url}}
            return str(client.create_subscription({**body, "retry": {"max_attempts": 1}})["subscription_id"])

        async def story(connection: Connection) -> list[tuple[str, str, int]]:
            keys, tables = ServiceKeys.load(service.keys_dir).key_ring(), Tables.on(connection)
            leases, runs = (
                Leases(tables.leases),
                TickRuns(tables.schedule_progress, Replacing(connection, keys, tables)),
            )
            runner = SlowToStop(connection, keys, tables, runs, leases, SinkSettings(policy=policy))
            tasks = [asyncio.create_task(each) for each in (leases.run(), runner.run())]
            slow = await asyncio.to_thread(make, "slow")
            await eventually_async(lambda: runner.story == [("begins", "slow", 1)], 10)
            for attempts in (2, 3):
                await asyncio.to_thread(client.change_subscription, slow, {"retry": {"max_attempts": attempts}})
                await eventually_async(lambda: ("slow", attempts) in runner.wanted, 10)  # noqa: B023 - called in this turn only
            # Another one, which waits for nobody: by its beginning the slow one would have begun as well.
            await asyncio.to_thread(make, "other")
            await eventually_async(lambda: ("begins", "other", 1) in runner.story, 10)
            runner.may_stop.set()
            await eventually_async(lambda: ("begins", "slow", 3) in runner.story, 10)
            for task in tasks:
                task.cancel()
            told = [each for each in runner.story if each[1] == "slow"]
            await asyncio.wait(tasks)
            return told

        assert service.bus(story, 60.0) == [("begins", "slow", 1), ("ends", "slow", 1), ("begins", "slow", 3)]


def test_an_event_that_the_mode_cannot_carry_is_a_dead_letter(sinks: Sinks) -> None:
    with receiver() as sink:
        subscription = sinks.subscribe(sink, mode="binary")
        sinks.publish(datacontenttype="text/ä", data="x")
        assert sinks.letters(subscription)[0]["code"] == "SinkUnfit"
        ids = sinks.publish()
        eventually(lambda: [each.headers["ce-id"] for each in sink.posts] == ids, 20)


def test_redirects_are_not_followed_and_a_sink_that_is_gone_is_left_alone(sinks: Sinks) -> None:
    with receiver() as elsewhere, receiver(answers((410, {}, b""))) as gone:
        with receiver(answers((307, {"Location": elsewhere.url}, b""))) as moved:
            redirected, left = sinks.subscribe(moved), sinks.subscribe(gone)
            sinks.publish()
            assert sinks.letters(redirected)[0]["code"] == "SinkRedirected"
            assert sinks.letters(left)[0]["code"] == "SinkGone"
        assert elsewhere.received == []
        eventually(lambda: sinks.client.get_subscription(left)["target"]["gone_at"], 10)
        sinks.publish()
        assert sinks.letters(left, 2)[0]["attempts"][0]["status"] is None
        assert len(gone.posts) == 1
        # Named again, it is asked again.
        sinks.client.change_subscription(left, {"target": {"url": gone.url}})
        gone.answer = lambda _request: (200, {}, b"")
        sinks.publish()
        eventually(lambda: len(gone.posts) == 2, 20)


def test_a_sink_is_asked_for_consent_and_its_rate_is_kept(sinks: Sinks) -> None:
    def consents(request: Received) -> Reply:
        if request.method == "POST":
            return 200, {}, b""
        assert request.headers["webhook-request-rate"] == "1200"
        allowed = {"WebHook-Allowed-Origin": request.headers["webhook-request-origin"], "WebHook-Allowed-Rate": "600"}
        return 200, allowed, b""

    with receiver(consents) as willing, receiver() as unwilling:
        subscription = sinks.subscribe(willing, handshake=True, rate_per_minute=1200, concurrency=8)
        assert sinks.client.get_subscription(subscription)["target"]["rate_per_minute"] == 600
        with pytest.raises(RequestRefused, match="does not consent"):
            sinks.subscribe(unwilling, handshake=True)
        sinks.publish(6)
        eventually(lambda: len(willing.posts) == 6, 20)
        times = sorted(each.at for each in willing.posts)
        assert times[5] - times[0] >= 0.4  # a tenth of a second each


def test_certificates_are_checked_and_an_authority_of_ones_own_is_believed(sinks: Sinks, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    with receiver(tls=context) as sink:
        stranger = sinks.subscribe(sink, retry={"max_attempts": 1})
        sinks.subscribe(sink, ca=certificate.cert.read_text())
        other_name = sinks.subscribe(
            sink.url.replace("localhost", "127.0.0.1"), ca=certificate.cert.read_text(), retry={"max_attempts": 1}
        )
        sinks.publish()
        eventually(lambda: len(sink.posts) == 1, 20)
        for refused in (stranger, other_name):
            assert "certificate" in sinks.letters(refused)[0]["attempts"][0]["message"].lower()
        assert len(sink.posts) == 1
    with pytest.raises(RequestRefused, match="certificates"):
        sinks.subscribe("https://localhost:1/", ca="no PEM")


def test_secrets_are_shown_to_nobody_and_do_not_move_to_another_host(sinks: Sinks, service: RunningService) -> None:
    with receiver() as sink, receiver() as other:
        subscription = sinks.subscribe(sink, secret=SECRET, token="t0ken-1", headers={"X-Key": "k3y-1"})
        shown = json.dumps(sinks.client.get_subscription(subscription))
        assert not any(secret in shown for secret in (SECRET, "t0ken-1", "k3y-1"))
        assert json.loads(shown)["target"]["header_names"] == ["X-Key"]
        stored = b"".join(path.read_bytes() for path in (service.home / "nats").rglob("*.blk"))
        assert not any(secret.encode() in stored for secret in (SECRET, "t0ken-1", "k3y-1"))
        # What is not named stays, at the same host.
        sinks.client.change_subscription(subscription, {"target": {"url": sink.url + "/x", "timeout_s": 5}})
        sinks.publish()
        eventually(lambda: sink.posts, 20)
        assert (sink.posts[0].path, sink.posts[0].headers["authorization"]) == ("/events/x", "Bearer t0ken-1")
        assert verify(GITHUB, SECRET, sink.posts[0].body, sink.posts[0].headers, now=0) == "genuine"
        changed = sinks.client.change_subscription(subscription, {"target": {"url": other.url}})
        assert (changed["target"]["has_token"], changed["target"]["signature"]) == (False, None)
        sinks.publish()
        eventually(lambda: other.posts, 20)
        assert not {"authorization", "x-key", "x-hub-signature-256"} & other.posts[0].headers.keys()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"url": "ftp://example.org/"}, "https"),
        ({"url": "https://ada:secret@example.org/"}, "user and password"),
        ({"url": "https://example.org/#x"}, "fragment"),
        ({"url": "https://no-such-host.invalid/"}, "not found"),
        ({"url": "http://10.0.0.1/"}, "--sink-allow"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "--sink-allow"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "--sink-allow"),
        ({"url": "http://127.0.0.1/", "headers": {"Host": "x"}}, "set by Headrace"),
        ({"url": "http://127.0.0.1/", "headers": {"X-A": "a\r\nX-B: b"}}, "X-A"),
        ({"url": "http://127.0.0.1/", "token": "a", "headers": {"Authorization": "b"}}, "set by Headrace"),
        ({"url": "http://127.0.0.1/", "signature": {"header": "X-S"}}, "needs a `secret`"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_it_is_asked_for(sinks: Sinks, target: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestRefused, match=words):
        sinks.subscribe(target.pop("url"), **target)


def test_a_subscription_has_a_function_or_a_sink(sinks: Sinks, service: RunningService) -> None:
    body = {"filter": {"exact": {"type": "t"}}}
    with pytest.raises(RequestRefused, match="one of them"):
        sinks.client.create_subscription(body)
    target = {"url": "http://127.0.0.1:1/"}
    with pytest.raises(RequestRefused, match="one of them"):
        sinks.client.create_subscription({**body, "target": target, "function_id": service.add_function()})
    with pytest.raises(RequestRefused, match="input"):
        sinks.client.create_subscription({**body, "target": target, "input": {"args": [1]}})
    made = sinks.client.create_subscription({**body, "target": target})
    assert (made["name"], made["function_id"], made["endpoint_id"]) == ("127.0.0.1", None, None)


def test_a_replay_goes_to_a_sink_as_well_and_a_trace_shows_both_deliveries(sinks: Sinks) -> None:
    with receiver() as one:
        subscription = sinks.subscribe(one)
        (event_id,) = sinks.publish()
        eventually(lambda: len(one.posts) == 1, 10)
        sequence = sinks.client.list_events(event_type=sinks.kind)[0]["sequence"]

        replay = sinks.client.create_replay(subscription, from_sequence=sequence, to_sequence=sequence)

        eventually(lambda: len(one.posts) == 2, 10)
        assert [each.json.get("replayid") for each in one.posts] == [None, replay["replay_id"]]
        assert [each.json["id"] for each in one.posts] == [event_id] * 2

        def states() -> bool:
            traced = sinks.client.trace_event(sequence)["subscriptions"][0]["deliveries"]
            return [(each["replay_id"], each["state"]) for each in traced] == [
                (None, "succeeded"),
                (replay["replay_id"], "succeeded"),
            ]

        eventually(states, 10, "both have succeeded")
