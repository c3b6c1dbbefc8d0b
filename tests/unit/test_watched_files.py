"""Files that are watched: which count, when one is complete, and what is remembered."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.endpoint.errors import JournalUnusable
from headrace.endpoint.watch.announcements import Announcer
from headrace.endpoint.watch.completeness import UNKNOWN_STABLE_S, Candidate, Seen
from headrace.endpoint.watch.files import look, look_inside
from headrace.endpoint.watch.filesystems import file_system_of
from headrace.endpoint.watch.journal import Journal, Noted
from headrace.endpoint.watch.report import read_status
from headrace.endpoint.watch.rules import FolderRule, How, folder_name
from headrace.endpoint.watch.selection import Markers, Selection, any_of

SEEN = Seen(3, 1_700_000_000_000_000_000, 7)


def rule(**more: object) -> FolderRule:
    return FolderRule.of_document({"folder": "/data/scope", **more})


# Completeness


@given(
    how=st.sampled_from(("closed", "stable")),
    stable_s=st.floats(0.0, 20.0),
    says=st.booleans(),
    steps=st.lists(st.tuples(st.floats(0.001, 30.0), st.sampled_from(("write", "wait", "open", "close"))), max_size=30),
)
def test_a_file_is_complete_only_when_it_stood_still_and_nobody_has_it_open(
    how: How, stable_s: float, says: bool, steps: list[tuple[float, str]]
) -> None:
    now, size, is_open, changed = 0.0, 0, False, 0.0
    candidate = Candidate(Seen(size, 0, 1), now)

    def look() -> float:
        """What the watcher does when it looks."""
        candidate.observe(Seen(size, size, 1), now)
        wait_s = candidate.wait_s(how, stable_s, now, lambda: is_open if says else None)
        if wait_s == 0:
            # It is at least so long since the last change was *seen*, and that is after the change.
            assert now - changed >= stable_s
            if how == "closed":
                assert not (says and is_open)
                assert says or now - changed >= UNKNOWN_STABLE_S
        return wait_s

    for passed_s, what in steps:
        now += passed_s
        if what == "write":
            size, changed = size + 1, now
        elif what in ("open", "close"):
            is_open = what == "open"
        assert look() >= 0

    # Once nobody writes it any more it is complete, soon, and after few looks.
    is_open = False
    looks = 0
    while (wait_s := look()) > 0:
        looks += 1
        assert wait_s <= max(stable_s, UNKNOWN_STABLE_S)
        now += wait_s + 1e-6
    assert looks <= 3


@pytest.mark.parametrize("how", ["renamed", "marker"])
def test_what_says_that_it_is_complete_is_believed(how: How) -> None:
    def never() -> bool:
        raise AssertionError("nobody is asked")

    assert Candidate(SEEN, 0.0).wait_s(how, 0.0, 0.0, never) == 0.0


def test_the_kernel_says_whether_somebody_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"

    def is_written() -> bool | None:
        opened = look_inside(str(path), follow=False, inodes=True)
        assert opened is not None
        assert opened.seen == look(str(path), follow=False, inodes=True)
        return opened.is_written

    with path.open("wb") as file:
        file.write(b"part")
        file.flush()
        assert is_written() is True
    assert is_written() is False
    with path.open("rb"):
        assert is_written() is False
    with path.open("r+b"):
        assert is_written() is True
    os.mkfifo(tmp_path / "pipe")
    assert look_inside(str(tmp_path / "pipe"), follow=False, inodes=True) is None
    assert look(str(tmp_path / "gone"), follow=False, inodes=True) is None


# Which files count


def test_hidden_and_temporary_files_and_markers_do_not_count() -> None:
    plain = Selection(rule(include=["*.tif", "runs/**/final.csv"], exclude=["bad*", "old/**"]))
    assert [path for path in ("a.tif", "x/y/a.tif", "runs/final.csv", "runs/1/2/final.csv") if plain.takes(path)] == [
        "a.tif",
        "x/y/a.tif",
        "runs/final.csv",
        "runs/1/2/final.csv",
    ]
    for path in (".a.tif", "a.tif.part", "a.tif~", "a.csv", "final.csv", "x/bad1.tif", "old/a.tif", "old/x/a.tif"):
        assert not plain.takes(path), path
    assert plain.enters("x")
    assert not plain.enters("x/.cache")
    assert not plain.enters("badly")
    assert not plain.enters("run.part")
    assert not Selection(rule(recursive=False)).enters("x")
    assert Selection(rule(hidden=True, temporary=[])).takes(".a.part")
    marked = Selection(rule(complete="marker"))
    assert marked.takes("a.tif")
    assert not marked.takes("a.tif.done")


@pytest.mark.parametrize(
    ("form", "file", "marker"),
    [("{name}.done", "a.tif", "a.tif.done"), ("{stem}.ok", "a.tif", "a.ok"), ("READY", "a.tif", "READY")],
)
def test_a_marker_is_named_after_its_file_or_stands_for_a_directory(form: str, file: str, marker: str) -> None:
    markers = Markers(form)

    assert markers.marker_of(file) == marker
    assert markers.is_marker(marker)
    assert not markers.is_marker(file)


@given(
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "*", "**"]), max_size=6),
)
def test_two_stars_stand_for_any_number_of_parts(parts: list[str], pattern: list[str]) -> None:
    def fits(left: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not left
        if wanted[0] == "**":
            return any(fits(left[skipped:], wanted[1:]) for skipped in range(len(left) + 1))
        return bool(left) and wanted[0] in ("*", left[0]) and fits(left[1:], wanted[1:])

    assert any_of(["/".join([*pattern, "a"])])("/".join(parts)) == (
        fits(parts, [*pattern, "a"]) if pattern else parts[-1] == "a"
    )


def test_a_folder_is_called_by_its_last_part() -> None:
    assert folder_name("/data/Light microscope/") == "Light-microscope"
    assert folder_name("/") == "root"
    assert rule(complete="stable").stable_s == 10.0
    assert rule().stable_s == 0.5
    assert FolderRule.of_document(rule(include=["*.x"]).document()) == rule(include=["*.x"])


def test_file_systems_of_others_are_known_by_the_table_of_mounts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 21 0:50 / /mnt/nas rw shared:1 - nfs4 nas:/export rw\n"
        "31 21 0:51 / /mnt/my\\040share rw - cifs //pc/share rw\n"
        "32 21 8:1 /srv/in /mnt/bound rw - ext4 /dev/sda1 rw\n"
        "damaged\n"
    )
    assert str(file_system_of("/mnt/bound/x", table)) == "ext4 of /dev/sda1, /srv/in"
    nas = file_system_of("/mnt/nas/scope", table)
    share = file_system_of("/mnt/my share", table)
    here = file_system_of("/mnt/nasty", table)

    assert (str(nas), nas.tells_of_changes, nas.has_lasting_inodes) == ("nfs4 of nas:/export", False, True)
    assert (share.tells_of_changes, share.has_lasting_inodes) == (False, False)
    assert (here.tells_of_changes, here.has_lasting_inodes) == (True, True)
    assert file_system_of("/", tmp_path / "missing").tells_of_changes


# What is announced


def test_the_same_version_has_the_same_id_and_another_one_has_another() -> None:
    announcer = Announcer(rule=rule(), source="/endpoints/x/folders/scope", place={"endpoint": "x"})

    def event(path: str, seen: Seen, version: int = 1) -> dict[str, object]:
        document: dict[str, object] = json.loads(announcer.completed(path, seen, version, "aa"))
        return document

    first = event("run/a.tif", SEEN)
    data = first["data"]
    assert isinstance(data, dict)
    assert first["id"] == event("run/a.tif", SEEN, 2)["id"]
    others = (
        event("run/b.tif", SEEN),
        event("run/a.tif", SEEN._replace(size=4)),
        event("run/a.tif", SEEN._replace(mtime_ns=1)),
        event("run/a.tif", SEEN._replace(inode=1)),
        json.loads(announcer.deleted("run/a.tif", SEEN, 1)),
    )
    assert len({first["id"], *(other["id"] for other in others)}) == 6
    assert (first["subject"], first["source"]) == ("run/a.tif", "/endpoints/x/folders/scope")
    assert data == {
        "path": "/data/scope/run/a.tif",
        "name": "a.tif",
        "folder": "scope",
        "size": 3,
        "mtime": "2023-11-14T22:13:20.000000Z",
        "endpoint": "x",
        "version": 1,
        "sha256": "aa",
    }
    odd = json.loads(announcer.completed(os.fsdecode(b"\xff\n.tif"), SEEN._replace(mtime_ns=2**62 * 20), 1))
    assert odd["subject"] == "\ufffd\ufffd.tif"
    assert base64.b64decode(odd["data"]["path_base64"]) == b"/data/scope/\xff\n.tif"


# What is remembered


def test_a_version_and_its_event_are_remembered_together(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    name = os.fsdecode(b"run/\xff.tif")
    with Journal(path) as journal:
        assert journal.begin_folder("scope", "/data/scope") is False
        journal.all_known("scope")
        journal.note(
            "scope", "default", "ext4 of sda", [Noted(name, SEEN, None, 1, b"{}"), Noted("b", SEEN, 5, 0, None)]
        )
        with pytest.raises(JournalUnusable, match="another watcher"), Journal(path):
            pass
    assert path.stat().st_mode & 0o077 == 0
    with Journal(path) as journal:
        assert journal.begin_folder("scope", "/data/scope") is True
        found = journal.known("scope", "run")
        assert list(found) == [os.fsdecode(b"\xff.tif")]
        assert found[os.fsdecode(b"\xff.tif")] == journal.known_file("scope", name)
        assert journal.known("scope", "")["b"].marker_ns == 5
        assert sorted(journal.directories("scope")) == ["", "run"]
        assert journal.buses_waiting() == ["default"]
        (waiting,) = journal.waiting("default", 10, 10)
        journal.refused(waiting.number, "no")
        assert (journal.counts(), journal.buses_waiting()) == ((0, 1, "no"), [])
        journal.try_refused_again()
        assert journal.counts() == (1, 0, None)
        journal.published([waiting.number])
        assert journal.counts() == (0, 0, None)
        journal.note("scope", "default", "ext4 of sda", [Noted("b", SEEN, 5, 0, None, is_gone=True)])
        assert journal.directories("scope") == ["run"]
        assert journal.standing("scope")[:2] == (1, "run/\ufffd.tif")
        # The same name for another folder: nothing of the one before counts.
        assert journal.begin_folder("scope", "/data/other") is False
        assert journal.known("scope", "run") == {}


def test_a_journal_that_is_none_is_told_what_to_do_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database, and long enough to be looked at" * 100)

    with pytest.raises(JournalUnusable, match="move it away"), Journal(path):
        pass
    with pytest.raises(sqlite3.Error), sqlite3.connect(path) as base:
        base.execute("SELECT * FROM files")
    base.close()
    assert read_status(tmp_path / "status.json") is None
