"""The file of the audit log: whole lines, private, moved away when it is long."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from uuid import UUID

import pytest

from headrace.endpoint.audit import OLD_FILES, AuditFile, audit_line, collect


def lines_of(*paths: Path) -> list[int]:
    return [json.loads(line)["number"] for path in paths for line in path.read_text().splitlines()]


def test_an_audit_log_is_for_its_owner_only(tmp_path: Path) -> None:
    AuditFile(tmp_path / "audit.log").append(audit_line("something", number=1))
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600
    assert lines_of(tmp_path / "audit.log") == [1]


def test_a_long_file_is_moved_away_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for number in range(OLD_FILES + 5):
        AuditFile(path, longest_bytes=10).append(audit_line("something", number=number))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(f"audit.log.{n + 1}" for n in range(OLD_FILES))
    assert lines_of(tmp_path / "audit.log.1") == [OLD_FILES + 4]
    assert lines_of(tmp_path / f"audit.log.{OLD_FILES}") == [5]


def test_many_writers_lose_and_tear_no_line_while_the_file_is_moved(tmp_path: Path) -> None:
    path, each_writes, writers = tmp_path / "audit.log", 30, 6

    def write(writer: int) -> None:
        for number in range(each_writes):
            AuditFile(path, longest_bytes=1500).append(audit_line("something", number=writer * each_writes + number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines_of(*tmp_path.iterdir())) == list(range(writers * each_writes))


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "audit.log").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"audit\.log"):
        AuditFile(tmp_path / "audit.log").append(b"{}\n")
    assert not elsewhere.exists()


def test_what_a_local_user_says_is_kept_but_not_whom_it_is_about(tmp_path: Path) -> None:
    source, taken, into = tmp_path / "theirs", tmp_path / "taken", tmp_path / "audit.log"
    said = {"time": 1.0, "event": "task_ended", "task_id": str(UUID(int=1)), "principal": "urn:headrace:user:somebody"}
    said |= {"function_id": str(UUID(int=2)), "endpoint_id": str(UUID(int=3)), "pool": "other", "host": "h"}
    said |= {"user": "root", "state": "succeeded"}
    deep = '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    # An event that only a manager can tell of is none of theirs.
    forged = json.dumps(said | {"event": "pool_failed"})
    source.write_text(f"{json.dumps(said)}\nnonsense\n{deep}\n{forged}\n")
    collect(source, taken, AuditFile(into), principal="urn:headrace:user:ada", pool="hers", user="ada")
    line, strange = map(json.loads, into.read_text().splitlines())
    assert (line["principal"], line["pool"], line["user"]) == ("urn:headrace:user:ada", "hers", "ada")
    assert (strange["event"], strange["count"]) == ("lines_unreadable", 3)
    assert [each.name for each in tmp_path.iterdir()] == ["audit.log"]


def test_a_link_in_place_of_a_users_lines_leads_nowhere(tmp_path: Path) -> None:
    secret, source, into = tmp_path / "secret", tmp_path / "theirs", tmp_path / "audit.log"
    secret.write_text("secret")
    source.symlink_to(secret)
    with pytest.raises(OSError, match="no file"):
        collect(source, tmp_path / "taken", AuditFile(into), pool="hers")
    assert not into.exists()


@pytest.mark.parametrize("thing", ["link", "dangling", "directory", "pipe"])
def test_what_was_exchanged_for_the_lines_at_the_last_moment_does_not_stop_the_audit(
    tmp_path: Path, thing: str
) -> None:
    source, taken, into = tmp_path / "theirs", tmp_path / "taken", tmp_path / "audit.log"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    if thing == "directory":
        (taken / "below").mkdir(parents=True)
    elif thing == "pipe":
        os.mkfifo(taken)
    else:
        taken.symlink_to(secret if thing == "link" else tmp_path / "nowhere")

    collect(source, taken, AuditFile(into), pool="hers")

    assert not os.path.lexists(taken)
    assert secret.read_text() == "secret"
    assert json.loads(into.read_text())["event"] == "lines_unreadable"
