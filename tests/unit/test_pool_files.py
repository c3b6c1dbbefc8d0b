"""Files of a pool that its local user may have exchanged for something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.pool_process import PoolProcess


@pytest.mark.parametrize("kind", ["pids", "status.json"])
@pytest.mark.parametrize("thing", ["directory", "link", "pipe"])
def test_whatever_lies_in_the_place_of_a_pools_files_goes_with_the_pool(tmp_path: Path, kind: str, thing: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kept").touch()
    directory = EndpointDirectory(tmp_path)
    path = directory.pool_file("p-1", kind)
    if thing == "directory":
        (path / "below").mkdir(parents=True)
    elif thing == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "home")

    PoolProcess(directory, "p-1", grace_s=1.0).kill()

    assert not os.path.lexists(path)
    assert (tmp_path / "home" / "kept").exists()
