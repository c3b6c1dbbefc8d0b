"""What every engine does: the same tests for all of them, each with real workers."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_bench import Bench
from headrace_up import is_alive
from waiting import eventually_async

from headrace.bus.data.encodings import JSON, OBJECT
from headrace.bus.data.failures import rebuild
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.engine import Output
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings
from headrace.endpoint.worker.spool import Spool

# A cluster's start is part of the first test that needs it.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

_INLINE_BYTES = 1_000_000

ENGINES: dict[str, dict[str, Any]] = {
    "processes": {"type": "ProcessEngine"},
    # Nothing is contained here, but workers are started, met and ended as those in containers are.
    "contained": {
        "type": "ProcessEngine",
        "container_type": "custom",
        "container_cmd_options": f"env PATH={Path(sys.executable).parent} {{EXECUTOR_LAUNCH_CMD}}",
    },
    "threads": {"type": "ThreadEngine"},
    "dask": {"type": "DaskEngine"},
    "parsl": {"type": "ParslEngine", "max_workers_per_node": 2, "provider": {"type": "LocalProvider"}},
}
NEEDS = {"dask": "distributed", "parsl": "parsl"}
OWN_PROCESSES = [name for name in ENGINES if name != "threads"]


class EngineBench(Bench):
    """An engine as a pool builds it, with what its calls printed and where its large payloads lie."""

    def __init__(self, kind: str, folder: Path, workers: int = 2) -> None:
        self.kind = kind
        self.workers = workers
        self.spool = Spool(folder / "spool")
        self.printed: dict[Any, list[Output]] = collections.defaultdict(list)
        means = Means(
            workers=workers,
            environment={**os.environ, "FROM_CONFIG": "yes"},
            added_environment={"FROM_CONFIG": "yes"},
            on_output=lambda output: self.printed[output.key].append(output),
            spool=self.spool.directory,
            inline_bytes=_INLINE_BYTES,
            directory=folder / "engine",
        )
        settings = engine_settings(ENGINES[kind])
        super().__init__(workers, lambda source, tell, workers: build(settings, source, tell, means))

    async def __aenter__(self) -> EngineBench:
        self.spool.__enter__()
        await self.engine.start()
        await eventually_async(lambda: self.engine.load().workers == self.workers, 60, "all workers are up")
        # Each has something to load before its first call.
        meeting = [self.submit(meet, str(self.spool.directory.parent), self.workers, n) for n in range(self.workers)]
        for key in meeting:
            await self.outcome(key, within_s=60)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.engine.stop(grace_s=0)
        self.spool.__exit__(None, None, None)
        assert self.doubled == [], "every call has one outcome"

    def text(self, key: Any, stream: int) -> bytes:
        return b"".join(output.data for output in self.printed[key] if output.stream == stream)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def need(kind: str) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind], reason="this environment is older than the extra, which `dev` has")


@pytest.fixture(scope="module", params=ENGINES)
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[EngineBench]:
    """One engine for all tests: clusters take seconds to start."""
    need(request.param)
    async with EngineBench(request.param, tmp_path_factory.mktemp(request.param)) as bench:
        yield bench


@pytest.fixture
def has_own_processes(bench: EngineBench) -> bool:
    return bench.kind in OWN_PROCESSES


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A test that fails must not keep the workers of the others, and how long its calls took is not theirs to know."""
    if "bench" in request.fixturenames:
        request.getfixturevalue("bench").forget_functions()
    yield
    (tmp_path / "go").touch()


def meet(folder: str, count: int, number: int) -> None:
    """Run until so many calls do."""
    (Path(folder) / f"met-{number}").touch()
    while len(list(Path(folder).glob("met-*"))) < count:
        time.sleep(0.005)  # in a worker, which has none of the helpers of tests


@dataclasses.dataclass
class Sample:
    weight: int


class Spilled(Exception):
    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        super().__init__(f"{sample.weight} litres")


def double(x: Any) -> Any:
    return 2 * x


def hold(folder: str, name: str = "held") -> str:
    """Run until `folder/go` exists."""
    with (Path(folder) / f"{name}.starts").open("a") as file:
        file.write("x")
    (Path(folder) / f"{name}.new").write_text(str(os.getpid()))
    (Path(folder) / f"{name}.new").replace(Path(folder) / name)
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # in a worker, which has none of the helpers of tests
    return name


async def held(folder: Path, *names: str) -> list[int]:
    """The processes of calls that hold."""
    await eventually_async(lambda: all((folder / name).exists() for name in names), 15, f"{names} run")
    return [int((folder / name).read_text()) for name in names]


# Values and errors


async def test_calls_return_values_of_every_kind(bench: EngineBench) -> None:
    assert await bench.value(bench.submit(double, 4)) == 8
    assert await bench.value(bench.submit(double, x=(1, "a"))) == (1, "a", 1, "a")
    assert await bench.value(bench.submit(lambda: {"a": {1}})) == {"a": {1}}
    assert await bench.value(bench.submit("def f(x): return x + 1", 1)) == 2


async def test_json_calls_take_and_give_json(bench: EngineBench) -> None:
    options = TaskOptions(json_result=True)

    outcome = await bench.outcome(bench.submit(double, [1], options=options))
    failure = await bench.failure(bench.submit("def f(): return {'a': [b'x']}", options=options))

    assert (outcome.encoding, outcome.value) == (JSON, b"[1,1]")
    assert failure.code == "ResultNotSerialisable"


async def test_coroutine_functions_are_run(bench: EngineBench) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)  # the case: it gives way to its loop
        return x + 1

    assert await bench.value(bench.submit(later, 1)) == 2


async def test_an_outcome_tells_when_and_where_it_ran(bench: EngineBench) -> None:
    before = time.time()

    outcome = await bench.outcome(bench.submit(double, 1))

    assert before - 1 < outcome.started_at <= outcome.ended_at < time.time() + 1
    assert outcome.attempts == 1
    assert "/" in outcome.worker


async def test_exceptions_come_back_as_what_they_were(bench: EngineBench) -> None:
    def spill(weight: int) -> None:
        raise Spilled(Sample(weight))

    error = rebuild(await bench.failure(bench.submit(spill, 3)))
    told = await bench.failure(bench.submit("def f(): return {}['missing']"))

    assert isinstance(error, Spilled)
    assert error.sample == Sample(3)
    assert (told.code, told.type_path) == ("TaskFailed", "KeyError")
    assert "missing" in told.traceback


async def test_code_that_cannot_be_used_is_told(bench: EngineBench) -> None:
    failure = await bench.failure(bench.submit("import no_such_package\ndef f(): ..."))

    assert failure.code == "FunctionUnusable"
    assert "install the package that provides 'no_such_package'" in failure.message


async def test_many_calls_are_all_run(bench: EngineBench) -> None:
    keys = [bench.put(double, n) for n in range(300)]
    bench.engine.wake()

    assert await bench.all_values(keys) == [2 * n for n in range(300)]
    assert bench.engine.load().queued == 0


async def test_as_many_run_at_a_time_as_there_are_workers(bench: EngineBench, tmp_path: Path) -> None:
    keys = [bench.submit(hold, str(tmp_path), name) for name in ("a", "b", "c")]

    await held(tmp_path, "a", "b")
    assert set(bench.engine.running()) == set(keys[:2])
    assert bench.engine.load().busy == 2
    assert len(bench.waiting) == 1, "what has no worker stays with the source"
    (tmp_path / "go").touch()

    assert await bench.all_values(keys) == ["a", "b", "c"]


async def test_arguments_and_results_of_megabytes_pass(bench: EngineBench) -> None:
    keys = [bench.put(double, bytes([n]) * 300_000) for n in range(4)]
    bench.engine.wake()

    assert [len(value) for value in await bench.all_values(keys)] == [600_000] * 4


async def test_a_result_too_large_for_a_message_lies_in_the_spool(bench: EngineBench) -> None:
    outcome = await bench.outcome(bench.submit(double, b"x" * 800_000))

    assert (outcome.state, outcome.encoding) == ("succeeded", OBJECT)
    assert any(file.stat().st_size >= 1_600_000 for file in (bench.spool.directory / "results").iterdir())


async def test_a_raised_exception_is_retried_as_often_as_asked(bench: EngineBench, tmp_path: Path) -> None:
    def third_time(folder: str) -> int:
        tries = len(list(Path(folder).iterdir())) + 1
        (Path(folder) / str(tries)).touch()
        if tries < 3:
            raise OSError("not yet")
        return tries

    options = TaskOptions(max_retries=2, retry_delay_s=0.01)
    outcome = await bench.outcome(bench.submit(third_time, str(tmp_path), options=options))
    failed = await bench.outcome(bench.submit(lambda: 1 / 0, options=TaskOptions(max_retries=1)))

    assert (outcome.state, outcome.attempts) == ("succeeded", 3)
    assert (failed.state, failed.attempts) == ("failed", 2)


async def test_the_environment_of_the_configuration_is_there(bench: EngineBench, has_own_processes: bool) -> None:
    if has_own_processes:
        assert await bench.value(bench.submit(lambda: os.environ["FROM_CONFIG"])) == "yes"


# What calls print


async def test_what_a_call_prints_is_kept(bench: EngineBench) -> None:
    def chatty(name: str) -> None:
        print("hello from", name)  # noqa: T201 - the case
        print("a warning", file=sys.stderr)  # noqa: T201 - the case

    keys = [bench.submit(chatty, name) for name in ("ada", "grace")]

    for key, name in zip(keys, ("ada", "grace"), strict=True):
        outcome = await bench.outcome(key)
        assert outcome.log_end is not None
        assert (outcome.log_end.stdout_bytes, outcome.log_end.stderr_bytes) == (len(f"hello from {name}\n"), 10)
        assert bench.text(key, 0) == f"hello from {name}\n".encode()
        assert bench.text(key, 1) == b"a warning\n"
    assert (await bench.outcome(bench.submit(double, 1))).log_end is None


async def test_what_a_call_prints_can_be_read_while_it_runs(
    bench: EngineBench, tmp_path: Path, has_own_processes: bool
) -> None:
    def say_and_hold(folder: str) -> None:
        print("a first line", flush=True)  # noqa: T201 - the case
        while not (Path(folder) / "go").exists():
            time.sleep(0.005)  # in a worker: until the test lets it end
        print("a last line")  # noqa: T201 - the case

    key = bench.submit(say_and_hold, str(tmp_path))

    if has_own_processes:
        await eventually_async(lambda: bench.text(key, 0) == b"a first line\n", 10, "the first line is there")
        assert key not in bench.outcomes
    (tmp_path / "go").touch()
    await bench.value(key)
    assert bench.text(key, 0) == b"a first line\na last line\n"


async def test_what_other_processes_print_is_kept_where_calls_have_their_own(
    bench: EngineBench, has_own_processes: bool
) -> None:
    def spawn() -> None:
        subprocess.run(["/bin/echo", "from a child"], check=True)

    key = bench.submit(spawn)

    await bench.value(key)
    assert bench.text(key, 0) == (b"from a child\n" if has_own_processes else b"")


async def test_of_what_is_printed_too_much_the_beginning_and_the_end_are_kept(bench: EngineBench) -> None:
    def flood() -> None:
        print("the beginning")  # noqa: T201 - the case
        for _ in range(30):
            print("x" * 100_000)  # noqa: T201 - the case
        print("the end")  # noqa: T201 - the case

    key = bench.submit(flood)

    outcome = await bench.outcome(key)
    text = bench.text(key, 0)
    assert outcome.log_end is not None
    assert outcome.log_end.stdout_bytes == 14 + 30 * 100_001 + 8
    assert text.startswith(b"the beginning\n")
    assert text.endswith(b"the end\n")
    assert len(text) <= 1024 * 1024


# Limits, cancelling


async def test_a_call_over_its_time_limit_expires_and_its_place_is_free_again(
    bench: EngineBench, tmp_path: Path, has_own_processes: bool
) -> None:
    keys = [bench.submit(hold, str(tmp_path), n, options=TaskOptions(task_timeout_s=0.4)) for n in ("a", "b")]
    pids = await held(tmp_path, "a", "b")

    for key in keys:
        failure = await bench.failure(key, "expired")
        assert failure.code == "TaskExpired"
        assert "its limit of 0.4 s" in failure.message
    if has_own_processes:
        await eventually_async(lambda: not any(map(is_alive, pids)), 5, "the processes are gone")
    assert await bench.all_values([bench.submit(double, n) for n in range(4)]) == [0, 2, 4, 6]
    (tmp_path / "go").touch()


async def test_a_call_within_its_time_limit_is_not_touched(bench: EngineBench) -> None:
    assert await bench.value(bench.submit(double, 2, options=TaskOptions(task_timeout_s=30))) == 4


async def test_a_running_call_is_cancelled_by_force_only_and_its_neighbour_lives(
    bench: EngineBench, tmp_path: Path, has_own_processes: bool
) -> None:
    submitted_at = time.time()
    keys = [bench.submit(hold, str(tmp_path), name) for name in ("a", "b")]
    pids = await held(tmp_path, "a", "b")

    bench.engine.cancel(keys)
    assert set(bench.engine.running()) == set(keys)
    bench.engine.cancel([keys[0]], force=True)

    assert (await bench.failure(keys[0], "cancelled")).code == "TaskCancelled"
    assert submitted_at <= bench.outcomes[keys[0]].started_at <= bench.outcomes[keys[0]].ended_at
    if has_own_processes:
        await eventually_async(lambda: not is_alive(pids[0]), 5, "its process is gone")
    assert keys[1] not in bench.outcomes
    (tmp_path / "go").touch()
    assert await bench.value(keys[1]) == "b"
    assert await bench.value(bench.submit(double, 1)) == 2


# Workers that die


# A thread that dies takes the pool along: its manager starts it again.
crashing = pytest.mark.parametrize("bench", OWN_PROCESSES, indirect=True)


def crash(folder: str) -> None:
    with (Path(folder) / "starts").open("a") as file:
        file.write("x")
    os._exit(7)


@crashing
async def test_a_call_that_kills_its_worker_is_tried_three_times_and_then_lost(
    bench: EngineBench, tmp_path: Path
) -> None:
    key = bench.submit(crash, str(tmp_path))

    failure = await bench.failure(key)

    assert failure.code == "TaskLost"
    assert "exited with code 7" in failure.message
    assert len((tmp_path / "starts").read_text()) == bench.outcomes[key].attempts == 3
    assert await bench.value(bench.submit(double, 1)) == 2


@crashing
async def test_a_call_that_must_not_run_twice_is_lost_with_its_worker(bench: EngineBench, tmp_path: Path) -> None:
    failure = await bench.failure(bench.submit(crash, str(tmp_path), options=TaskOptions(rerun_on_loss=False)))

    assert failure.code == "TaskLost"
    assert "must not run twice" in failure.message
    assert (tmp_path / "starts").read_text() == "x"


@crashing
async def test_a_call_whose_worker_is_killed_from_outside_runs_again(bench: EngineBench, tmp_path: Path) -> None:
    key = bench.submit(hold, str(tmp_path))
    pids = await held(tmp_path, "held")

    os.kill(pids[0], 9)
    (tmp_path / "go").touch()

    outcome = await bench.outcome(key)
    assert (outcome.state, outcome.attempts) == ("succeeded", 2)


# Leaving


# How Parsl's blocks are given back is tested with jobs.
@pytest.mark.parametrize("kind", sorted(ENGINES.keys() - {"parsl"}))
async def test_an_engine_that_stops_ends_what_can_end_and_gives_back_the_rest(kind: str, tmp_path: Path) -> None:
    def until(folder: str, name: str) -> str:
        (Path(folder) / f"{name}.running").write_text(str(os.getpid()))
        while not (Path(folder) / name).exists():
            time.sleep(0.005)  # likewise
        return name

    need(kind)
    async with EngineBench(kind, tmp_path) as bench:
        keys = [bench.submit(until, str(tmp_path), name) for name in ("soon", "never", "waits")]
        for name in ("soon", "never"):
            await eventually_async(lambda name=name: (tmp_path / f"{name}.running").exists(), 15)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        stopping = asyncio.create_task(bench.engine.stop(grace_s=3600))
        (tmp_path / "soon").touch()
        assert await bench.value(keys[0]) == "soon"

        left = await bench.engine.stop(grace_s=0)

        assert left == await stopping == [keys[1]]
        assert not {keys[1], keys[2]} & set(bench.outcomes)
        assert len(bench.waiting) == 1, "what was not handed out is the source's"
        if kind in OWN_PROCESSES:
            pid = int((tmp_path / "never.running").read_text())
            await eventually_async(lambda: not is_alive(pid), 5, "its process is gone")
        (tmp_path / "never").touch()
        assert bench.engine.pids() == []
