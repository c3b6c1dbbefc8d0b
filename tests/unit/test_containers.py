"""The commands of container runtimes, and what is refused before one is started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.endpoint.engines.containers.luggage import pack
from headrace.endpoint.engines.containers.meeting import last_lines
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.settings import engine_settings
from headrace.endpoint.errors import EngineSettingsInvalid

RUN = Path("/lab/pool default.engine")
CODE = RUN / "code"
LAUNCH = ["python3", f"{CODE}/headrace/endpoint/worker/in_container.py", "headrace.endpoint.worker", "a b", "1"]


def container(kind: str, **fields: Any) -> Container:
    return Container(kind=kind, **{"image": "lab:1", "directory": RUN, **fields})


def command(kind: str, **fields: Any) -> list[str]:
    return container(kind, **fields).command(["a b", "1"], name="headrace-1")


def test_docker_runs_the_image_as_us_with_one_directory_of_the_pool_and_the_code_read_only() -> None:
    line = command("docker", options="--gpus 'all, really' -v /data:/data", variables=("TOKEN",))

    assert line == [
        "docker",
        "run",
        "--rm",
        "--name=headrace-1",
        f"--volume={RUN}:{RUN}",
        f"--volume={CODE}:{CODE}:ro",
        "--security-opt=label=disable",
        f"--user={os.getuid()}:{os.getgid()}",
        "--env=TOKEN",
        "--gpus",
        "all, really",
        "-v",
        "/data:/data",
        "lab:1",
        *LAUNCH,
    ]


@pytest.mark.parametrize("kind", ["podman", "podman-hpc"])
def test_in_podman_the_root_of_the_container_is_us(kind: str) -> None:
    line = command(kind)

    assert line[:4] == [kind, "run", "--rm", "--name=headrace-1"]
    assert "--user=0:0" in line
    assert line[-len(LAUNCH) - 1 :] == ["lab:1", *LAUNCH]


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_binds_the_same_directories(kind: str) -> None:
    line = command(kind, image="docker://python:3.12", options="--nv")

    assert line == [
        kind,
        "run",
        f"--bind={RUN}",
        f"--bind={CODE}:{CODE}:ro",
        "--nv",
        "docker://python:3.12",
        *LAUNCH,
    ]


def test_what_is_filled_into_a_template_stays_one_word_wherever_it_stands() -> None:
    template = "FOO --bind {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} {CONTAINER_URI} {EXECUTOR_LAUNCH_CMD}"
    assert command("custom", options=template) == ["FOO", "--bind", f"{RUN}:{RUN}", "lab:1", *LAUNCH]

    inside = command("custom", options='bash -c "exec {EXECUTOR_LAUNCH_CMD}"')
    assert inside[:2] == ["bash", "-c"]
    assert shlex.split(inside[2]) == ["exec", *LAUNCH]


def test_only_a_container_that_a_daemon_keeps_is_ended_by_its_name() -> None:
    assert container("docker").ending("headrace-1") == ["docker", "kill", "headrace-1"]
    assert container("podman").ending("headrace-1") == ["podman", "kill", "headrace-1"]
    assert container("apptainer").ending("headrace-1") is None
    assert container("custom", options="bwrap {EXECUTOR_LAUNCH_CMD}").ending("headrace-1") is None


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"container_type": "custom"}, "engine.container_type: needs container_cmd_options"),
        ({"container_type": "custom", "container_cmd_options": "bwrap"}, "has no {EXECUTOR_LAUNCH_CMD}"),
        ({"container_type": "custom", "container_cmd_options": "{EXECUTOR_LAUNCH_CMD}"}, "begins with"),
        ({"container_type": "custom", "container_cmd_options": "a 'b"}, "cannot be split into words: no closing"),
        (
            {"container_type": "custom", "container_cmd_options": "a {EXECUTOR_LAUNCH_CMD}", "container_uri": "x"},
            "engine.container_uri: does nothing: write {CONTAINER_URI}",
        ),
        (
            {"container_type": "docker", "container_uri": "x", "container_cmd_options": "-v '"},
            "engine.container_cmd_options: cannot be split into words",
        ),
        (
            {"container_type": "docker", "container_uri": "--volume=/:/host"},
            "engine.container_uri: begins with '-', which would be an option",
        ),
        (
            {
                "container_type": "custom",
                "container_cmd_options": "a {CONTAINER_URI} {EXECUTOR_LAUNCH_CMD}",
                "container_uri": "--privileged",
            },
            "engine.container_uri: begins with '-', which would be an option",
        ),
    ],
)
def test_a_command_that_cannot_be_made_is_refused_with_its_configuration(keys: dict[str, str], problem: str) -> None:
    with pytest.raises(EngineSettingsInvalid) as refused:
        engine_settings(keys)

    assert problem in str(refused.value)


def test_what_is_packed_is_all_that_a_bare_python_needs(tmp_path: Path) -> None:
    pack(tmp_path)

    start = tmp_path / "headrace" / "endpoint" / "worker" / "in_container.py"
    # -I -S: no site-packages, no PYTHONPATH, nothing of this environment.
    base = Path(sys.base_prefix) / "bin" / "python3"
    checked = subprocess.run(
        [base, "-I", "-S", start, "headrace.endpoint.worker", "--check"], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_image_that_cannot_use_our_msgspec_is_told_what_it_lacks(tmp_path: Path) -> None:
    pack(tmp_path)
    for compiled in (tmp_path / "dependencies" / "msgspec").glob("_core*"):
        compiled.unlink()

    start = tmp_path / "headrace" / "endpoint" / "worker" / "in_container.py"
    base = Path(sys.base_prefix) / "bin" / "python3"
    checked = subprocess.run(
        [base, "-I", "-S", start, "headrace.endpoint.worker", "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 1
    assert "install both in the image (pip install msgspec cloudpickle)" in checked.stderr


def test_of_what_a_runtime_says_the_last_lines_are_told() -> None:
    assert last_lines(b"") == ""
    assert last_lines(b"one\n\n  two \n\xff\n") == "one / two / \ufffd"
    assert last_lines("\n".join(map(str, range(20))).encode()) == "12 / 13 / 14 / 15 / 16 / 17 / 18 / 19"
