"""Workers in real containers: of bubblewrap, as a command of one's own, of podman, and of docker."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from engine_bench import Bench
from headrace_up import headrace_up
from waiting import eventually, eventually_async

from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.directory import EndpointDirectory, Endpoints
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.engine import Output
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings
from headrace.sdk.client import Client
from headrace.sdk.executor import Executor

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


class ContainerBench(Bench):
    """An engine with workers in containers, as a pool builds it."""

    def __init__(self, keys: dict[str, Any], environment: dict[str, str], directory: Path, **means: Any) -> None:
        self.printed: dict[Any, list[Output]] = collections.defaultdict(list)
        settings = engine_settings({"type": "ProcessEngine", **keys})
        given = Means(
            workers=2,
            environment={**os.environ, **environment, "FROM_CONFIG": "yes"},
            added_environment={"FROM_CONFIG": "yes"},
            on_output=lambda output: self.printed[output.key].append(output),
            directory=directory,
            **means,
        )
        super().__init__(2, lambda source, tell, workers: build(settings, source, tell, given))

    async def __aenter__(self) -> ContainerBench:
        await self.engine.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.engine.stop(grace_s=0)
        assert self.doubled == [], "every call has one outcome"


@pytest.fixture(params=["bubblewrap", "podman", "docker"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def keys(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    if kind in ("podman", "docker"):
        return {"container_type": kind, "container_uri": "headrace-test"}
    return {"container_type": "custom", "container_cmd_options": request.getfixturevalue("bubblewrap")}


@pytest.fixture
def environment(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.getfixturevalue(kind)) if kind in ("podman", "docker") else {}


@pytest.fixture
async def bench(keys: dict[str, Any], environment: dict[str, str], tmp_path: Path) -> AsyncIterator[ContainerBench]:
    async with ContainerBench(keys, environment, tmp_path / "engine") as bench:
        yield bench


# Functions that run in the containers. They travel by value: the workers have no such module.


def look_around(outside: str) -> dict[str, Any]:
    from headrace.endpoint import worker

    sys.stdout.write("printed inside\n")
    sys.stderr.write("and complained\n")
    return {
        "sees us": Path(outside).exists(),
        "variable": os.environ.get("FROM_CONFIG"),
        "os": Path("/etc/debian_version").exists(),
        "code": worker.__file__,
    }


def write_to_code() -> str:
    from headrace.endpoint import worker

    try:
        (Path(str(worker.__file__)).parent / "mine.py").touch()
    except OSError as error:
        return type(error).__name__
    return "written"


def stay(mark: str) -> None:
    import subprocess
    import time

    # In a session of its own, and nobody's child.
    subprocess.Popen(["sh", "-c", f"setsid sleep {mark} &"])
    subprocess.Popen(["sleep", mark])
    time.sleep(600)  # until its container is ended


def running(mark: str) -> list[int]:
    """The processes of this machine, in containers or not, that have a word in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def mark() -> str:
    """A number of seconds that nobody else sleeps."""
    return f"{600 + uuid4().int % 10**12 / 10**12:.12f}"


async def test_a_function_runs_on_the_files_of_its_image_with_the_pools_environment(bench: ContainerBench) -> None:
    key = bench.submit(look_around, __file__)

    found = await bench.value(key)

    assert found["sees us"] is False
    assert (found["os"], found["variable"]) == (True, "yes")
    assert "/engine/code/headrace/" in found["code"]
    await eventually_async(lambda: len(bench.printed[key]) == 2, 10, "what it printed")
    assert {output.data for output in bench.printed[key]} == {b"printed inside\n", b"and complained\n"}


async def test_many_short_calls_all_end_once(bench: ContainerBench) -> None:
    keys = [bench.submit(lambda number: number + 1, number) for number in range(500)]

    assert [await bench.value(key) for key in keys] == list(range(1, 501))


async def test_in_podman_the_code_that_was_brought_along_is_not_the_tasks_to_change(
    podman: dict[str, str], tmp_path: Path
) -> None:
    keys = {"container_type": "podman", "container_uri": "headrace-test"}
    async with ContainerBench(keys, podman, tmp_path / "engine") as bench:
        assert await bench.value(bench.submit(write_to_code)) == "OSError"


async def test_a_task_that_comes_to_its_time_out_is_ended_with_all_that_it_started(
    bench: ContainerBench, mark: str
) -> None:
    await bench.value(bench.submit(abs, -1))
    key = bench.submit(stay, mark, options=TaskOptions(task_timeout_s=3.0))
    await eventually_async(lambda: len(running(mark)) == 2, 30, "both are up")

    await bench.failure(key, "expired")

    await eventually_async(lambda: running(mark) == [], 10, "both are gone")
    assert await bench.value(bench.submit(abs, -2)) == 2


async def test_a_task_that_is_cancelled_with_force_is_ended_with_all_that_it_started(
    bench: ContainerBench, mark: str
) -> None:
    key = bench.submit(stay, mark)
    await eventually_async(lambda: len(running(mark)) == 2, 30, "both are up")

    bench.engine.cancel([key], force=True)

    await bench.failure(key, "cancelled")
    await eventually_async(lambda: running(mark) == [], 10, "both are gone")


@pytest.mark.parametrize(
    ("signal_number", "told"), [(signal.SIGSEGV, "was killed by SIGSEGV"), (signal.SIGKILL, "was killed by SIGKILL")]
)
async def test_how_a_worker_died_inside_is_told_outside(bench: ContainerBench, signal_number: int, told: str) -> None:
    key = bench.submit(lambda: os.kill(os.getpid(), signal_number), options=TaskOptions(rerun_on_loss=False))

    failure = await bench.failure(key)

    assert told in failure.message
    assert await bench.value(bench.submit(abs, -3)) == 3


async def test_an_image_that_is_not_there_is_told_in_the_words_of_the_runtime(
    podman: dict[str, str], tmp_path: Path
) -> None:
    keys = {"container_type": "podman", "container_uri": "localhost/nobody-has-this"}
    async with ContainerBench(keys, podman, tmp_path / "engine") as bench:
        failure = await bench.failure(bench.submit(abs, -1))

    assert "the image localhost/nobody-has-this cannot be used: podman ended with code 125" in failure.message
    assert "nobody-has-this" in failure.message.partition("said:")[2]


async def test_an_image_without_python_is_told(podman: dict[str, str], tmp_path: Path) -> None:
    keys = {"container_type": "podman", "container_uri": "headrace-test", "container_cmd_options": "--env PATH=/none"}
    async with ContainerBench(keys, podman, tmp_path / "engine") as bench:
        failure = await bench.failure(bench.submit(abs, -1))

    assert "the image headrace-test cannot be used: podman ended with code 127" in failure.message
    assert "python3" in failure.message


async def test_a_runtime_that_is_not_installed_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    keys = {"container_type": "apptainer", "container_uri": "lab.sif"}
    async with ContainerBench(keys, {"PATH": "/none"}, tmp_path / "engine") as bench:
        failure = await bench.failure(bench.submit(abs, -1))

    assert "apptainer, which runs this pool's containers, is not on" in failure.message
    assert "https://apptainer.org" in failure.message


# The whole of it

PAGE = """\
idle_soft_s: 300
engine:
  type: GlobusComputeEngine
  container_type: {{ container_type }}
  container_uri: {{ container_uri }}
  container_cmd_options: {{ container_cmd_options|default() }}
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1
"""

IMAGE = {"container_type": "podman", "container_uri": "headrace-test"}


@pytest.fixture(scope="module")
def endpoint(
    podman: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, EndpointDirectory]]:
    """An endpoint with the template of the reference page, and a client."""
    home = tmp_path_factory.mktemp("endpoint")
    directory = Endpoints(home).create("lab")
    (directory.path / "config.yaml").write_text("workers: 1\n")
    (directory.path / "user_config_schema.json").unlink()
    (directory.path / "user_config_template.yaml.j2").write_text(PAGE)
    with headrace_up(home / "up", "--no-endpoint", "--durability", "relaxed") as up, Client(up.url, up.token) as client:
        (home / "token").write_text(up.token)
        (home / "token").chmod(0o600)
        command = [sys.executable, "-m", "headrace.cli.main", "endpoint", "start", "lab", "--home", str(home)]
        process = subprocess.Popen(
            [*command, "--url", up.url, "--token-file", str(home / "token")],
            stdin=subprocess.DEVNULL,
            env={**{key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}, **podman},
        )
        try:
            # It has registered, then, which its own file says a moment earlier.
            serves = directory.pool_file("default", "status.json")
            eventually(lambda: serves.exists() or process.poll() is not None, 60)
            assert process.poll() is None
            yield client, directory
        finally:
            process.terminate()
            process.wait(30)


def executor_of(endpoint: tuple[Client, EndpointDirectory], **options: str) -> Executor:
    client, directory = endpoint
    registration = directory.registration()
    assert registration is not None
    return Executor(registration.endpoint_id, client=client, user_endpoint_config={**IMAGE, **options})


def test_the_pages_template_runs_a_users_functions_in_the_image_that_they_chose(
    endpoint: tuple[Client, EndpointDirectory],
) -> None:
    with executor_of(endpoint) as executor:
        assert executor.submit(look_around, __file__).result(90)["sees us"] is False
        # Larger than a message: by way of the directory that is mounted.
        large = executor.submit(lambda data: data + b"!", bytes(3_000_000)).result(60)
        assert len(large) == 3_000_001


def test_when_a_pool_is_killed_its_containers_end_and_its_task_runs_again(
    endpoint: tuple[Client, EndpointDirectory], mark: str, tmp_path: Path
) -> None:
    with executor_of(endpoint, container_cmd_options="--env OWN=1") as executor:
        inside = executor.submit(os.getpid).result(90)
        assert inside < 100, "the number is one of a container"
        future = executor.submit(stay, mark)
        eventually(lambda: len(running(mark)) == 2, 60, "it runs")
        pools = [pid for pid in running("headrace.endpoint.pool") if any("pool-p-" in a for a in arguments(pid))]
        assert pools

        first = set(running(mark))
        for pid in pools:
            os.kill(pid, signal.SIGKILL)

        eventually(lambda: not first & set(running(mark)), 20, "what the first run started is gone")
        eventually(lambda: len(running(mark)) == 2, 60, "it runs again")
        future.cancel(force=True)


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_the_workers_of_blocks_run_in_containers_on_their_nodes(podman: dict[str, str], tmp_path: Path) -> None:
    variables = "".join(f"export {name}={value}\n" for name, value in podman.items())
    keys = {
        "type": "ParslEngine",
        "max_workers_per_node": 1,
        "provider": {"type": "LocalProvider", "max_blocks": 1, "worker_init": variables},
        "container_type": "podman",
        "container_uri": "headrace-test",
    }
    async with ContainerBench(keys, podman, tmp_path / "engine") as bench:
        key = bench.submit(look_around, __file__)
        await bench.outcome(key, within_s=90)
        found = await bench.value(key)

    assert (found["sees us"], found["os"], found["variable"]) == (False, True, "yes")
