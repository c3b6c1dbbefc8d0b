"""`headrace backup` and `restore`: an installation that works, copied into one file, and going on from it elsewhere."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from headrace_up import Up, headrace_up
from waiting import eventually

from headrace.cli.archive import Archive
from headrace.cli.errors import ArchiveUnusable
from headrace.sdk import Client, Executor

WITHIN_S = 60.0


def headrace(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


def client_of(up: Up) -> Client:
    return Client(up.url, up.token)


def _stored(client: Client, executor: Executor) -> set[str]:
    return {task["task_id"] for task in client.get_task_group(executor.task_group_id)["tasks"]}


def note(path: str, number: int) -> int:
    import os

    # One write of a few bytes with O_APPEND is whole.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{number}\n".encode())
    os.close(handle)
    return number


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A backup that was made under load, and what had been acknowledged before it began."""
    directory = tmp_path_factory.mktemp("original")
    known: dict[str, Any] = {"notes": str(directory / "notes")}
    path = directory / "backup.tar"
    with headrace_up(directory / "home", "--workers", "2") as up, client_of(up) as client:
        offline = client.register_endpoint("not started")
        queued = [
            client.submit(offline["endpoint_id"], client.register_source_code("def f(x):\n    return x + 1\n"), [n])
            for n in range(3)
        ]
        known |= {"endpoint": offline, "queued": queued, "user": client.create_user("ada")}
        known["token"] = client.create_token("ada")["token"]
        stop = threading.Event()
        with Executor(up.endpoint_id, client=client) as executor:
            known["group"] = str(executor.task_group_id)
            early = [executor.submit(note, known["notes"], number) for number in range(300)]
            wait(early, WITHIN_S)

            def load() -> None:
                for number in itertools.count(1_000_000):
                    futures = [executor.submit(note, known["notes"], number + each) for each in range(20)]
                    wait(futures, WITHIN_S)
                    if stop.is_set():
                        return

            busy = threading.Thread(target=load)
            busy.start()
            try:
                # Stored, and some of them unfinished, when the backup begins.
                late = [executor.submit(note, known["notes"], 1000 + number) for number in range(1000)]
                eventually(lambda: all(future.task_id for future in late), WITHIN_S, "all are on their way")
                known["acknowledged"] = [str(future.task_id) for future in early + late]
                eventually(lambda: set(known["acknowledged"]) <= _stored(client, executor), WITHIN_S, "all are stored")
                known["said"] = headrace("backup", str(path), "--home", str(up.home))
            finally:
                stop.set()
                busy.join()
            wait(late, WITHIN_S)
    return path, known


def test_a_backup_under_load_goes_on_elsewhere_with_every_task_ending_once(
    archive: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, known = archive
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir() if "backup.tar" in each.name] == ["backup.tar"]
    home = tmp_path / "elsewhere" / "home"
    headrace("restore", str(path), "--home", str(home))
    assert home.stat().st_mode & 0o777 == 0o700

    with headrace_up(home) as up, client_of(up) as client:
        # The same installation: its administrator, its users, its endpoints and their credentials.
        assert up.token == (home / "admin.token").read_text().strip()
        with Client(up.url, known["token"]) as ada:
            assert ada.whoami()["principal"] == known["user"]["principal"]
        with Client(up.url, known["endpoint"]["endpoint_token"]) as endpoint:
            assert endpoint.get_endpoint_status(known["endpoint"]["endpoint_id"])["name"] == "not started"
        assert all(client.get_task(task)["state"] == "pending" for task in known["queued"])

        # Whatever was acknowledged before the backup ends, and has one result.
        states = Counter(client.get_task(task, wait_s=WITHIN_S)["state"] for task in known["acknowledged"][::7])
        assert set(states) == {"succeeded"}
        eventually(lambda: _unfinished(client, up) == 0, WITHIN_S, "the queue is empty")
        ended = [task["task_id"] for task in client.list_tasks(state="succeeded", page_size=1000)]
        assert len(ended) == len(set(ended))
        assert set(known["acknowledged"]) <= set(ended)

        # And it goes on: new tasks run, a reader from before finds its results.
        with Executor(up.endpoint_id, client=client, task_group_id=known["group"]) as executor:
            assert executor.submit(pow, 2, 10).result(WITHIN_S) == 1024
            assert len(executor.reload_tasks()) >= 1300


def _unfinished(client: Client, up: Up) -> int:
    return len(list(client.list_tasks(state=("pending", "running"), endpoint_id=up.endpoint_id, page_size=1000)))


def test_a_home_that_is_not_up_is_backed_up_as_well_and_nothing_is_overwritten(
    archive: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, _ = archive
    home, again = str(tmp_path / "one"), tmp_path / "again.tar"
    headrace("restore", str(path), "--home", home)
    # The first archive was made under load, so its counts are those of a moment; from here on nothing moves.
    other, quiet = str(tmp_path / "two"), tmp_path / "quiet.tar"
    (tmp_path / "one" / "globus.yaml").write_text("client_secret: hush\n")
    headrace("backup", str(quiet), "--home", home)
    headrace("restore", str(quiet), "--home", other)
    kept = tmp_path / "two" / "globus.yaml"
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("client_secret: hush\n", 0o600)
    headrace("backup", str(again), "--home", other)
    assert "exists already" in headrace("backup", str(again), "--home", home, ok=False).stderr
    assert "not empty" in headrace("restore", str(path), "--home", home, ok=False).stderr
    first, was, now = ({copy.name: copy for copy in Archive.checked(each).streams} for each in (path, quiet, again))
    assert first.keys() == was.keys() == now.keys()
    for name in ("TASKS", "RESULTS", "KV_functions"):
        assert now[name].state["messages"] == was[name].state["messages"]
        assert now[name].state["last_seq"] == was[name].state["last_seq"]


def changed(path: Path, change: Any) -> bytes:
    """The archive with `change(name, content)` in the place of each member; None leaves it out."""
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            replaced = change(member.name, file.read())
            if replaced is not None:
                name, content = replaced
                info = tarfile.TarInfo(name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return out.getvalue()


DAMAGES: dict[str, Any] = {
    "no tar": lambda path: b"a text\n" * 1000,
    "another tar": lambda path: changed(path, lambda n, c: None if n == "headrace-backup.json" else (n, c)),
    "cut off": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "no manifest": lambda path: changed(path, lambda n, c: None if n == "manifest.json" else (n, c)),
    "one byte": lambda path: changed(
        path, lambda n, c: (n, c[:-1] + bytes([c[-1] ^ 1])) if n.startswith("streams/TASKS/") else (n, c)
    ),
    "a chunk less": lambda path: changed(path, lambda n, c: None if n == "streams/TASKS/00000001" else (n, c)),
    "a key less": lambda path: changed(path, lambda n, c: None if n == "home/keys/master.key" else (n, c)),
    "outside": lambda path: changed(
        path, lambda n, c: ("home/endpoints/../../../escaped/config.yaml" if n == "home/admin.token" else n, c)
    ),
    "a later version": lambda path: changed(
        path,
        lambda n, c: (n, json.dumps({"format": "headrace-backup", "version": 2}).encode() if "-backup" in n else c),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_whole_backup_is_refused(archive: tuple[Path, dict[str, Any]], damage: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(DAMAGES[damage](archive[0]))
    with pytest.raises(ArchiveUnusable, match=r"broken\.tar"):
        Archive.checked(broken)


def test_a_damaged_backup_leaves_nothing_behind(archive: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(DAMAGES["a key less"](archive[0]))
    said = headrace("restore", str(broken), "--home", str(tmp_path / "new" / "home"), ok=False)
    assert "keys/master.key" in said.stderr
    assert "Traceback" not in said.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["broken.tar"]
