"""Local users whom pools run as, where an endpoint that runs as root maps principals to them."""

from __future__ import annotations

import ctypes
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from headrace.bus.parent import die_with_parent
from headrace.endpoint.errors import IdentityUnmapped

_PR_SET_NO_NEW_PRIVS: Final = 38
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_INHERITED: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""All else that is in the environment of root is nothing for users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUser:
    """A user of this machine, never root."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    @classmethod
    def of_name(cls, name: str) -> Self:
        """Look a user up. Raises `IdentityUnmapped` for one whom the machine does not know, and for root."""
        try:
            found = pwd.getpwnam(name)
        except (KeyError, ValueError):
            raise IdentityUnmapped(f"there is no local user {name!r} on the endpoint's machine") from None
        if found.pw_uid in (0, os.geteuid()) or found.pw_gid == 0:
            raise IdentityUnmapped(f"no pool runs as the local user {name!r}, who is as mighty as the endpoint itself")
        groups = tuple(group for group in os.getgrouplist(name, found.pw_gid) if group != 0)
        return cls(
            name=found.pw_name,
            uid=found.pw_uid,
            gid=found.pw_gid,
            groups=groups,
            home=found.pw_dir,
            shell=found.pw_shell,
        )

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of a fresh login, and what says where the machine is."""
        kept = {name: inherited[name] for name in _INHERITED if name in inherited}
        own = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell or "/bin/sh"}
        return {**kept, "PATH": _PATH, **own}

    def process_options(self) -> dict[str, Any]:
        """For `subprocess`: a child of root that is this user, in a session of its own, and stays so."""
        return {
            "user": self.uid,
            "group": self.gid,
            "extra_groups": list(self.groups),
            "umask": 0o077,
            "start_new_session": True,
            "preexec_fn": _stay(self.uid),
        }

    def document(self) -> dict[str, Any]:
        """For templates: `_GC.mapped_identity.local`."""
        return {
            "uname": self.name,
            "uid": self.uid,
            "gid": self.gid,
            "groups": list(self.groups),
            "dir": self.home,
            "shell": self.shell,
        }


def _stay(uid: int) -> Callable[[], None]:
    """A `preexec_fn`, called when the child is the user already: no way back, and no life without its parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    die = die_with_parent()

    def arrange() -> None:
        if os.getresuid() != (uid, uid, uid) or 0 in os.getresgid() or 0 in os.getgroups():
            os._exit(126)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            os._exit(126)
        try:
            os.setuid(0)
        except PermissionError:
            pass
        else:
            os._exit(126)
        # After the change of user, which takes the arrangement away.
        if die is not None:
            die()

    return arrange
