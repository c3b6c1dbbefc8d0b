"""The directory between a pool's agent and its workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.endpoint.worker.spool import Spool, open_result


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", most_bytes=100)
    made.clear()
    return made


def bring(spool: Spool, digest: str, size: int) -> None:
    file = spool.new_file(digest, size)
    file.write(bytes(size))
    spool.take(file, digest, size)


def here(spool: Spool) -> set[str]:
    return {path.name for path in (spool.directory / "objects").iterdir()}


def test_what_was_used_longest_ago_makes_room(spool: Spool) -> None:
    for digest in ("a", "b"):
        bring(spool, digest, 40)
    assert spool.has("a")

    bring(spool, "c", 40)

    assert here(spool) == {"a", "c"}
    assert not spool.has("b")
    assert spool.size == 80


def test_what_a_call_needs_stays_and_goes_when_it_is_released(spool: Spool) -> None:
    for digest in ("a", "b"):
        spool.pin(digest)
        spool.pin(digest)
        bring(spool, digest, 80)
    assert here(spool) == {"a", "b"}

    spool.release("a")
    assert here(spool) == {"a", "b"}
    spool.release("a")
    assert here(spool) == {"b"}


def test_a_file_that_nobody_took_is_forgotten(spool: Spool) -> None:
    file = spool.new_file("a", 10)
    spool.drop(file)

    assert here(spool) == set()
    assert not spool.has("a")


def test_a_new_pool_begins_with_nothing(spool: Spool) -> None:
    bring(spool, "a", 10)
    open_result(spool.directory).close()

    again = Spool(spool.directory)
    again.clear()

    assert here(again) == set()
    assert list((spool.directory / "results").iterdir()) == []


def test_nothing_is_left_when_the_pool_ends(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        bring(spool, "a", 10)
        assert spool.directory.stat().st_mode & 0o777 == 0o700

    assert not spool.directory.exists()


def test_what_a_dead_worker_left_half_written_is_removed(spool: Spool) -> None:
    results = spool.directory / "results"
    with open_result(spool.directory) as mine:
        living = Path(mine.name).name
    for name in ("4194305-1", "4194305-2", "4194305-3"):
        (results / name).touch()
    for name in (living, "4194305-1", "4194305-2"):
        os.utime(results / name, (1, 1))

    spool.tidy({"4194305-2"})

    assert {path.name for path in results.iterdir()} == {living, "4194305-2", "4194305-3"}


def test_the_name_of_a_result_cannot_lead_out_of_the_directory(spool: Spool) -> None:
    assert spool.result("../../etc/passwd").parent == spool.directory / "results"
