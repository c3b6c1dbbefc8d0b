"""Watchers of files as processes, against a real service: killed, refused, without a service; and what an endpoint's
token may publish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from headrace_up import descendants
from service import RunningService
from shell import Shell
from waiting import eventually, eventually_async

from headrace.action_provider.app import OPERATIONS
from headrace.bus.network import DIRECT
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.watch import notices
from headrace.endpoint.watch.completeness import Seen
from headrace.endpoint.watch.journal import Journal, Noted
from headrace.endpoint.watch.publishing import EventService, Publisher
from headrace.endpoint.watch.report import Report, read_status
from headrace.endpoint.watch_process import WatchProcess, watch_settings

pytest.importorskip("watchfiles", reason="this environment is older than the extra `watch`, which `dev` has")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "scope"
    made.mkdir()
    return made


def stored(service: RunningService, source: str) -> list[dict[str, Any]]:
    """The events of a source, oldest first."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 500, "filter": json.dumps({"exact": {"source": source}})}
    while True:
        answer = service.http().get("/api/v1/events", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [each["event"] for each in page["events"]]
        if page["next"] is None:
            return found[::-1]
        query["before"] = page["next"]


def announced(status: Path) -> int:
    """How many events a watcher has made of its one folder, once all are published; before that, -1."""
    said = read_status(status)
    if said is None or not said["is_running"] or said["unpublished"]:
        return -1
    return int(said["folders"][0]["announced"])


@contextlib.contextmanager
def watching(service: RunningService, home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `headrace watch start` that watches, if there is something to watch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "watch", "start", *words, "--home", str(home)],
        env={**kept, "HEADRACE_URL": service.url, "HEADRACE_TOKEN": service.token},
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_nothing_is_missed_and_nothing_told_twice_whoever_dies(
    service: RunningService, folder: Path, tmp_path: Path
) -> None:
    home, source = tmp_path / "home", f"/test/{tmp_path.name}"
    words = (str(folder), "--source", source, "--name", "scope", "--stable", "0.05")
    status = home / "watch" / "scope" / "status.json"
    expected = set[str]()

    def write(prefix: str) -> None:
        for number in range(80):
            (folder / f"{prefix}{number}.tif").write_text(prefix)
            expected.add(f"{prefix}{number}.tif")

    write("before")
    with watching(service, home, *words) as process:
        eventually(lambda: announced(status) > 0, 20, "the first events")
        write("meanwhile")
        # In the middle of it, most likely.
        process.kill()
    write("nobody")
    service.stop_serving()
    with watching(service, home, *words) as process:
        eventually(lambda: (read_status(status) or {}).get("unpublished", 0) >= 80, 20, "events wait in the journal")
        eventually(lambda: "trying for ever" in str((read_status(status) or {})["service"]["problems"]), 20)
        process.kill()
    assert (read_status(status) or {})["is_running"] is False
    service.serve_again()
    with watching(service, home, *words) as process:
        write("last")
        eventually(lambda: announced(status) >= len(expected), 30, "all events")
        shell = Shell(home)
        assert f"scope ({folder}): watching, {len(expected)} announced" in shell("watch", "status").out
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "not watched" in shell("watch", "status", "scope", status=3).out
    events = stored(service, source)
    assert sorted(event["subject"] for event in events) == sorted(expected)
    assert len({event["id"] for event in events}) == len(events)


def test_an_endpoint_publishes_of_itself_alone(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("publishes")
    http = service.http(token)

    def publish(*sources: str) -> int:
        events = [{"specversion": "1.0", "id": "1", "type": "test.own", "source": source} for source in sources]
        kind = "application/cloudevents-batch+json" if len(events) > 1 else "application/cloudevents+json"
        body = json.dumps(events if len(events) > 1 else events[0])
        return http.post("/api/v1/events", content=body, headers={"Content-Type": kind}).status_code

    own = f"/endpoints/{endpoint_id}/folders/scope"
    assert publish(own) == 202
    assert publish(own, own + "2") == 202
    for others in ("/endpoints/", f"/endpoints/{endpoint_id}", f"/endpoints/{endpoint_id}x/a", "/hooks/1"):
        assert publish(others) == 403
        assert publish(own + "3", others) == 403
    assert stored(service, own + "3") == []
    # On its owner's buses as well, and on those whose publishers the owner is one of.
    ada = service.add_user("ada")
    of_ada, of_ada_token = service.add_endpoint("publishes", ada)
    body = {"specversion": "1.0", "id": "1", "type": "test.own", "source": f"/endpoints/{of_ada}/folders/scope"}
    kind = {"Content-Type": "application/cloudevents+json"}
    for name, publishers, status in (("for-ada", ["urn:headrace:user:ada"], 202), ("for-others", [], 404)):
        made = service.http().post("/api/v1/buses", json={"name": name, "publishers": publishers})
        assert made.status_code == 201, made.text
        answer = service.http(of_ada_token).post(f"/api/v1/buses/{name}/events", content=json.dumps(body), headers=kind)
        assert answer.status_code == status
    for path in ("/api/v1/events", "/api/v1/subscriptions", "/api/v1/tokens"):
        assert http.get(path).status_code == 403


def test_a_manager_keeps_its_watcher_alive_and_gives_it_the_changes(
    service: RunningService, folder: Path, tmp_path: Path
) -> None:
    asyncio.run(kept_alive(service, folder, tmp_path))


async def kept_alive(service: RunningService, folder: Path, tmp_path: Path) -> None:
    endpoint_id, token = service.add_endpoint("watches")
    directory = EndpointDirectory(tmp_path / "watches")
    directory.path.mkdir()
    directory.token_file.write_text(token)

    def settings(text: str) -> dict[str, Any] | None:
        config = EndpointConfig.parse(text)
        return watch_settings(directory, config, url=service.url, endpoint_id=UUID(endpoint_id), network=DIRECT)

    watch = WatchProcess(directory, settings("workers: 1"))
    task = asyncio.create_task(watch.run())
    source = f"/endpoints/{endpoint_id}/folders/scope"
    status = directory.watch_path / "status.json"

    def watcher() -> int | None:
        found = read_status(status)
        return found["pid"] if found is not None and found["is_running"] else None

    try:
        watch.change(settings(f"watch: [{{folder: {folder}, stable_s: 0.05, include: ['*.tif']}}]"))
        pid = await eventually_async(watcher, 20, "the watcher runs")
        assert pid is not None
        (folder / "a.tif").touch()
        (folder / "b.csv").touch()
        await eventually_async(lambda: announced(status) == 1, 20, "the first file")
        os.kill(pid, signal.SIGKILL)
        (folder / "c.tif").touch()
        await eventually_async(lambda: announced(status) == 2, 20, "it was started again")
        watch.change(settings(f"watch: [{{folder: {folder}, stable_s: 0.05}}]"))
        await eventually_async(lambda: announced(status) == 3, 20, "the other file counts now")
        events = stored(service, source)
        assert [event["subject"] for event in events] == ["a.tif", "c.tif", "b.csv"]
        assert events[0]["data"]["endpoint"] == endpoint_id
        assert token not in directory.log_file.read_text() + (directory.watch_path / "settings.json").read_text()
    finally:
        last = watcher()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert last is not None
    assert last not in descendants(os.getpid())


def test_a_token_for_an_instruments_computer_does_nothing_but_publish(service: RunningService) -> None:
    made = service.http().post("/api/v1/tokens", json={"label": "pc7", "publishes": "/hosts/pc7/"}).json()
    assert (made["kind"], made["publishes"]) == ("publisher", "/hosts/pc7/")
    http = service.http(made["token"])

    def publish(source: str) -> int:
        event = {"specversion": "1.0", "id": "1", "type": "test.own", "source": source}
        kind = {"Content-Type": "application/cloudevents+json"}
        return http.post("/api/v1/events", content=json.dumps(event), headers=kind).status_code

    assert publish("/hosts/pc7/folders/scope") == 202
    assert publish("/hosts/pc8/folders/scope") == 403
    me = http.get("/api/v1/whoami").json()
    # It is of an administrator, and is none.
    assert (me["admin"], me["token_id"]) == (False, made["token_id"])
    # One of each module; what it may not do is decided in one place.
    others = {o.handler.__module__: o for o in OPERATIONS if o.auth != "none" and not o.for_publishers}
    for operation in others.values():
        path = re.sub(r"{[^}]*}", "00000000-0000-0000-0000-000000000000", operation.path)
        answer = http.request(operation.method, path, json={})
        # Some look at the body before they look at the token.
        assert answer.status_code in (401, 403, 422), f"{operation.name} answers {answer.status_code}"


def test_what_cannot_be_watched_is_said_before_anything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(tmp_path)
    assert "is no folder" in shell("watch", "start", str(tmp_path / "none"), status=1).err
    wrong = shell("watch", "start", str(tmp_path), "--complete", "soon", status=1).err
    assert "complete: " in wrong
    with monkeypatch.context() as patch:
        patch.setattr(notices, "can_hear", lambda: False)
        status, _, err = shell._here(("watch", "start", str(tmp_path)), "")
        assert (status, "pip install 'headrace[watch]'" in err) == (1, True)
    assert "there is no watcher 'x'" in shell("watch", "status", "x", status=1).err
    assert shell("watch", "status").err == "(none)\n"


# The outbox


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def put(journal: Journal, bus: str, *events: bytes) -> None:
    """Put events into the outbox, as of files that are complete."""
    noted = [Noted(f"{number}.tif", Seen(1, number, 1), None, 1, event) for number, event in enumerate(events)]
    journal.note("scope", bus, "", noted)


def event(number: int, source: str) -> bytes:
    return json.dumps({"specversion": "1.0", "id": str(number), "source": source, "type": "test.file"}).encode()


def test_what_is_refused_holds_nothing_up(service: RunningService, journal: Journal) -> None:
    good = [event(number, "/test/outbox") for number in range(1200)]
    put(journal, "default", *good[:700], b'{"specversion": "1.0"}', *good[700:])
    put(journal, "nowhere", good[0])
    report, stop = Report("service"), threading.Event()
    events = EventService(service.url, lambda: service.token)
    publisher = Publisher(journal, events, report)
    thread = threading.Thread(target=publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: journal.counts()[:2] == (1, 1), 20, "all but two are published")
        assert "(HTTP 4" in str(journal.counts()[2])
        eventually(lambda: report.document()["problems"])
        assert "there is no bus 'nowhere'" in report.document()["problems"][0]
        # What comes later does not wait for these two, and they are not asked for again and again.
        put(journal, "default", event(5000, "/test/outbox"))
        publisher.wake()
        eventually(lambda: journal.counts()[:2] == (1, 1), 20)
        ids = [each["id"] for each in stored(service, "/test/outbox")]
        assert ids == [*map(str, range(1200)), "5000"]
    finally:
        stop.set()
        publisher.wake()
        thread.join(20)
        events.close()


def test_a_wrong_token_is_said_and_nothing_is_lost(service: RunningService, journal: Journal, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hr_wrong")
    put(journal, "default", event(1, "/test/token"))
    report, stop = Report("service"), threading.Event()
    events = EventService(service.url, token.read_text)
    publisher = Publisher(journal, events, report)
    thread = threading.Thread(target=publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: report.document()["state"] == "refused", 20)
        assert journal.counts() == (1, 0, None)
        assert "hr_wrong" not in str(report.document())
    finally:
        stop.set()
        publisher.wake()
        thread.join(20)
        events.close()
