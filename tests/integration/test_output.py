"""What calls print: from real worker processes to the engine's callback."""

from __future__ import annotations

import collections
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from gates import LIVE
from waiting import eventually_async

from headrace.bus.data.arguments import encode_json_arguments
from headrace.bus.functions.code import from_source
from headrace.bus.tasks.bundles import LogEnd, TaskOptions
from headrace.endpoint.engines.engine import Call, Outcome, Output
from headrace.endpoint.engines.processes.engine import ProcessEngine

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


class Press:
    """An engine that keeps what calls print, its source, and what came out."""

    def __init__(self, **settings: Any) -> None:
        self.waiting: collections.deque[Call] = collections.deque()
        self.outcomes: dict[uuid.UUID, Outcome] = {}
        self.outputs: dict[uuid.UUID, list[Output]] = collections.defaultdict(list)
        self.late: list[Output] = []
        self.engine = ProcessEngine(self, self._take, **{"workers": 1, "on_output": self._print, **settings})

    def next_call(self) -> Call | None:
        return self.waiting.popleft() if self.waiting else None

    def _take(self, outcomes: list[Outcome]) -> None:
        self.outcomes.update((outcome.key, outcome) for outcome in outcomes)

    def _print(self, output: Output) -> None:
        self.outputs[output.key].append(output)
        if output.key in self.outcomes:
            self.late.append(output)

    def submit(self, source: str, *args: Any, wake: bool = True, **options: Any) -> uuid.UUID:
        """Run `f(*args)` of this source."""
        key = uuid.uuid4()
        encoding, arguments = encode_json_arguments(args, {})
        code = from_source(source)
        function = uuid.uuid5(uuid.NAMESPACE_OID, source)
        self.waiting.append(
            Call(
                key=key,
                function=function,
                encoding=encoding,
                arguments=arguments,
                options=TaskOptions(**options),
                code=code,
            )
        )
        if wake:
            self.engine.wake()
        return key

    async def ended(self, key: uuid.UUID, within_s: float = 20.0) -> Outcome:
        await eventually_async(lambda: key in self.outcomes, within_s, f"the outcome of {key}")
        return self.outcomes[key]

    def text(self, key: uuid.UUID, stream: int = 0) -> str:
        return b"".join(output.data for output in self.outputs[key] if output.stream == stream).decode()


@contextlib.asynccontextmanager
async def pressing(**settings: Any) -> AsyncIterator[Press]:
    press = Press(**settings)
    await press.engine.start()
    try:
        yield press
    finally:
        await press.engine.stop(grace_s=0)
        assert press.late == [], "what a call printed comes before its outcome"


@pytest.fixture
async def press(anyio_backend: Any) -> AsyncIterator[Press]:
    async with pressing() as press:
        yield press


SPEAK = """
def f(text):
    import sys
    print(text)
    print(text.upper(), end="", file=sys.stderr)
"""


async def test_what_two_calls_print_one_after_the_other_is_told_apart(press: Press) -> None:
    keys = [press.submit(SPEAK, f"line {number}", wake=False) for number in range(200)]
    press.engine.wake()

    outcomes = [await press.ended(key) for key in keys]

    assert [press.text(key) for key in keys] == [f"line {number}\n" for number in range(200)]
    assert [press.text(key, 1) for key in keys] == [f"LINE {number}" for number in range(200)]
    ends = [outcome.log_end for outcome in outcomes]
    assert [(end.stdout_bytes, end.stderr_bytes) for end in ends if end] == [
        (len(f"line {number}") + 1, len(f"line {number}")) for number in range(200)
    ]
    assert len({end.run for end in ends if end}) == 200


async def test_a_call_that_prints_nothing_has_no_log(press: Press) -> None:
    outcome = await press.ended(press.submit("def f():\n    return 1\n"))

    assert outcome.log_end is None
    assert press.outputs == {}


async def test_a_line_is_seen_before_the_call_ends(press: Press, tmp_path: Path) -> None:
    key = press.submit(LIVE, str(tmp_path / "go"))

    await eventually_async(lambda: press.text(key) == "begun\n", 10)
    assert key not in press.outcomes
    (tmp_path / "go").touch()

    await press.ended(key)
    assert press.text(key) == "begun\ndone\n"
    assert [output.offset for output in press.outputs[key]] == [0, 6]


async def test_dots_without_the_end_of_a_line_are_seen_and_children_can_be_forked_meanwhile(
    press: Press, tmp_path: Path
) -> None:
    source = """
def f(path):
    import os, time
    while not os.path.exists(path):
        print(".", end="")
        pid = os.fork()
        if pid == 0:
            print(end="", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.01)  # a pace: no more than a hundred a second until the test ends it
"""
    key = press.submit(source, str(tmp_path / "go"))

    await eventually_async(lambda: press.text(key).startswith("."), 10)
    assert key not in press.outcomes
    (tmp_path / "go").touch()
    await press.ended(key)
    assert set(press.text(key)) == {"."}


async def test_the_output_of_children_and_of_compiled_code_is_the_calls(press: Press) -> None:
    source = """
def f():
    import ctypes, os, subprocess, sys
    subprocess.run(["sh", "-c", "echo child; echo child error >&2"], check=True)
    os.write(1, b"descriptor\\n")
    ctypes.CDLL(None).printf(b"compiled\\n")
    pid = os.fork()
    if pid == 0:
        print("fork", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""
    await press.ended(key := press.submit(source))

    assert press.text(key) == "child\ndescriptor\ncompiled\nfork\n"
    assert press.text(key, 1) == "child error\n"


@pytest.mark.parametrize("how", ["time-out", "crash", "cancelled"])
async def test_a_call_that_is_killed_keeps_what_it_printed(press: Press, how: str) -> None:
    source = """
def f(how):
    import os, signal, time
    print("last words", flush=True)
    os.write(2, b"and more")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # until it is killed
"""
    limits: dict[str, dict[str, Any]] = {"crash": {"rerun_on_loss": False}, "time-out": {"task_timeout_s": 0.3}}
    key = press.submit(source, how, **limits.get(how, {}))
    if how == "cancelled":
        await eventually_async(lambda: press.text(key) != "", 10)
        press.engine.cancel([key], force=True)

    outcome = await press.ended(key)

    assert outcome.state == {"crash": "failed", "time-out": "expired", "cancelled": "cancelled"}[how]
    assert (press.text(key), press.text(key, 1)) == ("last words\n", "and more")
    assert outcome.log_end is not None
    assert (outcome.log_end.stdout_bytes, outcome.log_end.stderr_bytes) == (11, 8)


async def test_each_attempt_has_a_run_of_its_own(press: Press, tmp_path: Path) -> None:
    source = """
def f(path):
    import os
    with open(path, "a") as file:
        file.write("x")
    count = os.path.getsize(path)
    print("attempt", count)
    if count == 2:
        os.kill(os.getpid(), 9)
    if count < 4:
        raise ValueError
"""
    key = press.submit(source, str(tmp_path / "count"), max_retries=5)

    outcome = await press.ended(key)

    found = [(output.attempt, output.offset, output.data) for output in press.outputs[key]]
    assert found == [(number, 0, b"attempt %d\n" % number) for number in (1, 2, 3, 4)]
    runs = [output.run for output in press.outputs[key]]
    assert runs == sorted(set(runs))
    assert outcome.log_end == LogEnd(runs[-1], 10, 0)
    assert len({output.worker for output in press.outputs[key]}) == 2


async def test_more_than_the_limit_is_cut_in_the_middle() -> None:
    source = """
def f(lines):
    import sys
    for number in range(lines):
        print(f"line {number:08}")
    print("the end", file=sys.stderr)
"""
    async with pressing(most_output_bytes=80_000) as press:
        outcome = await press.ended(key := press.submit(source, 100_000))

    assert outcome.log_end is not None
    assert (outcome.log_end.stdout_bytes, outcome.log_end.stderr_bytes) == (1_400_000, 8)
    assert sum(len(output.data) for output in press.outputs[key]) <= 80_000
    lines = press.text(key).splitlines()
    assert lines[0] == "line 00000000"
    assert lines[-1] == "line 00099999"
    assert press.text(key, 1) == "the end\n"
    last = press.outputs[key][-2]
    assert last.offset + len(last.data) == 1_400_000


async def test_a_call_that_floods_its_output_takes_no_memory() -> None:
    source = """
def f(chunks):
    import os
    for _ in range(chunks):
        os.write(1, b"x" * 1048576)
"""
    async with pressing(most_output_bytes=MIB) as press:
        await press.ended(press.submit(source, 1))
        peak = 0

        def is_over() -> bool:
            nonlocal peak
            peak = max(peak, _memory_in_files())
            return key in press.outcomes

        key = press.submit(source, 800)
        await eventually_async(is_over, 30)
        end = press.outcomes[key].log_end
        assert end is not None
        assert end.stdout_bytes == 800 * MIB
        assert sum(len(output.data) for output in press.outputs[key]) <= MIB
        assert peak < 600 * MIB
        assert _memory_in_files() < 2 * MIB


def _memory_in_files() -> int:
    """The bytes that this process's memory files take."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:headrace-std" in os.readlink(link):
                found += os.stat(link).st_blocks * 512
    return found


async def test_what_is_printed_between_calls_goes_to_the_pools_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = """
def f(path):
    import os, threading, time
    def later():
        while not os.path.exists(path):
            time.sleep(0.01)  # until the test, which saw the call end, lets it go on
        print("from a thread", flush=True)
    threading.Thread(target=later).start()
"""
    heard: list[str] = []

    def is_heard() -> bool:
        heard.append(capfd.readouterr().err)
        return "from a thread" in "".join(heard)

    async with pressing() as press:
        go = tmp_path / "go"
        await press.ended(first := press.submit(source, str(go)))
        go.touch()
        await eventually_async(is_heard, 10)
        await press.ended(second := press.submit(SPEAK, "mine"))

        assert press.outputs[first] == []
        assert press.text(second) == "mine\n"


async def test_a_call_may_do_what_it_likes_with_its_streams(press: Press) -> None:
    for source in (
        "def f():\n    import os\n    os.close(1)\n",
        "def f():\n    import io, sys\n    sys.stderr = io.StringIO()\n    print('to nobody', file=sys.stderr)\n",
        "def f():\n    import sys\n    sys.stdout = None\n",
        "def f():\n    import os\n    os.system('echo anew > /dev/stderr')\n",
    ):
        assert (await press.ended(press.submit(source))).state == "succeeded"

    await press.ended(key := press.submit("def f():\n    import os\n    os.system('echo still here >&2')\n"))
    assert press.text(key, 1) == "still here\n"
