"""The process engine with real worker processes, which are killed for real."""

from __future__ import annotations

import asyncio
import collections
import ctypes
import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from engine_bench import Bench, running
from headrace_up import is_alive
from waiting import eventually, eventually_async

from headrace.bus.data.encodings import JSON
from headrace.bus.data.failures import rebuild
from headrace.bus.data.values import decode
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.engines.processes import dealing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that pools have; `test_engines` runs the same engine on that of Python."""
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture
async def bench(anyio_backend: Any) -> AsyncIterator[Bench]:
    async with running() as bench:
        yield bench


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# Functions that the workers run. They travel by value: the workers have no such module.


def double(x: Any) -> Any:
    return 2 * x


@dataclasses.dataclass
class Sample:
    weight: int


class Spilled(Exception):
    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        super().__init__(f"{sample.weight} litres")


def pid() -> int:
    return os.getpid()


def fail(text: str) -> None:
    raise LookupError(text)


def hold(folder: str, name: str = "held") -> str:
    """Run until `folder/go` exists."""
    (Path(folder) / name).write_text(str(os.getpid()))
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)  # in a worker, which has none of the helpers of tests
    return name


def count_and(folder: str, then: Callable[[], Any]) -> Any:
    with (Path(folder) / "starts").open("a") as file:
        file.write("x")
    return then()


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def segfault() -> None:
    ctypes.string_at(0)


def exit_hard() -> None:
    os._exit(7)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spawn_grandchild(folder: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (Path(folder) / "grandchild").write_text(str(child.pid))
    time.sleep(600)  # until it is killed


def spawn_a_session_of_its_own(folder: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (Path(folder) / "grandchild").write_text(str(child.pid))
    time.sleep(600)  # until it is killed


# What works


async def test_calls_return_values_of_every_kind(bench: Bench) -> None:
    assert await bench.value(bench.submit(double, 4)) == 8
    assert await bench.value(bench.submit(double, x=(1, "a"))) == (1, "a", 1, "a")
    assert await bench.value(bench.submit(lambda: {"a": {1}})) == {"a": {1}}


async def test_an_outcome_tells_when_and_where_it_ran(bench: Bench) -> None:
    before = time.time()

    outcome = await bench.outcome(bench.submit(pid))

    assert before - 1 < outcome.started_at <= outcome.ended_at < time.time() + 1
    assert outcome.attempts == 1
    assert outcome.worker.rpartition("/")[2] == str(decode(outcome.encoding, outcome.value))


async def test_thousands_of_short_calls_go_in_frames_to_all_workers(bench: Bench) -> None:
    await eventually_async(lambda: bench.engine.load().workers == 2)
    keys = [bench.put(double, n) for n in range(5000)]
    bench.engine.wake()

    assert await bench.all_values(keys) == [2 * n for n in range(5000)]
    assert len(bench.reports) < 2500
    by_worker = collections.Counter(outcome.worker for outcome in bench.outcomes.values())
    assert len(by_worker) == 2
    assert bench.engine.load().queued == 0


async def test_workers_are_reused(bench: Bench) -> None:
    seen = {await bench.value(bench.submit(pid)) for _ in range(50)}

    assert len(seen) <= 2


async def test_the_callers_own_types_come_back_as_the_very_same_types(bench: Bench) -> None:
    def look(sample: Sample) -> list[Sample]:
        if sample.weight < 0:
            raise Spilled(sample)
        return [sample, Sample(2 * sample.weight)]

    values = await bench.value(bench.submit(look, Sample(1)))
    error = rebuild(await bench.failure(bench.submit(look, Sample(-1))))

    assert values == [Sample(1), Sample(2)]
    assert isinstance(error, Spilled)
    assert error.sample == Sample(-1)


async def test_more_functions_than_a_worker_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "_MOST_FUNCTIONS", 3)
    async with running(1) as bench:
        keys = [bench.put(f"def f(x): return x + {n}", 1) for n in [*range(10), *range(10)]]
        bench.engine.wake()

        assert await bench.all_values(keys) == [*range(1, 11), *range(1, 11)]


async def test_long_calls_go_to_idle_workers_one_at_a_time(bench: Bench, tmp_path: Path) -> None:
    keys = [bench.submit(hold, str(tmp_path), name) for name in ("a", "b", "c")]

    await eventually_async(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    load = bench.engine.load()
    assert (load.workers, load.busy, load.queued) == (2, 2, 0)
    assert len(bench.waiting) == 1, "what has no worker stays with the source"
    (tmp_path / "go").touch()

    assert await bench.all_values(keys) == ["a", "b", "c"]


async def test_short_calls_behind_one_that_turns_out_long_are_given_to_others(bench: Bench, tmp_path: Path) -> None:
    def usually_short(folder: str, place: int) -> int:
        while place == 3 and not (Path(folder) / "go").exists():
            time.sleep(0.005)  # in a worker: until the test lets it end
        return place

    # given that the function is known as short
    await bench.all_values([bench.submit(usually_short, "", 0) for _ in range(20)])

    keys = [bench.put(usually_short, str(tmp_path), place) for place in range(400)]
    bench.engine.wake()

    # then all but one end while that one runs
    assert await bench.all_values(keys[:3] + keys[4:]) == [*range(3), *range(4, 400)]
    assert keys[3] not in bench.outcomes
    (tmp_path / "go").touch()
    assert await bench.value(keys[3]) == 3


async def test_arguments_and_results_of_megabytes_pass(bench: Bench) -> None:
    keys = [bench.put(double, bytes([n]) * 3_000_000) for n in range(6)]
    bench.engine.wake()

    assert [len(value) for value in await bench.all_values(keys)] == [6_000_000] * 6


async def test_coroutine_functions_are_run(bench: Bench) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)  # the case: it gives way to its loop
        return x + 1

    async def fails() -> None:
        raise ValueError("in the coroutine")

    assert await bench.value(bench.submit(later, 1)) == 2
    failure = await bench.failure(bench.submit(fails))
    assert "asyncio/" not in failure.traceback
    assert "in fails" in failure.traceback


async def test_what_a_call_prints_does_not_disturb(tmp_path: Path) -> None:
    def chatty() -> str:
        print("hello from a call")  # noqa: T201 - the case
        os.write(1, b"raw bytes\n")
        sys.stdin.read()
        return "quiet"

    with (tmp_path / "log").open("wb") as log:
        async with running(1, output=log.fileno()) as bench:
            assert await bench.value(bench.submit(chatty)) == "quiet"
            text = (tmp_path / "log").read_text()
            assert "hello from a call\n" in text
            assert "raw bytes\n" in text


async def test_each_worker_sees_an_accelerator_of_its_own(tmp_path: Path) -> None:
    def seen(folder: str, name: str) -> str:
        (Path(folder) / name).touch()
        while len(list(Path(folder).iterdir())) < 2:
            time.sleep(0.005)  # in a worker: until both run
        return os.environ["CUDA_VISIBLE_DEVICES"]

    async with running(2, accelerators=["0", "GPU-7"]) as bench:
        keys = [bench.submit(seen, str(tmp_path), name) for name in ("a", "b")]

        assert sorted(await bench.all_values(keys)) == ["0", "GPU-7"]


async def test_shell_lines_run_before_a_worker_starts(tmp_path: Path) -> None:
    setup = f"export LOADED='a module'\ncd {tmp_path}\necho not a result"

    async with running(1, setup=setup) as bench:
        assert await bench.value(bench.submit(lambda: os.environ["LOADED"] + os.getcwd())) == f"a module{tmp_path}"
        worker = bench.engine.pids()[0]
        assert await bench.value(bench.submit(pid)) == worker, "the shell is no process of its own"


async def test_an_environment_that_shell_lines_activate_runs_the_workers(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexport MARK=activated\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3").chmod(0o700)
    setup = f"export VIRTUAL_ENV={tmp_path} PATH={tmp_path}:$PATH"

    async with running(1, setup=setup) as bench:
        assert await bench.value(bench.submit(lambda: os.environ["MARK"])) == "activated"


async def test_shell_lines_that_fail_are_told_with_what_waits() -> None:
    async with running(1, setup="exit 3", most_start_failures=1) as bench:
        assert "exited with code 3" in (await bench.failure(bench.submit(double, 1))).message


async def test_json_calls_take_and_give_json(bench: Bench) -> None:
    options = TaskOptions(json_result=True)

    outcome = await bench.outcome(bench.submit(double, [1], options=options))
    failure = await bench.failure(bench.submit("def f(): return {'a': [b'x']}", options=options))

    assert (outcome.encoding, outcome.value) == (JSON, b"[1,1]")
    assert failure.code == "ResultNotSerialisable"
    assert "at $.a[0]: type bytes" in failure.message


# Failures of calls


async def test_an_exception_is_the_calls_failure_with_its_lines_and_without_ours(bench: Bench) -> None:
    failure = await bench.failure(bench.submit(fail, "not there"))

    assert (failure.code, failure.type_path, failure.message) == ("TaskFailed", "LookupError", "not there")
    assert "raise LookupError(text)" in failure.traceback
    assert "worker.py" not in failure.traceback
    assert isinstance(rebuild(failure), LookupError)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError", "StopIteration"])
async def test_exceptions_of_every_kind_leave_the_worker_alive(bench: Bench, name: str) -> None:
    failure = await bench.failure(bench.submit(f"def f(): raise {name}('odd')"))

    assert failure.type_name == name
    assert await bench.value(bench.submit(double, 1)) == 2


async def test_a_runaway_recursion_fails_and_a_raised_limit_does_not_outlive_its_call(bench: Bench) -> None:
    def raise_limit() -> None:
        sys.setrecursionlimit(1_000_000)

    def recurse(n: int = 0) -> int:
        return recurse(n + 1)

    await bench.all_values([bench.submit(raise_limit) for _ in range(10)])

    assert (await bench.failure(bench.submit(recurse))).type_name == "RecursionError"


async def test_a_result_that_cannot_be_sent_fails_its_call_alone(bench: Bench) -> None:
    keys = [bench.submit(double, 1), bench.submit(threading.Lock), bench.submit(double, 2)]

    failure = await bench.failure(keys[1])

    assert failure.code == "ResultNotSerialisable"
    assert "of type _thread.lock, cannot be sent back" in failure.message
    assert await bench.all_values([keys[0], keys[2]]) == [2, 4]
    generator = await bench.failure(bench.submit("def f(): return (x for x in [1])"))
    assert "return list(...) of it" in generator.message


async def test_a_result_over_the_limit_is_told_with_the_limit() -> None:
    async with running(1, most_result_bytes=1000) as bench:
        failure = await bench.failure(bench.submit(double, b"x" * 600))

        assert failure.code == "ResultNotSerialisable"
        assert "the limit of this endpoint is 1000" in failure.message
        assert await bench.value(bench.submit(double, b"x")) == b"xx"


async def test_code_and_arguments_that_cannot_be_read_are_told(bench: Bench) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return eval, ("1 / 0",)

    unusable = await bench.failure(bench.submit("import no_such_package\ndef f(): ..."))
    unreadable = await bench.failure(bench.submit(double, Odd()))

    assert unusable.code == "FunctionUnusable"
    assert "install the package that provides 'no_such_package'" in unusable.message
    assert unreadable.code == "ArgumentNotSerialisable"
    assert "ZeroDivisionError" in unreadable.message


async def test_a_raised_exception_is_retried_as_often_as_asked(bench: Bench, tmp_path: Path) -> None:
    options = TaskOptions(max_retries=2, retry_delay_s=0.02)

    outcome = await bench.outcome(bench.submit(count_and, str(tmp_path), lambda: 1 / 0, options=options))

    assert outcome.state == "failed"
    assert (starts(tmp_path), outcome.attempts) == (3, 3)


async def test_a_retry_that_succeeds_is_a_success(bench: Bench, tmp_path: Path) -> None:
    def second_time(folder: str) -> str:
        mark = Path(folder) / "mark"
        if not mark.exists():
            mark.touch()
            raise OSError("the first time")
        return "done"

    outcome = await bench.outcome(bench.submit(second_time, str(tmp_path), options=TaskOptions(max_retries=1)))

    assert (outcome.state, outcome.attempts) == ("succeeded", 2)


# Workers that die


@pytest.mark.parametrize(
    ("death", "how"),
    [(segfault, "SIGSEGV"), (exit_hard, "exited with code 7"), (kill_self, "SIGKILL (often the kernel, out of memory")],
)
async def test_a_call_that_kills_its_worker_is_tried_three_times_and_then_lost(
    bench: Bench, tmp_path: Path, death: Callable[[], None], how: str
) -> None:
    key = bench.submit(count_and, str(tmp_path), death)

    failure = await bench.failure(key)

    assert failure.code == "TaskLost"
    assert how in failure.message
    assert (starts(tmp_path), bench.outcomes[key].attempts) == (3, 3)
    assert await bench.value(bench.submit(double, 1)) == 2


async def test_calls_beside_one_that_kills_its_worker_are_not_touched(bench: Bench) -> None:
    def maybe_die(n: int) -> int:
        if n == 250:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    keys = [bench.put(maybe_die, n) for n in range(500)]
    bench.engine.wake()

    assert (await bench.failure(keys[250])).code == "TaskLost"
    assert await bench.all_values(keys[:250] + keys[251:]) == [n for n in range(500) if n != 250]
    assert {bench.outcomes[key].attempts for key in keys[:250] + keys[251:]} == {1}


async def test_a_call_that_must_not_run_twice_is_lost_with_its_worker(bench: Bench, tmp_path: Path) -> None:
    options = TaskOptions(rerun_on_loss=False)

    failure = await bench.failure(bench.submit(count_and, str(tmp_path), kill_self, options=options))

    assert failure.code == "TaskLost"
    assert "rerun_on_loss is off" in failure.message
    assert starts(tmp_path) == 1


async def test_a_worker_killed_from_outside_while_idle_is_replaced(bench: Bench) -> None:
    first = await bench.value(bench.submit(pid))

    os.kill(first, signal.SIGKILL)
    await eventually_async(lambda: not is_alive(first))

    await eventually_async(lambda: bench.engine.load().workers == 2)
    assert await bench.all_values([bench.submit(double, n) for n in range(4)]) == [0, 2, 4, 6]


async def test_a_call_whose_worker_is_killed_from_outside_runs_again(bench: Bench, tmp_path: Path) -> None:
    key = bench.submit(hold, str(tmp_path))
    await eventually_async(lambda: (tmp_path / "held").exists() and (tmp_path / "held").read_text())

    os.kill(int((tmp_path / "held").read_text()), signal.SIGKILL)
    (tmp_path / "go").touch()

    outcome = await bench.outcome(key)
    assert (outcome.state, outcome.attempts) == ("succeeded", 2)


async def test_a_death_is_noticed_on_a_kernel_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    async with running(1) as bench:
        failure = await bench.failure(bench.submit(kill_self, options=TaskOptions(rerun_on_loss=False)))

        assert failure.code == "TaskLost"
        assert await bench.value(bench.submit(double, 1)) == 2


async def test_a_dead_worker_takes_its_children_along(bench: Bench, tmp_path: Path) -> None:
    bench.submit(spawn_grandchild, str(tmp_path), options=TaskOptions(rerun_on_loss=False))
    await eventually_async(lambda: (tmp_path / "grandchild").exists() and (tmp_path / "grandchild").read_text())
    grandchild = int((tmp_path / "grandchild").read_text())
    parent = parent_of(grandchild)

    os.kill(parent, signal.SIGKILL)

    await eventually_async(lambda: not is_alive(grandchild))


async def test_a_child_that_a_call_forks_does_not_speak_for_the_worker(bench: Bench) -> None:
    def forks() -> str:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return "parent" if child else "child"

    assert await bench.all_values([bench.submit(forks) for _ in range(4)]) == ["parent"] * 4


async def test_workers_that_cannot_be_started_fail_what_waits_with_the_reason(tmp_path: Path) -> None:
    async with running(1, python=str(tmp_path / "no-python"), most_start_failures=2) as bench:
        failure = await bench.failure(bench.submit(double, 1))

        assert failure.code == "TaskLost"
        assert "no worker can be started on this endpoint" in failure.message
        assert "no-python cannot be started" in failure.message


async def test_an_environment_that_no_process_can_have_fails_what_waits_with_the_reason() -> None:
    async with running(1, environment={"LEVEL": "a\0b"}, most_start_failures=2) as bench:
        failure = await bench.failure(bench.submit(double, 1))

        assert "cannot be started: embedded null byte" in failure.message


async def test_workers_that_die_at_start_fail_what_waits_with_the_reason() -> None:
    async with running(1, python="/bin/false", most_start_failures=2) as bench:
        failure = await bench.failure(bench.submit(double, 1))

        assert "exited with code 1 before it was of use" in failure.message


# Limits, cancelling, stopping


@pytest.mark.parametrize("spawn", [spawn_grandchild, spawn_a_session_of_its_own])
async def test_a_call_over_its_time_limit_expires_and_leaves_no_process_behind(
    bench: Bench, tmp_path: Path, spawn: Callable[[str], None]
) -> None:
    key = bench.submit(spawn, str(tmp_path), options=TaskOptions(task_timeout_s=1.5))

    failure = await bench.failure(key, "expired")

    assert failure.code == "TaskExpired"
    assert "its limit of 1.5 s" in failure.message
    grandchild = int((tmp_path / "grandchild").read_text())
    await eventually_async(lambda: not is_alive(grandchild))
    await eventually_async(lambda: bench.engine.load().workers == 2)


async def test_a_call_within_its_time_limit_is_not_touched(bench: Bench) -> None:
    assert await bench.value(bench.submit(double, 2, options=TaskOptions(task_timeout_s=30))) == 4


async def test_calls_that_have_not_started_can_be_cancelled(tmp_path: Path) -> None:
    def usually_short(folder: str, place: int) -> int:
        while folder and not (Path(folder) / "go").exists():
            time.sleep(0.005)  # in a worker: until the test lets it end
        return place

    async with running(1) as bench:
        await bench.all_values([bench.submit(usually_short, "", 0) for _ in range(20)])
        keys = [bench.put(usually_short, str(tmp_path), place) for place in range(10)]
        bench.engine.wake()
        # given that all but one were sent to the worker, and came back from it
        await eventually_async(lambda: len(bench.engine._backlog.again) == 9)

        bench.engine.cancel(keys)

        for key in keys[1:]:
            assert (await bench.failure(key, "cancelled")).code == "TaskCancelled"
            assert bench.outcomes[key].attempts == 0
        (tmp_path / "go").touch()
        assert await bench.value(keys[0]) == 0


async def test_a_running_call_is_cancelled_by_force_only_and_its_neighbour_lives(bench: Bench, tmp_path: Path) -> None:
    keys = [bench.submit(hold, str(tmp_path), name) for name in ("a", "b")]
    await eventually_async(lambda: all((tmp_path / n).exists() and (tmp_path / n).read_text() for n in "ab"))
    worker = int((tmp_path / "a").read_text())

    bench.engine.cancel([keys[0]], force=True)

    assert (await bench.failure(keys[0], "cancelled")).code == "TaskCancelled"
    assert not is_alive(worker)
    (tmp_path / "go").touch()
    assert await bench.value(keys[1]) == "b"


async def test_a_retry_that_waits_can_be_cancelled(bench: Bench) -> None:
    key = bench.submit(fail, "x", options=TaskOptions(max_retries=5, retry_delay_s=3600))
    await eventually_async(lambda: bench.engine.load().queued == 1 and bench.engine.load().busy == 0)

    bench.engine.cancel([key])

    assert (await bench.outcome(key)).state == "cancelled"


async def test_stopping_lets_running_calls_end_and_gives_the_others_back(tmp_path: Path) -> None:
    async with running(1) as bench:
        keys = [bench.submit(hold, str(tmp_path), name) for name in ("a", "b")]
        await eventually_async((tmp_path / "a").exists)

        stopping = asyncio.ensure_future(bench.engine.stop(grace_s=10))
        await asyncio.sleep(0)  # no time: the stop has begun
        (tmp_path / "go").touch()

        assert await stopping == []
        assert await bench.value(keys[0]) == "a"
        assert [call.key for call in bench.waiting] == keys[1:]


async def test_stopping_gives_back_what_waits_for_another_try() -> None:
    async with running(1) as bench:
        key = bench.submit(fail, "x", options=TaskOptions(max_retries=5, retry_delay_s=3600))
        await eventually_async(lambda: bench.engine.load().queued == 1 and bench.engine.load().busy == 0)

        assert await bench.engine.stop(grace_s=10) == [key]


async def test_stopping_kills_what_outlives_the_grace_and_a_second_stop_hurries(tmp_path: Path) -> None:
    async with running(1) as bench:
        key = bench.submit(hold, str(tmp_path))
        await eventually_async(lambda: (tmp_path / "held").exists() and (tmp_path / "held").read_text())
        worker = int((tmp_path / "held").read_text())

        stopping = asyncio.ensure_future(bench.engine.stop(grace_s=3600))
        await asyncio.sleep(0)  # no time: the first stop has begun

        assert await bench.engine.stop(grace_s=0) == [key]
        assert await stopping == [key]
        assert not is_alive(worker)
        assert bench.outcomes == {}


@pytest.fixture
def killed_engine(tmp_path: Path) -> Iterator[list[int]]:
    """The pids of a worker and its child, whose engine's process was killed in the middle of a call."""
    script = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from test_process_engine import running, spawn_grandchild
async def main():
    async with running(1) as bench:
        await bench.outcome(bench.submit(spawn_grandchild, {str(tmp_path)!r}), 600)
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        path = tmp_path / "grandchild"
        grandchild = int(eventually(lambda: path.read_text() if path.exists() else "", 10, "a call has a child"))
        worker = parent_of(grandchild)
        assert is_alive(worker)
        yield [worker, grandchild]
    finally:
        process.kill()
        process.wait()


async def test_workers_and_their_children_die_with_a_killed_engine(killed_engine: list[int]) -> None:
    worker, grandchild = killed_engine
    engine = parent_of(worker)

    os.kill(engine, signal.SIGKILL)

    await eventually_async(lambda: not is_alive(worker) and not is_alive(grandchild))
