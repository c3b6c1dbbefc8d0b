"""What `headrace doctor` says of a home, a disk and a clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.cli.home_checks import disk_finding, home_findings
from headrace.cli.service_checks import clock_finding

MIB = 1024 * 1024


def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    (path / "profile.json").touch(mode=0o600)
    return path


def test_a_machine_without_a_home_is_no_problem(tmp_path: Path) -> None:
    (finding,) = home_findings(tmp_path / "nowhere")
    assert finding.state == "skipped"


def test_a_home_as_headrace_makes_it_is_well(tmp_path: Path) -> None:
    states = {finding.check: finding.state for finding in home_findings(home(tmp_path))}
    assert (states["home"], states["secrets"]) == ("ok", "ok")


def test_secrets_that_others_may_read_are_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = home(tmp_path)
    (path / "profile.json").chmod(0o644)
    path.chmod(0o755)

    findings = {finding.check: finding for finding in home_findings(path)}

    assert findings["secrets"].state == "problem"
    assert findings["secrets"].advice == f"run `chmod 600 {path}/profile.json`"
    assert findings["home"].state == "warning"
    assert findings["home"].advice == f"run `chmod 700 {path}`"


@pytest.mark.parametrize(("free", "state"), [(100 * MIB, "problem"), (500 * MIB, "warning"), (5000 * MIB, "ok")])
def test_a_disk_is_judged_by_its_free_room(tmp_path: Path, free: int, state: str) -> None:
    assert disk_finding(tmp_path, free, os.statvfs(tmp_path)).state == state


@pytest.mark.parametrize(
    ("off_s", "state", "word"),
    [(1.0, "ok", ""), (-1.0, "ok", ""), (30.0, "warning", "ahead of"), (-30.0, "warning", "behind")],
)
def test_a_clock_is_compared_with_the_service_to_a_few_seconds(off_s: float, state: str, word: str) -> None:
    finding = clock_finding(off_s)
    assert finding.state == state
    assert word in finding.said


def test_a_clock_that_is_far_off_is_a_problem() -> None:
    assert clock_finding(-86_400.0).state == "problem"
