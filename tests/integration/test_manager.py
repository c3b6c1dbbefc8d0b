"""The manager of an endpoint as a process: registration, presence, its pool, and its end. Against a real system."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import platform
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from headrace_up import Up, descendants, is_alive
from waiting import eventually, eventually_async

from headrace.bus.errors import PoolFailed, TaskFailed
from headrace.cli.endpoint_checks import EndpointCheck
from headrace.endpoint.directory import EndpointDirectory, Endpoints
from headrace.endpoint.manager import Manager, ManagerSettings
from headrace.sdk.client import Client

SLOW = """
import time

def nap(seconds, path=None):
    if path:
        with open(path, "w") as file:
            file.write("started")
    time.sleep(seconds)  # a task that takes its time
    return "rested"
"""


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[Client]:
    with Client(up.url, up.token) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, up: Up) -> Path:
    """A home as `headrace login` leaves it."""
    home = tmp_path / "home"
    home.mkdir()
    profile = home / "profile.json"
    profile.write_text(json.dumps({"url": up.url, "token": up.token}))
    profile.chmod(0o600)
    return home


@pytest.fixture
def name() -> str:
    """A name that no other test has at the shared service."""
    return f"e{uuid4().hex[:8]}"


class Running:
    """A `headrace endpoint start` that runs."""

    def __init__(self, home: Path, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.directory: EndpointDirectory = Endpoints(home).get(name)
        self.process = process
        self._output = output

    @property
    def id(self) -> UUID:
        registration = self.directory.registration()
        assert registration is not None
        return registration.endpoint_id

    def said(self) -> str:
        return self._output.read_text()

    def pool_pid(self) -> int:
        return eventually(lambda: [pid for pid in descendants(self.process.pid) if _runs(pid, "pool")], 10)[0]

    def worker_pids(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if _runs(pid, "worker")]

    def serving(self, within_s: float = 15) -> None:
        def workers() -> bool:
            assert self.process.poll() is None, self.said()
            status = self.directory.pool_file("default", "status.json")
            return status.exists() and json.loads(status.read_text())["workers"] > 0

        eventually(workers, within_s, "the pool has workers")


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "headrace.cli.main", "endpoint", *arguments, "--home", str(home)]


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")} | more


def run(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def running(home: Path, name: str, *options: str, **env: str) -> Iterator[Running]:
    """Start an endpoint, made where it is missing, with one worker, and wait until its pool serves."""
    if not (home / "endpoints" / name).exists():
        Endpoints(home).create(name)
    output = home / f"{name}.output"
    with output.open("ab") as file:
        process = subprocess.Popen(
            command(home, "start", name, "--workers", "1", *options),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
        )
    started = Running(home, name, process, output)
    try:
        started.serving()
        yield started
    finally:
        children = descendants(process.pid)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        eventually(lambda: not [pid for pid in children if is_alive(pid)], 5, "nothing is left of the endpoint")


def _runs(pid: int, part: str) -> bool:
    with contextlib.suppress(OSError):
        return f"headrace.endpoint.{part}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_the_first_start_registers_and_the_endpoint_runs_tasks(up: Up, client: Client, home: Path, name: str) -> None:
    with running(home, name) as endpoint:
        eventually(lambda: workers_at(client, endpoint) == [1], 10)

        status = client.get_endpoint_status(endpoint.id)
        (pool,), (manager,) = status["pools"], status["managers"]
        assert pool.pop("memory_bytes") > 10_000_000
        assert pool == {"pool": "default", "workers": 1, "busy": 0, "queued": 0, "host": socket.gethostname()}
        assert manager["host"] == socket.gethostname()
        assert manager["python_version"] == platform.python_version()
        assert 0 < manager["load"]["memory_available_bytes"] < manager["load"]["memory_bytes"]
        assert manager["load"].keys() >= {"cpus", "load_1m", "disk_free_bytes"}
        assert client.get_endpoint_metadata(endpoint.id)["name"] == name
        assert stat.S_IMODE(endpoint.directory.token_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(endpoint.directory.pool_file("default").stat().st_mode) == 0o600
        function_id = client.register_source_code(SLOW, "nap")
        task_id = client.run(0, endpoint_id=endpoint.id, function_id=function_id)
        assert client.get_result(task_id, wait_s=30) == "rested"
        secrets = [up.token, endpoint.directory.token() or "?"]
        for pid in [endpoint.process.pid, *descendants(endpoint.process.pid)]:
            seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            assert not [secret for secret in secrets if secret.encode() in seen]


def test_an_endpoint_that_starts_again_is_the_same_with_what_its_configuration_says_by_then(
    client: Client, home: Path, name: str
) -> None:
    with running(home, name) as endpoint:
        eventually(lambda: online(client, endpoint), 10)
        first, token = endpoint.id, endpoint.directory.token()
        assert client.get_endpoint_metadata(first)["public"] is False

        second = run(home, "start", name)
        assert second.returncode == 1
        assert f"is running already as process {endpoint.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr

        stopped = run(home, "stop", name)
        assert (stopped.returncode, stopped.stdout) == (0, f"Stopped the endpoint {name}.\n")
        assert endpoint.process.wait(20) == 0
        assert client.get_endpoint_status(first)["status"] == "offline"

    endpoint.directory.config_file.write_text(f"display_name: {name}-big\npublic: true\nenvironment: {{WHO: ada}}\n")
    with running(home, name) as endpoint:
        known = client.get_endpoint_metadata(first)
        assert (endpoint.id, known["public"], known["name"]) == (first, True, f"{name}-big")
        assert endpoint.directory.token() == token
        whoami = client.register_source_code("import os\ndef who():\n    return os.environ['WHO']\n", "who")
        task_id = client.run(endpoint_id=first, function_id=whoami)
        assert client.get_result(task_id, wait_s=30) == "ada"

    # One that was deleted at the service registers again, under its id.
    client.delete_endpoint(first)
    with running(home, name) as endpoint:
        assert endpoint.id == first
        eventually(lambda: online(client, endpoint), 10)

    # Without a token of its owner: HEADRACE_HOME is not set, so the only other profile would be the user's own.
    (home / "profile.json").unlink()
    with running(home, name, "--url", client.url) as endpoint:
        eventually(lambda: online(client, endpoint), 10)


LOOK_AROUND = """
import os, resource

def look_around():
    open("made", "w").close()
    return os.getcwd(), os.getpid(), dict(os.environ), resource.getrlimit(resource.RLIMIT_DATA)[0]

def fill(size):
    open("evidence", "w").close()
    return len(bytearray(size))
"""

LIMITS = """
environment: {GREETING: hello}
worker_memory_limit: 300 MiB
max_tasks_per_worker: 2
sandbox: true
keep_failed_sandboxes: true
"""


def test_what_config_yaml_says_of_workers_is_so(up: Up, client: Client, home: Path, name: str) -> None:
    look_around = client.register_source_code(LOOK_AROUND, "look_around")
    fill = client.register_source_code(LOOK_AROUND, "fill")
    Endpoints(home).create(name, config=LIMITS)
    with running(home, name, HEADRACE_TOKEN=up.token, HEADRACE_URL=up.url, OF_THE_ADMIN="kept") as endpoint:
        tasks = [client.run(endpoint_id=endpoint.id, function_id=look_around) for _ in range(4)]
        results = [client.get_result(task, wait_s=30) for task in tasks]
        hungry = client.run(500_000_000, endpoint_id=endpoint.id, function_id=fill)
        with pytest.raises(TaskFailed, match=r"MemoryError: .* 300 MiB \(worker_memory_limit\)"):
            client.get_result(hungry, wait_s=30)

        root = endpoint.directory.sandboxes("default")
        assert [cwd for cwd, *_ in results] == [str(root / str(task)) for task in tasks]
        assert len({pid for _, pid, *_ in results}) == 2
        assert {limit for *_, limit in results} == {300 << 20}
        variables = results[0][2]
        assert (variables["GREETING"], variables["OF_THE_ADMIN"]) == ("hello", "kept")
        assert variables["HEADRACE_SANDBOX_DIR"] == results[0][0]
        assert [each for each in variables if each.startswith("HEADRACE_")] == ["HEADRACE_SANDBOX_DIR"]
        assert [path.name for path in root.iterdir()] == [str(hungry)]
        assert (root / str(hungry) / "evidence").exists()
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        log = endpoint.directory.log_file.read_text()
        assert "may have 300 MiB of private memory (RLIMIT_DATA; no cgroup:" in log or "(cgroup)" in log


def test_a_task_that_runs_may_finish_when_the_endpoint_is_stopped(client: Client, home: Path, name: str) -> None:
    function_id = client.register_source_code(SLOW, "nap")
    with running(home, name) as endpoint:
        marker = home / "started"
        task_id = client.run(1.0, str(marker), endpoint_id=endpoint.id, function_id=function_id)
        eventually(marker.exists, 10)

        endpoint.process.terminate()

        assert endpoint.process.wait(30) == 0
    assert client.get_result(task_id) == "rested"


def test_a_second_signal_ends_the_endpoint_at_once(client: Client, home: Path, name: str) -> None:
    function_id = client.register_source_code(SLOW, "nap")
    with running(home, name) as endpoint:
        marker = home / "started"
        client.run(60, str(marker), endpoint_id=endpoint.id, function_id=function_id)
        eventually(marker.exists, 10)
        children = descendants(endpoint.process.pid)

        endpoint.process.terminate()
        eventually(lambda: "Draining" in endpoint.directory.log_file.read_text())
        endpoint.process.terminate()

        endpoint.process.wait(20)
        eventually(lambda: not [pid for pid in children if is_alive(pid)], 2)


def test_a_stop_now_does_not_wait_for_the_grace_of_running_tasks(client: Client, home: Path, name: str) -> None:
    function_id = client.register_source_code(SLOW, "nap")
    with running(home, name, "--grace", "200") as endpoint:
        marker = home / "started"
        task_id = client.run(300, str(marker), endpoint_id=endpoint.id, function_id=function_id)
        eventually(marker.exists, 10)

        assert run(home, "stop", name, "--now").stdout == f"Stopped the endpoint {name}.\n"

    assert client.get_task(task_id)["state"] in ("pending", "running")
    client.cancel(task_id)


def test_a_detached_endpoint_runs_on_until_it_is_stopped(client: Client, home: Path, name: str) -> None:
    Endpoints(home).create(name)
    started = run(home, "start", name, "--workers", "1", "--detach")
    assert started.returncode == 0, started.stderr
    directory = Endpoints(home).get(name)
    pid = directory.running_pid()
    try:
        assert started.stdout == f"Started the endpoint {name} as process {pid}.\n"
        registration = directory.registration()
        assert registration is not None
        function_id = client.register_source_code(SLOW, "nap")
        task_id = client.run(0, endpoint_id=registration.endpoint_id, function_id=function_id)
        assert client.get_result(task_id, wait_s=30) == "rested"
        again = run(home, "start", name, "--detach")
        assert (again.returncode, f"is running already as process {pid}" in again.stderr) == (1, True)
    finally:
        stopped = run(home, "stop", name)

    assert stopped.stdout == f"Stopped the endpoint {name}.\n"
    assert pid is not None
    assert not is_alive(pid)


def test_a_detached_start_that_fails_says_why(home: Path, name: str) -> None:
    Endpoints(home).create(name, config="python: /bin/false\n")

    started = run(home, "start", name, "--detach")

    assert started.returncode == 1
    assert "it ended at its start" in started.stderr
    assert "python: /bin/false cannot run workers" in started.stderr


def test_a_pool_that_is_killed_comes_back_and_nothing_outlives_it_or_its_manager(
    client: Client, home: Path, name: str
) -> None:
    function_id = client.register_source_code(SLOW, "nap")
    with running(home, name) as endpoint:
        marker = home / "started"
        nap = client.run(60, str(marker), endpoint_id=endpoint.id, function_id=function_id)
        eventually(marker.exists, 10)
        pool, workers = endpoint.pool_pid(), endpoint.worker_pids()
        assert len(workers) == 1

        os.kill(pool, signal.SIGKILL)

        eventually(lambda: not is_alive(workers[0]), 5, "the worker of the killed pool is gone")
        eventually(lambda: "killed by signal 9" in endpoint.said())
        endpoint.serving()
        assert endpoint.pool_pid() != pool

        # Again with its manager, and again with a worker that is busy.
        client.cancel(nap)
        again = home / "started again"
        client.run(60, str(again), endpoint_id=endpoint.id, function_id=function_id)
        eventually(again.exists, 20)
        children = descendants(endpoint.process.pid)
        assert len(children) >= 2

        endpoint.process.kill()
        endpoint.process.wait()

        eventually(lambda: not [pid for pid in children if is_alive(pid)], 5, "pool and workers are gone")
        assert endpoint.directory.running_pid() is None


@pytest.mark.anyio
async def test_a_service_that_goes_and_comes_is_told_of_once_each_and_tasks_go_on(
    up: Up, client: Client, home: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="headrace.endpoint")
    function_id = client.register_source_code(SLOW, "nap")
    directory = Endpoints(home).create(name)
    # In this process, with times that a test can wait for.
    settings = ManagerSettings(
        url=up.url, token=up.token, workers=1, presence_every_s=0.1, service_timeout_s=0.3, grace_s=1.0
    )
    manager = Manager(directory, settings)
    task = asyncio.create_task(manager.run())
    try:
        await eventually_async(lambda: "workers" in _read(directory.pool_file("default", "status.json")), 15)
        registration = directory.registration()
        assert registration is not None
        marker = home / "started"
        nap = functools.partial(client.run, endpoint_id=registration.endpoint_id, function_id=function_id)
        task_id = await asyncio.to_thread(nap, 1.0, str(marker))
        await eventually_async(marker.exists, 10)
        service = up.pid_of("headrace.cli.main serve")
        os.kill(service, signal.SIGSTOP)
        try:
            await eventually_async(lambda: "trying for ever, tasks go on" in caplog.text)
        finally:
            os.kill(service, signal.SIGCONT)
        await eventually_async(lambda: f"The service at {up.url} is back." in caplog.text)
        assert await asyncio.to_thread(client.get_result, task_id, 10) == "rested"
    finally:
        manager.stop()
        await asyncio.wait_for(task, 10)

    assert caplog.text.count("trying for ever") == 1
    assert caplog.text.count("is back") == 1


def test_changes_of_config_yaml_count_after_sighup_and_cut_no_task_short(
    client: Client, home: Path, name: str, tmp_path: Path
) -> None:
    nap = client.register_source_code(SLOW, "nap")
    whoami = client.register_source_code("import os\ndef who():\n    return os.environ['WHO']\n", "who")
    with running(home, name) as endpoint:
        begun = tmp_path / "begun"
        task_id = client.run(1.0, str(begun), endpoint_id=endpoint.id, function_id=nap)
        eventually(begun.exists, 10)

        endpoint.directory.config_file.write_text("public: maybe\n")
        endpoint.process.send_signal(signal.SIGHUP)
        eventually(lambda: "stays as it was" in endpoint.said() and "line 1: public" in endpoint.said(), 5)
        endpoint.directory.config_file.write_text("public: true\nenvironment: {WHO: lovelace}\n")
        endpoint.process.send_signal(signal.SIGHUP)

        eventually(lambda: "Changed: config.yaml: public is new: true" in endpoint.said(), 5)
        assert "lovelace" not in endpoint.said()  # no word that an id may hold
        eventually(lambda: client.get_endpoint_metadata(endpoint.id)["public"] is True, 5)
        assert run(home, "reload", name).stdout == "The configuration has not changed.\n"
        assert client.get_result(task_id, wait_s=30) == "rested"
        eventually(lambda: "starts anew with the changed settings" in endpoint.said(), 5)
        who = client.run(endpoint_id=endpoint.id, function_id=whoami)
        assert client.get_result(who, wait_s=30) == "lovelace"
        assert begun.read_text() == "started"


def test_the_default_pool_is_what_the_template_gives_without_options(client: Client, home: Path, name: str) -> None:
    source = "import os\ndef look():\n    return os.environ['WHO'], os.environ['SITE']\n"
    look = client.register_source_code(source, "look")
    directory = Endpoints(home).create(name)
    directory.path.joinpath("user_environment.yaml").write_text("SITE: lab\nWHO: site\n")
    template = directory.path / "user_config_template.yaml.j2"
    template.write_text("environment: {WHO: {{ who|default('nobody') }}}\n")
    with running(home, name) as endpoint:
        first = client.run(endpoint_id=endpoint.id, function_id=look)
        assert client.get_result(first, wait_s=30) == ["nobody", "lab"]

        template.write_text("environment:\n  WHO: {{ who }}\n")
        endpoint.process.send_signal(signal.SIGHUP)
        eventually(lambda: "starts anew with the changed settings" in endpoint.said(), 5)
        second = client.run(endpoint_id=endpoint.id, function_id=look)
        with pytest.raises(PoolFailed, match=r"takes no task without options .* line 2: 'who' is undefined"):
            client.get_result(second, wait_s=30)
        doctor = EndpointCheck(client=client, endpoint_id=endpoint.id, name=name, within_s=10)
        (task,) = [finding for finding in doctor.findings() if finding.check == "task"]
        assert (task.state, "'who' is undefined" in task.said) == ("skipped", True)

        template.write_text("environment: {WHO: {{ who|default('somebody') }}}\n")
        reloaded = run(home, "reload", name)
        assert reloaded.stdout.splitlines() == [
            "Changed: user_config_template.yaml.j2 is changed",
            "The changed configuration counts from now on.",
        ]
        template.write_text("environment: {WHO: {{ who }\n")
        assert "line 1: unexpected '}'" in run(home, "reload", name).stderr


def test_a_closed_terminal_stops_the_endpoint(home: Path, name: str) -> None:
    Endpoints(home).create(name)
    words = command(home, "start", name, "--workers", "1")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, environment())  # noqa: S606 - pytest's child becomes the command
    directory = Endpoints(home).get(name)
    status = directory.pool_file("default", "status.json")
    eventually(lambda: status.exists() and json.loads(status.read_text())["workers"], 15)

    os.close(terminal)

    eventually(lambda: os.waitpid(pid, os.WNOHANG)[0], 10)
    assert "has stopped" in directory.log_file.read_text()


def test_a_first_start_without_the_service_ends_with_a_clear_message(home: Path, name: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hr_some")
    Endpoints(home).create(name)

    failed = run(home, "start", name, "--url", "http://127.0.0.1:9", "--token-file", str(token))

    assert failed.returncode == 1
    assert "the service at http://127.0.0.1:9 does not answer" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_token_that_the_service_refuses_is_named(up: Up, home: Path, name: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hr_wrong")
    Endpoints(home).create(name)

    failed = run(home, "start", name, "--url", up.url, "--token-file", str(token))

    assert failed.returncode == 1
    assert "HTTP 401" in failed.stderr
    assert "hr_wrong" not in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("public: true\nwokers: 2\n", "config.yaml, line 2: unknown key 'wokers'; did you mean 'workers'?"),
        ("python: /no/such/python\n", "python: /no/such/python is not a program"),
        ("python: /bin/sh\n", "python: /bin/sh cannot run workers"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_its_line(
    home: Path, name: str, config: str, message: str
) -> None:
    Endpoints(home).create(name, config=config)

    failed = run(home, "start", name)

    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def workers_at(client: Client, endpoint: Running) -> list[int]:
    """How many workers each pool has, as the service knows it."""
    return [pool["workers"] for pool in client.get_endpoint_status(endpoint.id)["pools"]]


def online(client: Client, endpoint: Running) -> bool:
    status = client.get_endpoint_status(endpoint.id)
    return status["status"] == "online" and bool(status["pools"])
