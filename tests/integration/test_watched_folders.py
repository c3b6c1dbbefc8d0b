"""What a watcher takes for complete, with real files, and what it remembers from one life to the next."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from waiting import eventually
from watched_folder import watched

pytest.importorskip("watchfiles", reason="this environment is older than the extra `watch`, which `dev` has")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "scope"
    made.mkdir()
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_a_file_is_announced_when_it_is_closed_and_again_when_it_has_changed(folder: Path, journal: Path) -> None:
    (folder / "early.tif").write_text("was there before")
    with watched(folder, journal, checksum=True) as seen:
        (first,) = seen.wait("early.tif")
        assert first["data"]["version"] == 1
        assert first["data"]["sha256"] == hashlib.sha256(b"was there before").hexdigest()
        with (folder / "slow.tif").open("wb", buffering=0) as file:
            file.write(b"half")
            (folder / "quick.tif").write_text("x")
            # This one came later, and is complete.
            seen.wait("early.tif", "quick.tif")
            file.write(b" and half")
        assert seen.wait("early.tif", "quick.tif", "slow.tif")[-1]["data"]["size"] == 13
        (folder / "quick.tif").write_text("xx")
        assert seen.wait("early.tif", "quick.tif", "slow.tif", "quick.tif")[-1]["data"]["version"] == 2
        # A new directory, files in it before it can be heard of, and a file that is moved into place.
        (folder / "run" / "1").mkdir(parents=True)
        (folder / "run" / "1" / "a.tif").write_text("a")
        (folder / "b.tif.part").write_text("b")
        (folder / "b.tif.part").rename(folder / "run" / "b.tif")
        (folder / ".hidden").write_text("no")
        (folder / "run" / "1" / "a.tif").touch()
        seen.settled()
        assert {"run/1/a.tif", "run/b.tif"} < set(seen.subjects)
        assert not {".hidden", "b.tif.part"} & set(seen.subjects)
        ids = [event["id"] for event in seen.events]
        assert len(ids) == len(set(ids))
        assert seen.is_("watching")


def test_what_came_while_nobody_watched_is_found_and_nothing_is_announced_twice(folder: Path, journal: Path) -> None:
    (folder / "old.tif").write_text("1")
    with watched(folder, journal) as seen:
        seen.wait("old.tif")
    (folder / "new.tif").write_text("2")
    (folder / "run").mkdir()
    (folder / "run" / "new.tif").write_text("3")
    with watched(folder, journal) as seen:
        seen.wait("old.tif", "new.tif", "run/new.tif")
        seen.settled()
        assert sorted(set(seen.subjects)) == ["fence", "new.tif", "old.tif", "run/new.tif"]
        assert len(seen.subjects) == 4


def test_without_the_kernels_help_folders_are_looked_at_again_and_again(folder: Path, journal: Path) -> None:
    (folder / "old.tif").write_text("1")
    with watched(
        folder, journal, poll="always", poll_every_s=0.05, existing="skip", complete="stable", deleted=True
    ) as seen:
        eventually(lambda: seen.is_("polling"))
        (folder / "new.tif").write_text("2")
        seen.wait("new.tif")
        (folder / "new.tif").unlink()
        (folder / "old.tif").unlink()
        eventually(lambda: len(seen.events) == 3)
        assert {(event["type"], event["subject"]) for event in seen.events[1:]} == {
            ("headrace.file.deleted", "new.tif"),
            ("headrace.file.deleted", "old.tif"),
        }


def test_a_marker_says_that_a_file_is_complete_and_a_new_marker_that_it_is_again(folder: Path, journal: Path) -> None:
    with watched(folder, journal, complete="marker", marker="{stem}.ok") as seen:
        (folder / "a.tif").write_text("1")
        (folder / "b.tif").write_text("1")
        (folder / "b.ok").touch()
        seen.wait("b.tif")
        (folder / "b.tif").write_text("1, again")
        (folder / "a.ok").touch()
        seen.wait("b.tif", "a.tif")
        os.utime(folder / "b.ok")
        assert seen.wait("b.tif", "a.tif", "b.tif")[-1]["data"]["size"] == 8


def test_a_folder_that_goes_away_takes_nothing_with_it(folder: Path, journal: Path, tmp_path: Path) -> None:
    (folder / "a.tif").write_text("1")
    with watched(folder, journal, deleted=True) as seen:
        seen.wait("a.tif")
        # Its disk is taken off, and put back.
        folder.rename(tmp_path / "elsewhere")
        eventually(lambda: seen.is_("away"), 10)
        assert "trying again" in seen.report.document()["problems"][0]
        (tmp_path / "elsewhere" / "b.tif").write_text("2")
        (tmp_path / "elsewhere").rename(folder)
        seen.wait("a.tif", "b.tif")
        assert seen.report.document()["problems"] == []
        (folder / "a.tif").unlink()
        assert seen.wait("a.tif", "b.tif", "a.tif")[-1]["type"] == "headrace.file.deleted"


def test_links_are_followed_only_where_that_is_said(folder: Path, journal: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "far.tif").write_text("1")
    (folder / "link").symlink_to(other)
    (folder / "circle").symlink_to(folder)
    (folder / "near.tif").symlink_to(other / "far.tif")
    (folder / "nowhere").symlink_to(tmp_path / "nothing")
    with watched(folder, journal) as seen:
        seen.settled()
        (other / "further.tif").write_text("2")
        seen.settled()
        assert set(seen.subjects) == {"fence"}
    (folder / "itself").symlink_to(folder / "itself")
    with watched(folder, tmp_path / "other.sqlite", follow_symlinks=True, name="followed") as seen:
        seen.settled()
        # What cannot be looked at is said, and harms nothing else.
        assert "itself cannot be looked at: Too many levels" in seen.report.document()["problems"][0]
        assert set(seen.subjects) == {"fence", "link/far.tif", "link/further.tif", "near.tif"}


def test_names_that_are_no_text_are_announced_as_well(folder: Path, journal: Path) -> None:
    # The library can neither tell of such files nor be told of such directories.
    with watched(folder, journal, poll_every_s=0.1) as seen:
        eventually(lambda: seen.is_("watching"))
        (folder / os.fsdecode(b"m\xe4rz.tif")).touch()
        (event,) = seen.wait("m\ufffdrz.tif")
        assert base64.b64decode(event["data"]["path_base64"]) == bytes(folder) + b"/m\xe4rz.tif"
        (folder / os.fsdecode(b"m\xe4rz")).mkdir()
        (folder / os.fsdecode(b"m\xe4rz") / "1.tif").touch()
        seen.wait("m\ufffdrz.tif", "m\ufffdrz/1.tif")
        assert seen.is_("polling")
        (folder / "april.tif").touch()
        seen.wait("m\ufffdrz.tif", "m\ufffdrz/1.tif", "april.tif")


def test_two_thousand_files_at_once_are_announced_once_each(folder: Path, journal: Path) -> None:
    names = [f"{number:04}.tif" for number in range(2000)]
    with watched(folder, journal) as seen:
        eventually(lambda: seen.is_("watching"))
        for name in names:
            (folder / name).touch()
        eventually(lambda: seen.report.document().get("candidates") == 0 and len(seen.subjects) >= 2000, 30)
        assert sorted(seen.subjects) == names
