"""An ordinary user's own endpoint with workers in podman: no root anywhere, but the users that it maps to."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headrace_up import Up, headrace_up
from other_users import interpreter_for, local_user
from waiting import eventually

from headrace.endpoint.directory import EndpointDirectory
from headrace.sdk import Client, Executor

pytestmark = pytest.mark.timeout(240)

EVE = "hr-test-eve"
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{home}/graph"
runroot = "{home}/run"
"""
CONFIG = """\
workers: 1
engine:
  type: ProcessEngine
  container_type: podman
  container_uri: headrace-test
  container_cmd_options: --volume {shared}:{shared}
"""


class User:
    """Eve, and what is started as her."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.uid = pwd.getpwnam(EVE).pw_uid
        self.environment = {
            "HOME": str(home),
            "USER": EVE,
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(home / "runtime"),
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
        }

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process of hers, which is no child of another one."""
        who: dict[str, Any] = {"user": self.uid, "group": pwd.getpwnam(EVE).pw_gid, "extra_groups": []}
        return subprocess.Popen(command, cwd=self.home, env=self.environment, **who, **options)

    def own(self, path: Path, text: str | None = None) -> Path:
        """A file of hers with this text, or a directory."""
        if text is None:
            path.mkdir(mode=0o700)
        else:
            path.write_text(text)
            path.chmod(0o600)
        shutil.chown(path, EVE, EVE)
        return path


@pytest.fixture(scope="module")
def eve(root_file_system: Path) -> Iterator[User]:
    """Her account, with podman, which has the image."""
    with local_user(EVE) as home:
        user = User(home)
        user.own(home / "runtime")
        user.own(home / "containers.conf", CONTAINERS)
        user.own(home / "storage.conf", STORAGE.format(driver="overlay", home=home))
        # Devices are root's to make.
        tar = ["tar", "-C", str(root_file_system), "--exclude=./dev/*", "-c", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as files:
            told = user.start(
                "podman", "import", "--quiet", "-", "headrace-test", stdin=files.stdout, stdout=subprocess.DEVNULL
            )
            assert told.wait(120) == 0
        try:
            yield user
        finally:
            # Files of users that only podman's namespace knows are removed from within it.
            user.start("podman", "system", "reset", "--force", stdout=subprocess.DEVNULL).wait(60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with headrace_up(tmp_path_factory.mktemp("up") / "home", "--no-endpoint", "--durability", "relaxed") as running:
        yield running


@pytest.fixture(scope="module")
def executor(up: Up, eve: User) -> Iterator[Executor]:
    """For the endpoint that she runs."""
    home = eve.own(eve.home / "headrace")
    token = eve.own(eve.home / "token", up.token)
    shared = eve.own(eve.home / "shared")
    with interpreter_for(EVE) as python, (eve.home / "endpoint.log").open("wb") as log:
        command = [python, "-m", "headrace.cli.main", "endpoint"]
        assert eve.start(*command, "configure", "hers", "--home", str(home), stdout=log, stderr=log).wait(60) == 0
        directory = EndpointDirectory(home / "endpoints" / "hers")
        eve.own(directory.path / "config.yaml", CONFIG.format(shared=shared))
        for name in ("user_config_template.yaml.j2", "user_config_schema.json"):
            (directory.path / name).unlink(missing_ok=True)
        options = ["--home", str(home), "--url", up.url, "--token-file", str(token)]
        process = eve.start(*command, "start", "hers", *options, stdout=log, stderr=log)
        try:
            serves = directory.pool_file("default", "status.json")
            eventually(lambda: serves.exists() or process.poll() is not None, 60)
            assert process.poll() is None, (eve.home / "endpoint.log").read_text()
            registration = directory.registration()
            assert registration is not None
            with Client(up.url, up.token) as client, Executor(registration.endpoint_id, client) as executor:
                yield executor
        finally:
            process.terminate()
            process.wait(30)


def look(path: str) -> tuple[int, int, bool]:
    """Who this is inside, its process id there, and whether the files are those of the image."""
    import pathlib

    (pathlib.Path(path) / "made").write_text("inside")
    return os.getuid(), os.getpid(), pathlib.Path("/etc/debian_version").exists()


def test_tasks_run_in_her_containers_and_what_they_write_is_hers(executor: Executor, eve: User) -> None:
    uid, pid, is_image = executor.submit(look, str(eve.home / "shared")).result(120)

    assert (uid, is_image) == (0, True)
    assert pid < 100, "the number is one of a container"
    assert (eve.home / "shared" / "made").stat().st_uid == eve.uid


def test_a_task_that_is_cancelled_with_force_ends_with_its_container(executor: Executor, eve: User) -> None:
    def stay(folder: str) -> None:
        import pathlib
        import time

        (pathlib.Path(folder) / "stays").touch()
        time.sleep(600)  # until its pool is stopped

    future = executor.submit(stay, str(eve.home / "shared"))
    eventually((eve.home / "shared" / "stays").exists, 60, "it runs")

    future.cancel(force=True)

    assert executor.submit(abs, -1).result(60) == 1
