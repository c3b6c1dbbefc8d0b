"""The disk that forgets: that it does, and what it keeps, so that the tests which stand on it mean something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from random import Random

from powerloss.disk import power_disk
from powerloss.layers import Directory, File, Layers, Model, Naming, Write
from waiting import eventually


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_only_what_was_synced_is_there_after_a_cut(tmp_path: Path) -> None:
    with power_disk(tmp_path / "disk", Model.JOURNAL) as disk:
        kept, grown, unsynced = disk.path / "kept", disk.path / "grown", disk.path / "unsynced"
        kept.write_bytes(b"kept")
        grown.write_bytes(b"first")
        sync(grown)
        with grown.open("ab") as file:
            file.write(b" and second")
        sync(kept)
        unsynced.write_bytes(b"unsynced")
        (disk.path / "renamed").write_bytes(b"renamed")
        sync(disk.path / "renamed")
        os.rename(disk.path / "renamed", disk.path / "other")
        assert grown.read_bytes() == b"first and second"

        lost = disk.cut()

        assert {path.name: path.read_bytes() for path in disk.path.iterdir()} == {
            "kept": b"kept",
            "grown": b"first",
            "unsynced": b"",  # its name went with the journal, before the sync of the next file
            "renamed": b"renamed",
        }
        assert lost["lost_names"] == 1


def test_under_posix_a_name_needs_a_sync_of_its_directory(tmp_path: Path) -> None:
    with power_disk(tmp_path / "disk", Model.POSIX) as disk:
        for name in ("a", "b"):
            (disk.path / name).mkdir()
        sync(disk.path)
        for name in ("a", "b"):
            (disk.path / name / "file").write_bytes(b"synced")
            sync(disk.path / name / "file")
        sync(disk.path / "a")

        disk.cut()

        assert [path.parent.name for path in disk.path.glob("*/file")] == ["a"]


def test_the_power_fails_before_the_given_change_and_nobody_hears_more(tmp_path: Path) -> None:
    with power_disk(tmp_path / "disk", Model.JOURNAL) as disk:
        disk.stop_after(3)  # the name, the bytes, and then the sync
        with subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={disk.path / 'file'}", "bs=10", "count=1", "conv=fsync"]
        ) as dd:
            eventually(lambda: disk.counts["stopped"])
            dd.kill()
            disk.cut()
            assert dd.wait() == -9

        assert list(disk.path.iterdir()) == []


def test_by_lot_some_pages_are_kept_and_others_are_not() -> None:
    layers = Layers(Model.JOURNAL)
    file, directory = File(2, 0o600, 0, 0), Directory(3, 0o700, 0, 0)
    layers.rename(Naming(layers.root, b"file", file))
    layers.sync_file(file)
    file.change(Write(0, b"x" * 100 * 4096))
    for number in range(20):
        layers.rename(Naming(layers.root, b"%d" % number, directory))

    lost = layers.cut(Random(7))  # noqa: S311 - a repeatable misfortune

    kept = file.content.count(b"x") // 4096
    assert 20 < kept < 80
    assert list(layers.root.names) == [b"file", *(b"%d" % n for n in range(20 - lost.names))]
