"""Environments of functions, built of wheels in a directory: no index, no network."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_bench import running
from wheels import make_wheel

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.functions.requirements import Needs
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.engines.build import build
from headrace.endpoint.engines.means import Means
from headrace.endpoint.engines.settings import engine_settings
from headrace.endpoint.environments.check import check_environment
from headrace.endpoint.environments.environments import Environments, Lease
from headrace.endpoint.environments.policy import EnvironmentPolicy
from headrace.endpoint.errors import ConfigInvalid, EnvironmentRefused

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    make_wheel(directory, "tide", "1.0", "LEVEL = 1\n")
    make_wheel(directory, "tide", "2.0", "LEVEL = 2\n")
    make_wheel(directory, "moon", "1.0", "import tide\nPULL = 10 * tide.LEVEL\n", requires=("tide>=2",))
    return directory


ENGINES: dict[str, tuple[dict[str, Any], str]] = {
    "dask": ({"type": "DaskEngine"}, "distributed"),
    "parsl": ({"type": "ParslEngine", "max_workers_per_node": 1, "provider": {"type": "LocalProvider"}}, "parsl"),
}


def engine_with(keys: dict[str, Any], python: Path, directory: Path) -> Any:
    means = Means(workers=1, python=str(python), directory=directory)
    return lambda source, tell, workers: build(engine_settings(keys), source, tell, means)


def environments(directory: Path, wheels: Path, **policy: Any) -> Environments:
    return Environments(directory, EnvironmentPolicy(**{"packages": None, "find_links": str(wheels), **policy}))


def left_in(directory: Path) -> set[str]:
    return {path.suffix for path in directory.iterdir() if not path.name.startswith("library")}


def logs_in(directory: Path) -> list[str]:
    return [path.read_text() for path in directory.glob("*.log")]


def says(lease: Lease, expression: str) -> str:
    command = [str(lease.python), "-P", "-c", f"import headrace.endpoint.worker.__main__; {expression}"]
    return subprocess.run(command, capture_output=True, check=True, text=True, env={}).stdout.strip()


async def test_an_environment_has_what_was_asked_for_and_runs_workers(tmp_path: Path, wheels: Path) -> None:
    told: list[str] = []
    known = environments(tmp_path, wheels)

    lease = await known.use(Needs.of(["Moon"]), told.append)
    again = await environments(tmp_path, wheels).use(Needs.of(["moon"]), told.append)

    assert says(lease, "import moon; print(moon.PULL)") == "20"
    assert again.python == lease.python
    assert told[0] == "making an environment for Python with moon"
    assert len([text for text in told if text.startswith("installing")]) == 1
    about = json.loads((tmp_path / f"{lease.key}.json").read_text())
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))
    # What the endpoint has installed is not there: it is an environment of its own.
    assert says(lease, "import importlib.util as u; print(u.find_spec('httpx'))") == "None"
    lease.close()
    again.close()


async def test_those_who_need_the_same_at_the_same_time_build_it_once(tmp_path: Path, wheels: Path) -> None:
    told: list[str] = []
    both = [environments(tmp_path, wheels) for _ in range(2)]

    first, second = await asyncio.gather(*(each.use(Needs.of(["tide==1.0"]), told.append) for each in both))

    assert first.python == second.python
    assert told.count("installing tide==1.0") == 1
    assert says(first, "import tide; print(tide.LEVEL)") == "1"
    first.close()
    second.close()


async def test_what_cannot_be_built_says_so_with_the_tool_s_words_and_leaves_nothing(
    tmp_path: Path, wheels: Path
) -> None:
    known = environments(tmp_path, wheels)

    with pytest.raises(EnvironmentUnusable, match=r"tide>=9\) cannot be made on this endpoint:\n(.|\n)*tide"):
        await known.use(Needs.of(["tide>=9"]), lambda _: None)

    assert left_in(tmp_path) == {".lock", ".log"}
    with pytest.raises(EnvironmentUnusable, match="not there after"):
        await environments(tmp_path, wheels, build_timeout_s=0.001).use(Needs.of(["tide"]), lambda _: None)
    with pytest.raises(EnvironmentUnusable, match="most_bytes"):
        await environments(tmp_path, wheels, most_bytes=10).use(Needs.of(["tide"]), lambda _: None)


async def test_the_password_of_an_index_is_in_no_command_line_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    start = asyncio.create_subprocess_exec

    async def watched(*command: str, **options: Any) -> asyncio.subprocess.Process:
        seen.extend(command)
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    policy = EnvironmentPolicy(packages=None, index_url="http://ada:s3cret@127.0.0.1:1/simple")

    with pytest.raises(EnvironmentUnusable) as refused:
        await Environments(tmp_path, policy).use(Needs.of(["tide"]), lambda _: None)

    assert "tide" in seen
    assert "s3cret" not in "\n".join([str(refused.value), *seen, *logs_in(tmp_path)])
    assert "127.0.0.1" in str(refused.value)


async def test_the_longest_unused_one_goes_unless_somebody_has_it(tmp_path: Path, wheels: Path) -> None:
    known = environments(tmp_path, wheels, most=1)
    first = await known.use(Needs.of(["tide==1.0"]), lambda _: None)
    os.utime(tmp_path / f"{first.key}.json", (1, 1))

    second = await known.use(Needs.of(["tide==2.0"]), lambda _: None)
    assert first.python.exists()
    first.close()
    second.close()
    known.evict()

    assert not first.python.exists()
    assert second.python.exists()


@pytest.mark.parametrize("kind", ENGINES)
async def test_workers_on_other_machines_run_in_it_where_they_see_its_files(
    kind: str, tmp_path: Path, wheels: Path
) -> None:
    engine, needs = ENGINES[kind]
    pytest.importorskip(needs, reason="this environment is older than the extra, which `dev` has")
    lease = await environments(tmp_path, wheels).use(Needs.of(["tide>=2"]), lambda _: None)
    own = "import tide, sys\ndef f(): return tide.LEVEL, sys.prefix"

    async with running(1, engine_of=engine_with(engine, lease.python, tmp_path / "engine")) as bench:
        key = bench.submit(own)
        await bench.outcome(key, within_s=60)
        assert await bench.value(key) == (2, str(lease.python.parents[1]))
    lease.close()
    if kind == "parsl":
        return  # the place would be the same
    async with running(1, engine_of=engine_with(engine, tmp_path / "elsewhere" / "python", tmp_path / "two")) as bench:
        failure = await bench.failure(bench.submit(own))
        assert failure.code == "EnvironmentUnusable"
        assert "elsewhere/python, which is not there on the node" in failure.message


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"type": "ThreadEngine"}, "threads of this endpoint's ThreadEngine"),
        ({"container_type": "podman", "container_uri": "python:3.12"}, "`RUN pip install tide>=2`"),
    ],
)
def test_where_functions_cannot_have_one_they_are_told_what_to_do(engine: dict[str, str], told: str) -> None:
    needs = Needs.of(["tide>=2"]).text

    with pytest.raises(EnvironmentRefused, match=re.escape(told)):
        check_environment(needs, EnvironmentPolicy(packages=None), engine_settings(engine))

    check_environment("", EnvironmentPolicy(), engine_settings(engine))
    for other in ({"type": "ParslEngine"}, {"type": "DaskEngine"}, {}):
        check_environment(needs, EnvironmentPolicy(packages=None), engine_settings(other))


@pytest.mark.parametrize(
    ("said", "allowed", "refused"),
    [
        ("off", [], ["tide"]),
        ("on", ["tide", "moon @ https://example.org/moon-1-py3-none-any.whl"], []),
        ("[Tide]", ["tide>=2"], ["moon", "tide @ https://example.org/tide-1-py3-none-any.whl"]),
        ("{packages: on, index_url: 'https://pypi.example.org/simple', most_bytes: 5GB}", ["moon"], []),
        ("{packages: [tide], find_links: /srv/wheels}", ["tide"], ["moon"]),
    ],
)
def test_the_administrator_says_what_may_be_installed(said: str, allowed: list[str], refused: list[str]) -> None:
    policy = EndpointConfig.parse(f"environments: {said}\n").environments

    for entry in allowed:
        policy.check(Needs.of([entry]))
    for entry in refused:
        with pytest.raises(EnvironmentUnusable):
            policy.check(Needs.of([entry]))
    policy.check(Needs())


@pytest.mark.parametrize("said", ["maybe", "[]", "['tide>=2']", "{package: on}", "{most: 0}", "{index_url: here}", "3"])
def test_a_policy_that_cannot_be_is_refused_with_its_line(said: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"line 1: .*environments"):
        EndpointConfig.parse(f"environments: {said}\n")


async def test_another_python_than_there_is_is_told(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"3\.99"):
        await environments(tmp_path, wheels, python_downloads=False).use(Needs.of([], "3.99"), lambda _: None)
