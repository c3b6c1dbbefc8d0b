"""Shell functions: run here, as a worker runs them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import MpiUnusable
from headrace.bus.functions.code import from_function, load
from headrace.bus.mpi import PREFIX, SPECIFICATION, MPIFunction, Ranks, applied, ranks, variables
from headrace.bus.shell import BashFunction, ShellFunction, ShellResult


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(function: ShellFunction, /, *args: Any, **kwargs: Any) -> ShellResult:
    result = function(*args, **kwargs)
    assert isinstance(result, ShellResult)
    return result


def test_a_command_gives_its_output_and_return_code() -> None:
    result = run(ShellFunction("echo {text}; echo problem >&2; exit {code}"), text="it's $HOME", code=3)

    assert (result.returncode, result.stdout, result.stderr) == (3, "it's $HOME\n", "problem\n")
    assert result.exception_name == "subprocess.CalledProcessError"
    assert Path(result.stdout_file).read_text() == result.stdout
    assert "returned with exit status: 3" in str(result)
    assert run(ShellFunction("true")).exception_name is None


def test_arguments_by_position_fill_the_fields_in_their_order() -> None:
    function = ShellFunction("echo {b} {a}")

    assert run(function, 1, a=2).stdout == "1 2\n"
    with pytest.raises(TypeError, match="2 fields, and 3 arguments"):
        function(1, 2, 3)
    with pytest.raises(TypeError, match="'b' is given twice"):
        function(1, b=2)


def test_a_snippet_is_the_end_of_the_output(here: Path) -> None:
    result = run(ShellFunction("seq 100000", snippet_lines=2))
    assert result.stdout == "99999\n100000\n"
    assert len(Path(result.stdout_file).read_text().splitlines()) == 100_000
    assert run(ShellFunction("seq 3", snippet_lines=0)).stdout == ""
    assert len(run(ShellFunction("head -c 3000000 /dev/zero | tr '\\0' x")).stdout) == 1_000_000


def test_given_files_are_appended_to_and_the_snippet_is_of_this_run(here: Path) -> None:
    function = ShellFunction("echo {x}", stdout="deep/out.txt", stderr="deep/out.txt")

    assert [run(function, x).stdout for x in (1, 2)] == ["1\n", "2\n"]
    assert (here / "deep/out.txt").read_text() == "1\n2\n"


def test_walltime_ends_the_whole_group(here: Path) -> None:
    result = run(ShellFunction("sleep 60 & echo $!; (sleep 60; touch late); touch later", walltime=0.2))

    assert (result.returncode, result.exception_name) == (124, "subprocess.TimeoutExpired")
    eventually(lambda: not _runs(int(result.stdout)), 5, "the process in the background has ended")


def test_walltime_lets_a_command_tidy_up_what_it_can() -> None:
    function = ShellFunction("trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.05; done", walltime=0.3)

    assert run(function).stdout == "ready\ntidied\n"
    # One that does not listen is killed all the same.
    assert run(ShellFunction("trap '' TERM; while :; do sleep 0.05; done", walltime=0.1)).returncode == 124


def test_what_a_command_left_behind_ends_with_it() -> None:
    result = run(ShellFunction("sleep 60 & echo $!"))

    eventually(lambda: not _runs(int(result.stdout)), 5, "the process in the background has ended")


def test_a_command_ends_when_its_worker_is_killed(here: Path) -> None:
    program = "from headrace.bus.shell import ShellFunction as F; F('echo $$ > pid; exec sleep 60')()"
    worker = subprocess.Popen([sys.executable, "-c", program])
    try:
        eventually(lambda: (here / "pid").exists() and (here / "pid").read_text().strip(), 10, "the command runs")
    finally:
        worker.kill()
        worker.wait()

    eventually(lambda: not _runs(int((here / "pid").read_text())), 5, "the command has ended")


def test_results_can_be_dicts_and_failures_exceptions() -> None:
    result = ShellFunction("echo {0..2}; exit 1", return_dict=True)()

    assert isinstance(result, dict)
    assert (result["stdout"], result["returncode"], result["cmd"]) == ("0 1 2\n", 1, "echo {0..2}; exit 1")
    assert b'"returncode":0' in encode_json(ShellFunction("true")())
    with pytest.raises(subprocess.CalledProcessError) as failed:
        ShellFunction("echo because >&2; exit 4", check=True)()
    assert failed.value.returncode == 4
    assert "because" in failed.value.__notes__[0]
    with pytest.raises(subprocess.TimeoutExpired):
        ShellFunction("sleep 60", check=True, walltime=0.1)()


def test_settings_that_cannot_be_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"walltime": -1}, "walltime"),
        ({"snippet_lines": -1}, "snippet_lines"),
        ({"name": "not a name"}, "identifier"),
    ]
    for settings, problem in wrong:
        with pytest.raises(ValueError, match=problem):
            ShellFunction("date", **settings)
    with pytest.raises(ValueError, match="here-document"):
        ShellFunction("cat <<E\n{x}\nE")
    with pytest.raises(TypeError, match="cmd must be a text"):
        ShellFunction(["ls"])  # type: ignore[arg-type]  # what is not allowed


def test_a_command_is_stored_as_source_that_needs_no_pickle() -> None:
    function = ShellFunction("printf %s {x!r}\n", walltime=5, snippet_lines=3, name="shout")

    code = from_function(function)

    assert (code.name, code.pickled) == ("shout", b"")
    assert load(code) == function
    assert load(from_function(MPIFunction("solve"))) == MPIFunction("solve")
    assert from_function(ShellFunction("ls  -l\n{x}")).name == "ShellFunction: ls -l {x}"
    assert pickle.loads(pickle.dumps(function)) == function
    assert BashFunction is ShellFunction


# MPI


def test_ranks_follow_from_each_other() -> None:
    assert ranks({"num_nodes": 2, "ranks_per_node": 3}) == Ranks(2, 3, 6)
    assert ranks({"num_ranks": 5, "num_nodes": 2}) == Ranks(2, 3, 5)
    assert ranks({"num_ranks": 4}) == Ranks(1, 4, 4)
    assert ranks({"num_ranks": 4, "ranks_per_node": 2, "launcher_options": "-v"}) == Ranks(2, 2, 4, "-v")


@pytest.mark.parametrize(
    ("specification", "problem"),
    [
        ({"num_nodes": 2}, "needs ranks_per_node or num_ranks"),
        ({"num_ranks": 0}, "num_ranks .* from 1 on"),
        ({"num_ranks": 2, "cores": 1}, "unknown key 'cores'"),
        ({"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 9}, "contradicts itself"),
        ({"num_ranks": 2, "launcher_options": 3}, "launcher_options"),
    ],
)
def test_a_specification_that_cannot_be_is_refused(specification: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ranks(specification)


def test_a_command_runs_under_the_launcher(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _launcher(here, monkeypatch)
    function = MPIFunction("echo {x} $PARSL_NUM_RANKS")

    with applied(b'{"num_nodes": 1, "ranks_per_node": 4, "launcher_options": "--bind-to none"}'):
        result = run(function, x="a b")

    assert result.cmd == "$PARSL_MPI_PREFIX echo 'a b' $PARSL_NUM_RANKS"
    assert result.stdout == "launched -n 4 --bind-to none echo a b 4\n"
    assert PREFIX not in os.environ
    assert SPECIFICATION not in os.environ


def test_who_cannot_give_the_ranks_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = MPIFunction("solve")
    monkeypatch.setenv("PATH", str(here))

    with pytest.raises(MpiUnusable, match="needs a resource_specification"):
        function()
    with applied(b'{"num_ranks": 4}'), pytest.raises(MpiUnusable, match=r"no MPI launcher .*mpiexec"):
        function()
    with applied(b'{"num_nodes": 2, "num_ranks": 4}'), pytest.raises(MpiUnusable, match="2 nodes"):
        function()
    with applied(b'{"cores": 2}'), pytest.raises(MpiUnusable, match="unknown key 'cores'"):
        function()
    _launcher(here, monkeypatch)
    assert variables('{"num_ranks": 4}')[PREFIX] == "mpiexec -n 4"


def _launcher(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = here / "mpiexec"
    launcher.write_text('#!/bin/sh\necho launched "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=os.pathsep)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
