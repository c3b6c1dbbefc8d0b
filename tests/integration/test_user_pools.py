"""Pools of users' own configurations with a real manager: started, idle, woken, refused, crashed, on two machines."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from headrace_up import Up
from waiting import eventually

from headrace.bus.queues.pools import pool_name
from headrace.endpoint.directory import EndpointDirectory, Endpoints, read_json
from headrace.sdk.client import Client
from headrace.sdk.errors import PoolFailed, TaskLost
from headrace.sdk.executor import Executor

TEMPLATE = """\
workers: 1
idle_soft_s: {{ idle_s|default(0) }}
environment:
  LEVEL: {{ level|default("none") }}
{% if setup is defined %}
endpoint_setup: {{ setup }}
{% endif %}
"""


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[Client]:
    with Client(up.url, up.token) as made:
        yield made


@dataclass
class Lab:
    """An endpoint that offers configurations, and its manager's process."""

    directory: EndpointDirectory
    process: subprocess.Popen[bytes]

    @property
    def id(self) -> UUID:
        registration = self.directory.registration()
        assert registration is not None
        return registration.endpoint_id

    def pools(self) -> set[str]:
        """The user pools that it has started and not stopped."""
        tokens = self.directory.path.glob("pool-p-*.token")
        return {path.name.removeprefix("pool-").removesuffix(".token") for path in tokens}

    def serves(self, client: Client, options: dict[str, Any]) -> bool:
        """Whether the pool for these options has workers."""
        status = read_json(self.directory.pool_file(self.pool(client, options), "status.json"))
        return isinstance(status, dict) and status["workers"] > 0

    @staticmethod
    def pool(client: Client, options: dict[str, Any]) -> str:
        """The name of the pool for one's options."""
        return pool_name(client.whoami()["principal"], options)


@contextlib.contextmanager
def lab(up: Up, *, home: Path | None = None, config: str = "") -> Iterator[Lab]:
    """Start an endpoint; with `home` one that is there already."""
    if home is None:
        home = up.home.parent / uuid4().hex
        directory = Endpoints(home).create("lab")
        (directory.path / "config.yaml").write_text(f"display_name: {home.name}\nworkers: 1\n{config}")
        (directory.path / "user_config_schema.json").unlink()
        (directory.path / "user_config_template.yaml.j2").write_text(TEMPLATE)
    directory = Endpoints(home).get("lab")
    token = home / "token"
    token.write_text(up.token)
    token.chmod(0o600)
    log = directory.log_file.open("ab")
    command = [sys.executable, "-m", "headrace.cli.main", "endpoint", "start", "lab", "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--url", up.url, "--token-file", str(token)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")},
    )
    log.close()
    started = Lab(directory, process)
    try:
        eventually(lambda: directory.pool_file("default", "status.json").exists() or process.poll() is not None, 20)
        assert process.poll() is None, directory.log_file.read_text()
        yield started
    finally:
        process.terminate()
        process.wait(20)


def place() -> tuple[str | None, int]:
    """The configuration of the pool that runs this, and its process."""
    return os.environ.get("LEVEL"), os.getppid()


def wait_for(mine: str, other: str) -> str:
    """Say that it runs, and wait for a file."""
    import time

    Path(mine).touch()
    until = time.monotonic() + 45
    while not Path(other).exists():
        assert time.monotonic() < until, f"there is no {other}"
        time.sleep(0.01)  # in a worker, which has none of the helpers of tests
    return "done"


def kill_pool() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def meet(board: str, pools: int) -> str:
    """Wait until it runs in so many pools at a time."""
    import time

    (Path(board) / str(os.getppid())).touch()
    until = time.monotonic() + 45
    while len(list(Path(board).iterdir())) < pools:
        assert time.monotonic() < until, "not so many pools take part"
        time.sleep(0.01)  # likewise
    return "met"


@pytest.fixture(scope="module")
def shared(up: Up) -> Iterator[Lab]:
    """An endpoint for tests that each have options of their own."""
    with lab(up) as endpoint:
        yield endpoint


@pytest.fixture
def executor(shared: Lab, client: Client) -> Iterator[Executor]:
    with Executor(shared.id, client) as made:
        yield made


def test_each_configuration_has_a_pool_and_options_may_change_between_submissions(executor: Executor) -> None:
    default = executor.submit(place).result(40)
    executor.user_endpoint_config = {"level": "low"}
    low = executor.submit(place).result(40)
    executor.user_endpoint_config["level"] = "high"
    high = executor.submit(place)
    executor.user_endpoint_config["level"] = "low"
    again = executor.submit(place).result(40)

    assert (default[0], low[0], high.result(40)[0]) == ("none", "low", "high")
    assert again == low
    assert len({default[1], low[1], high.result(40)[1]}) == 3


def test_an_idle_pool_stops_and_its_next_task_has_it_back(executor: Executor, shared: Lab, client: Client) -> None:
    options = {"level": "brief", "idle_s": 0.2}
    executor.user_endpoint_config = options
    name = shared.pool(client, options)
    first = executor.submit(place).result(40)
    eventually(lambda: name not in shared.pools(), 10)

    second = executor.submit(place).result(40)

    assert first[0] == second[0] == "brief"
    assert first[1] != second[1]


def test_what_the_template_cannot_make_a_pool_of_is_said_by_the_future(executor: Executor) -> None:
    executor.user_endpoint_config = {"idle_s": "soon"}

    with pytest.raises(PoolFailed, match=r"line 2: idle_soft_s: 'soon' is not of type 'number'") as failed:
        executor.submit(place).result(40)
    assert "user_config_template.yaml.j2" in str(failed.value)
    assert "/endpoints/" not in str(failed.value), "where the endpoint has its files is nothing for users"


def test_a_setup_that_fails_ends_the_tasks_with_its_last_words(executor: Executor) -> None:
    executor.user_endpoint_config = {"setup": "echo there is no module gcc/99 >&2; exit 7"}

    with pytest.raises(PoolFailed, match="endpoint_setup ended with status 7\nthere is no module gcc/99"):
        executor.submit(place).result(40)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_a_pool_that_keeps_crashing_is_given_up(executor: Executor, shared: Lab, client: Client) -> None:
    executor.user_endpoint_config = options = {"level": "crash"}
    # No pool can make its directory for large payloads where a file lies.
    shared.directory.pool_file(shared.pool(client, options), "spool").write_text("in the way")

    futures = [executor.submit(place) for _ in range(3)]

    for future in futures:
        with pytest.raises(PoolFailed, match=r"the pool cannot be had: it ended \(status 1\)[^$]*pool-p-.*spool"):
            future.result(40)


@pytest.mark.soak
def test_a_task_that_kills_its_pool_again_and_again_takes_no_other_along(executor: Executor) -> None:
    executor.user_endpoint_config = {"level": "poisoned"}
    poison, others = executor.submit(kill_pool), [executor.submit(place) for _ in range(5)]

    assert {future.result(40)[0] for future in others} == {"poisoned"}
    with pytest.raises(TaskLost):
        poison.result(40)


def test_where_only_one_pool_may_run_the_idle_one_gives_way(up: Up, client: Client) -> None:
    with lab(up, config="max_pools_per_principal: 1\n") as endpoint, Executor(endpoint.id, client) as executor:
        executor.user_endpoint_config = {"level": "one"}
        one = executor.submit(place)
        executor.user_endpoint_config = {"level": "two"}
        two = executor.submit(place)

        assert (one.result(40)[0], two.result(40)[0]) == ("one", "two")
        assert len(endpoint.pools()) == 1


def test_a_changed_template_counts_for_the_next_task_and_no_task_is_lost_by_a_kill(
    up: Up, client: Client, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(lab(up))
        executor = stack.enter_context(Executor(endpoint.id, client, user_endpoint_config={"level": "old"}))
        assert executor.submit(place).result(30)[0] == "old"
        template = endpoint.directory.path / "user_config_template.yaml.j2"
        template.write_text(TEMPLATE.replace('level|default("none")', '"new"'))
        endpoint.process.send_signal(signal.SIGHUP)
        eventually(lambda: not endpoint.pools(), 10)

        level, pool = executor.submit(place).result(30)
        assert level == "new"
        running = executor.submit(wait_for, str(mine), str(other))
        eventually(mine.exists, 10)
        os.kill(pool, signal.SIGKILL)
        mine.unlink()
        eventually(mine.exists, 15)
        endpoint.process.kill()
        endpoint.process.wait(60)
        mine.unlink()

        again = stack.enter_context(lab(up, home=endpoint.directory.path.parent.parent))

        eventually(mine.exists, 15)
        other.touch()
        assert running.result(30) == "done"

        # A manager stops though a setup has not ended, and takes its commands along.
        executor.user_endpoint_config = {"setup": "sleep 321 & echo $! > child.new; mv child.new child; wait"}
        future = executor.submit(place)
        child = again.directory.path / "child"
        eventually(child.exists, 10)
        again.process.terminate()
        again.process.wait(20)
        assert b"321" not in _command_line(int(child.read_text()))
        future.cancel()


def test_an_endpoint_on_two_machines_shares_its_queues(up: Up, client: Client, tmp_path: Path) -> None:
    with lab(up) as here:
        home = tmp_path / "there"
        shutil.copytree(here.directory.path, home / "endpoints" / "lab", ignore=shutil.ignore_patterns("pool-*"))
        with lab(up, home=home) as there, Executor(here.id, client, batch_size=1) as executor:
            assert there.id == here.id
            for options in ({}, {"level": "shared"}):
                executor.user_endpoint_config = options
                # Whoever is first takes what is there: both are to be there.
                executor.submit(place).result(40)
                for each in (here, there):
                    eventually(functools.partial(each.serves, client, options), 20)
                board = tmp_path / f"board {len(options)}"
                board.mkdir()

                meetings = [executor.submit(meet, str(board), 2) for _ in range(8)]

                assert {future.result(40) for future in meetings} == {"met"}
            there.process.terminate()
            there.process.wait(30)

            assert client.get_endpoint_status(here.id)["status"] == "online"
            assert executor.submit(place).result(40)[0] == "shared"
