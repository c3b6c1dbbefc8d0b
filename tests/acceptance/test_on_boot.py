"""Endpoints that systemd starts: the unit, as `systemd-analyze` sees it where there is one."""

from __future__ import annotations

import configparser
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell

from headrace.cli.errors import CommandError
from headrace.cli.systemd_unit import EndpointUnit, quoted

UNIT = "headrace-endpoint-lab.service"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path / "a home")
    shell("endpoint", "configure", "lab")
    return shell


def test_a_unit_is_written_and_removed_again(shell: Shell, tmp_path: Path) -> None:
    units = tmp_path / "units"

    said = shell("endpoint", "enable-on-boot", "lab", "--unit-dir", str(units), "--grace", "60", "--json").json()

    assert said == {"unit": str(units / UNIT), "enabled": False}
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep upper case
    unit.read(units / UNIT)
    service = unit["Service"]
    assert shlex.split(service["ExecStart"])[:4] == [sys.executable, "-P", "-m", "headrace.cli.main"]
    assert shlex.split(service["ExecStart"])[4:] == [
        *("endpoint", "start", "lab", "--home", str(shell.home), "--grace", "60"),
    ]
    assert service["EnvironmentFile"] == f"-{shell.home}/endpoints/lab/environment"
    assert (service["KillMode"], service["TimeoutStopSec"], service["NoNewPrivileges"]) == ("mixed", "75", "yes")
    assert (service.get("User"), service.get("ProtectSystem")) == (
        ((units / UNIT).owner(), "full") if os.geteuid() == 0 else (None, None)
    )
    assert shell("endpoint", "disable-on-boot", "lab", "--unit-dir", str(units)).out == f"Removed {units / UNIT}.\n"
    assert "there is no" in shell("endpoint", "disable-on-boot", "lab", "--unit-dir", str(units)).out


def test_the_unit_of_another_home_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    units, other = tmp_path / "units", Shell(tmp_path / "other")
    other("endpoint", "configure", "lab")
    other("endpoint", "enable-on-boot", "lab", "--unit-dir", str(units))
    before = (units / UNIT).read_text()

    for command in ("enable-on-boot", "disable-on-boot"):
        assert "is not that of lab in" in shell("endpoint", command, "lab", "--unit-dir", str(units), status=1).err
    assert (units / UNIT).read_text() == before
    assert "no endpoint 'lap'" in shell("endpoint", "enable-on-boot", "lap", status=1).err


@pytest.mark.parametrize("user", [None, "root"])
def test_systemd_takes_the_unit_without_a_complaint(tmp_path: Path, user: str | None) -> None:
    home = tmp_path / 'it\'s 100% "odd" $HOME'
    unit = EndpointUnit(name="lab", home=home, program=(sys.executable,), path="/bin", grace_s=3.5, user=user)
    path = tmp_path / unit.file_name
    path.write_text(unit.text())

    verify = shutil.which("systemd-analyze")
    if verify is not None:
        command = [verify, *(() if user else ("--user",)), "verify", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert [line for line in done.stderr.splitlines() if unit.file_name in line] == []
    assert unit.text().count("100%%") == 2


def test_what_systemd_reads_as_root_lies_where_only_root_writes(tmp_path: Path) -> None:
    unit = EndpointUnit(name="lab", home=tmp_path, program=("headrace",), path="/bin", grace_s=3.5, user="ada")

    assert "EnvironmentFile=-/etc/headrace/endpoint-lab.env\n" in unit.text()
    for user in (None, "root"):
        assert dataclasses.replace(unit, user=user).environment_file == tmp_path / "endpoints" / "lab" / "environment"


def test_a_limit_of_memory_gets_its_control_groups_where_systemd_can_give_them(tmp_path: Path) -> None:
    unit = EndpointUnit(name="lab", home=tmp_path, program=("headrace",), path="/bin", grace_s=3.5, systemd=254)

    assert "DelegateSubgroup=headrace" in unit.text()
    assert "Delegate" not in dataclasses.replace(unit, systemd=253).text()


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(CommandError, match="line break"):
        quoted("a\nExecStart=/bin/sh")
