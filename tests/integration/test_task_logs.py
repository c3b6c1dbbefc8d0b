"""What tasks print, from a worker to whoever reads: with a real bus, a real service and a real pool."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from events_desk import CLOUDEVENT
from gates import LIVE, live
from plain_http import NO_TLS
from running_pool import RunningPool, running_pool
from scripted_http import BREAK, scripted_server
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.tasks import log_watch
from headrace.sdk import Client, Executor, LogChunk, NotFound

SPEAK = """
def speak(text):
    import sys
    print(text)
    print(text.upper(), file=sys.stderr)
    return len(text)
"""

KILLED = """
def killed():
    import threading
    print("last words")
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), most_followers=2, keep_alive_s=0.2) as service:
        yield service


class Desk:
    """Submits tasks and reads their logs over HTTP."""

    def __init__(self, service: RunningService, pool: RunningPool) -> None:
        self.service = service
        self.http = service.http()
        self._endpoint = f"/api/v1/endpoints/{pool.endpoint_id}/tasks"

    def submit(self, source: str, *args: Any, **options: Any) -> str:
        name = source.split("def ")[1].split("(", maxsplit=1)[0]
        body = {"function_id": self.service.add_function(source, name), "args": args, "options": options}
        answer = self.http.post(self._endpoint, json=body)
        assert answer.is_success, answer.text
        return str(answer.json()["tasks"][0]["task_id"])

    def submit_many(self, source: str, *calls: list[Any]) -> list[str]:
        name = source.split("def ")[1].split("(", maxsplit=1)[0]
        function_id = self.service.add_function(source, name)
        body = {"tasks": [{"function_id": function_id, "args": args} for args in calls]}
        answer = self.http.post(self._endpoint, json=body)
        assert answer.is_success, answer.text
        return [task["task_id"] for task in answer.json()["tasks"]]

    def ended(self, task_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.http.get(f"/api/v1/tasks/{task_id}", params={"wait": "20s"}).json()
        assert document["state"] not in ("pending", "running")
        return document

    def logs(self, task_id: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/tasks/{task_id}/logs", params=query)
        assert answer.is_success, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def text(self, task_id: str, **query: Any) -> str:
        answer = self.http.get(f"/api/v1/tasks/{task_id}/logs", params=query, headers={"Accept": "text/plain"})
        assert answer.is_success, answer.text
        return answer.text

    @contextlib.contextmanager
    def following(self, task_id: str, *, after: str = "", **query: Any) -> Iterator[Follower]:
        headers = {"Authorization": f"Bearer {self.service.token}", **({"Last-Event-ID": after} if after else {})}
        with (
            httpx.Client(
                base_url=self.service.url, headers=headers, timeout=20, trust_env=False, verify=NO_TLS
            ) as http,
            http.stream("GET", f"/api/v1/tasks/{task_id}/logs", params={"follow": "true", **query}) as response,
        ):
            yield Follower(response)


class Follower:
    """Reads events."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.media_type = response.headers["content-type"]
        self.last_id = ""
        self.comments = 0
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event: its name and its data."""
        name, data = "", {}
        for line in self._lines:
            key, _, value = line.partition(": ")
            if key == "id":
                self.last_id = value
            elif key == "event":
                name = value
            elif key == "data":
                data = json.loads(value)
            elif line.startswith(":"):
                self.comments += 1
            elif not line and name:
                return name, data
        return "closed", {}

    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """All that comes until the answer ends."""
        found = []
        while (each := self.next())[0] != "closed":
            found.append(each)
        return found


def speak(text: str) -> int:
    print(text)  # noqa: T201 - what a task prints is the case
    print(text.upper(), file=sys.stderr)  # noqa: T201 - likewise
    return len(text)


@pytest.fixture
def desk(service: RunningService, pool: RunningPool) -> Desk:
    return Desk(service, pool)


def test_what_a_task_printed_is_there_when_its_result_is(desk: Desk) -> None:
    task_id = desk.submit(SPEAK, "hello")
    desk.ended(task_id)

    logs = desk.logs(task_id)

    assert logs["state"] == "succeeded"
    assert [(chunk["stream"], chunk["text"], chunk["attempt"]) for chunk in logs["chunks"]] == [
        ("stdout", "hello\n", 1),
        ("stderr", "HELLO\n", 1),
    ]
    assert all(chunk["worker"] and chunk["time"] for chunk in logs["chunks"])
    assert desk.text(task_id) == "hello\nHELLO\n"
    assert desk.text(task_id, stream="stderr") == "HELLO\n"


def test_the_tasks_of_one_bundle_are_told_apart(desk: Desk) -> None:
    task_ids = desk.submit_many(SPEAK, *([f"number {n}"] for n in range(30)), ["x" * 20_000])
    for task_id in task_ids:
        desk.ended(task_id)

    assert [desk.text(task_id, stream="stdout") for task_id in task_ids[:-1]] == [f"number {n}\n" for n in range(30)]
    assert desk.text(task_ids[-1], stream="stdout") == "x" * 20_000 + "\n"


def test_a_follower_sees_a_line_before_the_task_ends(desk: Desk, tmp_path: Path) -> None:
    task_id = desk.submit(LIVE, str(tmp_path / "go"))

    with desk.following(task_id) as follower:
        assert follower.media_type.startswith("text/event-stream")
        name, chunk = follower.next()
        assert (name, chunk["stream"], chunk["text"]) == ("log", "stdout", "begun\n")
        assert desk.logs(task_id)["state"] in ("pending", "running")
        (tmp_path / "go").touch()
        assert [(name, data.get("text")) for name, data in follower.rest()] == [("log", "done\n"), ("end", None)]


def test_a_follower_who_comes_back_goes_on_where_it_was(desk: Desk, tmp_path: Path) -> None:
    task_id = desk.submit(LIVE, str(tmp_path / "go"))
    with desk.following(task_id) as follower:
        follower.next()
        seen = follower.last_id
    (tmp_path / "go").touch()
    desk.ended(task_id)

    with desk.following(task_id, after=seen) as follower:
        assert [data.get("text") for _, data in follower.rest()] == ["done\n", None]


def test_a_task_that_is_stopped_keeps_what_it_printed(desk: Desk) -> None:
    late = desk.submit(KILLED, task_timeout_s=0.5)
    cancelled = desk.submit(KILLED)
    eventually(lambda: desk.text(cancelled), 10)
    desk.http.post(f"/api/v1/tasks/{cancelled}/cancel", json={"force": True})

    assert desk.ended(late)["state"] == "expired"
    assert desk.ended(cancelled)["state"] == "cancelled"
    assert desk.text(late) == "last words\n"
    assert desk.text(cancelled) == "last words\n"


def test_what_is_cut_says_how_much(desk: Desk) -> None:
    source = """
def flood(count):
    for number in range(count):
        print(f"{number:09}")
    print("the end")
"""
    task_id = desk.submit(source, 150_000)
    desk.ended(task_id)

    chunks = desk.logs(task_id)["chunks"]
    text = "".join(chunk["text"] for chunk in chunks)
    cut = sum(chunk.get("cut_bytes", 0) for chunk in chunks)
    assert text.startswith("000000000\n")
    assert text.endswith("000149999\nthe end\n")
    assert len(text) <= 1024 * 1024
    assert len(text) + cut == 1_500_008
    assert f"[headrace: {cut} bytes cut]" in desk.text(task_id)
    assert desk.text(task_id, tail=2) == "000149999\nthe end\n"


def test_each_attempt_has_the_limit_for_itself(desk: Desk, tmp_path: Path) -> None:
    source = """
def flood(path):
    with open(path, "a") as file:
        file.write("+")
    attempt = len(open(path).read())
    for number in range(60_000 if attempt < 3 else 150_000):
        print(f"{attempt}{number:08}")
    raise ValueError("as ever")
"""
    task_id = desk.submit(source, str(tmp_path / "attempts"), max_retries=2)
    assert desk.ended(task_id)["attempts"] == 3

    kept, cut = collections.Counter[int](), collections.Counter[int]()
    for chunk in desk.logs(task_id)["chunks"]:
        kept[chunk["attempt"]] += len(chunk["text"])
        cut[chunk["attempt"]] += chunk.get("cut_bytes", 0)
    # Together they are more than the 1 MiB that one may have.
    assert (kept[1], kept[2]) == (600_000, 600_000)
    assert kept[3] <= 1024 * 1024
    assert cut == {1: 0, 2: 0, 3: 1_500_000 - kept[3]}


def test_a_log_that_is_too_long_for_one_answer_shows_its_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_watch, "MOST_BYTES", 200_000)
    task_id = desk.submit("def long():\n    for n in range(60_000):\n        print(f'{n:09}')\n")
    desk.ended(task_id)

    chunks = desk.logs(task_id)["chunks"]

    text = "".join(chunk["text"] for chunk in chunks)
    assert text.endswith("000059999\n")
    assert len(text) <= 200_000
    assert chunks[0]["cut_bytes"] == 600_000 - len(text)


def test_bytes_that_are_no_text_and_characters_cut_in_two_are_shown(desk: Desk) -> None:
    source = """
def odd():
    import os, time
    whole = "é€".encode()
    for byte in whole:
        os.write(1, bytes([byte]))
        time.sleep(0.15)  # longer than a pool gathers what is printed: each byte goes on its way alone
    os.write(1, b"\\xff\\xc3")
"""
    task_id = desk.submit(source)
    desk.ended(task_id)

    assert desk.text(task_id) == "é€\ufffd\ufffd"


def test_a_task_that_prints_nothing_has_an_empty_log(desk: Desk) -> None:
    task_id = desk.submit("def quiet():\n    return 1\n")
    desk.ended(task_id)

    assert desk.logs(task_id)["chunks"] == []
    with desk.following(task_id) as follower:
        assert follower.rest() == [("end", {"state": "succeeded"})]


def test_nobody_else_reads_a_log(desk: Desk, service: RunningService) -> None:
    task_id = desk.submit(SPEAK, "mine")
    desk.ended(task_id)
    mallory = service.http(service.add_user(f"mallory-{uuid.uuid4().hex[:8]}"))

    for query in ({}, {"follow": "true"}):
        answer = mallory.get(f"/api/v1/tasks/{task_id}/logs", params=query)
        assert (answer.status_code, answer.json()["code"]) == (404, "NotFound")


@pytest.mark.parametrize("query", [{"stream": "stdin"}, {"tail": "-1"}, {"tail": "ten"}, {"follow": "yes"}])
def test_a_question_that_means_nothing_is_refused(desk: Desk, query: dict[str, str]) -> None:
    answer = desk.http.get(f"/api/v1/tasks/{uuid.uuid4()}/logs", params=query)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"?{next(iter(query))}"


def test_followers_are_bounded_and_those_who_vanish_are_noticed(desk: Desk, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = desk.submit(LIVE, str(go))

    def is_refused() -> bool:
        with desk.following(task_id) as third:
            return third.status == 503

    with desk.following(task_id) as first, desk.following(task_id) as second:
        assert (first.next()[0], second.next()[0]) == ("log", "log")
        assert is_refused()
    eventually(lambda: not is_refused(), 10)
    go.touch()
    desk.ended(task_id)


def test_who_follows_a_quiet_task_hears_that_it_goes_on(desk: Desk, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = desk.submit(LIVE, str(go))

    with desk.following(task_id) as follower:
        timer = threading.Timer(1.0, go.touch)
        timer.start()
        assert follower.rest()[-1] == ("end", {"state": "succeeded"})
        assert follower.comments > 0
        timer.join()


def test_a_result_does_not_wait_for_a_log_that_cannot_be_stored(desk: Desk, service: RunningService) -> None:
    async def close(core: Any) -> None:
        config = (await core.api("STREAM.INFO.LOGS"))["config"]
        await core.api("STREAM.UPDATE.LOGS", {**config, "max_msg_size": 10})

    async def reopen(core: Any) -> None:
        config = (await core.api("STREAM.INFO.LOGS"))["config"]
        await core.api("STREAM.UPDATE.LOGS", {**config, "max_msg_size": -1})

    service.bus(close)
    try:
        task_id = desk.submit(SPEAK, "lost")
        assert desk.ended(task_id)["result"] == 4
        # Nor does who asks for the log.
        answer = desk.http.get(f"/api/v1/tasks/{task_id}/logs", timeout=10)
    finally:
        service.bus(reopen)
    assert [(chunk["stream"], chunk["text"], chunk["cut_bytes"]) for chunk in answer.json()["chunks"]] == [
        ("stdout", "", 5),
        ("stderr", "", 5),
    ]


def test_a_future_has_what_its_task_printed(executor: Executor) -> None:
    future = executor.submit(speak, "hello")
    future.result(20)

    assert future.logs() == "hello\nHELLO\n"
    assert future.logs(stream="stderr") == "HELLO\n"
    assert "".join(chunk.text for chunk in future.logs(follow=True)) == "hello\nHELLO\n"


def test_a_future_follows_its_task(executor: Executor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    before = time.time()
    future = executor.submit(live, str(go))

    logs = future.logs(follow=True)
    first = next(logs)
    assert (first.stream, first.text, first.attempt, first.cut_bytes) == ("stdout", "begun\n", 1, 0)
    assert first.worker
    assert before <= first.time <= time.time()
    assert future.logs() == "begun\n"
    assert not future.done()
    go.touch()
    assert [chunk.text for chunk in logs] == ["done\n"]
    future.result(20)


def test_a_reloaded_future_has_its_log_too(executor: Executor, pool: RunningPool, client: Client) -> None:
    executor.submit(speak, "again").result(20)

    with Executor(pool.endpoint_id, client=client, task_group_id=executor.task_group_id) as other:
        (future,) = other.reload_tasks()
        future.result(20)
        assert future.logs() == "again\nAGAIN\n"


def test_a_task_that_nobody_knows_is_an_error_and_one_that_was_never_sent_printed_nothing(client: Client) -> None:
    with pytest.raises(NotFound):
        client.task_logs(uuid.uuid4())
    with pytest.raises(NotFound):
        list(client.task_logs(uuid.uuid4(), follow=True))
    with Executor(client=client) as executor:
        future = executor.submit(speak, threading.Lock())
    assert future.logs() == ""
    assert list(future.logs(follow=True)) == []


def test_who_follows_comes_back_when_the_service_was_away(tmp_path: Path) -> None:
    first = b'id: 5.0\nevent: log\ndata: {"stream": "stdout", "text": "one\\n"}\n\n: still here\n\n'
    rest = b'id: 6.0\nevent: log\ndata: {"stream": "stdout", "text": "two\\n"}\n\nevent: end\ndata: {}\n\n'
    busy = (503, {"code": "Unavailable", "detail": "it stops", "errors": []})
    with (
        scripted_server((200, first), (BREAK, None), busy, (200, rest)) as server,
        Client(server.url, "t") as client,
    ):
        chunks = list(client.task_logs(uuid.uuid4(), follow=True, tail=7))

    assert [chunk.text for chunk in chunks] == ["one\n", "two\n"]
    assert server.last_ids == ["", "5.0", "5.0", "5.0"]
    assert ["tail=7" in line for line in server.asked] == [True, False, False, False]


def test_a_chunk_shows_what_is_missing() -> None:
    assert str(LogChunk(stream="stdout", text="end\n", cut_bytes=7)) == "\n[headrace: 7 bytes cut]\nend\n"


@contextlib.contextmanager
def following_shell(desk: Desk, task_id: str) -> Iterator[subprocess.Popen[str]]:
    """`headrace task logs -f`, once it has shown that the task has begun."""
    with subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "task", "logs", "-f", task_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HEADRACE_URL": desk.service.url, "HEADRACE_TOKEN": desk.service.token},
    ) as shell:
        try:
            assert shell.stdout is not None
            assert shell.stdout.readline() == "begun\n"
            yield shell
        finally:
            shell.kill()  # whatever went wrong: it follows for as long as the task runs


def test_the_command_line_follows_a_task(desk: Desk, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = desk.submit(
        """
def both(path):
    import os, sys, time
    print("begun")
    print("a warning", file=sys.stderr)
    while not os.path.exists(path):
        time.sleep(0.01)  # until the test lets it go on
    print("done", end="")
""",
        str(go),
    )
    with following_shell(desk, task_id) as shell:
        go.touch()
        out, err = shell.communicate(timeout=20)
    assert (shell.returncode, out, err) == (0, "done", "a warning\n")


def test_the_command_line_that_follows_ends_with_ctrl_c(desk: Desk, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = desk.submit(LIVE, str(go))
    with following_shell(desk, task_id) as shell:
        shell.send_signal(signal.SIGINT)
        assert shell.communicate(timeout=20) == ("", "")
    assert shell.returncode == 130
    go.touch()
    desk.ended(task_id)


def _the_task_of(desk: Desk, function_id: str) -> str:
    """The id of the one task that has run a function."""

    def found() -> str | None:
        answer = desk.http.get("/api/v1/tasks", params={"function_id": function_id, "state": "succeeded"})
        tasks = answer.json()["tasks"]
        return tasks[0]["task_id"] if tasks else None

    return str(eventually(found, 20, "the task ends"))


def test_what_the_task_of_an_action_prints_is_there(desk: Desk, pool: RunningPool) -> None:
    function_id = desk.service.add_function(SPEAK, "speak")
    body = {"endpoint_id": pool.endpoint_id, "tasks": [{"function_id": function_id, "args": ["in a workflow"]}]}
    answer = desk.http.post("/actions/compute/v3/run", json={"request_id": uuid.uuid4().hex, "body": body})
    assert answer.status_code == 202, answer.text

    assert desk.text(_the_task_of(desk, function_id), stream="stdout") == "in a workflow\n"


def test_what_the_task_of_a_delivery_prints_is_there(desk: Desk, pool: RunningPool) -> None:
    function_id = desk.service.add_function(SPEAK, "speak")
    subscription = {
        "filter": {"exact": {"type": "org.example.printed"}},
        "function_id": function_id,
        "endpoint_id": pool.endpoint_id,
        "input": {"args": ["event {{ event.id }}"]},
    }
    assert desk.http.post("/api/v1/subscriptions", json=subscription).status_code == 201
    event = {"id": "7", "source": "/test", "specversion": "1.0", "type": "org.example.printed"}
    assert desk.http.post("/api/v1/events", content=json.dumps(event), headers=CLOUDEVENT).status_code == 202

    assert desk.text(_the_task_of(desk, function_id), stream="stdout") == "event 7\n"


def test_a_log_goes_on_when_the_bus_was_away(desk: Desk, service: RunningService, tmp_path: Path) -> None:
    source = """
def steps(directory):
    import os, time
    for number in range(3):
        print("step", number)
        while not os.path.exists(os.path.join(directory, str(number))):
            time.sleep(0.01)  # until the test lets it take the next step
"""
    task_id = desk.submit(source, str(tmp_path))
    with desk.following(task_id) as follower:
        assert follower.next()[1]["text"] == "step 0\n"
    service.nats.kill()
    service.loop.run(service.nats.wait())
    (tmp_path / "0").touch()
    service.loop.run(service.nats.start())
    (tmp_path / "1").touch()
    (tmp_path / "2").touch()

    def text() -> str | None:
        answer = desk.http.get(f"/api/v1/tasks/{task_id}/logs", headers={"Accept": "text/plain"})
        return answer.text if answer.is_success and "step 2" in answer.text else None

    # What the server had not written when it was killed is marked; what came after it is there.
    assert str(eventually(text, 20)).endswith("step 2\n")
    eventually(lambda: desk.http.get(f"/api/v1/tasks/{task_id}").json().get("state") == "succeeded", 20)


def test_what_a_lost_pool_had_read_stays_and_the_next_run_is_told_apart(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with running_pool(service, tmp_path / "pool", workers=1, name="fragile") as pool:
        desk = Desk(service, pool)
        task_id = desk.submit(LIVE, str(go))
        logs = client.task_logs(task_id, follow=True)
        assert next(logs).text == "begun\n"
        pool.kill()
        pool.start()
        assert next(logs).text == "begun\n"
        go.touch()
        assert "".join(chunk.text for chunk in logs) == "done\n"
        workers = [chunk.worker for chunk in client.log_chunks(task_id)]
        assert len(set(workers)) == 2


def test_without_a_limit_nothing_is_kept_and_it_goes_to_the_pools_log(service: RunningService, tmp_path: Path) -> None:
    with running_pool(service, tmp_path / "pool", workers=1, started=False, name="silent") as pool:
        settings = json.loads(pool.settings_path.read_text())
        pool.settings_path.write_text(json.dumps({**settings, "task_log_limit_bytes": 0}))
        pool.start()
        desk = Desk(service, pool)
        task_id = desk.submit(SPEAK, "to the log")
        desk.ended(task_id)

        assert desk.logs(task_id)["chunks"] == []
        assert "to the log\n" in pool.log_path.read_text()
