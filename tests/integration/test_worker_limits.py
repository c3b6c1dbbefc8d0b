"""Limits of workers, in real processes: memory, number of calls, working directory, environment."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine_bench import running
from waiting import eventually_async

from headrace.bus.data.failures import rebuild
from headrace.bus.tasks.bundles import TaskOptions
from headrace.endpoint.worker.limits import WorkerLimits

pytestmark = pytest.mark.anyio

MEMORY = WorkerLimits(memory_bytes=200_000_000)


def pid() -> int:
    return os.getpid()


def where_and_how_much() -> tuple[str, tuple[int, int]]:
    return os.getcwd(), resource.getrlimit(resource.RLIMIT_DATA)


def fill(size: int) -> int:
    return len(bytearray(size))


# Memory


async def test_a_call_that_needs_more_memory_than_its_worker_may_have_fails_and_says_so() -> None:
    async with running(1, limits=MEMORY) as bench:
        worker = await bench.value(bench.submit(pid))

        error = rebuild(await bench.failure(bench.submit(fill, 300_000_000)))

        assert isinstance(error, MemoryError)
        assert "the memory limit of this endpoint's workers is 200 MB (worker_memory_limit)" in str(error)
        assert await bench.value(bench.submit(fill, 50_000_000)) == 50_000_000
        assert await bench.value(bench.submit(pid)) == worker, "the worker lives on"


async def test_a_memory_error_with_a_message_of_its_own_keeps_it_and_gets_the_hint_beside_it() -> None:
    async with running(1, limits=MEMORY) as bench:
        failure = await bench.failure(bench.submit("def f(): raise MemoryError('no room for the matrix')"))

        assert failure.message == "no room for the matrix"
        assert "is 200 MB (worker_memory_limit)" in failure.traceback


async def test_arguments_and_results_that_do_not_fit_in_memory_fail_their_calls_alone() -> None:
    async with running(1, limits=MEMORY) as bench:
        arguments = await bench.failure(bench.submit(len, b"x" * 150_000_000))
        result = await bench.failure(bench.submit(bytearray, 120_000_000))

        assert "memory limit of 200 MB" in arguments.message
        assert "200 MB (worker_memory_limit)" in result.message
        assert await bench.value(bench.submit(fill, 1)) == 1


async def test_what_a_call_starts_has_the_limit_too_and_nobody_can_raise_it() -> None:
    def through_a_child(size: int) -> str:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))
        script = f"import sys\ntry: bytearray({size})\nexcept MemoryError: sys.exit('too much')"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr

    async with running(1, limits=MEMORY) as bench:
        assert (await bench.value(bench.submit(where_and_how_much)))[1] == (200_000_000, 200_000_000)
        if os.geteuid() != 0:  # who may do everything may raise limits as well
            assert await bench.value(bench.submit(through_a_child, 300_000_000)) == "too much\n"
        script = "import subprocess, sys\ndef f(): return subprocess.call([sys.executable, '-c', 'bytearray(10**9)'])"
        assert await bench.value(bench.submit(script)) == 1


async def test_compiled_code_that_crashes_under_a_limit_is_told_of_the_limit() -> None:
    async with running(1, limits=MEMORY) as bench:
        failure = await bench.failure(bench.submit(ctypes.string_at, 0, options=TaskOptions(rerun_on_loss=False)))

        assert "SIGSEGV (a crash in compiled code); its memory limit of 200 MB may be the cause" in failure.message


async def test_threads_that_only_reserve_address_space_are_not_in_the_way() -> None:
    def with_threads() -> int:
        gone = threading.Event()
        threads = [threading.Thread(target=lambda: ([0] * 1000, gone.wait())) for _ in range(12)]
        for thread in threads:
            thread.start()
        gone.set()
        for thread in threads:
            thread.join()
        return len(threads)

    async with running(1, limits=MEMORY) as bench:
        assert await bench.value(bench.submit(with_threads)) == 12


# The number of calls


@pytest.mark.parametrize("share", [1, 3, 50])
async def test_a_worker_leaves_after_its_share_of_calls_and_none_is_lost(share: int) -> None:
    async with running(2, limits=WorkerLimits(max_tasks=share)) as bench:
        keys = [bench.put(pid) for _ in range(10 * share)]
        bench.engine.wake()

        ran = Counter(await bench.all_values(keys))

        assert sum(ran.values()) == 10 * share
        assert max(ran.values()) == share
        await eventually_async(lambda: bench.engine.load().workers == 2)
        assert all(outcome.attempts == 1 for outcome in bench.outcomes.values())


async def test_calls_run_on_no_more_workers_than_there_are_while_one_is_replaced(tmp_path: Path) -> None:
    def alone(folder: str) -> bool:
        mark = Path(folder) / "busy"
        mark.mkdir()
        time.sleep(0.001)  # long enough for another worker to meet it, if there were one
        mark.rmdir()
        return True

    async with running(1, limits=WorkerLimits(max_tasks=2)) as bench:
        keys = [bench.put(alone, str(tmp_path)) for _ in range(12)]
        bench.engine.wake()

        assert all(await bench.all_values(keys))


async def test_the_next_worker_is_up_before_the_last_call_of_the_present_one_ends(tmp_path: Path) -> None:
    def hold(folder: str) -> int:
        while not (Path(folder) / "go").exists():
            time.sleep(0.005)  # in a worker: until the test lets it end
        return os.getpid()

    async with running(1, limits=WorkerLimits(max_tasks=1)) as bench:
        key = bench.submit(hold, str(tmp_path))
        await eventually_async(
            lambda: bench.engine._slots[0].succession is not None and bench.engine._slots[0].succession.is_ready
        )
        successor = bench.engine._slots[0].succession
        assert successor is not None
        assert successor.process is not None
        expected = successor.process.pid
        (tmp_path / "go").touch()

        assert await bench.value(key) != expected
        assert await bench.value(bench.submit(pid)) == expected


async def test_a_worker_that_is_killed_before_its_share_is_done_is_followed_by_the_one_that_waits(
    tmp_path: Path,
) -> None:
    def die_once(folder: str) -> str:
        mark = Path(folder) / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    async with running(1, limits=WorkerLimits(max_tasks=1)) as bench:
        outcome = await bench.outcome(bench.submit(die_once, str(tmp_path)))

        assert (outcome.state, outcome.attempts) == ("succeeded", 2)
        assert await bench.value(bench.submit(fill, 1)) == 1


async def test_a_thread_that_a_call_left_behind_does_not_keep_a_worker_that_has_done_its_share() -> None:
    def leave_a_thread() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    async with running(1, limits=WorkerLimits(max_tasks=1)) as bench:
        first = await bench.value(bench.submit(leave_a_thread))

        assert await bench.value(bench.submit(pid)) != first
        await eventually_async(lambda: not Path(f"/proc/{first}").exists())


# Sandboxes


def sandboxed(root: Path, *, keep_failed: bool = False) -> WorkerLimits:
    root.mkdir(exist_ok=True)
    return WorkerLimits(sandboxes=str(root), keep_failed_sandboxes=keep_failed)


def look_around() -> tuple[str, str, list[str]]:
    Path("made").write_text("here")
    return os.getcwd(), os.environ["HEADRACE_SANDBOX_DIR"], os.listdir(".")


async def test_each_call_has_an_empty_directory_which_goes_with_it(tmp_path: Path) -> None:
    async with running(1, limits=sandboxed(tmp_path / "s"), directory=tmp_path) as bench:
        keys = [bench.submit(look_around) for _ in range(3)]

        for key in keys:
            path = str(tmp_path / "s" / str(key))
            assert await bench.value(key) == (path, path, ["made"])
        assert list((tmp_path / "s").iterdir()) == []


async def test_the_directory_of_a_failed_call_is_kept_where_asked(tmp_path: Path) -> None:
    def fail() -> None:
        Path("evidence").write_text("it was me")
        raise ValueError

    async with running(1, limits=sandboxed(tmp_path / "s", keep_failed=True)) as bench:
        good, bad = bench.submit(look_around), bench.submit(fail, options=TaskOptions(max_retries=1))
        await bench.value(good)
        await bench.failure(bad)

        kept = sorted(path.name for path in (tmp_path / "s").iterdir())
        assert kept == [str(bad), f"{bad}-2"]
        assert (tmp_path / "s" / str(bad) / "evidence").read_text() == "it was me"


@pytest.mark.parametrize("keep", [False, True])
async def test_the_directory_of_a_call_that_killed_its_worker_goes_as_well_or_is_kept(
    tmp_path: Path, keep: bool
) -> None:
    def die() -> None:
        Path("core").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    async with running(1, limits=sandboxed(tmp_path / "s", keep_failed=keep)) as bench:
        key = bench.submit(die)
        await bench.failure(key)

        names = [str(key), f"{key}-2", f"{key}-3"] if keep else []
        await eventually_async(lambda: sorted(path.name for path in (tmp_path / "s").iterdir()) == names)


async def test_a_call_that_runs_out_of_time_leaves_no_directory(tmp_path: Path) -> None:
    async with running(1, limits=sandboxed(tmp_path / "s")) as bench:
        await bench.failure(bench.submit(time.sleep, 600, options=TaskOptions(task_timeout_s=0.5)), "expired")

        await eventually_async(lambda: list((tmp_path / "s").iterdir()) == [])


async def test_a_child_that_a_call_forks_does_not_take_the_directory_away(tmp_path: Path) -> None:
    def forks() -> bool:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return Path(os.environ["HEADRACE_SANDBOX_DIR"]).exists() if child else False

    async with running(1, limits=sandboxed(tmp_path / "s")) as bench:
        assert await bench.value(bench.submit(forks)) is True


async def test_a_call_that_removes_its_own_directory_disturbs_nobody(tmp_path: Path) -> None:
    def remove() -> None:
        os.rmdir(os.getcwd())

    async with running(1, limits=sandboxed(tmp_path / "s"), directory=tmp_path) as bench:
        assert await bench.value(bench.submit(remove)) is None
        assert (await bench.value(bench.submit(look_around)))[2] == ["made"]


async def test_a_directory_that_cannot_be_made_fails_the_call_with_the_reason(tmp_path: Path) -> None:
    async with running(1, limits=sandboxed(tmp_path / "s")) as bench:
        (tmp_path / "s").rmdir()

        error: Any = rebuild(await bench.failure(bench.submit(look_around)))

        assert isinstance(error, FileNotFoundError)
        assert str(tmp_path / "s") in str(error)
        (tmp_path / "s").mkdir()
        assert (await bench.value(bench.submit(look_around)))[2] == ["made"]


async def test_short_calls_that_are_given_back_find_their_directories_elsewhere(tmp_path: Path) -> None:
    def usually_short(place: int) -> int:
        Path("mine").touch(exist_ok=False)
        if place == 20:
            time.sleep(0.1)  # far longer than its like: the calls behind it are given to the other worker
        return place

    async with running(2, limits=sandboxed(tmp_path / "s")) as bench:
        await bench.all_values([bench.submit(usually_short, 0) for _ in range(20)])
        keys = [bench.put(usually_short, place) for place in range(100)]
        bench.engine.wake()

        assert await bench.all_values(keys) == list(range(100))


# What is there without any limit


async def test_without_limits_workers_are_as_they_were(tmp_path: Path) -> None:
    async with running(1, directory=tmp_path) as bench:
        found = await bench.value(bench.submit(where_and_how_much))

        assert found == (str(tmp_path), resource.getrlimit(resource.RLIMIT_DATA))
