"""Pools of a multi-user endpoint run as the local users of those who submit: with real users, made for the test."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from headrace_up import Up, headrace_up
from other_users import interpreter_for, local_user
from waiting import eventually

from headrace.endpoint.directory import EndpointDirectory, Endpoints
from headrace.endpoint.local_users import LocalUser
from headrace.endpoint.user_directory import UserDirectory
from headrace.endpoint.user_pools import POOLS_PATH
from headrace.sdk import Client, Executor, PoolFailed

ADA, BOB = "hr-test-ada", "hr-test-bob"
MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [
            {"source": "{username}", "match": "mallory", "output": "root", "literal": True},
            {"source": "{email}", "match": "(.*)@example\\.org", "output": "hr-test-{0}"},
            {"source": "{username}", "match": "gone", "output": "hr-test-nobody-has-this"},
        ],
    }
]
LOOK = """\
def look(secret, others):
    import os, pathlib, pwd
    status = pathlib.Path("/proc/self/status").read_text()
    fields = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)

    def tried(act):
        try:
            act()
        except OSError as error:
            return type(error).__name__
        return "done"

    return {
        "uids": fields["Uid"].split(), "gids": fields["Gid"].split(), "groups": fields["Groups"].split(),
        "no_new_privs": fields["NoNewPrivs"], "capabilities": fields["CapEff"], "session": os.getsid(0),
        "name": pwd.getpwuid(os.geteuid()).pw_name, "cwd": os.getcwd(), "environment": dict(os.environ),
        "secret": tried(lambda: open(secret).read()), "others": tried(lambda: os.listdir(others)),
        "root": tried(lambda: os.setuid(0)), "file": tried(lambda: open("mine", "w").close()),
    }
"""


@pytest.fixture(scope="module")
def users() -> Iterator[None]:
    """Two users and a group of this machine."""
    with local_user(ADA), local_user(BOB):
        subprocess.run(["groupadd", "hr-test-lab"], check=True)
        subprocess.run(["usermod", "--append", "--groups", "hr-test-lab", ADA], check=True)
        try:
            yield
        finally:
            subprocess.run(["groupdel", "hr-test-lab"], check=True)


@pytest.fixture(scope="module")
def python(users: None) -> Iterator[str]:
    """An interpreter with Headrace that those users may run."""
    with interpreter_for(ADA) as made:
        yield made


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, users: None) -> Iterator[Up]:
    with headrace_up(tmp_path_factory.mktemp("up") / "home", "--no-endpoint", "--durability", "relaxed") as running:
        yield running


@pytest.fixture(scope="module")
def lab(up: Up, python: str) -> Iterator[EndpointDirectory]:
    """A multi-user endpoint, started by root."""
    home = up.home.parent / "lab-home"
    directory = Endpoints(home).create(
        "lab", config="public: true\nidentity_mapping_config_path: who.json\naudit_log_path: audit.log\nworkers: 1\n"
    )
    (directory.path / "who.json").write_text(json.dumps(MAPPING))
    (directory.path / "user_config_template.yaml.j2").write_text(
        "environment: {MAPPED: {{ _GC.mapped_identity.local.uname }}}\n"
    )
    token = home / "token"
    token.write_text(up.token)
    token.chmod(0o600)
    command = [python, "-m", "headrace.cli.main", "endpoint", "start", "lab", "--home", str(home)]
    with directory.log_file.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--url", up.url, "--token-file", str(token)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HEADRACE_TEST_SECRET": "of root"},
        )
    try:
        eventually(lambda: directory.pool_file("default", "status.json").exists() or process.poll() is not None, 20)
        assert process.poll() is None, directory.log_file.read_text()
        yield directory
    finally:
        process.terminate()
        process.wait(20)
        registration = directory.registration()
        if registration is not None:
            shutil.rmtree(POOLS_PATH / str(registration.endpoint_id), ignore_errors=True)


@contextlib.contextmanager
def submitting(up: Up, lab: EndpointDirectory, name: str) -> Iterator[Executor]:
    """An Executor of a user of the service, who is added when there is none yet."""
    registration = lab.registration()
    assert registration is not None
    with Client(up.url, up.token) as admin:
        if name not in {each["name"] for each in admin.list_users()}:
            admin.create_user(name)
        token = admin.create_token(name)["token"]
    with Client(up.url, token) as client, Executor(registration.endpoint_id, client=client) as executor:
        yield executor


def look(up: Up, lab: EndpointDirectory, name: str, others: Path) -> dict[str, Any]:
    with submitting(up, lab, name) as executor:
        function = executor.register_source_code(LOOK, "look")
        future = executor.submit_to_registered_function(function, (str(lab.token_file), str(others)))
        found: dict[str, Any] = future.result(60)
        return found


def test_a_pool_is_the_local_user_for_good_and_sees_nothing_of_root_or_others(up: Up, lab: EndpointDirectory) -> None:
    ada = look(up, lab, "ada@example.org", Path("/"))
    bob = look(up, lab, "bob@example.org", Path(ada["cwd"]))
    for found, name in ((ada, ADA), (bob, BOB)):
        known = pwd.getpwnam(name)
        assert found["name"] == name
        assert set(found["uids"]) == {str(known.pw_uid)}
        assert set(found["gids"]) == {str(known.pw_gid)}
        assert set(found["groups"]) == {str(group) for group in os.getgrouplist(name, known.pw_gid)}
        assert int(found["capabilities"], 16) == 0
        assert found["no_new_privs"] == "1"
        assert found["session"] != os.getsid(0)
        assert (found["environment"]["HOME"], found["environment"]["USER"]) == (known.pw_dir, name)
        assert found["environment"]["MAPPED"] == name
        assert "HEADRACE_TEST_SECRET" not in found["environment"]
        assert (found["secret"], found["root"], found["file"]) == ("PermissionError", "PermissionError", "done")
        assert Path(found["cwd"]).stat().st_uid == known.pw_uid
    assert bob["others"] == "PermissionError"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mallory", "as mighty"),
        ("gone", "no local user 'hr-test-nobody-has-this'"),
        ("stranger", "nothing that matches"),
    ],
)
def test_who_is_root_or_nobody_here_gets_no_pool_and_is_told(
    up: Up, lab: EndpointDirectory, name: str, message: str
) -> None:
    with submitting(up, lab, name) as executor, pytest.raises(PoolFailed, match=message):
        executor.submit(os.getuid).result(30)


def test_the_audit_log_is_roots_and_says_who_ran_what_as_whom(up: Up, lab: EndpointDirectory) -> None:
    with submitting(up, lab, "ada@example.org") as executor:
        future = executor.submit(os.getpid)
        future.result(60)
    path = lab.path / "audit.log"
    eventually(lambda: path.exists() and str(future.task_id) in path.read_text(), 10)
    lines = {each.get("task_id"): each for each in map(json.loads, path.read_text().splitlines())}
    line = lines[str(future.task_id)]
    assert (line["principal"], line["user"], line["state"]) == ("urn:headrace:user:ada@example.org", ADA, "succeeded")
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)


def test_what_a_local_user_puts_in_place_of_its_pools_files_harms_nobody(up: Up, lab: EndpointDirectory) -> None:
    source = """\
def spoil(victim):
    import os, pathlib
    for path in pathlib.Path(".").glob("pool-*.status.json"):
        os.mkfifo("spoilt")
        os.replace("spoilt", path)  # in one step: the pool writes it again and again
    for path in pathlib.Path(".").glob("pool-*.pids"):
        pathlib.Path("spoilt").write_text(f"{victim}\\n")
        os.replace("spoilt", path)
    return len(os.listdir("."))
"""
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as victim:
        try:
            with submitting(up, lab, "bob@example.org") as executor:
                function = executor.register_source_code(source, "spoil")
                assert executor.submit_to_registered_function(function, (victim.pid,)).result(60) > 0
            with submitting(up, lab, "ada@example.org") as executor:
                assert executor.submit(os.getuid).result(60) == pwd.getpwnam(ADA).pw_uid
            assert victim.poll() is None
        finally:
            victim.kill()


def test_who_is_taken_out_of_the_mapping_loses_the_pool_at_the_next_reload(up: Up, lab: EndpointDirectory) -> None:
    pid, mapping = lab.running_pid(), (lab.path / "who.json").read_text()
    assert pid is not None
    with submitting(up, lab, "bob@example.org") as executor:
        assert executor.submit(os.getuid).result(60) == pwd.getpwnam(BOB).pw_uid
        pool = executor.submit(os.getppid).result(60)
        assert Path(f"/proc/{pool}").stat().st_uid == pwd.getpwnam(BOB).pw_uid
        try:
            (lab.path / "who.json").write_text(mapping.replace("(.*)@example", "(ada)@example"))
            os.kill(pid, signal.SIGHUP)
            eventually(lambda: not Path(f"/proc/{pool}").exists(), 20)
        finally:
            (lab.path / "who.json").write_text(mapping)
    with submitting(up, lab, "bob@example.org") as executor, pytest.raises(PoolFailed, match="nothing that matches"):
        executor.submit(os.getuid).result(30)
    os.kill(pid, signal.SIGHUP)
    # Both changes: that of the beginning, and back.
    eventually(lambda: lab.log_file.read_text().count("Changed: who is which local user") == 2, 10)


def test_what_another_local_user_left_of_a_pool_is_not_the_next_ones(tmp_path: Path) -> None:
    def directory(uid: int) -> UserDirectory:
        user = LocalUser(name=str(uid), uid=uid, gid=uid, groups=(), home="/", shell="")
        return UserDirectory(EndpointDirectory(tmp_path / "lab"), tmp_path / "pools", UUID(int=1), "p-1", user)

    before, after = directory(60_001), directory(60_002)
    before.prepare()
    (before.work / "mine").touch()
    before.prepare()
    assert (before.work / "mine").exists()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (before.work / "pool-p-1.status.json.new").symlink_to(victim)

    after.prepare()

    assert list(after.work.iterdir()) == []
    assert after.work.stat().st_uid == 60_002
    assert (victim / "kept").exists()
