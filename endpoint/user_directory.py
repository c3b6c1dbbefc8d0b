"""Where a pool of a local user has its files.

<pools>/<endpoint id>/<pool>/       root's, and nobody else may change what is in it
    pool-<pool>.json, .token        the user's to read (0600)
    work/                           the user's (0700): what the pool writes, and where its tasks start

What lies in `work` is written by the user, who may put there whatever they like: it is read without following links,
and believed no further than what one's own pool does. The log stays in the endpoint's directory.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from uuid import UUID

from headrace.bus.installation.private_files import write_private
from headrace.endpoint.audit import AuditFile, collect
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.errors import EndpointError
from headrace.endpoint.local_users import LocalUser

_ROOTS: frozenset[str] = frozenset({"json", "token"})


class UserDirectory(EndpointDirectory):
    """The directory of an endpoint, as far as one pool of a local user is concerned."""

    def __init__(self, endpoint: EndpointDirectory, pools: Path, endpoint_id: UUID, pool: str, user: LocalUser) -> None:
        super().__init__(endpoint.path)
        self.user = user
        self._endpoint_id = endpoint_id
        self._place = pools / str(endpoint_id) / pool
        self.work = self._place / "work"

    def prepare(self) -> None:
        """Make the directories. Raises `EndpointError` when they are not root's alone to change."""
        try:
            self._place.mkdir(mode=0o755, parents=True, exist_ok=True)
            for each in (self._place, *self._place.parents):
                found = each.lstat()
                if found.st_uid != 0 or (found.st_mode & 0o022 and not found.st_mode & 0o1000):
                    raise EndpointError(f"{each} can be changed by others than root; pools of users need one of root's")
            for each in (self._place, self._place.parent, self._place.parent.parent):
                each.chmod(0o755)
            if os.path.lexists(self.work) and self.work.lstat().st_uid != self.user.uid:
                # The principal was another local user before, who may have left links for this one to write through.
                shutil.rmtree(self.work)
            self.work.mkdir(mode=0o700, exist_ok=True)
            os.chown(self.work, self.user.uid, self.user.gid, follow_symlinks=False)
        except OSError as error:
            raise EndpointError(f"the directory of the pool cannot be made: {error}") from error

    def pool_file(self, pool: str, kind: str = "json") -> Path:
        """A pool's file of this kind."""
        if kind == "log":
            return super().pool_file(pool, kind)
        return (self._place if kind in _ROOTS else self.work) / f"pool-{pool}.{kind}"

    def sandboxes(self, pool: str) -> Path:
        """Where a pool makes the working directories of its tasks."""
        return self.work / "sandboxes"

    def write_pool_file(self, pool: str, kind: str, text: str) -> None:
        """Write a file for the user to read, where nobody but root can put another in its place."""
        write_private(self.pool_file(pool, kind), text, owner=(self.user.uid, self.user.gid))

    def audit_file(self, given: str) -> Path:
        """What the pool itself writes: `collect_audit` brings it to where it is wanted."""
        return self.work / "audit.log"

    def collect_audit(self, given: str, *, principal: str, pool: str) -> None:
        """Bring the lines of the pool to the endpoint's audit log. Raises `OSError`; the lines then stay."""
        collect(
            self.audit_file(given),
            self._place / "audit.taken",
            AuditFile(super().audit_file(given)),
            principal=principal,
            pool=pool,
            endpoint_id=self._endpoint_id,
            user=self.user.name,
            host=socket.gethostname(),
        )

    @property
    def pool_user(self) -> LocalUser:
        """Whom the pool runs as."""
        return self.user

    @property
    def pool_cwd(self) -> Path:
        """Where the pool starts."""
        return self.work
