"""`headrace endpoint enable-on-boot` and `disable-on-boot`: a systemd unit for an endpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import GRACE_S, MOST_GRACE_S, NameArgument, endpoints_of
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.service import JsonOption

if TYPE_CHECKING:
    from headrace.cli.systemd_unit import EndpointUnit

_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_USER_UNITS: Final = Path("~/.config/systemd/user")
_RUNNING: Final = Path("/run/systemd/system")
"""There where systemd is what started the machine."""
_WITHIN_S: Final = 60.0
_NETWORK: Final = frozenset(
    {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "headrace_ca_file", "headrace_nats_url"}
)
_DEFAULT: Final = "default"

_UnitDirOption = Annotated[
    Path | None,
    typer.Option("--unit-dir", help="Put the unit here, and leave it to you to tell systemd of it."),
]


def enable_on_boot(
    name: NameArgument = _DEFAULT,
    grace: Annotated[
        float, typer.Option(min=0, max=MOST_GRACE_S, help="Seconds that running tasks get when it is stopped.")
    ] = GRACE_S,
    unit_dir: _UnitDirOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Have systemd start an endpoint with the machine, and start it again when it fails.

    As root it is a unit of the system, which runs as the owner of the endpoint's directory; else one of your own. It is
    checked with `systemd-analyze verify` where that is installed, and enabled; `systemctl start` starts it now.
    """
    unit, directory = _unit(name, home, grace), _directory(unit_dir)
    path = directory / unit.file_name
    _refuse_strangers(path, unit)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(unit.text(), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    _verify(path, system=unit.user is not None)
    enabled = unit_dir is None and _tell_systemd("enable", unit)
    control = "systemctl" if unit.user is not None else "systemctl --user"
    if as_json:
        output.say_json({"unit": str(path), "enabled": enabled})
        return
    output.say(f"Wrote {path}.")
    if enabled:
        output.say(f"It starts with the machine. Now: {control} start {unit.file_name}")
    else:
        output.note(f"systemd was not told of it: {control} daemon-reload && {control} enable {unit.file_name}")
    _note_environment(unit)
    if unit.user is None:
        output.note("So that it runs while you are not logged in: loginctl enable-linger")


def disable_on_boot(
    name: NameArgument = _DEFAULT,
    unit_dir: _UnitDirOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Have systemd no longer start an endpoint with the machine. One that runs goes on."""
    unit = _unit(name, home, GRACE_S)
    path = _directory(unit_dir) / unit.file_name
    found = path.exists()
    if found:
        _refuse_strangers(path, unit)
        if unit_dir is None:
            _tell_systemd("disable", unit)
        try:
            path.unlink()
        except OSError as error:
            raise CommandError(f"{path} cannot be removed: {error.strerror}") from error
    if as_json:
        output.say_json({"unit": str(path), "removed": found})
    elif found:
        output.say(f"Removed {path}.")
    else:
        output.say(f"The endpoint {name} does not start with the machine: there is no {path}.")


def _note_environment(unit: EndpointUnit) -> None:
    """What gets this shell out through a firewall is not known to systemd."""
    known = [name for name in os.environ if name.lower() in _NETWORK and os.environ[name]]
    if known and not unit.environment_file.exists():
        named = f"{', '.join(sorted(known))} {'is' if len(known) == 1 else 'are'}"
        output.note(f"{named} not in the unit: put what is needed into {unit.environment_file}")


def _unit(name: str, home: Path, grace_s: float) -> EndpointUnit:
    from headrace.cli.systemd_unit import EndpointUnit

    directory = endpoints_of(home).get(name)
    return EndpointUnit(
        name=name,
        home=expanded(home),
        program=(sys.executable, "-P", "-m", "headrace.cli.main"),
        path=os.environ.get("PATH", os.defpath),
        grace_s=grace_s,
        # Secrets of the endpoint are for its owner only, so nobody else could run it; nor should root.
        user=directory.path.owner() if os.geteuid() == 0 else None,
        systemd=_systemd(),
    )


def _systemd() -> int:
    """The release of systemd on this machine, 0 where there is none."""
    program = shutil.which("systemctl")
    if program is None:
        return 0
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    words = done.stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _directory(given: Path | None) -> Path:
    return expanded(given or (_SYSTEM_UNITS if os.geteuid() == 0 else _USER_UNITS))


def _refuse_strangers(path: Path, unit: EndpointUnit) -> None:
    """Raises `CommandError` for a file that we have not written for this endpoint."""
    if path.exists() and unit.mark not in path.read_text(encoding="utf-8", errors="replace").splitlines():
        raise CommandError(f"{path} is not that of {unit.name} in {unit.home}: look at it, and remove it if you may")


def _verify(path: Path, *, system: bool) -> None:
    """Raises `CommandError`, and removes the file, when systemd would not take it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    command = [program, *(() if system else ("--user",)), "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    # It also tells of other units, which are none of ours.
    ours = [line for line in done.stderr.splitlines() if path.name in line]
    if done.returncode != 0 and ours:
        path.unlink()
        raise CommandError("systemd does not take the unit: " + "; ".join(ours))


def _tell_systemd(what: str, unit: EndpointUnit) -> bool:
    """Enable or disable the unit where systemd runs; whether it does."""
    program = shutil.which("systemctl")
    if program is None or not _RUNNING.is_dir():
        return False
    control = [program, *(() if unit.user is not None else ("--user",))]
    commands = [[*control, "daemon-reload"], [*control, what, unit.file_name]]
    for command in commands if what == "enable" else commands[::-1]:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
        if done.returncode != 0:
            raise CommandError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
    return True
