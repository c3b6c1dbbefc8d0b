"""Sizes, the environment of workers, and control groups as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.endpoint.engines.processes.cgroups import MemoryGroup, MemoryGroups, delegated
from headrace.endpoint.errors import CgroupsUnusable
from headrace.endpoint.worker.limits import WorkerLimits, worker_environment
from headrace.endpoint.worker.sandbox import SandboxRoot, remove_tree


def test_limits_travel_to_the_worker_whole_or_without_what_the_kernel_does() -> None:
    limits = WorkerLimits(memory_bytes=10, max_tasks=3, sandboxes="/x y", keep_failed_sandboxes=True)

    assert WorkerLimits.of_argument(limits.as_argument()) == limits
    assert WorkerLimits.of_argument(limits.as_argument(with_memory=False)).memory_bytes is None


def test_workers_inherit_what_is_not_headraces_own_and_what_is_added_wins() -> None:
    inherited = {"PATH": "/bin", "HEADRACE_TOKEN": "secret", "HEADRACE_URL": "http://x", "OMP_NUM_THREADS": "8"}

    found = worker_environment(inherited, {"OMP_NUM_THREADS": "1", "HEADRACE_HOME": "/on/purpose"})

    assert found == {"PATH": "/bin", "OMP_NUM_THREADS": "1", "HEADRACE_HOME": "/on/purpose"}


# Control groups. The machine that runs this may have none, so these are the files as the kernel documents them.


@pytest.fixture
def delegated_group(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    return tmp_path


def test_a_worker_gets_a_group_with_the_limit_without_swap_that_ends_as_a_whole(delegated_group: Path) -> None:
    groups = MemoryGroups(delegated_group, 1 << 30)
    groups.prepare()
    (control,) = ((delegated_group / "cgroup.subtree_control").read_text(),)

    groups.new().add(4711)

    path = max(delegated_group.glob("worker-*"))
    assert control == "+memory"
    assert {file.name: file.read_text() for file in path.iterdir()} == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cgroup.procs": "4711",
    }


@pytest.mark.parametrize(
    ("events", "exceeded"), [("low 0\noom 0\noom_kill 0\n", False), ("oom 1\noom_kill 2\noom_group_kill 1\n", True)]
)
def test_a_group_tells_whether_its_limit_was_reached(tmp_path: Path, events: str, exceeded: bool) -> None:
    group = MemoryGroup(tmp_path)
    assert not group.was_exceeded

    (tmp_path / "memory.events").write_text(events)

    assert group.was_exceeded is exceeded


def test_groups_need_the_controller_for_memory_and_the_right_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CgroupsUnusable, match="No such file"):
        MemoryGroups(tmp_path, 1).prepare()

    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(CgroupsUnusable, match="was not delegated"):
        MemoryGroups(tmp_path, 1).prepare()


@pytest.mark.parametrize(
    ("own", "mounts", "problem"),
    [
        ("4:memory:/x\n", "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n", "no cgroup v2"),
        ("0::/\n", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "Delegate=memory"),
        ("0::/user.slice/a.scope\n", "cgroup2 /no/such/folder cgroup2 rw 0 0\n", "Delegate=memory"),
    ],
)
def test_a_group_that_was_not_delegated_is_left_alone(own: str, mounts: str, problem: str) -> None:
    with pytest.raises(CgroupsUnusable, match=problem):
        delegated(own, mounts)


def test_the_group_above_ours_is_used_when_it_is_marked_as_delegated(tmp_path: Path) -> None:
    service = tmp_path / "a.service"
    (service / "headrace").mkdir(parents=True)
    try:
        os.setxattr(service, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")

    assert delegated("0::/a.service/headrace\n", f"cgroup2 {tmp_path} cgroup2 rw 0 0\n") == service


# Sandboxes as the pool sees them


def test_what_an_earlier_pool_left_is_removed_unless_failed_ones_are_kept(tmp_path: Path) -> None:
    (tmp_path / "sandboxes" / "left" / "deep").mkdir(parents=True)

    SandboxRoot(tmp_path / "sandboxes", keep_failed=True).prepare()
    assert (tmp_path / "sandboxes" / "left").exists()
    SandboxRoot(tmp_path / "sandboxes", keep_failed=False).prepare()

    assert list((tmp_path / "sandboxes").iterdir()) == []


def test_a_tree_goes_whatever_its_owner_did_to_its_rights_and_links_are_not_followed(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()
    outside.mkdir()
    (outside / "precious").touch()
    (tree / "link").symlink_to(outside)
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0)

    remove_tree(str(tree))
    (tmp_path / "alias").symlink_to(outside)
    remove_tree(str(tmp_path / "alias"))

    assert not tree.exists()
    assert (outside / "precious").exists()
    remove_tree(str(tree))


def test_a_tree_that_cannot_go_is_told_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    remove_tree("/proc/self")

    assert "The sandbox /proc/self could not be removed" in capfd.readouterr().err
