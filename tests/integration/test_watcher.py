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
from headrace.endpoint.watch.report import read_status
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
        for number in range(150):
            (folder / f"{prefix}{number}.tif").write_text(prefix)
            expected.add(f"{prefix}{number}.tif")

    write("before")
    with watching(service, home, *words) as process:
        eventually(lambda: stored(service, source), 20, "the first events")
        write("meanwhile")
        # In the middle of it, most likely.
        process.kill()
    write("nobody")
    service.stop_serving()
    with watching(service, home, *words) as process:
        eventually(lambda: (read_status(status) or {}).get("unpublished", 0) >= 150, 20, "events wait in the journal")
        said = read_status(status)
        assert said is not None
        assert "trying for ever" in said["service"]["problems"][0]
        process.kill()
    assert read_status(status) == {**said, **(read_status(status) or {}), "is_running": False}
    service.serve_again()
    with watching(service, home, *words) as process:
        write("last")
        eventually(lambda: len(stored(service, source)) >= len(expected), 30, "all events")
        eventually(lambda: (read_status(status) or {})["unpublished"] == 0, 10, "the journal knows it")
        shell = Shell(home)
        assert f"scope ({folder}): watching, {len(expected)} announced" in shell("watch", "status").out
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
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

    def watcher() -> int | None:
        found = read_status(directory.watch_path / "status.json")
        return found["pid"] if found is not None and found["is_running"] else None

    try:
        watch.change(settings(f"watch: [{{folder: {folder}, stable_s: 0.05, include: ['*.tif']}}]"))
        pid = await eventually_async(watcher, 20, "the watcher runs")
        assert pid is not None
        (folder / "a.tif").touch()
        (folder / "b.csv").touch()
        await eventually_async(lambda: stored(service, source), 20, "the first file")
        os.kill(pid, signal.SIGKILL)
        (folder / "c.tif").touch()
        await eventually_async(lambda: len(stored(service, source)) == 2, 20, "it was started again")
        watch.change(settings(f"watch: [{{folder: {folder}, stable_s: 0.05}}]"))
        await eventually_async(lambda: len(stored(service, source)) == 3, 20, "the other file counts now")
        assert [event["subject"] for event in stored(service, source)] == ["a.tif", "c.tif", "b.csv"]
        assert stored(service, source)[0]["data"]["endpoint"] == endpoint_id
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
    for operation in OPERATIONS:
        if operation.auth != "none" and not operation.for_publishers:
            path = re.sub(r"{[^}]*}", "00000000-0000-0000-0000-000000000000", operation.path)
            answer = http.request(operation.method, path, json={})
            # Some look at the body before they look at the token.
            assert answer.status_code in (401, 403, 422), f"{operation.name} answers {answer.status_code}"


def test_what_cannot_be_watched_is_said_before_anything_is(service: RunningService, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert "is no folder" in shell("watch", "start", str(tmp_path / "none"), status=1).err
    wrong = shell("watch", "start", str(tmp_path), "--complete", "soon", status=1).err
    assert "complete: " in wrong
    assert "there is no watcher 'x'" in shell("watch", "status", "x", status=1).err
    assert shell("watch", "status").err == "(none)\n"
