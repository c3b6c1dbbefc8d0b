from __future__ import annotations

import asyncio
import copyreg
import json
import subprocess
import traceback
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.bus.data import failures
from headrace.bus.data.failures import Failure, capture, decode_failure, encode_failure, of_error, rebuild
from headrace.bus.errors import DecodeError, TaskCancelled, TaskError, TaskFailed, TaskLost


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def there_and_back(error: BaseException) -> BaseException:
    return rebuild(decode_failure(encode_failure(capture(raised(error)))[1]))


class NeedsTwo(Exception):
    def __init__(self, left: int, right: int) -> None:
        self.left = left
        super().__init__(f"{left} and {right}")


class Repeats(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} broke")


class BrokenText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class BrokenReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class HoldsALock(Exception):
    def __init__(self, text: str) -> None:
        import threading

        self.lock = threading.Lock()
        super().__init__(text)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        KeyError("missing"),
        FileNotFoundError(2, "No such file", "/a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        subprocess.CalledProcessError(3, ["false"], output=b"out"),
        json.JSONDecodeError("bad", "{", 1),
        NeedsTwo(1, 2),
        Repeats("pump"),
        BrokenReduce("a", 1),
        HoldsALock("locked"),
        TaskFailed("lab.Odd", "text", "trace"),
        ValueError(),
    ],
    ids=repr,
)
def test_an_exception_comes_back_as_its_own_type_with_its_text_and_attributes(error: Exception) -> None:
    copy = there_and_back(error)

    assert type(copy).__qualname__ == type(error).__qualname__
    assert str(copy) == str(error)
    for name in ("errno", "filename", "start", "returncode", "output", "pos", "left"):
        assert getattr(copy, name, None) == getattr(error, name, None)


def test_errors_keep_their_text_where_a_library_pickles_them_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    # tblib, which Parsl and Dask install, takes such a hold of every exception there is.
    monkeypatch.setitem(copyreg.dispatch_table, UnicodeDecodeError, lambda error: (type(error).__new__, (type(error),)))
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    copy = there_and_back(error)

    assert str(copy) == str(error)
    assert (copy.start, copy.reason) == (0, "invalid start byte") if isinstance(copy, UnicodeDecodeError) else False


def test_the_remote_traceback_is_a_note_and_the_cause() -> None:
    def deep() -> None:
        raise LookupError("down here")

    try:
        deep()
    except LookupError as error:
        copy = rebuild(capture(error))

    assert "in deep" in "".join(copy.__notes__)
    assert isinstance(copy.__cause__, failures.RemoteTraceback)
    assert 'raise LookupError("down here")' in str(copy.__cause__)
    assert "in deep" in "".join(traceback.format_exception(copy))


def test_notes_and_causes_of_the_function_are_kept() -> None:
    try:
        try:
            _ = 1 / 0
        except ZeroDivisionError as inner:
            inner.add_note("while dividing")
            raise ValueError("outer") from inner
    except ValueError as outer:
        outer.add_note("by hand")
        copy = rebuild(capture(outer))

    assert copy.__notes__[0] == "by hand"
    assert "while dividing" in str(copy.__cause__)
    assert "direct cause" in str(copy.__cause__)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_what_would_end_the_waiting_program_comes_as_task_failed(error: BaseException) -> None:
    copy = there_and_back(error)

    assert isinstance(copy, TaskFailed)
    assert type(error).__name__ in copy.type_name


def test_an_exception_with_broken_methods_is_captured_all_the_same() -> None:
    copy = there_and_back(BrokenText("x"))

    assert type(copy).__qualname__ == "BrokenText"
    failure = capture(raised(BrokenText("x")))
    assert failure.message == "<its message cannot be shown: SystemExit>"


def test_a_group_keeps_its_members() -> None:
    group = there_and_back(ExceptionGroup("several", [ValueError(1), HoldsALock("1 and 2"), KeyError("k")]))

    assert isinstance(group, ExceptionGroup)
    assert [type(e).__name__ for e in group.exceptions] == ["ValueError", "TaskFailed", "KeyError"]
    assert "1 and 2" in str(group.exceptions[1])


def test_a_type_that_is_unknown_here_comes_as_task_failed_with_everything_in_text() -> None:
    failure = Failure("TaskFailed", "lab.errors", "PumpBroken", "no water", "Traceback ...", 2, b"\x80\x05garbage")

    error = rebuild(failure)

    assert isinstance(error, TaskFailed)
    assert error.type_name == "lab.errors.PumpBroken"
    assert str(error) == "lab.errors.PumpBroken: no water"
    assert error.remote_traceback == "Traceback ..."


def test_a_builtin_type_needs_no_pickle() -> None:
    assert type(rebuild(Failure("TaskFailed", "builtins", "ValueError", "bad"))) is ValueError
    assert type(rebuild(Failure("TaskFailed", "builtins", "SystemExit", "bad"))) is TaskFailed
    assert type(rebuild(Failure("TaskFailed", "builtins", "UnicodeDecodeError", "bad"))) is TaskFailed


@pytest.mark.parametrize("kind", [kind for kind in TaskError.__subclasses__() if kind is not TaskFailed])
def test_verdicts_of_headrace_come_back_as_their_own_errors(kind: type[TaskError]) -> None:
    copy = rebuild(of_error(kind("why")))

    assert type(copy) is kind
    assert str(copy) == "why"


def test_a_verdict_that_is_newer_than_this_release_is_still_readable() -> None:
    error = rebuild(Failure("TaskBanned", "", "TaskBanned", "no"))

    assert isinstance(error, TaskFailed)
    assert str(error) == "TaskBanned: no"


def test_a_headrace_error_that_the_function_itself_raised_is_the_functions() -> None:
    assert capture(raised(TaskLost("inner"))).code == "TaskFailed"
    assert type(there_and_back(TaskLost("inner"))) is TaskLost
    assert of_error(TaskCancelled("x")).code == "TaskCancelled"


def test_frames_of_the_runner_are_left_out() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def run(f):\n    f()\n", "/runner.py", "exec"), namespace)  # noqa: S102 - a frame of another file

    def function() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x") as caught:
        namespace["run"](function)
    error = caught.value
    error.__traceback__ = caught.tb.tb_next  # without this test's own frame
    text = capture(error, runner_file="/runner.py").traceback

    assert "/runner.py" not in text
    assert "in function" in text


def test_huge_messages_and_exceptions_are_cut() -> None:
    failure = capture(raised(ValueError("x" * 10_000_000)))

    assert len(encode_failure(failure)[1]) < 1_000_000
    assert "characters left out" in failure.message


@example(b"\x94\xa5\x00\x00\x00\x00\x80")  # text that is not UTF-8
@given(st.binary(max_size=40))
def test_bytes_that_are_no_failure_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_failure(data)


@given(st.text(st.characters()))
def test_any_text_survives(text: str) -> None:
    error = there_and_back(RuntimeError(text))

    assert type(error) is RuntimeError
    assert str(error) == text
