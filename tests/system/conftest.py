"""What `tests/system/install` made, for tests: images, and runtimes that write only to a directory of tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from headrace.endpoint.engines.containers.runtimes import RUN_DIRECTORY

PREPARED = Path(os.environ.get("SYSTEM_TESTS", Path(__file__).parents[2] / ".system-tests")).absolute()

_CONTAINERS = """\
# A test machine may keep root from raising limits, has mixed cgroups, and no network to give.
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
[engine]
runtime = "runc"
"""

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/graph"
runroot = "{0}/run"
"""


@pytest.fixture(scope="session")
def root_file_system() -> Path:
    """An unpacked Debian with Python, and nothing of Headrace."""
    root = PREPARED / "rootfs"
    assert root.is_dir(), f"{root} is not there: run `make test-system`"
    return root


@pytest.fixture(scope="session")
def bubblewrap(root_file_system: Path) -> str:
    """The command of a custom container in it."""
    return (
        f"bwrap --ro-bind {root_file_system} / --proc /proc --dev /dev --tmpfs /tmp --unshare-pid --die-with-parent"
        f" --bind {RUN_DIRECTORY} {RUN_DIRECTORY} {{EXECUTOR_LAUNCH_CMD}}"
    )


@pytest.fixture(scope="session")
def docker(root_file_system: Path) -> Iterator[dict[str, str]]:
    """The environment in which docker has the image `headrace-test`; a daemon of ours, with no network to give."""
    # A socket has a short name.
    with tempfile.TemporaryDirectory(prefix="docker-") as place:
        environment = {"DOCKER_HOST": f"unix://{place}/socket"}
        options = [f"--{name}={place}/{name}" for name in ("data-root", "exec-root", "pidfile")]
        options += [
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=overlay2",
            "--shutdown-timeout=1",
        ]
        with Path(place, "log").open("wb") as log:
            daemon = subprocess.Popen(
                ["/usr/sbin/dockerd", f"--host=unix://{place}/socket", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            asked = ["docker", "version"]

            def answers() -> bool:
                assert daemon.poll() is None, Path(place, "log").read_text()[-2000:]
                told = subprocess.run(asked, env={**os.environ, **environment}, capture_output=True, check=False)
                return told.returncode == 0

            eventually(answers, 60, "docker's daemon answers")
            with subprocess.Popen(["tar", "-C", root_file_system, "-c", "."], stdout=subprocess.PIPE) as tar:
                subprocess.run(
                    ["docker", "import", "-", "headrace-test"],
                    stdin=tar.stdout,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, **environment},
                    check=True,
                )
            yield environment
        finally:
            daemon.terminate()
            daemon.wait(30)


@pytest.fixture(scope="session")
def podman(root_file_system: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which podman has the image `headrace-test`."""
    directory = tmp_path_factory.mktemp("podman")
    (directory / "containers.conf").write_text(_CONTAINERS)
    (directory / "storage.conf").write_text(_STORAGE.format(directory))
    environment = {
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
    }
    with subprocess.Popen(["tar", "-C", root_file_system, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["podman", "import", "--quiet", "-", "headrace-test"],
            stdin=tar.stdout,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **environment},
            check=True,
        )
    yield environment

    def podman_ends_with(*words: str) -> int:
        command = ["podman", *words, "headrace-test"]
        return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False).returncode

    def removed() -> bool:
        podman_ends_with("rmi", "--force")
        return podman_ends_with("image", "exists") != 0

    # A quarter of a gigabyte, which pytest would keep for three runs. A container may still be on its way out.
    eventually(removed, 10, "the image is removed")
