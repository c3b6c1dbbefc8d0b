"""The file of the audit log: whole lines, private, moved away when it is long."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from headrace.endpoint.audit import OLD_FILES, AuditFile, audit_line


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
