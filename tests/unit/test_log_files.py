"""Logs that are begun anew while somebody writes to them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually_async

from headrace.bus.log_files import keep_short, rotate

WRITER = """
import sys
for number in range(int(sys.argv[1])):
    sys.stdout.write(f"line {number}\\n")
    sys.stdout.flush()
"""


def test_a_short_log_and_one_that_is_not_there_stay_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "pool.log"
    assert not rotate(log)
    log.write_text("a line\n")
    assert not rotate(log, longest_bytes=7)
    assert [path.name for path in tmp_path.iterdir()] == ["pool.log"]


def test_a_program_that_holds_the_file_goes_on_at_its_new_beginning(tmp_path: Path) -> None:
    log = tmp_path / "pool.log"
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, "3"], stdout=output)
        assert writer.wait(20) == 0
        assert rotate(log, longest_bytes=1)
        assert log.stat().st_size == 0
        assert subprocess.run([sys.executable, "-c", WRITER, "1"], stdout=output, check=True).returncode == 0

    assert (tmp_path / "pool.log.1").read_text() == "line 0\nline 1\nline 2\n"
    assert log.read_text() == "line 0\n"


def test_three_old_ones_are_kept_and_as_private_as_the_log(tmp_path: Path) -> None:
    log = tmp_path / "pool.log"
    for number in range(5):
        log.write_text(f"{number}\n")
        log.chmod(0o600)
        assert rotate(log, longest_bytes=1)

    assert [(tmp_path / f"pool.log.{n}").read_text() for n in (1, 2, 3)] == ["4\n", "3\n", "2\n"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.log", *(f"pool.log.{n}" for n in (1, 2, 3))]
    assert (tmp_path / "pool.log.1").stat().st_mode & 0o777 == 0o600


def test_a_log_is_kept_short_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "pool.log"

    async def write() -> None:
        keeping = asyncio.create_task(keep_short(lambda: [log], every_s=0.001, longest_bytes=1000))
        with log.open("ab", buffering=0) as output:
            for number in range(300):
                output.write(b"line %d\n" % number)
            await eventually_async(lambda: log.stat().st_size <= 1000 and (tmp_path / "pool.log.1").exists())
            output.write(b"and on\n")
        keeping.cancel()
        await asyncio.wait({keeping})

    asyncio.run(write())
    assert log.read_text().endswith("and on\n")


def test_a_log_that_cannot_be_copied_stays_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "pool.log"
    log.write_text("long\n")
    (tmp_path / "pool.log.new").mkdir()
    with pytest.raises(OSError, match=r"pool\.log\.new"):
        rotate(log, longest_bytes=1)
    assert log.read_text() == "long\n"
