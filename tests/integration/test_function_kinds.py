"""What is registered besides plain functions, through every door: commands, coroutines, and what is refused."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from plain_http import NO_TLS
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

from headrace.sdk import (
    Client,
    Executor,
    FunctionUnusable,
    MPIFunction,
    MpiUnusable,
    ResultNotSerialisable,
    ShellFunction,
    ShellResult,
)

ECHO = ShellFunction("echo {text}; exit {code}")


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    home = tmp_path_factory.mktemp("pool")
    launcher = home / "bin" / "mpiexec"
    launcher.parent.mkdir()
    launcher.write_text('#!/bin/sh\necho launched "$@"\n')
    launcher.chmod(0o755)
    with running_pool(
        service,
        home,
        environment={"PATH": f"{launcher.parent}:/usr/bin:/bin"},
        limits={"sandboxes": str(home / "boxes")},
    ) as running:
        yield running


async def later(x: int) -> int:
    return x + 1


def test_a_command_is_submitted_and_mapped(executor: Executor) -> None:
    result = executor.submit(ECHO, text="it's; date", code=3).result()

    assert isinstance(result, ShellResult)
    assert (result.stdout, result.returncode) == ("it's; date\n", 3)
    assert [each.returncode for each in executor.map(ECHO, "abc", range(3))] == [0, 1, 2]
    assert [each.stdout for each in executor.map(ECHO, "abc", [0] * 3, chunksize=2)] == ["a\n", "b\n", "c\n"]


def test_a_command_is_registered_and_called_without_python(executor: Executor, client: Client) -> None:
    function = executor.register_function(ECHO)

    task = client.run(endpoint_id=str(executor.endpoint_id), function_id=function, text="a b", code=0)

    assert client.get_result(task, wait_s=20)["stdout"] == "a b\n"
    assert executor.submit_to_registered_function(function, ("x", 1)).result().returncode == 1
    assert "ShellFunction(" in client.get_function(function)["source"]


def test_a_command_and_a_coroutine_are_steps_of_a_workflow(
    service: RunningService, executor: Executor, client: Client
) -> None:
    tasks = [
        {"function_id": executor.register_function(ECHO), "kwargs": {"text": "step", "code": 0}},
        {"function_id": executor.register_function(later), "args": [1]},
    ]
    body = {"endpoint_id": str(executor.endpoint_id), "tasks": tasks}
    with httpx.Client(
        base_url=service.url, headers={"Authorization": f"Bearer {service.token}"}, verify=NO_TLS, timeout=20
    ) as http:
        request = {"request_id": uuid.uuid4().hex, "body": body}
        action = http.post("/actions/compute/v3/run", json=request).json()["action_id"]

        def ended() -> dict[str, object] | None:
            status: dict[str, object] = http.get(f"/actions/compute/v3/{action}/status").json()
            return None if status["status"] == "ACTIVE" else status

        status = eventually(ended, 20, "the action ended")

    assert status is not None
    assert status["status"] == "SUCCEEDED"
    assert '"step\\n"' in str(status["details"]).replace("'", '"')


def test_coroutines_run_to_their_end(executor: Executor, client: Client) -> None:
    assert executor.submit(later, 1).result() == 2
    assert list(executor.map(later, [1, 2])) == [2, 3]
    source = executor.register_source_code("async def f(x):\n    return x * 2\n", "f")
    assert executor.submit_to_registered_function(source, args=(4,)).result() == 8


def test_the_sandbox_is_where_a_command_writes(executor: Executor, pool: RunningPool) -> None:
    result = executor.submit(ShellFunction("pwd; echo $HEADRACE_SANDBOX_DIR")).result()

    here, sandbox = result.stdout.splitlines()
    assert here == sandbox == str(Path(result.stdout_file).parent)


def test_ranks_go_with_each_task(executor: Executor) -> None:
    solve = MPIFunction("solve {case}")

    with pytest.raises(ValueError, match="resource_specification before"):
        executor.submit(solve, case="a")
    with pytest.raises(ValueError, match="unknown key 'nodes'"):
        executor.resource_specification = {"nodes": 1, "num_ranks": 2}
    executor.resource_specification = {"num_nodes": 1, "ranks_per_node": 2}
    two = executor.submit(solve, case="a")
    three = executor.with_options(resource_specification={"num_ranks": 3}).submit(solve, case="b")
    many = executor.with_options(resource_specification={"num_nodes": 4, "num_ranks": 4}).submit(solve, case="b")

    assert two.result().stdout == "launched -n 2 solve a\n"
    assert three.result().stdout == "launched -n 3 solve b\n"
    with pytest.raises(MpiUnusable, match="4 nodes"):
        many.result()


def test_generators_are_refused_where_they_are_given(executor: Executor) -> None:
    def counts() -> Iterator[int]:
        yield 1

    async def streams() -> AsyncIterator[int]:
        yield 1

    for function in (counts, streams):
        with pytest.raises(FunctionUnusable, match=r"generator function.*as a list"):
            executor.submit(function).result()
    with pytest.raises(FunctionUnusable, match="'f' is a generator function"):
        executor.register_source_code("def f():\n    yield 1\n", "f")
    assert executor.register_source_code("def f():\n    def g():\n        yield 1\n    return list(g())\n", "f")


def test_a_generator_that_is_returned_is_refused(executor: Executor) -> None:
    with pytest.raises(ResultNotSerialisable, match=r"generator.*Instead, return list\(\.\.\.\) of it"):
        executor.submit(eval, "(x for x in [1])").result()


def test_a_function_imports_the_modules_that_travel_with_it(executor: Executor, tmp_path: Path, client: Client) -> None:
    def run(x: int) -> int:
        from shipped_helper import LIMIT  # type: ignore[import-not-found]  # it exists where the function runs

        return int(x + LIMIT)

    seen = []
    for limit in (10, 20):
        (tmp_path / "shipped_helper.py").write_text(f"LIMIT = {limit}\n")
        function = client.register_function(run, modules=[tmp_path])
        seen.append(executor.submit_to_registered_function(function, (1,)).result())

    executor.register_module(tmp_path / "shipped_helper.py")
    (tmp_path / "shipped_helper.py").write_text("LIMIT = 30\n")
    source = executor.register_source_code("import shipped_helper as s\ndef f(x): return s.LIMIT + x\n", "f")

    assert seen == [11, 21]
    assert executor.submit_to_registered_function(source, (1,)).result() == 31
    assert executor.submit(run, 1).result() == 31
    assert executor.submit(isinstance, 1, int).result() is True
