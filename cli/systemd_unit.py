"""The systemd unit that starts an endpoint with its machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.cli.errors import CommandError

_FOR_ALL: Final = """\
# What the endpoint and its tasks cannot do. Take a line back with `systemctl edit`, as `NoNewPrivileges=no` for tasks
# in containers of rootless Podman, or of an Apptainer that needs setuid.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
"""
_FOR_THE_SYSTEM: Final = """\
# /usr, /boot and /etc are read-only. Tasks may write wherever else the user may: that is what they are for.
ProtectSystem=full
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""
_DELEGATED: Final = (
    "# For worker_memory_limit: control groups below its own, which must itself be empty.",
    "Delegate=memory",
    "DelegateSubgroup=headrace",
)
_KNOWS_SUBGROUPS: Final = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointUnit:
    """How an endpoint is started. `user`: whom a unit of the system runs as; None for a unit of the user's own."""

    name: str
    home: Path
    program: Sequence[str]
    """What `headrace` is on this machine."""
    path: str
    """Where programs are looked for, as `PATH` has it."""
    grace_s: float
    user: str | None = None
    systemd: int = 0
    """The release of systemd; 0 where it is not known."""

    @property
    def file_name(self) -> str:
        """The unit's name."""
        return f"headrace-endpoint-{self.name}.service"

    @property
    def environment_file(self) -> Path:
        """Further variables, where the administrator has put some."""
        if self.user in (None, "root"):
            return self.home / "endpoints" / self.name / "environment"
        # systemd reads it as root: in a directory of the user's it could be a link to a file of root's.
        return Path("/etc/headrace") / f"endpoint-{self.name}.env"

    @property
    def mark(self) -> str:
        """The line by which a unit is known as that of an endpoint of this home."""
        return f"# The endpoint {self.name} of {self.home}, by `headrace endpoint enable-on-boot`."

    def text(self) -> str:
        """The unit file."""
        start = [
            *self.program,
            "endpoint",
            "start",
            self.name,
            "--home",
            str(self.home),
            "--grace",
            f"{self.grace_s:g}",
        ]
        system = self.user is not None
        return "\n".join(
            [
                self.mark,
                "[Unit]",
                f"Description=Headrace endpoint {self.name}",
                *(["Wants=network-online.target", "After=network-online.target"] if system else []),
                "# One that cannot start is tried five times in ten minutes.",
                "StartLimitIntervalSec=600",
                "StartLimitBurst=5",
                "",
                "[Service]",
                "Type=exec",
                *([f"User={self.user}"] if system else []),
                f"Environment={quoted(f'PATH={self.path}')}",
                "# Proxies and certificates: a file that nobody else may read, since proxies may have passwords.",
                f"EnvironmentFile=-{str(self.environment_file).replace('%', '%%')}",
                f"ExecStart={' '.join(quoted(word).replace('$', '$$') for word in start)}",
                "# SIGHUP has the configuration read again. SIGTERM is for the manager, which ends its pools in order.",
                "ExecReload=/bin/kill -HUP $MAINPID",
                "KillMode=mixed",
                f"TimeoutStopSec={self.grace_s + 15:g}",
                "Restart=on-failure",
                "RestartSec=5",
                "UMask=0077",
                *(_DELEGATED if self.systemd >= _KNOWS_SUBGROUPS else ()),
                "",
                _FOR_ALL + (_FOR_THE_SYSTEM if system else ""),
                "[Install]",
                f"WantedBy={'multi-user.target' if system else 'default.target'}",
                "",
            ]
        )


def quoted(word: str) -> str:
    """A word as it is, for a unit file. Raises `CommandError` for a line break, which no unit can hold."""
    if "\n" in word or "\r" in word:
        raise CommandError(f"{word!r} has a line break, which systemd cannot take")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
